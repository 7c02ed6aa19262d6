"""Resampling between grids through world coordinates, with the components of tensors turned along."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import ndimage

from .errors import InputError
from .frames import check_affine, rotation_and_scale, voxel_frame, voxel_size
from .masks import continued
from .tensors import check_tensor, rotate_components

_KNOWN_SHARE = 0.75  # of a voxel's linear interpolation that must lie in the mask


def voxel_mapping(
    affine: ArrayLike, target_affine: ArrayLike, transform: ArrayLike | None = None
) -> NDArray[np.float64]:
    """Return the 4x4 from target voxels to source voxels: affine^-1 transform^-1 target_affine."""
    source = check_affine(affine)
    target = check_affine(target_affine, "target_affine")
    world = np.eye(4) if transform is None else np.asarray(transform, dtype=np.float64)
    if world.shape != (4, 4) or not np.isfinite(world).all() or np.linalg.matrix_rank(world) < 4:
        raise InputError(
            f"transform must be an invertible 4x4 matrix, world to world, got {world.tolist()} of shape {world.shape}."
        )
    return np.linalg.solve(source, np.linalg.solve(world, target))


def resample(
    volume: ArrayLike,
    affine: ArrayLike,
    target_affine: ArrayLike,
    target_shape: Sequence[int],
    transform: ArrayLike | None = None,
    *,
    order: int = 3,
) -> NDArray[np.float32]:
    """Return a volume (x, y, z), or several (c, x, y, z), sampled on another grid as float32; outside is 0.

    affine, target_affine: voxel-to-world (4, 4); transform: world of the volume to world of the target (4, 4),
    identity when not given; order: spline order (0 nearest, 1 linear, 3 cubic). Never for wrapped phase.
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


def resample_mask(
    mask: ArrayLike,
    affine: ArrayLike,
    target_affine: ArrayLike,
    target_shape: Sequence[int],
    transform: ArrayLike | None = None,
) -> NDArray[np.bool_]:
    """Return a mask (x, y, z) on another grid: true where its linear interpolation is at least one half."""
    soft = resample(np.asarray(mask, np.float32), affine, target_affine, target_shape, transform, order=1)
    return soft >= 0.5


def resample_inside(
    field: ArrayLike,
    mask: ArrayLike,
    affine: ArrayLike,
    target_affine: ArrayLike,
    target_shape: Sequence[int],
    transform: ArrayLike | None = None,
) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
    """Return a field (x, y, z) that is known in a mask on another grid, and where it is known there.

    Beyond the mask the field is continued by the nearest known voxel, so that cubic interpolation at the edge does not
    meet a step to zero; known is what lies at least three quarters in the mask. The field is 0 elsewhere.
    """
    inside = np.asarray(mask, bool)
    if not inside.any():
        raise InputError("the mask is empty: give a mask of where the field is known.")
    soft = resample(inside.astype(np.float32), affine, target_affine, target_shape, transform, order=1)
    known = soft >= _KNOWN_SHARE
    whole = continued(field, inside, voxel_size(check_affine(affine)))
    return resample(whole, affine, target_affine, target_shape, transform) * known, known


def resample_tensor(
    tensor: ArrayLike,
    affine: ArrayLike,
    target_affine: ArrayLike,
    target_shape: Sequence[int],
    transform: ArrayLike | None = None,
    *,
    frame: str = "world",
    order: int = 3,
) -> NDArray[np.float32]:
    """Return a tensor image (6, x, y, z) on another grid, its components turned with it: chi -> R chi R^T.

    R is the rotation of `transform` (world to world). frame says along which axes the components are, before
    and after: "world" (of the source, then of the target) or "voxel" (of the source array, then of the target's).
    """
    if frame not in ("world", "voxel"):
        raise InputError(f"frame must be 'world' or 'voxel', got {frame!r}.")
    moved = resample(check_tensor(tensor), affine, target_affine, target_shape, transform, order=order)
    rotation = np.eye(3) if transform is None else rotation_and_scale(transform)[0]
    if frame == "voxel":
        rotation = voxel_frame(target_affine).T @ rotation @ voxel_frame(affine)
    return rotate_components(moved, rotation)
