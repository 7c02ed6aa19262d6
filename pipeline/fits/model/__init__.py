"""The linear model of the fits on its grid: compiled kernels, and the same on torch."""
