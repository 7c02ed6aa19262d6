"""iSMV: the background is its own spherical mean in the mask, with the total field in a rim as its boundary.

Source: Wen 2014, who applies the spherical mean over and over. What that converges to is found here by conjugate
gradients: M (1 - S) b = -M (1 - S) B_rim, with S the spherical mean and M where the sphere fits the mask.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import ArrayLike

from ..images.morphology import bounding_box, depth_inside, extrapolated
from ..physics.conjugate_gradients import conjugate_gradients
from .local_field import LocalField, check_input, check_iterations, check_positive, only_inside, sphere_centres
from .resharp import SphereHighPass, resharp_radius

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
    """Remove the background that equals its spherical mean wherever the SMV kernel fits the mask (iSMV).

    Parameters
    ----------
    total_field
        (x, y, z) in ppm of B0.
    mask
        (x, y, z), non-zero where the field is known.
    voxel_size
        (3,) in mm.
    radius
        Of the kernel in mm, 4 mm or two voxels by default; the local field in the rim of that width is taken to be
        background.
    iterations
        The most that are taken.
    tolerance
        Relative residual to stop at.
    progress
        Called with iteration and residual.

    Returns
    -------
        A `LocalField`: `.field` (x, y, z) in ppm of B0, `.mask` where it is valid: where the kernel fits.

    Raises
    ------
    InputError
        Where shapes differ, the mask is empty, or a setting leaves nothing.

    References
    ----------
    Wen 2014, MAGMA 27:551.
    """
    given = check_input(total_field, mask, voxel_size).less_harmonics()
    used = resharp_radius(given.size) if radius is None else radius
    check_positive(used, "radius", "mm")
    check_positive(tolerance, "tolerance", "")
    check_iterations(iterations)
    valid = sphere_centres(depth_inside(given.inside, given.size), given.inside, used, "a smaller radius")
    box = bounding_box(given.inside, margin=1)
    high_pass = SphereHighPass(valid[box], given.size, used)
    # Discrete spheres reach half a voxel beyond the mask.
    field = extrapolated(given.field[box], given.inside[box], given.size)
    rim, centre = np.where(valid[box], 0, field), np.where(valid[box], field, 0)
    # Where the sphere fits, the high pass of the background is nothing: M (1 - S) b = -M (1 - S) B_rim.
    found = conjugate_gradients(
        high_pass.forward, -high_pass.forward(rim), iterations=iterations, tolerance=tolerance, start=centre,
        progress=progress,
    )  # fmt: skip
    local = np.zeros(given.shape, np.float32)
    local[box] = field - found.volume
    return only_inside(local, valid)
