"""Calcifications (diamagnetic, dark) and old bleeds (strongly paramagnetic, fast decay): spots in the brain."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...physics.tensors import DIAGONAL
from ..anatomy import Head
from ..shapes import soft_inside

LESION_LABELS = {12: "calcification", 13: "bleed"}
_R2STAR_PER_PPM = 150.0  # 1/s at 3 T and ppm of a bleed: haemosiderin, as of ferritin
_CALCIFIED_R2STAR = 60.0
_CALCIFIED_WATER = 0.4  # share of the water that a calcification leaves
# MNI152 mm of where the healthy calcify: pineal gland, choroid plexus of both sides, pallida
_CALCIFYING = ((0.0, -31.0, 4.0), (24.0, -40.0, 10.0), (-24.0, -40.0, 10.0), (19.0, -3.0, 0.0), (-19.0, -3.0, 0.0))


@dataclass(frozen=True)
class _Spot:
    centre: NDArray[np.float64]  # head coordinates, mm
    radius: float  # mm
    chi: float  # ppm against the tissue
    label: int


def with_lesions(head: Head, calcification: float, bleeds: float) -> Head:
    """Return the head with two to five spots of each kind that has a strength (ppm of the strongest) above 0.

    The tensor stays relative to the mean over the brain, spots included.
    """
    rng = np.random.default_rng([*head.parameters.seed, 222])
    spots = _calcifications(head, calcification, rng) if calcification else []
    spots += _bleeds(head, bleeds, rng) if bleeds else []
    tensor, r2star = head.tensor.copy(), head.r2star.copy()
    labels, fractions = head.labels.copy(), head.fractions.copy()
    start = np.rint(head.tensor_affine[:3, 3] - head.affine[:3, 3]).astype(int)
    for spot in spots:
        box, inside = _drawn(head, spot, start, rng)
        inside = inside * head.brain[box]
        inner = tuple(slice(s.start - a, s.stop - a) for s, a in zip(box, start, strict=True))
        tensor[(slice(None), *inner)] *= 1 - inside
        for component in DIAGONAL:
            tensor[component][inner] += np.float32(spot.chi) * inside
        if spot.label == 12:
            r2star[box] += np.float32(_CALCIFIED_R2STAR) * inside
            water = 1 - (1 - _CALCIFIED_WATER) * inside
            parts = fractions[(slice(None), *box)]
            parts[...] = np.rint(parts * water).astype(np.uint8)
        else:
            r2star[box] += np.float32(_R2STAR_PER_PPM * spot.chi) * inside
        labels[box][inside > 0.5] = spot.label
    brain = head.brain[tuple(slice(a, a + n) for a, n in zip(start, tensor.shape[1:], strict=True))] > 0.5
    shift = float(tensor[list(DIAGONAL)].mean(axis=0)[brain].mean(dtype=np.float64))
    tensor[list(DIAGONAL)] -= np.float32(shift)
    reference = head.reference + shift
    return replace(head, tensor=tensor, r2star=r2star, labels=labels, fractions=fractions, reference=reference)


def _calcifications(head: Head, strongest: float, rng: np.random.Generator) -> list[_Spot]:
    places = rng.permutation(len(_CALCIFYING))[: int(rng.integers(2, len(_CALCIFYING) + 1))]
    spots = []
    for rank, place in enumerate(places):
        centre = _within_brain(
            head, np.asarray(_CALCIFYING[place]) * head.parameters.scale + rng.normal(0, 1.5, 3), rng
        )
        share = 1.0 if rank == 0 else rng.uniform(0.2, 0.8)
        spots.append(_Spot(centre, float(rng.uniform(1.3, 3.0)), -strongest * float(share), 12))
    return spots


def _within_brain(head: Head, point: NDArray[Any], rng: np.random.Generator) -> NDArray[np.float64]:
    """Return a point (3,) in head coordinates, or where the brain is not there any one of its voxels."""
    voxel = np.rint(point - head.affine[:3, 3]).astype(int)
    within = (voxel >= 0).all() and (voxel < head.brain.shape).all()
    if within and head.brain[tuple(voxel)] > 0.5:
        return np.asarray(point, np.float64)
    chosen = rng.choice(np.flatnonzero(head.brain > 0.9))
    return np.array(np.unravel_index(chosen, head.brain.shape)) + head.affine[:3, 3]


def _bleeds(head: Head, strongest: float, rng: np.random.Generator) -> list[_Spot]:
    allowed = np.flatnonzero(np.isin(head.labels, (9, 10)))
    spots: list[_Spot] = []
    count = int(rng.integers(2, 6))
    for rank in range(count):
        voxel = np.array(np.unravel_index(rng.choice(allowed), head.labels.shape))
        share = 1.0 if rank == 0 else rng.uniform(0.3, 0.9)
        radius = rng.uniform(2.5, 5.0) if rank == 1 else rng.uniform(1.2, 2.5)
        spots.append(_Spot(voxel + head.affine[:3, 3], float(radius), strongest * float(share), 13))
    return spots


def _drawn(
    head: Head, spot: _Spot, start: NDArray[np.int_], rng: np.random.Generator
) -> tuple[tuple[slice, slice, slice], NDArray[np.float32]]:
    """Return the box of the head maps that a spot lies in, and how much of each voxel it fills: an uneven ellipsoid.

    start: of the tensor's maps, which hold the brain, on those of the head.
    """
    stretch = rng.uniform(0.75, 1.3, 3)
    voxel = spot.centre - head.affine[:3, 3]
    reach = 2 * spot.radius + 2
    ends = zip(voxel, start, head.tensor.shape[1:], strict=True)
    box = tuple(slice(max(int(v - reach), int(a)), min(int(v + reach) + 1, int(a) + n)) for v, a, n in ends)
    axes = [(np.arange(s.start, s.stop) - v) / w for s, v, w in zip(box, voxel, stretch, strict=True)]
    x, y, z = np.meshgrid(*axes, indexing="ij")
    distance = np.sqrt(x * x + y * y + z * z)
    lobes = 1 + 0.15 * np.sin(3 * np.arctan2(y, x) + rng.uniform(0, 6)) * np.sin(2 * np.arctan2(z, np.hypot(x, y)))
    return (box[0], box[1], box[2]), soft_inside(distance - spot.radius * lobes)
