"""Layouts of published training codes."""
