"""From label maps to a store."""
