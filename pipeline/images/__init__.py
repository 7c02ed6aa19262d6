"""Resampling, splines, morphology."""
