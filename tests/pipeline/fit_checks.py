"""Shared by the tests of the fits: directions and the relative error."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray


def directions(n: int, largest: float = 40.0) -> list[NDArray[np.float64]]:
    """The neutral position and a spiral of tilts up to `largest` degrees."""
    tilts = np.radians(largest) * np.sqrt(np.arange(n) / (n - 1))
    azimuth = np.pi * (1 + np.sqrt(5)) * np.arange(n)
    return list(np.stack([np.sin(tilts) * np.cos(azimuth), np.sin(tilts) * np.sin(azimuth), np.cos(tilts)], axis=1))


def relative(found: NDArray, truth: NDArray) -> float:
    """The norm of the error over the norm of the truth."""
    return float(np.linalg.norm(found - truth) / np.linalg.norm(truth))
