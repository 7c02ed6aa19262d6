"""Resampling between grids through world coordinates: of images, and of maps that are known in a mask."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import ndimage

from ...files.errors import InputError
from ..frames import voxel_mapping
from .spline_maps import evaluate, spline_maps

_KNOWN_SHARE = 0.75  # of a voxel's linear interpolation that must lie in the mask


def resample(
    volume: ArrayLike,
    affine: ArrayLike,
    target_affine: ArrayLike,
    target_shape: Sequence[int],
    transform: ArrayLike | None = None,
    *,
    order: int = 3,
) -> NDArray[np.float32]:
    """Return an image (x, y, z), or several (c, x, y, z), sampled on another grid as float32; outside is 0.

    affine, target_affine: voxel-to-world (4, 4); transform: world of the volume to world of the target (4, 4),
    identity when not given; order: spline order (0 nearest, 1 linear, 3 cubic). For maps that are
    known in a mask only there is resample_inside; never for wrapped phase.
    """
    array = np.asarray(volume, np.float32)
    if array.ndim not in (3, 4):
        raise InputError(f"volume must have 3 or 4 axes, got shape {array.shape}.")
    mapping = voxel_mapping(affine, target_affine, transform)
    stack = array[None] if array.ndim == 3 else array
    result = np.empty((len(stack), *target_shape), np.float32)
    for index, one in enumerate(stack):
        if np.allclose(mapping, np.eye(4), atol=1e-6) and one.shape == tuple(target_shape):
            result[index] = one
        else:
            ndimage.affine_transform(
                one, mapping[:3, :3], mapping[:3, 3], output=result[index], output_shape=tuple(target_shape),
                order=order, mode="grid-constant" if order > 1 else "constant", cval=0.0,
            )  # fmt: skip
    return result[0] if array.ndim == 3 else result


def resample_inside(
    field: ArrayLike,
    mask: ArrayLike,
    affine: ArrayLike,
    target_affine: ArrayLike,
    target_shape: Sequence[int],
    transform: ArrayLike | None = None,
) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
    """Return a map (x, y, z), or several (c, x, y, z), known in a mask on another grid, and where they are known there.

    As spline_maps.evaluate, but known is what lies at least three quarters in the mask; on the grid that the maps are
    on already they are themselves there. They are 0 elsewhere.
    """
    values, inside = np.asarray(field, np.float32), np.asarray(mask, bool)
    mapping = voxel_mapping(affine, target_affine, transform)
    if inside.any() and np.allclose(mapping, np.eye(4), atol=1e-6) and inside.shape == tuple(target_shape):
        return np.where(inside, values, np.float32(0)), inside
    moved, known = evaluate(
        spline_maps(values, inside, affine, share=_KNOWN_SHARE), target_affine, target_shape, transform
    )
    return (moved[0] if values.ndim == 3 else moved), known
