"""Solid harmonics: the fields that shim coils make and that no source inside has."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .dipole import Float32Array


def solid_harmonics(coordinates: Sequence[NDArray[Any]]) -> list[NDArray[Any]]:
    """Return the nine solid harmonics of order 0 to 2 of x, y, z (arrays that broadcast)."""
    x, y, z = coordinates
    return [np.ones_like(x), x, y, z, x * y, x * z, y * z, x * x - y * y, 2 * z * z - x * x - y * y]


def harmonic_part(field: NDArray[Any], inside: NDArray[np.bool_], voxel_size: NDArray[Any]) -> Float32Array:
    """Return the solid harmonics of order 0 to 2 that fit a field (x, y, z) best in a mask, on the whole grid."""
    axes = [((np.arange(n) - n / 2) * d / 100).astype(np.float32) for n, d in zip(field.shape, voxel_size, strict=True)]
    x, y, z = axes[0][:, None, None], axes[1][None, :, None], axes[2][None, None, :]
    basis = solid_harmonics((x, y, z))
    rows = np.stack([np.broadcast_to(b, field.shape)[inside] for b in basis]).astype(np.float64)
    normal = rows @ rows.T
    weights = np.linalg.solve(normal + 1e-9 * np.trace(normal) * np.eye(9), rows @ field[inside].astype(np.float64))
    total = np.zeros(field.shape, np.float32)
    for weight, term in zip(weights, basis, strict=True):
        total += np.float32(weight) * term
    return total
