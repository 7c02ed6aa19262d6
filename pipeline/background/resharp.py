"""RESHARP: spherical mean values of one radius, deconvolved by Tikhonov-regularised conjugate gradients.

Source: Sun & Wilman 2014.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ...files.errors import InputError
from ..images.morphology import bounding_box, depth_inside, extrapolated
from ..physics.conjugate_gradients import conjugate_gradients
from ..physics.dipole import Float32Array, check_grid, crop, forward_fft, inverse_fft, padded_shape
from ..physics.smv_kernels import smv_kernel
from .local_field import LocalField, check_input, check_iterations, check_positive, only_inside, sphere_centres

RADIUS = 4.0  # mm
REGULARISATION = 1e-4
ITERATIONS = 50
TOLERANCE = 1e-4


class SphereHighPass:
    """A volume (x, y, z) less its mean over a sphere, where the sphere fits a mask; 0 elsewhere.

    valid: bool (x, y, z), the centres of the spheres; voxel_size: (3,) mm; radius: mm.
    """

    def __init__(self, valid: NDArray[np.bool_], voxel_size: ArrayLike, radius: float) -> None:
        self.shape, size = check_grid(valid.shape, voxel_size)
        self.grid = padded_shape(self.shape, size, 2 * radius)
        self.filter = 1 - smv_kernel(self.grid, size, radius)
        self.valid = valid.astype(np.float32)

    def forward(self, volume: ArrayLike) -> Float32Array:
        """Return the filtered volume (x, y, z)."""
        return self._filtered(self._checked(volume)) * self.valid

    def adjoint(self, volume: ArrayLike) -> Float32Array:
        """Return the adjoint applied to a volume (x, y, z)."""
        return self._filtered(self._checked(volume) * self.valid)

    def precondition(self, volume: Float32Array, regularisation: float) -> Float32Array:
        """Return the volume divided by what the filter and its adjoint would make of it if every sphere fitted."""
        spectrum = forward_fft(volume, self.grid) / (self.filter**2 + np.float32(regularisation))
        return np.ascontiguousarray(crop(inverse_fft(spectrum, self.grid), self.shape))

    def _filtered(self, volume: Float32Array) -> Float32Array:
        spectrum = self.filter * forward_fft(volume, self.grid)
        return np.ascontiguousarray(crop(inverse_fft(spectrum, self.grid), self.shape))

    def _checked(self, volume: ArrayLike) -> Float32Array:
        given = np.asarray(volume, np.float32)
        if given.shape != self.shape:
            raise InputError(f"volume has shape {given.shape}, but the operator was made for {self.shape}.")
        return given


def resharp_radius(voxel_size: ArrayLike, radius: float = RADIUS) -> float:
    """Return the radius in mm, two voxels at least."""
    return max(radius, 2 * float(np.max(np.asarray(voxel_size, np.float64))))


def resharp(
    total_field: ArrayLike,
    mask: ArrayLike,
    voxel_size: ArrayLike,
    *,
    radius: float | None = None,
    regularisation: float = REGULARISATION,
    iterations: int = ITERATIONS,
    tolerance: float = TOLERANCE,
    progress: Callable[[int, float], None] | None = None,
) -> LocalField:
    """Remove the background by spherical mean values and a regularised deconvolution (RESHARP).

    Minimised is |M (delta - S) * (B - b)|^2 + regularisation |b|^2 over the local field b within the mask; M: where the
    kernel fits the mask.

    Parameters
    ----------
    total_field
        (x, y, z) in ppm of B0.
    mask
        (x, y, z), non-zero where the field is known.
    voxel_size
        (3,) in mm.
    radius
        Of the SMV kernel in mm, `resharp_radius` by default.
    regularisation
        Weight of |b|^2.
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
    Sun and Wilman 2014, Magn Reson Med 71:1151.
    """
    given = check_input(total_field, mask, voxel_size).less_harmonics()
    used = resharp_radius(given.size) if radius is None else radius
    check_positive(used, "radius", "mm")
    check_positive(regularisation, "regularisation", "")
    check_positive(tolerance, "tolerance", "")
    check_iterations(iterations)
    valid = sphere_centres(depth_inside(given.inside, given.size), given.inside, used, "a smaller radius")
    box = bounding_box(given.inside, margin=1)
    high_pass = SphereHighPass(valid[box], given.size, used)
    inside = given.inside[box]

    def normal(local: NDArray[Any]) -> NDArray[Any]:
        return inside * high_pass.adjoint(high_pass.forward(local)) + np.float32(regularisation) * local

    # Discrete spheres reach half a voxel beyond the mask.
    seen = high_pass.forward(extrapolated(given.field[box], inside, given.size))
    found = conjugate_gradients(
        normal, inside * high_pass.adjoint(seen), iterations=iterations, tolerance=tolerance,
        precondition=lambda left: inside * high_pass.precondition(left, regularisation), progress=progress,
    )  # fmt: skip
    local = np.zeros(given.shape, np.float32)
    local[box] = found.volume
    return only_inside(local, valid)
