"""k-space grids, the dipole, tensors and their fields, SMV kernels, solid harmonics, priors, conjugate gradients."""
