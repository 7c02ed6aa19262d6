"""The labels of one scan in its own frame: chi33, delta B', COSMOS and what they leave of the local field."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import ndimage

from ..files.errors import InputError
from .frames import (
    FloatArray,
    b0_direction_from_affine,
    check_b0_direction,
    rotation_and_scale,
    voxel_frame,
    voxel_size,
)
from .images.morphology import bounding_box
from .images.spline_maps import SplineMaps, edges_along, mask_on, spline_maps, values_in
from .physics.dipole import Float32Array
from .physics.magnetisation_field import magnetisation_fields
from .physics.tensor_field import PADDING, dipole_field
from .physics.tensors import DIAGONAL, check_tensor, magnetisation_of_components

_COARSER = 0.4  # of the subject's voxel, by which delta B' may be made on coarser ones
_REACH = 2  # voxels of a scan past the brain of the fit, up to which its maps are continued


@dataclass(frozen=True)
class Labels:
    """The labels of a scan on its own grid (x, y, z), in ppm: chi33, delta_b (delta B'), cosmos, residual, explained.

    All but the last are 0 outside the brain that was fitted; explained = D * chi33 + delta B' on the whole grid;
    residual = local field - explained where the local field is valid, 0 elsewhere.
    """

    chi33: Float32Array
    delta_b: Float32Array
    cosmos: Float32Array
    residual: Float32Array
    explained: Float32Array


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


@dataclass(frozen=True)
class _Grid:
    """A grid that labels are made on: affine (4, 4), shape, and transform (4, 4), the subject's world to the scan's."""

    affine: FloatArray
    shape: tuple[int, ...]
    transform: FloatArray

    @classmethod
    def of(cls, affine: ArrayLike, shape: Sequence[int], to_subject: ArrayLike) -> _Grid:
        """Return the grid of a scan whose transform leads to the subject frame; InputError where it is no motion."""
        rotation_and_scale(to_subject)
        back = np.linalg.inv(np.asarray(to_subject, np.float64))
        return cls(np.asarray(affine, np.float64), tuple(int(n) for n in shape), np.asarray(back, np.float64))

    def finer(self, parts: NDArray[np.int64]) -> _Grid:
        """Return this grid with every voxel cut into parts (3,) along the axes."""
        affine = self.affine.copy()
        affine[:3, :3] /= parts
        affine[:3, 3] += self.affine[:3, :3] @ ((1 / parts - 1) / 2)
        return _Grid(affine, tuple(int(n * count) for n, count in zip(self.shape, parts, strict=True)), self.transform)

    def mask(self, maps: SplineMaps) -> NDArray[np.bool_]:
        """Return where maps are known (x, y, z)."""
        return mask_on(maps, self.affine, self.shape, self.transform)

    def values(self, maps: SplineMaps, where: NDArray[np.bool_]) -> Float32Array:
        """Return maps (c, x, y, z) where `where` (x, y, z) is true, 0 elsewhere."""
        return values_in(maps, where, self.affine, self.transform)


def _beside(brain: NDArray[np.bool_], local_mask: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Return where a scan's local field is valid just outside the brain of the fit, so that its maps are continued."""
    outside = local_mask & ~brain
    return outside & ndimage.binary_dilation(brain, iterations=_REACH) if outside.any() else outside


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
    brain: ArrayLike | None = None,
    padding: float = PADDING,
) -> Labels:
    """Return the labels of a scan on its own grid from the subject's tensor and COSMOS (DESIGN: MoDL-QSM eqs. 2-4).

    tensor: (6, x, y, z) ppm along the axes of the subject frame's world, cosmos: (x, y, z) ppm, both 0 outside the
    brain and on the grid of subject_affine; scan_affine, scan_shape: the scan's grid; transform: world of the scan
    to the subject frame (4, 4); local_field (x, y, z) ppm and local_mask on the scan's grid; b0_direction: unit
    vector in the scan's voxel frame, from scan_affine when not given; brain: where the tensor is known (x, y, z), by
    default where it is not 0; padding: mm of zeros for the fields.

    The tensor becomes M = chi h first: three maps to resample, not six. A voxel has the mean of chi33 over its box, and
    that of delta B', which is therefore computed on voxels no coarser than the subject's (benchmarks/labels.py).
    """
    field = np.asarray(local_field, np.float32)
    inside = np.asarray(local_mask, bool)
    if field.shape != tuple(scan_shape) or inside.shape != tuple(scan_shape):
        raise InputError(
            f"local_field {field.shape} and local_mask {inside.shape} must both have the scan's shape "
            f"{tuple(scan_shape)}."
        )
    grid = _Grid.of(scan_affine, scan_shape, transform)
    h = b0_direction_from_affine(scan_affine) if b0_direction is None else check_b0_direction(b0_direction)
    components, scalar = check_tensor(np.asarray(tensor, np.float32)), np.asarray(cosmos, np.float32)
    held = np.any(components != 0, axis=0) if brain is None else np.asarray(brain, bool)
    if scalar.shape != components.shape[1:] or held.shape != scalar.shape:
        raise InputError(
            f"tensor {components.shape}, cosmos {scalar.shape} and brain {held.shape} must be on one grid: give maps "
            "of one fit."
        )
    if not held.any():
        nothing = np.zeros(grid.shape, np.float32)
        return Labels(nothing, nothing, nothing, np.where(inside, field, nothing), nothing)
    known = _known_maps(components, scalar, held, subject_affine, grid, h)
    brain_here = grid.mask(known)
    beside = _beside(brain_here, inside)
    support = brain_here | beside
    apparent, moved, across, explained = _fields(known, grid, support, beside, h, padding)
    residual = np.where(inside, field - explained, np.float32(0))
    return Labels(apparent, across * support, moved, residual, explained)


