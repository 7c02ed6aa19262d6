"""The smooth part of a total field: what sources outside the mask, and the shim, explain of it, on a scan's own grid.

It is no background removal (it takes some of the local field along): it is there to be subtracted before fields are
resampled, so that interpolation meets no strong gradients and no jump at the mask's edge. A field without sources in
the mask does not pass the spherical-mean-value filter of the single-step fit, so taking it out changes nothing else.
Source of the idea: projection onto dipole fields (Liu 2011).
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import ndimage

from ...files.errors import InputError
from ..physics.conjugate_gradients import conjugate_gradients
from ..physics.dipole import (
    Float32Array,
    check_finite,
    check_grid,
    crop,
    dipole_kernel,
    forward_fft,
    inverse_fft,
    padded_shape,
)
from ..physics.harmonics import harmonic_part

COARSE_EDGE = 3.0  # mm, of the voxels that carry the sources
_GAP = 3.0  # mm between the mask and the sources
_PADDING = 48.0  # mm
_SOURCE_SIZE = 2.0  # ppm, standard deviation of a source
_NOISE = 5e-3  # ppm
ITERATIONS = 40


def exterior_field(
    total_field: ArrayLike,
    mask: ArrayLike,
    voxel_size: ArrayLike,
    b0_direction: ArrayLike,
    *,
    iterations: int = ITERATIONS,
) -> Float32Array:
    """Return the field (x, y, z) in ppm of sources outside the mask plus solid harmonics that fits a total field.

    total_field: (x, y, z) ppm; mask: where it is known; voxel_size: (3,) mm; b0_direction: unit vector in the voxel
    frame. It is given everywhere on the grid, and holds no sources within the mask.
    """
    field, inside = np.asarray(total_field, np.float32), np.asarray(mask, bool)
    shape, size = check_grid(field.shape, voxel_size)
    check_finite(field, "total field")
    if inside.shape != shape or not inside.any():
        raise InputError(f"mask has shape {inside.shape} and {int(inside.sum())} voxels, but the field has {shape}.")
    shim = harmonic_part(field, inside, size)
    sources, factors = _coarse_sources(np.where(inside, field - shim, 0), inside, size, b0_direction, iterations)
    fine = sources.repeat(factors[0], 0).repeat(factors[1], 1).repeat(factors[2], 2)
    grid = padded_shape(fine.shape, size, 0.0)
    made = inverse_fft(forward_fft(fine, grid) * dipole_kernel(grid, size, b0_direction), grid)
    explained = crop(made, shape) + shim
    return explained + harmonic_part(field - explained, inside, size)


def _coarse_sources(
    field: NDArray[Any], inside: NDArray[np.bool_], size: NDArray[Any], b0_direction: ArrayLike, iterations: int
) -> tuple[Float32Array, tuple[int, int, int]]:
    """Return sources in ppm on blocks of voxels that fit a field in the mask, and the voxels of a block per axis."""
    fx, fy, fz = (max(2, round(COARSE_EDGE / d)) for d in size)
    coarse = size * (fx, fy, fz)
    share = _blocks(inside.astype(np.float32), (fx, fy, fz))
    mean = _blocks(field, (fx, fy, fz)) / np.maximum(share, 1e-6)
    grid = padded_shape(share.shape, coarse, _PADDING)
    weight = np.zeros(grid, np.float32)
    crop(weight, share.shape)[...] = np.where(share > 0.5, share, 0)
    data = np.zeros(grid, np.float32)
    crop(data, share.shape)[...] = mean * (share > 0.5)
    occupied = np.zeros(grid, bool)
    crop(occupied, share.shape)[...] = share > 0
    allowed = ndimage.distance_transform_edt(~occupied, sampling=coarse) > _GAP
    kernel = dipole_kernel(grid, coarse, b0_direction)
    return _solve_sources(kernel, weight, data, allowed, grid, iterations), (fx, fy, fz)


def _blocks(volume: NDArray[Any], factors: tuple[int, int, int]) -> Float32Array:
    padded = np.pad(volume, [(0, -n % f) for n, f in zip(volume.shape, factors, strict=True)])
    nx, ny, nz = (n // f for n, f in zip(padded.shape, factors, strict=True))
    parts = padded.reshape(nx, factors[0], ny, factors[1], nz, factors[2])
    return parts.mean(axis=(1, 3, 5), dtype=np.float32)


def _solve_sources(
    kernel: Float32Array,
    weight: Float32Array,
    data: Float32Array,
    allowed: NDArray[np.bool_],
    grid: tuple[int, int, int],
    iterations: int,
) -> Float32Array:
    """Minimise |W (D s - f)|^2 + (noise / size)^2 |s|^2 over sources where allowed (conjugate gradients, Jacobi)."""

    def apply(volume: Float32Array) -> Float32Array:
        return inverse_fft(forward_fft(volume, grid) * kernel, grid)

    ridge = np.float32((_NOISE / _SOURCE_SIZE) ** 2)
    origin = np.zeros(grid, np.float32)
    origin[0, 0, 0] = 1
    response = apply(origin)
    seen = inverse_fft(forward_fft(weight**2, grid) * forward_fft(response**2, grid), grid)
    scale = np.where(allowed, 1 / (np.maximum(seen, 0) + ridge), 0).astype(np.float32)
    return conjugate_gradients(
        lambda step: (apply(weight**2 * apply(step)) + ridge * step) * allowed,
        (apply(weight**2 * data) * allowed).astype(np.float32),
        iterations=iterations, tolerance=0.0, precondition=lambda left: scale * left,
    ).volume  # fmt: skip
