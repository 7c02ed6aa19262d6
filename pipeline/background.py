"""Background field removal: V-SHARP."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from .dipole import Float32Array, Shape, check_finite, check_grid, crop, forward_fft, inverse_fft, padded_shape
from .errors import InputError
from .masks import depth_inside

LARGEST_RADIUS = 18.0  # mm
SMALLEST_RADIUS = 4.5  # mm: smaller spheres lose to the strong fields at the brain's edge
RADIUS_STEP = 1.5  # mm
THRESHOLD = 0.1


@dataclass(frozen=True)
class LocalField:
    """A local field (x, y, z) in ppm and the mask where it is valid; the field is 0 outside."""

    field: Float32Array
    mask: NDArray[np.bool_]


def vsharp_radii(
    voxel_size: ArrayLike, largest: float = LARGEST_RADIUS, smallest: float = SMALLEST_RADIUS
) -> tuple[float, ...]:
    """Return V-SHARP radii in mm, descending from `largest` to `smallest`, at least two voxels."""
    least = max(smallest, 2 * float(np.max(np.asarray(voxel_size, np.float64))))
    if least >= largest:
        return (least,)
    count = max(2, int(np.ceil((largest - least) / RADIUS_STEP)) + 1)
    return tuple(float(r) for r in np.linspace(largest, least, count))


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
    in ppm where the smallest sphere fits the mask. Sources: Schweser 2011, Wu 2012.
    """
    field = np.asarray(total_field, np.float32)
    inside = np.asarray(mask, bool)
    check_finite(field, "total field")
    shape, size = check_grid(field.shape, voxel_size)
    if inside.shape != shape:
        raise InputError(f"mask has shape {inside.shape}, but the field has {shape}.")
    if not inside.any():
        raise InputError("the mask is empty, so no background can be removed: check the brain mask.")
    used = vsharp_radii(size) if radii is None else check_radii(radii)
    if not 0 < threshold < 1:
        raise InputError(f"threshold must lie between 0 and 1, got {threshold}.")
    depth = depth_inside(inside, size)
    valid = depth > used[-1]
    if not valid.any():
        raise InputError(
            f"no sphere of {used[-1]:g} mm fits the mask ({int(inside.sum())} voxels): use smaller radii or a larger "
            "mask."
        )
    grid = padded_shape(shape, size, 2 * used[0])
    spectrum = forward_fft(np.where(inside, field, np.float32(0)), grid)
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
