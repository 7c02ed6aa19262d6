"""Nipype workflows: raw scans to label maps on disk (BIDS in, BIDS derivatives out)."""
