"""The background field: what the air and bone around the brain do to it, shimmed to second order."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import fft

from ..physics.dipole import crop, forward_fft, inverse_fft
from ..physics.harmonics import solid_harmonics
from .anatomy import Head
from .poses import HeadPose, ScanGrid
from .sampling import sample_grid, spline_coefficients

Float32Array = NDArray[np.float32]
_SHIM_SCALE = 100.0  # mm


def background_field(head: Head, pose: HeadPose, grid: ScanGrid, field: Float32Array | None = None) -> Float32Array:
    """Return the unshimmed field in ppm of everything but the brain's own contrast, on the grid of a scan.

    It is computed on the 2 mm grid of the head's exterior for the B0 direction of the pose. Inside the brain it has
    no sources, so it is smooth there and cubic interpolation is exact enough. field: that of the exterior on its own
    grid, where it is known already.
    """
    if field is None:
        field = free_space_field(head.exterior, pose.b0_direction_in_head)
    mapping = np.linalg.solve(head.exterior_affine, np.linalg.solve(pose.matrix, grid.affine))
    return sample_grid(spline_coefficients(field, 3), mapping, grid.shape, order=3)


def free_space_field(chi: Float32Array, b0_direction: NDArray[Any]) -> Float32Array:
    """Return the field (x, y, z) in ppm of a map in ppm on isotropic voxels, each a point dipole, without images.

    Summing (3 cos^2 - 1) / (4 pi r^3) in space, unlike cutting D off in k-space, does not ring: a few voxels away from
    a source the field is harmonic. b0_direction: unit vector along the array's axes.
    """
    x, y, z = (fft.next_fast_len(2 * n - 1, real=True) for n in chi.shape)
    h = np.asarray(b0_direction, np.float32)
    offsets = [np.fft.fftfreq(n, 1 / n).astype(np.float32) for n in (x, y, z)]
    rx, ry, rz = offsets[0][:, None, None], offsets[1][None, :, None], offsets[2][None, None, :]
    squared = rx * rx + ry * ry + rz * rz
    squared[0, 0, 0] = 1
    along = h[0] * rx + h[1] * ry + h[2] * rz
    kernel = (3 * along * along / squared - 1) / (np.float32(4 * np.pi) * squared * np.sqrt(squared))
    kernel[0, 0, 0] = 0
    grid = (x, y, z)
    spectrum = forward_fft(kernel, grid)
    spectrum *= forward_fft(chi, grid)
    return np.ascontiguousarray(crop(inverse_fft(spectrum, grid), chi.shape))


def polynomial_coordinates(grid: ScanGrid, centre: Sequence[float] = (0.0, 0.0, 0.0)) -> list[Float32Array]:
    """Return the world coordinates x, y, z (each on the grid) about `centre` mm, in units of 100 mm."""
    steps = grid.world_axes()
    result = []
    for axis in range(3):
        a, b, c = (steps[i][:, axis] for i in range(3))
        start = grid.affine[axis, 3] - centre[axis]
        position = a[:, None, None] + b[None, :, None] + c[None, None, :] + start
        result.append((position / _SHIM_SCALE).astype(np.float32))
    return result


def shim_field(field: NDArray[Any], mask: NDArray[np.bool_], grid: ScanGrid) -> Float32Array:
    """Return the field in ppm of the shim that fits `field` best inside the mask (least squares); subtract it."""
    return field_of_shim(shim_weights(field, mask, grid), grid)


def shim_weights(field: NDArray[Any], mask: NDArray[np.bool_], grid: ScanGrid) -> NDArray[np.float64]:
    """Return the weights of the solid harmonics, about the isocentre, that fit `field` best inside the mask."""
    coordinates = polynomial_coordinates(grid)
    inside = np.stack([h[mask] for h in solid_harmonics([c.astype(np.float64) for c in coordinates])])
    return np.linalg.solve(inside @ inside.T, inside @ field[mask].astype(np.float64))


def field_of_shim(weights: NDArray[np.float64], grid: ScanGrid) -> Float32Array:
    """Return the field in ppm of a shim of these weights on any grid."""
    total = np.zeros(grid.shape, np.float32)
    for weight, harmonic in zip(weights, solid_harmonics(polynomial_coordinates(grid)), strict=True):
        total += np.float32(weight) * harmonic
    return total
