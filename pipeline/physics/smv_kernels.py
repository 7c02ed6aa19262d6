"""The spherical mean value filter S that V-SHARP, RESHARP and the single-step fit share."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ...files.errors import InputError
from .dipole import Float32Array, Shape, crop, forward_fft, inverse_fft, padded_shape

_OVERSAMPLING = 5
_MATCHING_STEPS = 40
_MATCHED = 1e-5  # of the second moments


def smv_kernel(grid: Shape, voxel_size: ArrayLike, radius: float) -> Float32Array:
    """Return the real half spectrum of the spherical mean over `radius` mm: voxel overlaps, normalised to sum 1.

    On voxels that are no cubes the sampled sphere is stretched by a trifle, so that its second moments about the three
    axes are equal: then a harmonic of second order is its own mean, as it is for the sphere.
    """
    size = np.asarray(voxel_size, np.float64)
    overlap = _matched_overlap(size, radius)
    if any(c > n for c, n in zip(overlap.shape, grid, strict=True)):
        raise InputError(f"a sphere of {radius:g} mm does not fit the grid of {grid} voxels: use smaller radii.")
    kernel = np.zeros(grid, np.float32)
    x, y, z = overlap.shape
    kernel[:x, :y, :z] = overlap
    kernel = np.roll(kernel, [-(n // 2) for n in overlap.shape], axis=(0, 1, 2))
    return np.ascontiguousarray(forward_fft(kernel, grid).real)


def spherical_mean(volume: ArrayLike, voxel_size: ArrayLike, radius: float) -> Float32Array:
    """Return the mean of a volume (x, y, z) over spheres of `radius` mm; beyond the grid it is 0."""
    values, size = np.asarray(volume, np.float32), np.asarray(voxel_size, np.float64)
    grid = padded_shape(values.shape, size, 2 * radius + 2 * float(size.max()))
    return np.ascontiguousarray(
        crop(inverse_fft(forward_fft(values, grid) * smv_kernel(grid, size, radius), grid), values.shape)
    )


@lru_cache(maxsize=64)
def _overlap_of(size: tuple[float, float, float], radius: float) -> NDArray[np.float64]:
    semi_axes, best = np.full(3, radius), np.inf
    for _ in range(_MATCHING_STEPS):
        overlap = _overlap(np.array(size), semi_axes)
        moments = _second_moments(overlap, np.array(size))
        if (off := float(np.ptp(moments) / moments.mean())) < best:
            best, found = off, overlap
        if best < _MATCHED:
            break
        semi_axes = semi_axes * np.sqrt(moments.mean() / moments)
    return found


def _matched_overlap(size: NDArray[np.float64], radius: float) -> NDArray[np.float64]:
    """Return the shares (x, y, z) of voxels in a sphere at the centre, with equal second moments."""
    x, y, z = (float(d) for d in size)
    return _overlap_of((x, y, z), float(radius))


def _overlap(size: NDArray[np.float64], semi_axes: NDArray[np.float64]) -> NDArray[np.float64]:
    reach = [int(np.ceil(a / d + 0.5)) for a, d in zip(semi_axes, size, strict=True)]
    fine = (np.arange(_OVERSAMPLING) - (_OVERSAMPLING - 1) / 2) / _OVERSAMPLING
    axes = [
        ((np.arange(-r, r + 1)[:, None] + fine[None]) * d / a).ravel()
        for r, d, a in zip(reach, size, semi_axes, strict=True)
    ]
    distance = np.sqrt(axes[0][:, None, None] ** 2 + axes[1][None, :, None] ** 2 + axes[2][None, None, :] ** 2)
    # An edge as soft as the samples are apart: the moments are then smooth in the semi-axes.
    soft = np.clip((1 - distance) * semi_axes.min() * _OVERSAMPLING / size.min() + 0.5, 0, 1)
    counts = [2 * r + 1 for r in reach]
    blocks = soft.reshape(counts[0], _OVERSAMPLING, counts[1], _OVERSAMPLING, counts[2], _OVERSAMPLING)
    overlap = blocks.mean(axis=(1, 3, 5))
    return np.asarray(overlap / overlap.sum())


def _second_moments(overlap: NDArray[np.float64], size: NDArray[np.float64]) -> NDArray[np.float64]:
    moments = []
    for axis, d in enumerate(size):
        share = overlap.sum(axis=tuple(other for other in range(3) if other != axis))
        place = (np.arange(share.size) - share.size // 2) * d
        moments.append(float(share @ place**2))
    return np.array(moments)


def check_radii(radii: Sequence[float]) -> tuple[float, ...]:
    """Return the radii in mm, descending, or raise InputError."""
    ordered = tuple(sorted((float(r) for r in radii), reverse=True))
    if not ordered or not np.isfinite(ordered).all() or ordered[-1] <= 0:
        raise InputError(f"radii must be positive lengths in mm, got {list(radii)}.")
    return ordered
