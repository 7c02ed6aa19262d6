"""Whether a transform is where two images fit best: the optimum near it, and how far off it lies.

The correlation of two images says little: 4 degrees or 2 mm off it may still be 0.93. Where the images fit best near a
transform says more: on heads of two simulators, with strong shading, noise of SNR 8 and distortions of 1.5 mm, right
transforms moved by 0.3 mm at most, those 4 degrees or 2 mm off by 1.9 mm or more, back to the right place.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import ArrayLike, NDArray

from .frames import rotation_angle
from .registration_refinement import Side, agreement, refine

LARGEST_SHIFT = 1.0  # mm, of a transform from where magnitudes fit best
_POINTS = 20_000  # of each image


@dataclass(frozen=True)
class Misplacement:
    """How far two transforms of one head are apart.

    shift: root mean square distance in mm between where both place the head; turn: the angle between them in degrees.
    """

    shift: float
    turn: float

    def exceeds(self, largest_shift: float) -> bool:
        """Tell whether the transforms are farther apart than largest_shift (mm)."""
        return self.shift > largest_shift

    @property
    def words(self) -> str:
        """How far they are apart, in words."""
        return f"{self.shift:.1f} mm and {self.turn:.1f} degrees"


def misplacement(one: ArrayLike, other: ArrayLike, points: ArrayLike) -> Misplacement:
    """Return how far two similarities (4, 4) to one world are apart, over points (3, n) in mm of that world."""
    first, second = np.asarray(one, np.float64), np.asarray(other, np.float64)
    placed = np.asarray(points, np.float64)
    moved = second @ np.linalg.inv(first)
    apart = moved[:3, :3] @ placed + moved[:3, 3:] - placed
    rotation: NDArray[np.float64] = moved[:3, :3] / np.cbrt(np.linalg.det(moved[:3, :3]))
    return Misplacement(float(np.sqrt((apart**2).sum(axis=0).mean())), rotation_angle(rotation))


def misplaced(moving: Side, fixed: Side, transform: ArrayLike) -> Misplacement | None:
    """Return how far a transform (4, 4), moving world to fixed world, is from where two images fit best near it.

    None where they fit no better there. The images are compared up to one gain.
    """
    pair = _thinned(moving), _thinned(fixed)
    found = refine(*pair, transform, degree=0, tolerance=0.03)
    if agreement(*pair, found)[0] <= agreement(*pair, transform)[0]:
        return None
    return misplacement(transform, found, pair[1].points)


def _thinned(one: Side) -> Side:
    step = max(one.points.shape[1] // _POINTS, 1)
    return replace(one, points=np.ascontiguousarray(one.points[:, ::step]), values=one.values[::step])
