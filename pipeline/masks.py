"""Cleaning of binary masks."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import ndimage


def largest_component(mask: ArrayLike) -> NDArray[np.bool_]:
    """Return the largest face-connected component of a mask (x, y, z); empty where the mask is."""
    labels, count = ndimage.label(np.asarray(mask, bool))
    if count == 0:
        return np.zeros(np.shape(mask), bool)
    return labels == 1 + int(np.argmax(np.bincount(labels.ravel())[1:]))


def clean_mask(mask: ArrayLike, size: ArrayLike, *, opening: float = 2.0) -> NDArray[np.bool_]:
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


def continued(field: ArrayLike, mask: ArrayLike, size: ArrayLike) -> NDArray[np.float32]:
    """Return a field (x, y, z) with the nearest value of a mask outside of it; size: voxel size (3,) mm."""
    outside = ~np.asarray(mask, bool)
    spacing = np.asarray(size, np.float64)
    nearest = ndimage.distance_transform_edt(outside, sampling=spacing, return_distances=False, return_indices=True)
    return np.ascontiguousarray(np.asarray(field, np.float32)[tuple(nearest)])
