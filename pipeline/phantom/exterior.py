"""What surrounds the brain: CSF, skull, scalp, face, neck and the air in sinuses, throat and ears."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .sampling import smooth_noise
from .shapes import Superellipsoid, soft_inside
from .subjects import HeadParameters
from .template import MAP_SHAPE

Float32Array = NDArray[np.float32]
# volume susceptibility in ppm against air (air 0.36, water -9.05; Schenck 1996): bone -2.2 and fat +0.6 against water
AIR_TO_TISSUE, AIR_TO_BONE, AIR_TO_FAT = -9.4, -11.6, -8.8
COARSE = 2  # mm, edge of the voxels of the exterior
NECK_EXTENSION = 100  # mm of neck below the maps, fading to air
_CLEARANCE = 4.5  # mm of tissue between the hull and any air
_FAT_LAYER = 4.0

# MNI152 mm; mirrored where off the midline
_SINUSES = (
    Superellipsoid((12.0, 79.0, -8.0), (9.5, 4.5, 9.5)),  # frontal
    Superellipsoid((0.0, 46.0, -52.0), (11.5, 26.0, 15.0), (-8.0, 0.0, 0.0), 2.5),  # ethmoid cells and nasal cavity
    Superellipsoid((0.0, 9.0, -48.0), (11.0, 11.0, 9.5), power=2.5),  # sphenoid
    Superellipsoid((29.0, 48.0, -68.0), (12.0, 15.0, 14.0), power=2.5),  # maxillary
)
_MASTOIDS = (
    Superellipsoid((57.0, -36.0, -54.0), (7.0, 11.0, 13.0)),
    Superellipsoid((50.0, -22.0, -46.0), (5.0, 5.0, 5.0)),
)
_FACE = Superellipsoid((0.0, 46.0, -58.0), (58.0, 50.0, 66.0), power=2.3)
_EYE = Superellipsoid((31.0, 62.0, -32.0), (12.0, 12.0, 12.0))


@dataclass(frozen=True)
class Compartments:
    """Soft masks (x, y, z) from 0 to 1: inside the skull and spine; bone, muscle and fat outside of it."""

    inside: Float32Array
    bone: Float32Array
    muscle: Float32Array
    fat: Float32Array


def compartments(
    parameters: HeadParameters, hull: Float32Array, points: Float32Array, rng: np.random.Generator
) -> Compartments:
    """Return what surrounds the brain.

    hull: signed distance in mm to the closed brain (negative inside); points: MNI152 mm (3, x, y, z).
    """
    x, y, z = np.abs(points[0]), points[1], points[2]
    canal = np.maximum(np.sqrt(x**2 + (y + 41 + 0.1 * (z + 70)) ** 2) - 9, z + 62)
    inside = soft_inside(np.minimum(hull - parameters.csf_rim, canal))
    thickness = parameters.skull * (1 + 0.15 * smooth_noise(rng, MAP_SHAPE, 30.0))
    skull_edge = hull - parameters.csf_rim - thickness
    surface = (skull_edge - parameters.scalp).astype(np.float32)
    _cut_in(surface, _FACE, (x, y, z), parameters)
    neck = (np.sqrt((x / 56) ** 2 + ((y + 30) / 60) ** 2) - 1) * 57
    surface = np.minimum(surface, np.maximum(neck, z + 40))
    spine = np.maximum(np.sqrt(x**2 + (y + 38) ** 2) - 19, z + 80)
    bone = soft_inside(np.minimum(skull_edge, spine))
    head = soft_inside(surface)
    eyes = soft_inside(_cut_in(np.full_like(hull, 9), _EYE, (x, y, z), parameters))
    eyes *= 1 - soft_inside(hull - parameters.csf_rim - 2)
    tissue = 1 - _air(parameters, hull, (x, y, z), rng)
    lean = soft_inside(surface + _FAT_LAYER)
    bone = bone * head * (1 - eyes)
    return Compartments(
        inside=np.maximum(inside, eyes),
        bone=bone * tissue,
        muscle=np.clip(lean - bone, 0, 1) * tissue,
        fat=np.clip(head - np.maximum(bone, lean), 0, 1) * tissue,
    )


def _cut_in(
    distance: Float32Array, shape: Superellipsoid, points: Sequence[NDArray[Any]], parameters: HeadParameters
) -> Float32Array:
    """Lower a signed distance (x, y, z) in place to that of a shape, where the shape can lie; return it."""
    box = parameters.box(*shape.bounds)
    np.minimum(distance[box], shape.distance([p[box] for p in points]), out=distance[box])
    return distance


def _air(
    parameters: HeadParameters,
    hull: Float32Array,
    points: tuple[NDArray[Any], NDArray[Any], NDArray[Any]],
    rng: np.random.Generator,
) -> Float32Array:
    """Return the soft mask of the air cavities, kept clear of the brain; the mastoid is half tissue."""
    x, y, z = points
    distance = np.full(MAP_SHAPE, 9, np.float32)
    for sinus in _SINUSES:
        size = tuple(s * parameters.sinus * float(rng.uniform(0.9, 1.1)) for s in sinus.semi_axes)
        _cut_in(distance, replace(sinus, semi_axes=(size[0], size[1], size[2])), points, parameters)
    mastoid = np.full(MAP_SHAPE, 9, np.float32)
    for shape in _MASTOIDS:
        _cut_in(mastoid, shape, points, parameters)
    cells = np.clip(0.55 + 0.25 * smooth_noise(rng, MAP_SHAPE, 3.0), 0, 1)
    ear = np.maximum(np.sqrt((y + 22) ** 2 + (z + 46) ** 2) - 3.5, 50 - x)
    throat = np.maximum(np.sqrt(x**2 + (y - 12 - 0.15 * (z + 60)) ** 2) - 9, z + 58)
    np.minimum(distance, np.minimum(ear, throat), out=distance)
    return np.maximum(soft_inside(distance), soft_inside(mastoid) * cells) * (1 - soft_inside(hull - _CLEARANCE))


def coarse_exterior(chi: Float32Array, affine: NDArray[np.float64]) -> tuple[Float32Array, NDArray[np.float64]]:
    """Return a 1 mm susceptibility map as 2 mm block means with the neck drawn out below and faded, and its affine."""
    nx, ny, nz = (n // COARSE for n in chi.shape)
    blocks = chi[: nx * COARSE, : ny * COARSE, : nz * COARSE].reshape(nx, COARSE, ny, COARSE, nz, COARSE)
    mean = blocks.mean(axis=(1, 3, 5), dtype=np.float32)
    count = NECK_EXTENSION // COARSE
    fade = np.clip(np.arange(count) / (0.8 * count), 0, 1)
    neck = mean[:, :, :1] * (0.5 - 0.5 * np.cos(np.pi * fade)).astype(np.float32)
    coarse_affine = affine.copy()
    coarse_affine[:3, :3] *= COARSE
    coarse_affine[:3, 3] += 0.5 * (COARSE - 1)
    coarse_affine[2, 3] -= NECK_EXTENSION
    return np.concatenate([neck, mean], axis=2), coarse_affine
