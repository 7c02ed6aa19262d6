"""Similarity transforms between scans, their refinement and check, and the mean of all scans as reference."""
