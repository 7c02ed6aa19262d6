"""What a living head adds to the ideal simulation: one effect, or one family of effects, a module."""
