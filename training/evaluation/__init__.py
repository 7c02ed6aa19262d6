"""Metrics, and what is compared with what."""
