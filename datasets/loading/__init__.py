"""From a store to batches."""
