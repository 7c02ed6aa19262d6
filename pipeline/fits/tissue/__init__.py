"""What the prior of the fits knows of tissue."""
