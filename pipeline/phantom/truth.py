"""The truth of one scan: tensor, chi33, deltaB' and fields on the scan's own grid."""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from ...files.errors import Chi33Warning, InputError
from ..frames import b0_direction_from_affine
from ..physics.tensor_field import PADDING, delta_b_prime, dipole_field
from ..physics.tensors import DIAGONAL, chi33, rotate_components
from .anatomy import Head
from .background import background_field, field_of_shim, shim_weights
from .living.field import HeadField
from .poses import HeadPose, ScanGrid
from .sampling import sample_grid, sample_points, spline_coefficients, subvoxel_offsets, transform_points

Float32Array = NDArray[np.float32]
# A scan's k-space ends at the Nyquist frequency, so that it does not alias: its point spread has a full width of 1.2
# voxels without a filter and 1.8 with Hamming's; here 1.4, of which the voxels of the head's own maps are a part.
_SIGMA = 0.6  # voxel edges
_OWN_SIGMA = 0.25  # mm
_SMALLEST_BRAIN = 0.5  # of the brain that a scan must hold


@dataclass(frozen=True)
class SmoothedHead:
    """A head with its maps smoothed for a voxel size, so that sampling them once per voxel does not alias.

    edge: smallest voxel edge in mm that it was smoothed for; brain, tensor: coefficients (linear, cubic).
    """

    head: Head
    edge: float
    brain: Float32Array
    tensor: Float32Array

    def map_of(self, values: NDArray[Any]) -> Float32Array:
        """Return another 1 mm map of the head smoothed the same way."""
        return _smoothed(np.asarray(values, np.float32), self.edge)

    def subsamples(self, grid: ScanGrid) -> tuple[int, int, int]:
        """Return the points per voxel along each axis that the longer edges of a voxel need."""
        x, y, z = (max(1, round(float(d) / max(self.edge, 1.0))) for d in grid.voxel_size)
        return x, y, z


def smooth_head(head: Head, edge: float) -> SmoothedHead:
    """Return the head prepared for voxels whose smallest edge is `edge` mm, at least 1."""
    tensor = np.stack([spline_coefficients(_smoothed(part, edge), 3) for part in head.tensor])
    return SmoothedHead(head, edge, _smoothed(head.brain, edge), tensor)


def _smoothed(volume: Float32Array, edge: float) -> Float32Array:
    return ndimage.gaussian_filter(volume, np.sqrt((_SIGMA * edge) ** 2 - _OWN_SIGMA**2), truncate=3.0)


@dataclass(frozen=True)
class ScanTruth:
    """What is true of one scan, on its grid; ppm, zero outside the brain unless said otherwise.

    brain_mask: bool; tensor: (6, x, y, z) along the array's axes, relative to the mean over the head's brain;
    chi33, delta_b: labels of this scan (delta_b = deltaB', everywhere on the grid); local_field: field of the brain's
    tensor, everywhere on the grid, = D * chi33 + deltaB' in free space; total_field: local + shimmed background,
    everywhere on the grid; shim: weights of the solid harmonics (9,) that total_field has lost; labels: uint8 of
    ROI_LABELS; b0_direction: (3,) in the voxel frame.
    """

    grid: ScanGrid
    pose: HeadPose
    b0_direction: NDArray[np.float64]
    brain_mask: NDArray[np.bool_]
    tensor: Float32Array
    chi33: Float32Array
    delta_b: Float32Array
    local_field: Float32Array
    total_field: Float32Array
    shim: NDArray[np.float64]
    labels: NDArray[np.uint8]

    @property
    def mms(self) -> Float32Array:
        """Mean magnetic susceptibility (x, y, z) in ppm."""
        return self.tensor[list(DIAGONAL)].mean(axis=0)

    @property
    def world_tensor(self) -> Float32Array:
        """The tensor (6, x, y, z) along the axes of this scan's world."""
        return rotate_components(self.tensor, self.grid.frame)


def scan_truth(smooth: SmoothedHead, pose: HeadPose, grid: ScanGrid, field: HeadField | None = None) -> ScanTruth:
    """Return the truth of a scan of a head in a pose; raises InputError where the grid misses most of the brain.

    field: of the head in this pose as it is between the voxels, which local_field and delta_b then sample; without it
    they are the field of the voxels' own tensor.
    """
    h = np.asarray(b0_direction_from_affine(grid.affine), dtype=np.float64)
    mask = _brain_mask(smooth, pose, grid)
    tensor = _voxel_tensor(smooth, pose, grid, mask)
    along = chi33(tensor, h).astype(np.float32)
    if field is None:
        across = delta_b_prime(tensor, grid.voxel_size, h, padding=PADDING)
        local = dipole_field(along, grid.voxel_size, h, padding=PADDING) + across
    else:
        local, across = (sampled_map(smooth, part, pose, grid) for part in (field.local, field.delta_b))
    total = background_field(smooth.head, pose, grid, None if field is None else field.background) + local
    shim = shim_weights(total, mask, grid)
    total -= field_of_shim(shim, grid)
    labels = _nearest_labels(smooth.head, pose, grid, mask)
    return ScanTruth(grid, pose, h, mask, tensor, along, across, local, total, shim, labels)


