"""The ground floor: what files are called, what they state, and how they are written. All packages may import it."""
