"""Solid harmonics: the fields that shim coils make and that no source inside has."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray


def solid_harmonics(coordinates: Sequence[NDArray]) -> list[NDArray]:
    """Return the nine solid harmonics of order 0 to 2 of x, y, z (arrays that broadcast)."""
    x, y, z = coordinates
    return [np.ones_like(x), x, y, z, x * y, x * z, y * z, x * x - y * y, 2 * z * z - x * x - y * y]