def _known_maps(
    tensor: Float32Array, cosmos: Float32Array, brain: NDArray[np.bool_], affine: ArrayLike, grid: _Grid, h: FloatArray
) -> SplineMaps:
    """Return M = chi h along the array's axes of a scan (3 maps) and COSMOS, known in the brain, as splines."""
    axes = voxel_frame(grid.affine).T @ rotation_and_scale(grid.transform)[0]  # the subject's world to the array's axes
    weights = magnetisation_of_components(axes, axes.T @ h).astype(np.float32)
    box = bounding_box(brain)
    place = np.array(affine, np.float64)
    place[:3, 3] += place[:3, :3] @ [part.start for part in box]
    maps = np.empty((4, *brain[box].shape), np.float32)
    np.einsum("ic,cxyz->ixyz", weights, tensor[(slice(None), *box)], out=maps[:3], optimize=True)
    maps[3] = cosmos[box]
    return spline_maps(maps, brain[box], place)


def _fields(
    maps: SplineMaps,
    grid: _Grid,
    support: NDArray[np.bool_],
    beside: NDArray[np.bool_],
    h: FloatArray,
    padding: float,
) -> tuple[Float32Array, Float32Array, Float32Array, Float32Array]:
    """Return chi33, COSMOS, delta B' and D * chi33 + delta B' on a grid, of M and COSMOS (4 maps).

    support: where there are labels, beside: where of it the maps are continued, both (x, y, z). Where the grid is
    coarser than the maps, delta B' is the mean over each voxel of that of M on voxels about as fine as theirs.
    """
    size = voxel_size(grid.affine)
    edge, own = edges_along(maps.affine, grid.affine, grid.transform)
    parts = np.maximum(1, np.ceil(edge / own - _COARSER)).astype(np.int64)
    if parts.max() == 1:
        values = grid.values(maps, support)
        along, dipolar, across = magnetisation_fields(values[:3], size, h, padding=padding)
        return along, values[3], across, dipolar + across
    along, cosmos = grid.values(maps.mixed([[*h, 0], [0, 0, 0, 1]]), support)
    fine = grid.finer(parts)
    for axis, count in enumerate(parts):
        beside = beside.repeat(count, axis)
    magnetisation = maps.mixed(np.eye(3, 4))
    values = fine.values(magnetisation, fine.mask(magnetisation) | beside)
    finely = magnetisation_fields(values, voxel_size(fine.affine), h, padding=padding)[2]
    x, y, z = grid.shape
    across = finely.reshape(x, parts[0], y, parts[1], z, parts[2]).mean(axis=(1, 3, 5))
    return along, cosmos, across, dipole_field(along, size, h, padding=padding) + across


def scan_deviations(
    deviations: ArrayLike,
    subject_affine: ArrayLike,
    scan_affine: ArrayLike,
    transform: ArrayLike,
    local_mask: ArrayLike,
) -> Float32Array:
    """Return standard deviations (c, x, y, z), at least 0, on a scan's grid where it has labels.

    deviations: (c, x, y, z) on the grid of subject_affine, 0 outside the brain; the rest as for scan_labels.
    """
    inside = np.asarray(local_mask, bool)
    grid = _Grid.of(scan_affine, inside.shape, transform)
    values = np.asarray(deviations, np.float32)
    brain = np.any(values != 0, axis=0)
    if not brain.any():
        return np.zeros((len(values), *grid.shape), np.float32)
    maps = spline_maps(values, brain, subject_affine)
    brain_here = grid.mask(maps)
    return np.maximum(grid.values(maps, brain_here | _beside(brain_here, inside)), 0)
