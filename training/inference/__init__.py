"""Weights and prediction."""
