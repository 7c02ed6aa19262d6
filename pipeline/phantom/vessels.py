"""Venous trees: the deep system and the sinuses in their places, random cortical and medullary veins."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.interpolate import CubicSpline
from scipy.ndimage import map_coordinates

from .shapes import Tube, draw_tubes

Float32Array = NDArray[np.float32]

# MNI152 mm, right side for paired vessels
_GALEN = Tube(((0.0, -36.0, 9.0), (0.0, -42.0, 5.0), (0.0, -47.0, 6.0)), (1.4, 1.8, 1.8))
_STRAIGHT = Tube(
    ((0.0, -47.0, 6.0), (0.0, -66.0, -4.0), (0.0, -86.0, -14.0), (0.0, -103.0, -17.0)), (2.0, 2.3, 2.6, 3.0)
)
_INTERNAL_CEREBRAL = Tube(
    ((2.2, -2.0, 13.0), (2.4, -14.0, 16.0), (2.2, -27.0, 13.0), (0.6, -36.0, 9.0)), (0.8, 1.0, 1.1, 1.2)
)
_THALAMOSTRIATE = Tube(
    ((2.2, -2.0, 13.0), (9.0, -4.0, 18.0), (15.0, -12.0, 21.0), (19.0, -24.0, 20.0)), (0.9, 0.9, 0.8, 0.6)
)
_SEPTAL = Tube(((2.2, -2.0, 13.0), (2.8, 10.0, 12.0), (4.5, 24.0, 8.0), (9.0, 34.0, 6.0)), (0.8, 0.8, 0.7, 0.5))
_BASAL = Tube(((12.0, 2.0, -17.0), (14.0, -14.0, -14.0), (15.0, -27.0, -4.0), (8.0, -36.0, 4.0), (1.0, -42.0, 6.0)),
              (0.7, 0.9, 1.0, 1.1, 1.2))  # fmt: skip
_PAIRED = (_INTERNAL_CEREBRAL, _THALAMOSTRIATE, _SEPTAL, _BASAL)
_SAGITTAL_ANGLES = np.radians(np.linspace(28, 196, 12))  # of the hull about (0, -18, 5), front to torcula
_DEEP_ROOTS = 30
_CORTICAL_ROOTS = 44


def vein_fraction(
    rng: np.random.Generator, hull: Float32Array, origin: NDArray[Any], scale: NDArray[Any]
) -> Float32Array:
    """Return the soft venous fraction (x, y, z), 0 to 1, on the grid of `hull`.

    hull: signed distance in mm to the inside of the skull (negative inside) on a 1 mm grid from `origin` mm (head
    coordinates); scale: head size (3,) relative to MNI152. Diameters are 1 to 2.5 mm, of the sinuses up to 6 mm.
    """
    tubes = [_STRAIGHT, _GALEN, *_PAIRED, *(_mirrored(tube) for tube in _PAIRED)]
    lines = [_moved(tube, rng, scale) for tube in tubes]
    lines.append(_sagittal_sinus(hull, origin))
    lines += _deep_medullary(rng, scale)
    lines += _cortical(rng, hull, origin)
    centres = np.concatenate([line[0] for line in lines])
    radii = np.concatenate([line[1] for line in lines])
    volume = np.zeros(hull.shape, np.float32)
    for thick in (False, True):
        chosen = (radii > 1.4) == thick
        draw_tubes(volume, origin, centres[chosen], radii[chosen])
    return volume


def _mirrored(tube: Tube) -> Tube:
    return Tube(tuple((-x, y, z) for x, y, z in tube.knots), tube.radii)


def _moved(tube: Tube, rng: np.random.Generator, scale: NDArray[Any]) -> tuple[NDArray[Any], NDArray[Any]]:
    knots = np.asarray(tube.knots) * scale
    wander = rng.normal(0, 0.8, knots.shape) * (np.abs(knots[:, :1]) > 1.5)
    knots = knots + wander
    radii = tuple(r * rng.uniform(0.85, 1.15) for r in tube.radii)
    return Tube(tuple((float(x), float(y), float(z)) for x, y, z in knots), radii).centreline()


def _hull_at(hull: Float32Array, origin: NDArray[Any], points: NDArray[Any]) -> NDArray[Any]:
    return map_coordinates(hull, (points - origin).T, order=1, mode="nearest")


def _surface(
    hull: Float32Array, origin: NDArray[Any], centre: NDArray[Any], direction: NDArray[Any], depth: float
) -> NDArray[Any]:
    """Return the point where a ray from `centre` is `depth` mm inside the hull."""
    steps = np.arange(20.0, 130.0, 0.5)
    ray = centre + steps[:, None] * direction
    return ray[int(np.argmin(np.abs(_hull_at(hull, origin, ray) + depth)))]


def _sagittal_sinus(hull: Float32Array, origin: NDArray[Any]) -> tuple[NDArray[Any], NDArray[Any]]:
    centre = np.array([0.0, -18.0, 5.0])
    directions = np.stack([0 * _SAGITTAL_ANGLES, np.cos(_SAGITTAL_ANGLES), np.sin(_SAGITTAL_ANGLES)], axis=-1)
    knots = np.array([_surface(hull, origin, centre, d, 0.5) for d in directions])
    radii = np.linspace(1.5, 3.2, len(knots))
    return Tube(tuple((float(x), float(y), float(z)) for x, y, z in knots), tuple(radii.tolist())).centreline()


def _wandering(
    rng: np.random.Generator,
    start: NDArray[Any],
    direction: NDArray[Any],
    length: float,
    radius: float,
    generations: int,
) -> list[tuple[NDArray[Any], NDArray[Any]]]:
    """Return a curved vessel and its branches, thinning away from the root."""
    count = max(3, int(length / 6) + 1)
    heading = direction / np.linalg.norm(direction)
    knots = [start]
    for _ in range(count):
        heading = heading + rng.normal(0, 0.28, 3)
        heading = heading / np.linalg.norm(heading)
        knots.append(knots[-1] + heading * length / count)
    along = np.linspace(0, 1, len(knots))
    fine = np.linspace(0, 1, max(4, int(length / 0.4)))
    line = CubicSpline(along, np.array(knots))(fine)
    vessels = [(line, radius * (1 - 0.35 * fine))]
    for _ in range(int(rng.integers(1, 4)) if generations else 0):
        root = int(rng.uniform(0.2, 0.8) * len(line))
        tangent = line[min(root + 1, len(line) - 1)] - line[root - 1]
        side = tangent / np.linalg.norm(tangent) + rng.normal(0, 0.7, 3)
        child = max(0.5, 0.75 * float(vessels[0][1][root]))
        vessels += _wandering(rng, line[root], side, length * rng.uniform(0.4, 0.7), child, generations - 1)
    return vessels


def _deep_medullary(rng: np.random.Generator, scale: NDArray[Any]) -> list[tuple[NDArray[Any], NDArray[Any]]]:
    """Veins that leave the wall of the lateral ventricles through white matter."""
    vessels = []
    for root in range(_DEEP_ROOTS):
        side = 1 if root % 2 else -1
        y = rng.uniform(-42, 30)
        start = np.array([side * (14 + 0.12 * abs(y)), y, 22 - 0.006 * y**2]) * scale
        outward = np.array([side * rng.uniform(0.5, 1), 0.015 * y + rng.normal(0, 0.3), rng.uniform(0.1, 0.9)])
        vessels += _wandering(rng, start, outward, rng.uniform(18, 34), rng.uniform(0.5, 0.8), 1)
    return vessels


def _cortical(
    rng: np.random.Generator, hull: Float32Array, origin: NDArray[Any]
) -> list[tuple[NDArray[Any], NDArray[Any]]]:
    """Veins that run over the convexity towards the sagittal sinus, kept a few mm inside the surface."""
    vessels = []
    centre = np.array([0.0, -18.0, 5.0])
    for root in range(_CORTICAL_ROOTS):
        side = 1 if root % 2 else -1
        angle = rng.uniform(np.radians(25), np.radians(185))
        sweep = np.linspace(0.06, rng.uniform(0.5, 1.3), 7)  # radians from the midline
        azimuth = angle + np.cumsum(rng.normal(0, 0.07, len(sweep)))
        directions = np.stack(
            [side * np.sin(sweep), np.cos(azimuth) * np.cos(sweep), np.sin(azimuth) * np.cos(sweep)], axis=-1
        )
        depth = rng.uniform(2.0, 5.0, len(sweep))
        knots = np.array([_surface(hull, origin, centre, d, p) for d, p in zip(directions, depth, strict=True)])
        line, _ = Tube(tuple((float(x), float(y), float(z)) for x, y, z in knots), (1.0,) * len(knots)).centreline()
        vessels.append((line, np.linspace(rng.uniform(0.9, 1.25), 0.5, len(line))))
        for _ in range(2):  # sulcal branches that dive inwards
            start = int(rng.integers(len(line) // 4, len(line)))
            inward = (centre - line[start]) + rng.normal(0, 15, 3)
            vessels += _wandering(rng, line[start], inward, rng.uniform(12, 25), 0.6, 0)
    return vessels
