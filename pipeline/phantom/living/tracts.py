"""Magnetic susceptibility anisotropy that differs from tract to tract."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...physics.tensors import DIAGONAL
from ..anatomy import Head
from ..sampling import smooth_noise

Float32Array = NDArray[np.float32]
_TRACT = 16.0  # mm between the knots of the field that scales it: about the width of a bundle
_LARGEST = 2.5


def traceless(tensor: Float32Array) -> Float32Array:
    """Return the anisotropic part (6, ...) of a tensor (6, ...)."""
    part = tensor.copy()
    part[list(DIAGONAL)] -= tensor[list(DIAGONAL)].mean(axis=0)
    return part


def with_uneven_tracts(head: Head, spread: float) -> Head:
    """Return the head with its anisotropy scaled by a smooth log-normal field of mean 1 and a relative `spread`."""
    rng = np.random.default_rng([*head.parameters.seed, 212])
    noise = smooth_noise(rng, head.tensor.shape[1:], _TRACT)
    factor = np.clip(np.exp(np.float32(spread) * noise - np.float32(spread**2 / 2)), 0, _LARGEST)
    return replace(head, tensor=head.tensor + traceless(head.tensor) * (factor - 1))


def sine_squared_to(tensor: Float32Array, b0_direction: NDArray[Any]) -> Float32Array:
    """Return sin^2 (x, y, z) of the angle between the fibres of a uniaxial tensor (6, x, y, z) and B0; 1 / 2 elsewhere.

    b0_direction: unit vector along the axes of the tensor. The fibres' part of the tensor is MSA (v v^T - I / 3).
    """
    part = traceless(tensor)
    xx, xy, xz, yy, yz, zz = part
    norm = xx * xx + yy * yy + zz * zz + 2 * (xy * xy + xz * xz + yz * yz)
    strength = np.sqrt(1.5 * norm)  # |v v^T - I / 3|^2 = 2 / 3
    a, b, c = (np.float32(h) for h in b0_direction)
    along = a * a * xx + b * b * yy + c * c * zz + 2 * (a * b * xy + a * c * xz + b * c * yz)
    fibres = strength > 1e-4
    cosine = np.divide(along, strength, out=np.full_like(along, 1 / 6), where=fibres) + np.float32(1 / 3)
    return np.clip(1 - cosine, 0, 1)
