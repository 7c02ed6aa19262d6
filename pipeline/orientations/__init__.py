"""Whether orientations determine a tensor or COSMOS, which to scan next, and how to say it."""
