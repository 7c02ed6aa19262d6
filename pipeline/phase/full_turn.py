"""How wide the turn of a wrapped phase image is, in its own units: whether they can be the radians they are said to be.

A wrapped phase jumps by its turn, from one end of its range to the other, wherever it wraps and wherever there is
noise. So neighbours that differ by nearly the whole range tell that the range is the turn, whatever the unit. A phase
that never wraps (a crop, a short echo, a masked brain) has no such neighbours and tells nothing.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

FEWEST_VOXELS = 1000
TURN_TOLERANCE = 0.03  # of a turn: vendors round it, and few voxels lie at its very ends
_FAR = 0.8  # of the range: a jump from one end to the other
_MIDDLE = 0.5
_FEWEST_JUMPS = 20
_JUMPS_TO_MIDDLING = 0.1  # 0.2 for noise alone, more where smooth phase wraps; 0.03 for tails that never wrap
_SMALL_STEP = 0.05  # quantile
_EXTREME = 1e-5  # share of the voxels beyond the range: interpolation overshoots
_MOST_VOXELS = 2_000_000  # looked at


@dataclass(frozen=True)
class PhaseRange:
    """The values of a phase image: low, high, in its own units; wraps tells whether it jumps from one to the other.

    step: a small difference between neighbours; where smooth phase wraps, that much may be missing from the range.
    """

    low: float
    high: float
    wraps: bool
    step: float = 0.0

    @property
    def width(self) -> float:
        """The turn of a phase that wraps."""
        return self.high - self.low

    def is_turn_of(self, turn: float) -> bool:
        """Tell whether the phase can have this turn; where it does not wrap, it can have any (it may be unwrapped)."""
        slack = TURN_TOLERANCE * turn
        return not self.wraps or -slack - self.step <= self.width - turn <= slack


def phase_range(stored: NDArray[np.floating]) -> PhaseRange | None:
    """Return the range of a phase image (x, y, z) in its own units, and whether it wraps; None for too few voxels.

    Voxels of one exact value that fill more than a twentieth of the image are left out: a mask, or padding.
    """
    values = _looked_at(np.asarray(stored))
    known = np.isfinite(values) & ~_filled(values)
    count = int(known.sum())
    if count < FEWEST_VOXELS:
        return None
    spare = int(_EXTREME * count)
    inside = values[known]
    low, high = (float(np.partition(inside, k)[k]) for k in (spare, count - 1 - spare))
    if not high > low:
        return None
    far = middling = 0
    steps = []
    for axis in range(values.ndim):
        along, both = np.moveaxis(values, axis, 0), np.moveaxis(known, axis, 0)
        jumps = np.abs(np.diff(along, axis=0))[both[1:] & both[:-1]] / (high - low)
        far += int((jumps > _FAR).sum())
        middling += int(((jumps > _MIDDLE) & (jumps <= _FAR)).sum())
        steps.append(float(np.quantile(jumps[jumps > 0], _SMALL_STEP)) if jumps.any() else 0.0)
    wraps = far >= _FEWEST_JUMPS and far >= _JUMPS_TO_MIDDLING * middling
    return PhaseRange(low, high, wraps, max(steps) * (high - low))


def turn_words(found: PhaseRange, turn: float) -> str:
    """Return what an image shows against the turn it should have: "wraps at -1 and 1, a turn of 2 instead of 6.28"."""
    return f"wraps at {found.low:.4g} and {found.high:.4g}, a turn of {found.width:.4g} instead of {turn:.4g}"


def _looked_at(stored: NDArray[Any]) -> NDArray[np.float32]:
    """Return the middle of an image, no more than _MOST_VOXELS: neighbours stay neighbours."""
    volume = stored.reshape(stored.shape[:3]) if stored.ndim > 3 else stored
    planes = max(2, _MOST_VOXELS // max(1, int(np.prod(volume.shape[:-1]))))
    first = max(0, (volume.shape[-1] - planes) // 2)
    return np.asarray(volume[..., first : first + planes], np.float32)


def _filled(values: NDArray[np.float32]) -> NDArray[np.bool_]:
    """Where an image has one exact value in more than a twentieth of its voxels."""
    finite = values[np.isfinite(values)]
    if finite.size == 0:
        return np.zeros(values.shape, bool)
    found, counts = np.unique(finite[:: max(1, finite.size // 200_000)], return_counts=True)
    return np.isin(values, found[counts > counts.sum() / 20])
