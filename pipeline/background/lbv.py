"""LBV: the background solves Laplace's equation in the mask, with the total field at the mask's edge.

Source: Zhou 2014. It takes the local field at the edge to be nothing, so the edge must be one that can be trusted: the
outermost voxels of a brain mask are peeled off first. Solved by conjugate gradients, preconditioned by multigrid.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike
from scipy import ndimage

from ...files.errors import InputError
from ..images.morphology import bounding_box, depth_inside
from ..physics.conjugate_gradients import conjugate_gradients
from ..physics.dipole import Float32Array
from .local_field import LocalField, check_input, check_iterations, check_not_negative, check_positive, only_inside
from .multigrid import MaskedLaplacian, v_cycle

PEEL = 2.5  # mm
TOLERANCE = 1e-4
ITERATIONS = 100


@dataclass(frozen=True)
class HarmonicExtension:
    """A harmonic field (x, y, z), the iterations it took, and the residual relative to that of the guess 0."""

    field: Float32Array
    iterations: int
    residual: float


def harmonic_extension(
    boundary: ArrayLike,
    free: ArrayLike,
    voxel_size: ArrayLike,
    *,
    tolerance: float = TOLERANCE,
    iterations: int = ITERATIONS,
    progress: Callable[[int, float], None] | None = None,
) -> HarmonicExtension:
    """Return the field whose seven-point Laplacian is 0 where `free` and that equals `boundary` elsewhere.

    boundary: (x, y, z), its values next to free voxels count, and 0 beyond the grid; free: bool (x, y, z);
    voxel_size: (3,) mm; tolerance: residual relative to that of the guess 0 in `free`.
    """
    unknown = np.asarray(free, bool)
    laplacian = MaskedLaplacian(unknown, voxel_size, np.float64)
    given = np.where(unknown, 0, np.asarray(boundary, np.float64))
    found = conjugate_gradients(
        laplacian.of_supported, -laplacian.of_supported(given), iterations=iterations, tolerance=tolerance,
        precondition=v_cycle(unknown, voxel_size, np.float64), progress=progress,
    )  # fmt: skip
    return HarmonicExtension((given + found.volume).astype(np.float32), found.iterations, found.residual)


def lbv(
    total_field: ArrayLike,
    mask: ArrayLike,
    voxel_size: ArrayLike,
    *,
    peel: float = PEEL,
    tolerance: float = TOLERANCE,
    iterations: int = ITERATIONS,
    progress: Callable[[int, float], None] | None = None,
) -> LocalField:
    """Remove the background that solves Laplace's equation with the total field at the mask's edge (LBV).

    Parameters
    ----------
    total_field
        (x, y, z) in ppm of B0.
    mask
        (x, y, z), non-zero where the field is known.
    voxel_size
        (3,) in mm.
    peel
        mm taken off the mask first.
    tolerance
        Relative residual to stop at.
    iterations
        The most that are taken.
    progress
        Called with iteration and residual.

    Returns
    -------
        A `LocalField`: `.field` (x, y, z) in ppm of B0, `.mask` where it is valid: the peeled mask less its outermost
        voxels,
        which hold the boundary values.

    Raises
    ------
    InputError
        Where shapes differ, the mask is empty, or a setting leaves nothing.

    References
    ----------
    Zhou 2014, NMR Biomed 27:312.
    """
    given = check_input(total_field, mask, voxel_size).less_harmonics()
    check_not_negative(peel, "peel", "mm")
    check_positive(tolerance, "tolerance", "")
    check_iterations(iterations)
    known = depth_inside(given.inside, given.size) > peel
    free = ndimage.binary_erosion(known)
    if not free.any():
        raise InputError(
            f"nothing of the mask ({int(given.inside.sum())} voxels) is left within its edge after peeling {peel:g} "
            "mm: use a smaller peel or a larger mask."
        )
    box = bounding_box(free, margin=1)
    background = np.zeros(given.shape, np.float32)
    background[box] = harmonic_extension(
        np.where(known, given.field, 0)[box], free[box], given.size, tolerance=tolerance, iterations=iterations,
        progress=progress,
    ).field  # fmt: skip
    return only_inside(given.field - background, free)
