"""Dipole inversions of one orientation."""
