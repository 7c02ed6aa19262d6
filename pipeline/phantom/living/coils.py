"""What the combined coil does to an image: phase singularities, and noise that varies over the image."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..background import polynomial_coordinates
from ..poses import ScanGrid

Float32Array = NDArray[np.float32]
Complex64Array = NDArray[np.complex64]
_CORE = 0.025  # in 100 mm: how wide the signal void about a singularity is
_APART = 0.25  # in 100 mm: between the two of a pair, whose phases cancel far away
_RIM = 0.75  # in 100 mm: where the noise has come down


def phase_poles(pairs: int, grid: ScanGrid, rng: np.random.Generator) -> Complex64Array:
    """Return the factor (x, y, z) of an image whose coils were combined badly: `pairs` of opposite phase vortices.

    Each is a line through the scanner around which the phase winds once and on which the signal vanishes; the two of a
    pair wind the other way, so that the phase far from them is smooth. Magnitude at most 1.
    """
    coordinates = polynomial_coordinates(grid)
    factor = np.ones(grid.shape, np.complex64)
    for _ in range(pairs):
        direction = rng.normal(size=3)
        direction /= np.linalg.norm(direction)
        first, second = _across(direction)
        centre = rng.uniform([-0.5, -0.6, -0.4], [0.5, 0.5, 0.5])
        a, b = (sum(np.float32(w) * (c - np.float32(o)) for w, c, o in zip(axis, coordinates, centre, strict=True))
                for axis in (first, second))  # fmt: skip
        half = np.float32(_APART / 2)
        for winding in (1, -1):
            vortex = (a - winding * half) + 1j * winding * b
            factor *= vortex / np.sqrt(np.abs(vortex) ** 2 + np.float32(_CORE**2))
    return factor.astype(np.complex64)


def _across(direction: NDArray[Any]) -> tuple[NDArray[Any], NDArray[Any]]:
    first = np.cross(direction, np.eye(3)[np.argmin(np.abs(direction))])
    first /= np.linalg.norm(first)
    return first, np.cross(direction, first)


def noise_map(ratio: float, grid: ScanGrid, mask: NDArray[np.bool_], rng: np.random.Generator) -> Float32Array:
    """Return the noise's standard deviation (x, y, z), of mean square 1 over the mask.

    ratio: noise in the middle of the head, where the coils' elements are told apart worst, over that at its rim.
    """
    x, y, z = polynomial_coordinates(grid)
    centre = rng.normal(0, 0.1, 3).astype(np.float32)
    squared = (x - centre[0]) ** 2 + (y - centre[1]) ** 2 + (z - centre[2]) ** 2
    bands = np.float32(0.08) * np.cos(np.float32(np.pi / 0.5) * x) * np.cos(np.float32(np.pi / 0.6) * y)
    shape = np.clip(1 + np.float32(ratio - 1) * np.exp(-squared / np.float32(_RIM**2)) * (1 + bands), 0.5, None)
    return (shape / np.sqrt(np.mean(shape[mask].astype(np.float64) ** 2))).astype(np.float32)


def bipolar_phase(radians: float, rng: np.random.Generator, grid: ScanGrid, axis: int) -> Float32Array:
    """Return the phase (x, y, z) that echoes read backwards have more and the others less: linear along the readout.

    radians: across the field of view along `axis` of the array; with a constant of its own.
    """
    shape = [1, 1, 1]
    shape[axis] = grid.shape[axis]
    along = np.linspace(-0.5, 0.5, grid.shape[axis], dtype=np.float32).reshape(shape)
    return np.broadcast_to(np.float32(radians) * along + np.float32(rng.uniform(-0.5, 0.5) * radians), grid.shape)
