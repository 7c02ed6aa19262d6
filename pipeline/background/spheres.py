"""The spherical mean value filter S that V-SHARP, RESHARP and the single-step fit share."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike

from ..dipole import Float32Array, Shape, forward_fft
from ..errors import InputError


def sphere_kernel(grid: Shape, voxel_size: ArrayLike, radius: float) -> Float32Array:
    """Return the real half spectrum of the spherical mean over `radius` mm: voxel overlaps, normalised to sum 1."""
    size = np.asarray(voxel_size, np.float64)
    reach = [int(np.ceil(radius / d + 0.5)) for d in size]
    over = 5
    fine = (np.arange(over) - (over - 1) / 2) / over
    axes = [((np.arange(-r, r + 1)[:, None] + fine[None]) * d).ravel() for r, d in zip(reach, size, strict=True)]
    inside = (axes[0][:, None, None] ** 2 + axes[1][None, :, None] ** 2 + axes[2][None, None, :] ** 2) <= radius**2
    counts = [2 * r + 1 for r in reach]
    overlap = inside.reshape(counts[0], over, counts[1], over, counts[2], over).mean(axis=(1, 3, 5))
    kernel = np.zeros(grid, np.float32)
    if any(c > n for c, n in zip(counts, grid, strict=True)):
        raise InputError(f"a sphere of {radius:g} mm does not fit the grid of {grid} voxels: use smaller radii.")
    kernel[: counts[0], : counts[1], : counts[2]] = overlap / overlap.sum()
    kernel = np.roll(kernel, [-r for r in reach], axis=(0, 1, 2))
    return np.ascontiguousarray(forward_fft(kernel, grid).real)


def check_radii(radii: Sequence[float]) -> tuple[float, ...]:
    """Return the radii in mm, descending, or raise InputError."""
    ordered = tuple(sorted((float(r) for r in radii), reverse=True))
    if not ordered or not np.isfinite(ordered).all() or ordered[-1] <= 0:
        raise InputError(f"radii must be positive lengths in mm, got {list(radii)}.")
    return ordered
