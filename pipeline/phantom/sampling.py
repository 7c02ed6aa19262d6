"""Sampling of head maps at any points, on two threads, with smoothing that fits the voxel."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

Float32Array = NDArray[np.float32]
THREADS = 2


def smooth_noise(rng: np.random.Generator, shape: Sequence[int], knot_spacing: float) -> Float32Array:
    """Return a smooth random field of mean 0 and standard deviation 1 on a grid (x, y, z).

    knot_spacing: distance in voxels between the knots of the cubic B-spline that carries the field.
    """
    knots = [int(np.ceil(n / knot_spacing)) + 3 for n in shape]
    field = rng.standard_normal(knots).astype(np.float32)
    for n in shape:  # each pass contracts the leading axis and appends the fine one, so three passes restore x, y, z
        basis = _spline_basis(n, field.shape[0], knot_spacing)
        field = np.tensordot(field, basis, axes=(0, 1))
    field -= field.mean()
    return field / field.std()


def _spline_basis(n: int, knots: int, spacing: float) -> Float32Array:
    position = np.arange(n)[:, None] / spacing + 1 - np.arange(knots)[None, :]
    distance = np.abs(position)
    near = 2 / 3 - distance**2 + distance**3 / 2
    far = np.clip(2 - distance, 0, None) ** 3 / 6
    return np.where(distance < 1, near, far).astype(np.float32)


def spline_coefficients(volume: NDArray[Any], order: int) -> Float32Array:
    """Return what sample_points and sample_grid interpolate for a spline order (the volume itself up to 1)."""
    array = np.asarray(volume, np.float32)
    return array if order < 2 else ndimage.spline_filter(array, order=order, output=np.float32, mode="mirror")


def sample_points(coefficients: Float32Array, voxels: NDArray[Any], *, order: int) -> Float32Array:
    """Return the values (n,) at voxel coordinates (3, n) of a volume given by its spline_coefficients; 0 outside."""
    result = np.empty(voxels.shape[1], np.float32)
    bounds = np.linspace(0, voxels.shape[1], 4 * THREADS + 1).astype(int)

    def sample(start: int, stop: int) -> None:
        ndimage.map_coordinates(
            coefficients,
            voxels[:, start:stop],
            output=result[start:stop],
            order=order,
            prefilter=False,
            mode="constant",
        )

    with ThreadPoolExecutor(THREADS) as pool:
        list(pool.map(sample, bounds[:-1], bounds[1:]))
    return result


def sample_grid(
    coefficients: Float32Array,
    mapping: NDArray[Any],
    shape: Sequence[int],
    *,
    order: int,
    subsamples: Sequence[int] = (1, 1, 1),
) -> Float32Array:
    """Return a volume on a grid (x, y, z) whose voxels map to the source's by `mapping` (4, 4); 0 outside.

    subsamples: points per voxel along each axis of the grid, whose mean is the voxel's value.
    """
    total = np.zeros(tuple(shape), np.float32)
    offsets = subvoxel_offsets(subsamples)
    slabs = np.array_split(np.arange(shape[0]), min(4 * THREADS, shape[0]))

    def sample(slab: NDArray[Any]) -> None:
        for offset in offsets:
            start = mapping[:3, :3] @ (offset + np.array([slab[0], 0, 0])) + mapping[:3, 3]
            total[slab[0] : slab[-1] + 1] += ndimage.affine_transform(
                coefficients, mapping[:3, :3], start, (len(slab), *shape[1:]), np.float32, order, prefilter=False
            )

    with ThreadPoolExecutor(THREADS) as pool:
        list(pool.map(sample, slabs))
    return total / np.float32(len(offsets))


def subvoxel_offsets(subsamples: Sequence[int]) -> NDArray[np.float64]:
    """Return the positions (n, 3), in voxels about the centre, of an even subdivision of a voxel."""
    axes = [(np.arange(n) + 0.5) / n - 0.5 for n in subsamples]
    return np.stack(np.meshgrid(*axes, indexing="ij"), axis=-1).reshape(-1, 3)


def transform_points(matrix: NDArray[Any], points: NDArray[Any]) -> NDArray[Any]:
    """Return the points (3, n) mapped by a 4x4."""
    return matrix[:3, :3] @ points + matrix[:3, 3:4]
