"""Soft shapes of the simulated anatomy: superellipsoids and tubes, in mm of MNI152 space, with edges 1 mm wide."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.interpolate import CubicSpline
from scipy.spatial.transform import Rotation

Float32Array = NDArray[np.float32]


def soft_inside(distance: NDArray[Any], width: float = 1.2) -> Float32Array:
    """Return 1 inside (negative distance in mm), 0 outside and a linear ramp of `width` mm between."""
    return np.clip(0.5 - np.asarray(distance, np.float32) / np.float32(width), 0, 1)


@dataclass(frozen=True)
class Superellipsoid:
    """A right-hand structure; its mirror image in x = 0 is drawn with it.

    centre and semi-axes in mm; turn: Euler angles about the fixed x, y, z axes in degrees; power: 2 is an
    ellipsoid, larger is boxier.
    """

    centre: tuple[float, float, float]
    semi_axes: tuple[float, float, float]
    turn: tuple[float, float, float] = (0.0, 0.0, 0.0)
    power: float = 2.0

    @property
    def reach(self) -> float:
        """Largest distance in mm from the centre that the shape can occupy."""
        return float(np.linalg.norm(self.semi_axes))

    @property
    def bounds(self) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Corners (3,) and (3,) in mm of a box that holds the shape and its mirror image."""
        centre = np.asarray(self.centre)
        high = centre + self.reach
        return np.array([-high[0], *(centre[1:] - self.reach)]), high

    def distance(self, points: Sequence[NDArray[Any]]) -> Float32Array:
        """Return an approximate signed distance in mm (negative inside) at points x, y, z of the right side."""
        offsets = np.stack(
            [np.asarray(p, np.float32) - np.float32(c) for p, c in zip(points, self.centre, strict=True)]
        )
        turn = Rotation.from_euler("xyz", self.turn, degrees=True).as_matrix().astype(np.float32)
        local = np.abs(np.tensordot(turn.T, offsets, axes=1))
        axes = np.asarray(self.semi_axes, np.float32).reshape(3, *([1] * (local.ndim - 1)))
        relative = local / axes
        if self.power == 2:
            radius = np.sqrt((relative * relative).sum(axis=0))
        else:
            radius = (relative ** np.float32(self.power)).sum(axis=0) ** np.float32(1 / self.power)
        length = np.sqrt((local * local).sum(axis=0))
        boundary = np.where(radius > 1e-3, length / np.maximum(radius, 1e-3), np.float32(min(self.semi_axes)))
        return (radius - 1) * boundary


@dataclass(frozen=True)
class Tube:
    """A curved tube of varying radius: knots (n, 3) in mm and radii (n,) in mm, joined by a cubic spline."""

    knots: tuple[tuple[float, float, float], ...]
    radii: tuple[float, ...]

    def centreline(self, step: float = 0.4) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Return points (n, 3) about `step` mm apart along the tube, and the radii (n,) there."""
        knots = np.asarray(self.knots)
        along = np.concatenate([[0], np.cumsum(np.linalg.norm(np.diff(knots, axis=0), axis=1))])
        positions = np.linspace(0, along[-1], max(2, int(np.ceil(along[-1] / step)) + 1))
        return CubicSpline(along, knots)(positions), np.interp(positions, along, self.radii)


def draw_tubes(
    volume: Float32Array, origin: ArrayLike, centres: NDArray[Any], radii: NDArray[Any], *, width: float = 1.0
) -> Float32Array:
    """Raise `volume` (x, y, z; 1 mm voxels from `origin` mm) to the inside of spheres at (n, 3), radii (n,), in mm."""
    voxels = np.asarray(centres) - np.asarray(origin)
    reach = int(np.ceil(radii.max() + width)) if len(radii) else 0
    axis = np.arange(-reach, reach + 1)
    offsets = np.stack(np.meshgrid(axis, axis, axis, indexing="ij"), -1).reshape(-1, 3)
    offsets = offsets[np.linalg.norm(offsets, axis=1) <= reach + 1]
    nearest = np.rint(voxels).astype(int)
    for offset in offsets:
        index = nearest + offset
        distance = np.linalg.norm(index - voxels, axis=1) - radii
        keep = (distance < width / 2) & (index >= 0).all(axis=1) & (index < volume.shape).all(axis=1)
        np.maximum.at(volume, tuple(index[keep].T), soft_inside(distance[keep], width))
    return volume
