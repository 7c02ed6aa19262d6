"""Label maps to an HDF5 store, and the store to batches."""