def sampled_map(smooth: SmoothedHead, values: Float32Array, pose: HeadPose, grid: ScanGrid) -> Float32Array:
    """Return a 1 mm map of the head, smoothed for the voxel as the tensor is, on the grid of a scan."""
    mapping = head_mapping(smooth.head.affine, pose, grid)
    coefficients = spline_coefficients(smooth.map_of(values), 3)
    return sample_grid(coefficients, mapping, grid.shape, order=3, subsamples=smooth.subsamples(grid))


def head_mapping(affine: NDArray[Any], pose: HeadPose, grid: ScanGrid) -> NDArray[np.float64]:
    """Return the 4x4 from the voxels of a scan to the voxels of a head map with this affine."""
    return np.linalg.solve(affine, np.linalg.solve(pose.matrix, grid.affine))


def _brain_mask(smooth: SmoothedHead, pose: HeadPose, grid: ScanGrid) -> NDArray[np.bool_]:
    mapping = head_mapping(smooth.head.affine, pose, grid)
    soft = sample_grid(smooth.brain, mapping, grid.shape, order=1, subsamples=smooth.subsamples(grid))
    _check_field_of_view(smooth.head, pose, grid)
    return soft > 0.5


def _check_field_of_view(head: Head, pose: HeadPose, grid: ScanGrid) -> None:
    surface = np.argwhere(head.brain[::3, ::3, ::3] > 0.5).T * 3.0
    voxels = np.linalg.solve(head_mapping(head.affine, pose, grid), np.vstack([surface, np.ones(surface.shape[1])]))[:3]
    limits = np.asarray(grid.shape)[:, None] - 0.5
    held = float(((voxels > -0.5) & (voxels < limits)).all(axis=0).mean())
    field_of_view = " x ".join(f"{n * d:.0f}" for n, d in zip(grid.shape, grid.voxel_size, strict=True))
    message = f"the field of view of {field_of_view} mm holds {held:.0%} of the brain: give a larger matrix or voxel."
    if held < _SMALLEST_BRAIN:
        raise InputError(message)
    if held < 0.99:
        warnings.warn(message, Chi33Warning, stacklevel=4)


def _voxel_tensor(smooth: SmoothedHead, pose: HeadPose, grid: ScanGrid, mask: NDArray[np.bool_]) -> Float32Array:
    mapping = head_mapping(smooth.head.tensor_affine, pose, grid)
    voxels = np.argwhere(mask).T.astype(np.float64)
    offsets = subvoxel_offsets(smooth.subsamples(grid))
    inside = np.zeros((6, voxels.shape[1]), np.float32)
    for offset in offsets:
        points = transform_points(mapping, voxels + offset[:, None])
        for component in range(6):
            inside[component] += sample_points(smooth.tensor[component], points, order=3)
    turned = rotate_components(inside / np.float32(len(offsets)), grid.frame.T @ pose.rotation)
    tensor = np.zeros((6, *grid.shape), np.float32)
    tensor[:, mask] = turned
    return tensor


def _nearest_labels(head: Head, pose: HeadPose, grid: ScanGrid, mask: NDArray[np.bool_]) -> NDArray[np.uint8]:
    mapping = head_mapping(head.affine, pose, grid)
    labels: NDArray[np.uint8] = np.zeros(grid.shape, np.uint8)
    points = transform_points(mapping, np.argwhere(mask).T.astype(np.float64))
    index = np.clip(np.rint(points).astype(int), 0, np.array(head.labels.shape)[:, None] - 1)
    labels[mask] = head.labels[tuple(index)]
    return labels


def brain_centred_grid_centre(head: Head, pose: HeadPose, frame: NDArray[Any]) -> NDArray[np.float64]:
    """Return the world point (3,) in the middle of the brain's extent along the axes of a scan (columns of frame)."""
    surface = np.argwhere(head.brain[::3, ::3, ::3] > 0.5).T * 3.0
    along = frame.T @ transform_points(pose.matrix @ head.affine, surface)
    return frame @ ((along.min(axis=1) + along.max(axis=1)) / 2)
