"""Phase images: whether they fill their turn, the sign of their slices, polarity of their echoes, filters."""
