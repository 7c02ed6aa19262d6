"""Susceptibility fits from the local fields of several head orientations."""
