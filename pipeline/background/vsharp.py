"""V-SHARP: spherical mean values of the largest radius that fits, deconvolved by a truncated inverse.

Sources: Schweser 2011 (SHARP), Wu 2012 (radii that shrink towards the edge).
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike

from ..dipole import crop, forward_fft, inverse_fft, padded_shape
from ..errors import InputError
from ..masks import depth_inside
from .local_field import LocalField, check_input
from .spheres import check_radii, sphere_kernel

LARGEST_RADIUS = 18.0  # mm
SMALLEST_RADIUS = 4.5  # mm: smaller spheres lose to the strong fields at the brain's edge
RADIUS_STEP = 1.5  # mm
THRESHOLD = 0.15


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

    total_field: (x, y, z) ppm; mask: where it is known; voxel_size: (3,) mm; radii: mm, vsharp_radii by default;
    threshold: components of 1 - S(k) of the largest radius smaller than this are dropped. Returns the local field
    in ppm where the smallest sphere fits the mask. Raises InputError. Sources: Schweser 2011, Wu 2012.
    """
    given = check_input(total_field, mask, voxel_size)
    field, shape, size = given.field, given.shape, given.size
    used = vsharp_radii(size) if radii is None else check_radii(radii)
    if not 0 < threshold < 1:
        raise InputError(f"threshold must lie between 0 and 1, got {threshold}.")
    depth = depth_inside(given.inside, size)
    valid = depth > used[-1]
    if not valid.any():
        raise InputError(
            f"no sphere of {used[-1]:g} mm fits the mask ({int(given.inside.sum())} voxels): use smaller radii or a "
            "larger mask."
        )
    grid = padded_shape(shape, size, 2 * used[0])
    spectrum = forward_fft(np.where(given.inside, field, np.float32(0)), grid)
    high_pass = np.zeros(shape, np.float32)
    largest = next(r for r in used if (depth > r).any())
    upper = np.inf
    for radius in (r for r in used if r <= largest):
        shell = (depth > radius) & (depth <= upper)
        upper = radius
        mean = crop(inverse_fft(spectrum * sphere_kernel(grid, size, radius), grid), shape)
        high_pass[shell] = field[shell] - mean[shell]
    deconvolution = 1 - sphere_kernel(grid, size, largest)
    inverse = np.divide(1, deconvolution, out=np.zeros_like(deconvolution), where=np.abs(deconvolution) > threshold)
    local = crop(inverse_fft(forward_fft(high_pass, grid) * inverse, grid), shape)
    return LocalField(field=np.where(valid, local, np.float32(0)), mask=valid)
