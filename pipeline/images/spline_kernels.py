"""Cubic B-splines and levels evaluated on a rotated grid, compiled: a slab of planes at a time.

A voxel's value depends on nothing but its own index, so that results do not depend on how a grid was cut into slabs.
"""

from __future__ import annotations

import numpy as np
from numba import njit

_compiled = njit(nogil=True, cache=True, error_model="numpy")


@_compiled
def mark_inside(inside, level, mapping, samples, first, tie):
    """Fill inside (x, y, z), planes from `first` on, with whether the mean level (p, q, r) at a voxel's samples >= tie.

    mapping: (3, 4) from voxels to those of the level, which is interpolated linearly and continued beyond its grid;
    samples: (n, 3) offsets in voxels of the level.
    """
    p, q, r = level.shape
    for i in range(inside.shape[0]):
        for j in range(inside.shape[1]):
            for k in range(inside.shape[2]):
                total = 0.0
                for s in range(samples.shape[0]):
                    x = _at(mapping, samples, 0, s, first + i, j, k, 0, p - 1)
                    y = _at(mapping, samples, 1, s, first + i, j, k, 0, q - 1)
                    z = _at(mapping, samples, 2, s, first + i, j, k, 0, r - 1)
                    a, b, c = min(int(x), p - 2), min(int(y), q - 2), min(int(z), r - 2)
                    x, y, z = x - a, y - b, z - c
                    for u in range(2):
                        for v in range(2):
                            across = (x if u else 1 - x) * (y if v else 1 - y)
                            total += across * ((1 - z) * level[a + u, b + v, c] + z * level[a + u, b + v, c + 1])
                inside[i, j, k] = total >= tie * samples.shape[0]


@_compiled
def sample_splines(values, where, coefficients, mapping, samples, first):
    """Fill values (m, x, y, z), planes from `first` on, where `where` (x, y, z) with the mean of splines at samples.

    coefficients: (m, p, q, r), continued beyond their grid; mapping and samples as for mark_inside.
    """
    maps, p, q, r = coefficients.shape
    total, weights = np.empty(maps), np.empty((3, 4))
    for i in range(where.shape[0]):
        for j in range(where.shape[1]):
            for k in range(where.shape[2]):
                if not where[i, j, k]:
                    continue
                total[:] = 0
                for s in range(samples.shape[0]):
                    x = _taps(weights, 0, _at(mapping, samples, 0, s, first + i, j, k, 1, p - 2), p)
                    y = _taps(weights, 1, _at(mapping, samples, 1, s, first + i, j, k, 1, q - 2), q)
                    z = _taps(weights, 2, _at(mapping, samples, 2, s, first + i, j, k, 1, r - 2), r)
                    for u in range(4):
                        for v in range(4):
                            across = weights[0, u] * weights[1, v]
                            for m in range(maps):
                                total[m] += across * (
                                    (
                                        weights[2, 0] * coefficients[m, x + u, y + v, z]
                                        + weights[2, 1] * coefficients[m, x + u, y + v, z + 1]
                                    )
                                    + (
                                        weights[2, 2] * coefficients[m, x + u, y + v, z + 2]
                                        + weights[2, 3] * coefficients[m, x + u, y + v, z + 3]
                                    )
                                )
                for m in range(maps):
                    values[m, i, j, k] = total[m] / samples.shape[0]


@njit(inline="always")
def _at(mapping, samples, axis, s, i, j, k, low, high):
    """Return the position of a voxel's sample along an axis, within low and high."""
    row = mapping[axis]
    at = (i * row[0] + j * row[1]) + (k * row[2] + row[3]) + samples[s, axis]
    return min(max(at, float(low)), float(high))


@njit(inline="always")
def _taps(weights, axis, at, size):
    """Fill the four weights of a cubic B-spline at a position from 1 to size - 2; return the first tap's index."""
    base = min(int(at), size - 3)
    t = at - base
    s = 1 - t
    weights[axis, 0] = s * s * s / 6
    weights[axis, 1] = 2 / 3 - t * t * (1 - t / 2)
    weights[axis, 2] = 2 / 3 - s * s * (1 - s / 2)
    weights[axis, 3] = t * t * t / 6
    return base - 1
