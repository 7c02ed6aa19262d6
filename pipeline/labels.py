"""The labels of one scan in its own frame: chi33, delta B', COSMOS and what they leave of the local field."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from .dipole import Float32Array
from .errors import InputError
from .frames import b0_direction_from_affine, check_b0_direction, rotation_and_scale, voxel_frame, voxel_size
from .resample import resample, resample_mask, resample_tensor
from .tensor_field import PADDING, delta_b_prime, dipole_field
from .tensors import DIAGONAL, chi33, rotate_components


@dataclass(frozen=True)
class Labels:
    """The labels of a scan on its own grid (x, y, z), in ppm: chi33, delta_b (delta B'), cosmos, residual.

    All are 0 outside the brain that was fitted; residual = local field - (D * chi33 + delta_b) where the local field
    is valid, 0 elsewhere.
    """

    chi33: Float32Array
    delta_b: Float32Array
    cosmos: Float32Array
    residual: Float32Array


def reference_to_mask(tensor: ArrayLike, mask: ArrayLike) -> NDArray[np.float32]:
    """Return a tensor (6, x, y, z), or a scalar map (x, y, z), less its isotropic mean over a mask, 0 outside it."""
    values = np.asarray(tensor, np.float32)
    inside = np.asarray(mask, bool)
    if inside.shape != values.shape[-3:]:
        raise InputError(f"mask has shape {inside.shape}, but the map has {values.shape[-3:]}.")
    if not inside.any():
        raise InputError("the mask is empty: susceptibility has no reference; check the brain mask.")
    out = values.copy()
    if out.ndim == 4:
        out[list(DIAGONAL)] -= out[list(DIAGONAL)][:, inside].mean()
    else:
        out -= out[inside].mean()
    return out * inside


def scan_labels(
    tensor: ArrayLike,
    cosmos: ArrayLike,
    subject_affine: ArrayLike,
    scan_affine: ArrayLike,
    scan_shape: Sequence[int],
    transform: ArrayLike,
    local_field: ArrayLike,
    local_mask: ArrayLike,
    *,
    b0_direction: ArrayLike | None = None,
    padding: float = PADDING,
) -> Labels:
    """Return the labels of a scan on its own grid from the subject's tensor and COSMOS (DESIGN: MoDL-QSM eqs. 2-4).

    tensor: (6, x, y, z) ppm along the axes of the subject frame's world, cosmos: (x, y, z) ppm, both 0 outside the
    brain and on the grid of subject_affine; scan_affine, scan_shape: the scan's grid; transform: world of the scan
    to the subject frame (4, 4); local_field (x, y, z) ppm and local_mask on the scan's grid; b0_direction: unit
    vector in the scan's voxel frame, from scan_affine when not given; padding: mm of zeros for the fields.
    """
    field = np.asarray(local_field, np.float32)
    inside = np.asarray(local_mask, bool)
    if field.shape != tuple(scan_shape) or inside.shape != tuple(scan_shape):
        raise InputError(
            f"local_field {field.shape} and local_mask {inside.shape} must both have the scan's shape "
            f"{tuple(scan_shape)}."
        )
    rotation_and_scale(transform)  # refuses what is no head motion
    back = np.linalg.inv(np.asarray(transform, np.float64))
    world = resample_tensor(tensor, subject_affine, scan_affine, scan_shape, back)
    brain = np.any(np.asarray(tensor) != 0, axis=0)
    support = resample_mask(brain, subject_affine, scan_affine, scan_shape, back) | inside
    world *= support
    voxel = rotate_components(world, voxel_frame(scan_affine).T)
    h = b0_direction_from_affine(scan_affine) if b0_direction is None else check_b0_direction(b0_direction)
    size = voxel_size(scan_affine)
    apparent = chi33(voxel, h).astype(np.float32)
    across = delta_b_prime(voxel, size, h, padding=padding) * support
    explained = dipole_field(apparent, size, h, padding=padding) + across
    return Labels(
        chi33=apparent,
        delta_b=across,
        cosmos=resample(cosmos, subject_affine, scan_affine, scan_shape, back) * support,
        residual=np.where(inside, field - explained, np.float32(0)),
    )
