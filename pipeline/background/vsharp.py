"""V-SHARP: spherical mean values of the largest radius that fits, deconvolved by a truncated inverse.

Sources: Schweser 2011 (SHARP), Wu 2012 (radii that shrink towards the edge).
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ...files.errors import InputError
from ..images.morphology import bounding_box, depth_inside, extrapolated
from ..physics.dipole import crop, forward_fft, inverse_fft, padded_shape
from ..physics.smv_kernels import check_radii, smv_kernel
from .local_field import LocalField, check_input, only_inside, sphere_centres

LARGEST_RADIUS = 18.0  # mm
SMALLEST_RADIUS = 4.0  # mm: smaller spheres lose to the strong fields at the brain's edge
RADIUS_STEP = 1.5  # mm
THRESHOLD = 0.1


def vsharp_radii(
    voxel_size: ArrayLike, largest: float = LARGEST_RADIUS, smallest: float = SMALLEST_RADIUS
) -> tuple[float, ...]:
    """Return V-SHARP radii in mm, descending from `largest` to `smallest`, at least two voxels."""
    least = max(smallest, 2 * float(np.max(np.asarray(voxel_size, np.float64))))
    if least >= largest:
        return (least,)
    count = max(2, int(np.ceil((largest - least) / RADIUS_STEP)) + 1)
    return tuple(float(r) for r in np.linspace(largest, least, count))


def vsharp(
    total_field: ArrayLike,
    mask: ArrayLike,
    voxel_size: ArrayLike,
    *,
    radii: Sequence[float] | None = None,
    threshold: float = THRESHOLD,
) -> LocalField:
    """Remove the background by spherical mean values of the largest radius that fits, then deconvolve (V-SHARP).

    Parameters
    ----------
    total_field
        (x, y, z) in ppm of B0.
    mask
        (x, y, z), non-zero where the field is known.
    voxel_size
        (3,) in mm.
    radii
        Of the SMV kernels in mm, `vsharp_radii` by default.
    threshold
        Components of 1 - S(k) of the largest radius smaller than this are dropped.

    Returns
    -------
        A `LocalField`: `.field` (x, y, z) in ppm of B0, `.mask` where it is valid: where the smallest kernel fits.

    Raises
    ------
    InputError
        Where shapes differ, the mask is empty, or a setting leaves nothing.

    References
    ----------
    Schweser 2011, NeuroImage 54:2789; Wu 2012, Magn Reson Med 67:137.
    """
    given = check_input(total_field, mask, voxel_size).less_harmonics()
    field, size = given.field, given.size
    used = vsharp_radii(size) if radii is None else check_radii(radii)
    if not 0 < threshold < 1:
        raise InputError(f"threshold must lie between 0 and 1, got {threshold}.")
    depth = depth_inside(given.inside, size)
    valid = sphere_centres(depth, given.inside, used[-1], "smaller radii")
    box = bounding_box(given.inside, margin=1)
    # Discrete spheres reach half a voxel beyond the mask.
    whole = extrapolated(field[box], given.inside[box], size)
    local = np.zeros(given.shape, np.float32)
    local[box] = _deconvolved(whole, depth[box], size, used, threshold)
    return only_inside(local, valid)


def _deconvolved(
    field: NDArray[np.float32],
    depth: NDArray[np.float64],
    size: NDArray[np.float64],
    radii: Sequence[float],
    threshold: float,
) -> NDArray[np.float32]:
    """Return the field less its spherical means of the largest radius that fits a depth (mm), deconvolved."""
    largest = next(r for r in radii if (depth > r).any())
    grid = padded_shape(field.shape, size, largest + float(size.max()))
    spectrum = forward_fft(field, grid)
    high_pass = np.zeros(field.shape, np.float32)
    upper, deconvolution = np.inf, np.empty(0, np.float32)
    for radius in (r for r in radii if r <= largest):
        shell = (depth > radius) & (depth <= upper)
        upper = radius
        kernel = smv_kernel(grid, size, radius)
        if radius == largest:
            deconvolution = 1 - kernel
        mean = crop(inverse_fft(spectrum * kernel, grid), field.shape)
        high_pass[shell] = field[shell] - mean[shell]
    inverse = np.divide(1, deconvolution, out=np.zeros_like(deconvolution), where=np.abs(deconvolution) > threshold)
    return np.ascontiguousarray(crop(inverse_fft(forward_fft(high_pass, grid) * inverse, grid), field.shape))
