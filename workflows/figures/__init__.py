"""Figures of the report and of commands."""
