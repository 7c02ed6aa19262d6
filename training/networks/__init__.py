"""The networks, one a file, their blocks, and the registry."""
