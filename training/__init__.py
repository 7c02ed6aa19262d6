"""Unrolled networks: training, prediction and evaluation."""
