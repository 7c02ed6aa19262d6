"""Cleaning and judging of binary masks."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import ndimage

from ...files.errors import InputError
from ..frames import check_affine, voxel_size

_OPENING = 2.0  # mm
_SMALLEST_PART = 0.1  # ml, of what counts as hanging on a neck
_GRID_TOLERANCE = 0.5  # voxels, between the corners of a mask's grid and its image's


@dataclass(frozen=True)
class MaskFaults:
    """What a brain mask should not have.

    islands: parts that touch the largest one nowhere; holes: enclosed voxels outside; necks: parts of at least 0.1 ml
    that only a bridge thinner than twice the opening holds.
    """

    islands: int
    holes: int
    necks: int

    @property
    def words(self) -> str:
        """The faults in words, "" where there are none."""
        counts = (self.islands, "island"), (self.holes, "enclosed voxel"), (self.necks, "part on a neck")
        return ", ".join(f"{n} {_plural(name, n)}" for n, name in counts if n)


def _plural(name: str, count: int) -> str:
    if count == 1:
        return name
    return name.replace("part", "parts") if name.startswith("part") else name + "s"


def mask_faults(mask: ArrayLike, size: ArrayLike, *, opening: float = _OPENING) -> MaskFaults:
    """Return the faults of a mask (x, y, z) with voxels of size (3,) mm; opening: half the width of a neck in mm."""
    inside = np.asarray(mask, bool)
    largest = largest_component(inside)
    _, count = ndimage.label(inside)
    labels, parts = ndimage.label(depth_inside(largest, size) > opening)
    volumes = np.sort(np.bincount(labels.ravel(), minlength=parts + 1)[1:]) * np.prod(np.asarray(size)) / 1000
    # A core is a part without its outermost `opening` mm: a ball of 0.1 ml has half axes of 2.9 mm.
    radii = np.cbrt(3 * volumes[:-1] * 1000 / (4 * np.pi)) + opening
    necks = int((4 * np.pi / 3 * radii**3 / 1000 >= _SMALLEST_PART).sum())
    holes = int(ndimage.binary_fill_holes(largest).sum() - largest.sum())
    return MaskFaults(max(count - 1, 0), holes, necks)


def dice(one: ArrayLike, other: ArrayLike) -> float:
    """Return twice the common volume of two masks over the sum of their volumes; 1 where both are empty."""
    a, b = np.asarray(one, bool), np.asarray(other, bool)
    total = int(a.sum()) + int(b.sum())
    return 2 * int((a & b).sum()) / total if total else 1.0


def check_given_mask(
    mask: ArrayLike,
    shape: Sequence[int],
    affine: ArrayLike,
    mask_affine: ArrayLike | None = None,
    *,
    magnitude: ArrayLike | None = None,
    name: str = "the mask",
) -> NDArray[np.bool_]:
    """Return a brain mask given by the user as bool after checking that it fits its scan.

    mask: (x, y, z) of 0 and one other value; shape, affine: of the scan's grid, voxel-to-world (4, 4); mask_affine: of
    the mask's file; magnitude: (x, y, z) of the scan, which the mask must lie on. Raises InputError with one sentence.
    """
    values = np.asarray(mask)
    if values.shape != tuple(shape):
        raise InputError(
            f"{name} has shape {values.shape}, but its scan has {tuple(shape)}: draw it on the scan's grid."
        )
    if not np.isfinite(values).all():
        raise InputError(f"{name} holds values that are not finite: give 0 outside the brain and 1 inside.")
    levels = np.unique(values)
    if (levels[levels != 0].size > 1) or (values.dtype != bool and levels.min() < 0):
        raise InputError(
            f"{name} is not binary (values from {levels[0] + 0:g} to {levels[-1] + 0:g}): give 0 outside the brain and "
            "1 inside."
        )
    inside = values != 0
    if not inside.any():
        raise InputError(f"{name} is empty: give 1 inside the brain.")
    if inside.all():
        raise InputError(f"{name} covers its whole image: give 0 outside the brain.")
    if mask_affine is not None:
        _check_same_grid(mask_affine, affine, values.shape, name)
    if magnitude is not None:
        _check_signal(inside, np.asarray(magnitude, np.float32), name)
    return inside


def _check_same_grid(mask_affine: ArrayLike, affine: ArrayLike, shape: Sequence[int], name: str) -> None:
    corners = np.array(np.meshgrid(*[(0, n - 1) for n in shape])).reshape(3, -1)
    one, other = check_affine(mask_affine, f"the affine of {name}"), check_affine(affine)
    apart = (one - other)[:3, :3] @ corners + (one - other)[:3, 3:]
    worst = float(np.linalg.norm(apart, axis=0).max())
    if worst > _GRID_TOLERANCE * voxel_size(other).min():
        raise InputError(
            f"{name} lies {worst:.1f} mm from its scan, by the two headers: resample it onto the scan's grid, "
            "or copy the scan's header to it."
        )


def _check_signal(inside: NDArray[np.bool_], magnitude: NDArray[np.float32], name: str) -> None:
    if magnitude.shape != inside.shape:
        raise InputError(f"the magnitude has shape {magnitude.shape}, but {name} has {inside.shape}.")
    within, without = float(np.median(magnitude[inside])), float(np.median(magnitude[~inside]))
    if within <= without:
        raise InputError(
            f"{name} touches no head: the scan's median magnitude is {within:.3g} inside and {without:.3g} "
            "outside; check that it belongs to this scan and is not inverted."
        )


def largest_component(mask: ArrayLike) -> NDArray[np.bool_]:
    """Return the largest face-connected component of a mask (x, y, z); empty where the mask is."""
    labels, count = ndimage.label(np.asarray(mask, bool))
    if count == 0:
        return np.zeros(np.shape(mask), bool)
    return labels == 1 + int(np.argmax(np.bincount(labels.ravel())[1:]))


def clean_mask(mask: ArrayLike, size: ArrayLike, *, opening: float = _OPENING) -> NDArray[np.bool_]:
    """Return a mask without islands, holes, and bridges thinner than 2 x `opening` mm; size: voxel size (3,) mm."""
    inside = np.pad(np.asarray(mask, bool), 1)
    spacing = np.asarray(size, np.float64)
    core = largest_component(ndimage.distance_transform_edt(inside, sampling=spacing) > opening)
    grown = ndimage.distance_transform_edt(~core, sampling=spacing) <= opening
    kept = ndimage.binary_fill_holes(largest_component(grown & inside))
    return kept[1:-1, 1:-1, 1:-1]


def depth_inside(mask: ArrayLike, size: ArrayLike) -> NDArray[np.float64]:
    """Return the distance in mm of a mask's voxels (x, y, z) to the nearest one outside; off the grid is outside."""
    inside = np.pad(np.asarray(mask, bool), 1)
    return ndimage.distance_transform_edt(inside, sampling=np.asarray(size, np.float64))[1:-1, 1:-1, 1:-1]


