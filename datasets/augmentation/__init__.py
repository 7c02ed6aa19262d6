"""Rotated heads: physically consistent rotation augmentation."""
