"""Whether a transform is where two images fit best: the optimum near it, and how far off it lies.

The correlation of two images says little: 4 degrees or 2 mm off it may still be 0.93. Where the images fit best near a
transform says more: on heads of two simulators, with strong shading, noise of SNR 8 and distortions of 1.5 mm, right
transforms moved by 0.3 mm at most, those 4 degrees or 2 mm off by 1.9 mm or more, back to the right place.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ..frames import rotation_angle
from .refinement import Side, agreement, refine

LARGEST_SHIFT = 1.0  # mm, of a transform from where magnitudes fit best
# Largest distance in mm between where halves of a brain fit best: 0.3-0.9 of right transforms (with and without the
# effects of a living head), 2.8-7 of other heads and of wrong optima.
LARGEST_SPREAD = 1.5
_POINTS = 20_000  # of each image
_FEWEST_POINTS = 1000  # of half a brain


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


def spread(moving: Side, fixed: Side, transform: ArrayLike) -> float:
    """Return how far apart in mm halves of the brain lie where each fits best near a transform (4, 4).

    The brain is halved along each axis of the fixed world; the largest distance counts, between two halves, or a half
    and the transform. Noise, distortion and shading take from the correlation of two images of one head, but leave
    its parts where they are; a wrong optimum, or another head, fits each part at another place. Infinite where a half
    has hardly a voxel.
    """
    world = np.asarray(transform, np.float64)
    pair = _thinned(moving), _thinned(fixed)
    centre = pair[1].points.mean(axis=1, keepdims=True)
    places = world[:3, :3] @ pair[0].points + world[:3, 3:] - centre, pair[1].points - centre
    apart = [0.0]
    for axis in range(3):
        halves: list[NDArray[np.float64]] = []
        for sign in (1, -1):
            first, second = (_kept(one, sign * at[axis] > 0) for one, at in zip(pair, places, strict=True))
            if min(first.points.shape[1], second.points.shape[1]) < _FEWEST_POINTS:
                return float("inf")
            halves.append(refine(first, second, world, degree=0, tolerance=0.05))
        for one, other in ((halves[0], halves[1]), (halves[0], world), (halves[1], world)):
            apart.append(misplacement(one, other, pair[1].points).shift)
    return max(apart)


def _kept(one: Side, chosen: NDArray[np.bool_]) -> Side:
    return replace(one, points=np.ascontiguousarray(one.points[:, chosen]), values=one.values[chosen])


def _thinned(one: Side) -> Side:
    step = max(one.points.shape[1] // _POINTS, 1)
    return replace(one, points=np.ascontiguousarray(one.points[:, ::step]), values=one.values[::step])
