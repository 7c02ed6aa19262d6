"""Classical dipole inversions: from one local field map to a susceptibility map."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike

from ...files.errors import InputError
from ..physics.dipole import Float32Array, dipole_kernel, forward_fft, inverse_fft


def tkd(
    field: ArrayLike,
    mask: ArrayLike,
    voxel_size: ArrayLike,
    b0_direction: ArrayLike = (0.0, 0.0, 1.0),
    *,
    threshold: float = 0.2,
) -> Float32Array:
    """Invert a local field by thresholded k-space division (TKD).

    Parameters
    ----------
    field
        Local field (x, y, z) in ppm of B0.
    mask
        (x, y, z), non-zero where it is valid.
    voxel_size
        (3,) in mm.
    b0_direction
        Unit vector (3,) along the axes of the grid.
    threshold
        D is replaced by sign(D) * threshold where |D| is at most that.

    Returns
    -------
        Susceptibility (x, y, z) in ppm, 0 outside the mask; its k = 0 is 0.

    Raises
    ------
    InputError
        Where the shapes differ, the mask is empty, the field is not finite inside the mask, or the threshold is not
        between
        0 and 2/3.

    References
    ----------
    Shmueli 2009, Magn Reson Med 62:1510, eq. 7.
    """
    values = np.asarray(field, np.float32)
    inside = np.asarray(mask) != 0
    if values.ndim != 3 or inside.shape != values.shape:
        raise InputError(f"field {values.shape} and mask {inside.shape} must be volumes of one shape.")
    if not inside.any():
        raise InputError("the mask is empty: give one that covers the brain.")
    if not np.isfinite(values[inside]).all():
        raise InputError(
            "the field holds values that are not finite inside the mask: shrink the mask, or repair the field."
        )
    if not 0 < threshold < 2 / 3:
        raise InputError(f"threshold must lie between 0 and 2/3, the largest |D|, got {threshold}: 0.2 is usual.")
    kernel = dipole_kernel(values.shape, voxel_size, b0_direction)
    small = np.abs(kernel) <= threshold
    inverse = np.where(small, np.sign(kernel) / np.float32(threshold), 1 / np.where(small, 1, kernel))
    grid = (values.shape[0], values.shape[1], values.shape[2])
    spectrum = forward_fft(np.where(inside, values, 0), grid) * inverse.astype(np.float32)
    return inverse_fft(spectrum, grid) * inside