def extrapolated(field: ArrayLike, mask: ArrayLike, size: ArrayLike) -> NDArray[np.float32]:
    """Return a field (..., x, y, z) with the nearest value of a mask outside of it; size: voxel size (3,) mm."""
    outside = ~np.asarray(mask, bool)
    spacing = np.asarray(size, np.float64)
    nearest = ndimage.distance_transform_edt(outside, sampling=spacing, return_distances=False, return_indices=True)
    return np.ascontiguousarray(np.asarray(field, np.float32)[(..., *nearest)])


def bounding_box(mask: ArrayLike, margin: ArrayLike = 0) -> tuple[slice, slice, slice]:
    """Return the slices that hold a mask (x, y, z) and `margin` voxels around it, as far as the grid has them.

    margin: one number, or one an axis. The whole grid for an empty mask.
    """
    inside = np.asarray(mask, bool)
    held = ndimage.find_objects(inside.astype(np.uint8))
    margins = np.broadcast_to(np.asarray(margin, int), 3)
    found = held[0] if held else tuple(slice(0, n) for n in inside.shape)
    x, y, z = (
        slice(max(0, part.start - int(more)), min(part.stop + int(more), n))
        for part, more, n in zip(found, margins, inside.shape, strict=True)
    )
    return x, y, z
