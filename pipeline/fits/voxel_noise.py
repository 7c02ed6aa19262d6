"""How the errors of fields are spread over the head: alike among neighbours, larger in some voxels than in others.

What a tensor leaves of fields is no white noise. Interpolation, motion, breathing and distortion leave errors
that neighbours share; a fit that takes every voxel's error for its own trusts what is smooth in its data too much. And
edges, veins and air leave larger errors than white matter does. Both are told by the residuals of a first solution.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from ..physics.dipole import Float32Array

LARGEST_CORRELATION = 4.0
_BLOCK = 3  # voxels along an edge
_FEWEST = 500  # voxels whose whole block is known
_AROUND = 3.0  # mm (standard deviation), over which the errors' size is told
_OWN = 0.3  # part of a scan's own residual in it, beside that of all scans
_LARGEST = 20.0  # standard deviations, that a residual counts for at most
_LEAST_WEIGHT = 0.1


def noise_correlation(residual: Float32Array, known: NDArray[np.bool_]) -> float:
    """Return by how much the errors of neighbours make a mean of them larger than independent ones would, 1 to 4.

    residual: (x, y, z), 0 where it is not known. sqrt(27) times the median size of means over 3 x 3 x 3 voxels, over
    the median size of a voxel: 1 for white noise. Noise so much larger, taken as white, has the power of the errors
    where it matters, at wavelengths above a few voxels.
    """
    whole = ndimage.binary_erosion(known, np.ones((_BLOCK, _BLOCK, _BLOCK), bool))
    if np.count_nonzero(whole) < _FEWEST:
        return 1.0
    means = ndimage.uniform_filter(residual, _BLOCK)[whole]
    size = float(np.median(np.abs(residual[whole])))
    return float(np.clip(_BLOCK**1.5 * np.median(np.abs(means)) / max(size, 1e-30), 1, LARGEST_CORRELATION))


def voxel_factors(
    residuals: Sequence[Float32Array],
    known: Sequence[NDArray[np.bool_]],
    expected: NDArray[np.float64],
    voxel_size: NDArray[np.float64],
) -> list[Float32Array]:
    """Return by how much each scan's weights are multiplied (x, y, z), 0.1 to 1: less where residuals are large.

    residuals: (x, y, z) a scan, weighted, 0 where not known; expected: mean square of each (n,); voxel_size: (3,) mm.
    The mean square around a voxel counts, of all scans and of the scan itself, over its median in the brain.
    """
    width = _AROUND / voxel_size
    squares, shares = [], []
    for one, where, size in zip(residuals, known, expected, strict=True):
        bounded = np.minimum(one**2 / np.float32(size), np.float32(_LARGEST**2))
        squares.append(ndimage.gaussian_filter(bounded, width))
        shares.append(ndimage.gaussian_filter(where.astype(np.float32), width))
    pooled = np.sum(squares, axis=0) / np.maximum(np.sum(shares, axis=0), 1e-3)
    typical = max(float(np.median(pooled[np.any(known, axis=0)])), 1e-30)
    factors = []
    for square, share in zip(squares, shares, strict=True):
        size = (_OWN * square / np.maximum(share, 1e-3) + (1 - _OWN) * pooled) / np.float32(typical)
        factors.append(np.clip(1 / np.sqrt(np.maximum(size, 1)), _LEAST_WEIGHT, 1).astype(np.float32))
    return factors
