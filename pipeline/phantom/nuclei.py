"""Deep nuclei as smooth shapes at their MNI152 coordinates, right side; each is mirrored to the left."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.spatial import cKDTree

from .shapes import Superellipsoid, Tube, soft_inside

Float32Array = NDArray[np.float32]

# Later ones give way to earlier ones where they touch.
NUCLEI: dict[str, tuple[Superellipsoid | Tube, ...]] = {
    "red_nucleus": (Superellipsoid((5.0, -20.5, -9.0), (3.2, 3.6, 4.0)),),
    "substantia_nigra": (Superellipsoid((10.5, -17.0, -12.5), (2.4, 7.0, 5.0), (-25.0, 35.0, 20.0), 2.4),),
    "pallidum": (Superellipsoid((19.0, -4.0, -1.5), (4.2, 10.0, 6.5), (-5.0, 0.0, -24.0), 2.4),),
    "putamen": (Superellipsoid((26.5, 2.0, 1.0), (5.2, 16.0, 9.5), (-8.0, 0.0, -14.0), 2.4),),
    "caudate": (
        Tube(
            ((10.5, 17.0, -3.0), (12.0, 18.0, 5.0), (14.0, 9.0, 13.0), (16.0, -4.0, 19.0), (18.5, -18.0, 21.0),
             (23.0, -30.0, 17.0), (28.0, -37.0, 6.0)),
            (5.0, 5.4, 4.6, 3.4, 2.8, 2.2, 1.6),
        ),
    ),
    "thalamus": (Superellipsoid((11.0, -19.0, 7.5), (7.2, 13.5, 8.0), (0.0, 0.0, 22.0)),),
    "dentate": (Superellipsoid((15.5, -58.0, -34.5), (4.6, 8.5, 4.8), (10.0, 0.0, 20.0), 2.2),),
}  # fmt: skip


def nucleus_fraction(name: str, points: Sequence[NDArray[Any]]) -> Float32Array:
    """Return the soft membership (0 to 1) of a nucleus at MNI152 coordinates x, y, z in mm, both sides."""
    right_side = (np.abs(points[0]), points[1], points[2])
    total = np.zeros(np.shape(points[0]), np.float32)
    for shape in NUCLEI[name]:
        if isinstance(shape, Tube):
            np.maximum(total, soft_inside(_distance_to_tube(shape, right_side)), out=total)
        else:
            np.maximum(total, soft_inside(shape.distance(right_side)), out=total)
    return total


def nucleus_bounds(name: str) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return the corners (3,) and (3,) in MNI152 mm of a box that holds a nucleus on the right side."""
    corners = []
    for shape in NUCLEI[name]:
        if isinstance(shape, Tube):
            centres, radii = shape.centreline()
            corners += [centres.min(axis=0) - radii.max(), centres.max(axis=0) + radii.max()]
        else:
            corners += [np.asarray(shape.centre) - shape.reach, np.asarray(shape.centre) + shape.reach]
    return np.min(corners, axis=0) - 1, np.max(corners, axis=0) + 1


def _distance_to_tube(tube: Tube, points: Sequence[NDArray[Any]]) -> Float32Array:
    centres, radii = tube.centreline(0.5)
    flat = np.stack([np.ravel(p) for p in points], axis=-1)
    distance, nearest = cKDTree(centres).query(flat, workers=2)
    return (distance - radii[nearest]).reshape(np.shape(points[0])).astype(np.float32)
