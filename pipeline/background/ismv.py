"""iSMV: the background is its own spherical mean in the mask, with the total field in a rim as its boundary.

Source: Wen 2014, who applies the spherical mean over and over. What that converges to is found here by conjugate
gradients: (1 - M S M) b = M S B_rim, with S the spherical mean and M where the sphere fits the mask.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ..dipole import crop, forward_fft, inverse_fft, padded_shape
from ..errors import InputError
from ..masks import bounding_box, continued, depth_inside
from .conjugate_gradients import conjugate_gradients
from .local_field import LocalField, check_input, check_iterations, check_positive, only_inside
from .spheres import sphere_kernel

RADIUS = 4.0  # mm
TOLERANCE = 1e-4
ITERATIONS = 100


def ismv(
    total_field: ArrayLike,
    mask: ArrayLike,
    voxel_size: ArrayLike,
    *,
    radius: float | None = None,
    iterations: int = ITERATIONS,
    tolerance: float = TOLERANCE,
    progress: Callable[[int, float], None] | None = None,
) -> LocalField:
    """Remove the background that equals its spherical mean wherever the sphere fits the mask (iSMV).

    total_field: (x, y, z) ppm; mask: where it is known; voxel_size: (3,) mm; radius: of the sphere in mm, 4 mm or two
    voxels by default; the local field in the rim of that width is taken to be background; iterations, tolerance: limit,
    and relative residual to stop at; progress: called with iteration and residual. Returns the local field in ppm where
    the sphere fits. Raises InputError. Source: Wen 2014.
    """
    given = check_input(total_field, mask, voxel_size).less_harmonics()
    used = max(RADIUS, 2 * float(given.size.max())) if radius is None else radius
    check_positive(used, "radius", "mm")
    check_positive(tolerance, "tolerance", "")
    check_iterations(iterations)
    valid = depth_inside(given.inside, given.size) > used
    if not valid.any():
        raise InputError(
            f"no sphere of {used:g} mm fits the mask ({int(given.inside.sum())} voxels): use a smaller radius or a "
            "larger mask."
        )
    box = bounding_box(given.inside, margin=1)
    inner = valid[box].astype(np.float32)
    grid = padded_shape(inner.shape, given.size, 2 * used)
    kernel = sphere_kernel(grid, given.size, used)

    def mean(volume: NDArray) -> NDArray[np.float32]:
        return inner * crop(inverse_fft(forward_fft(volume, grid) * kernel, grid), inner.shape)

    # Discrete spheres reach half a voxel beyond the mask.
    field = continued(given.field[box], given.inside[box], given.size)
    found = conjugate_gradients(
        lambda inside: inside - mean(inside), mean((1 - inner) * field), iterations=iterations, tolerance=tolerance,
        start=inner * field, progress=progress,
    )  # fmt: skip
    local = np.zeros(given.shape, np.float32)
    local[box] = field - found.volume
    return only_inside(local, valid)
