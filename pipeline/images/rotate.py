"""Rotation of a tensor image: its voxels move, and its components turn with them."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike

from ...files.errors import InputError
from ..physics.dipole import Float32Array, check_grid
from ..physics.tensors import check_tensor, rotate_components
from .spline_maps import evaluate, spline_maps


def rotate_tensor(
    tensor: ArrayLike, mask: ArrayLike, voxel_size: ArrayLike, rotation: ArrayLike
) -> tuple[Float32Array, np.ndarray]:
    """Rotate a tensor image about the centre of its grid: chi(x) becomes R chi(R^T x) R^T.

    Parameters
    ----------
    tensor
        (6, x, y, z) in any unit, components along the axes of the grid.
    mask
        (x, y, z), non-zero where the tensor is known.
    voxel_size
        (3,) in mm.
    rotation
        R, a rotation matrix (3, 3) along the axes of the grid.

    Returns
    -------
        The rotated tensor (6, x, y, z), 0 outside the rotated mask, and that mask (x, y, z), on the same grid.

    Raises
    ------
    InputError
        Where the shapes differ, the mask is empty, or R is no rotation.
    """
    values = np.asarray(check_tensor(tensor), np.float32)
    shape, size = check_grid(values.shape[1:], voxel_size)
    r = np.asarray(rotation, np.float64)
    if r.shape != (3, 3) or not np.allclose(r @ r.T, np.eye(3), atol=1e-4) or np.linalg.det(r) < 0:
        raise InputError(f"rotation must be a rotation matrix (3, 3), got {r.tolist()}: R R^T = I and det R = 1.")
    affine = np.diag([*size, 1.0])
    affine[:3, 3] = -(np.array(shape) - 1) / 2 * size  # the world's origin is the centre that stays
    transform = np.eye(4)
    transform[:3, :3] = r
    moved, inside = evaluate(spline_maps(values, mask, affine), affine, shape, transform)
    return np.asarray(rotate_components(moved, r), np.float32), inside
