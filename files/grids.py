"""Whether two files lie on one grid; a volume whose array runs along other axes of the same grid is reordered."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import nibabel as nib
import numpy as np

from ..pipeline.frames import check_affine, voxel_size
from .errors import InputError
from .nifti import NiftiVolume

_TOLERANCE = 0.1  # of the smallest voxel edge, at the corners of the grid


def on_grid_of(volume: NiftiVolume, reference: NiftiVolume) -> tuple[NiftiVolume, str]:
    """Return a volume on the grid of another, and a sentence on what was done, empty where it lies there already.

    The same voxels in another order of axes, or running the other way, are reordered exactly. A file whose header
    states no orientation is taken to lie on the reference's grid where the shapes are the same. Raises InputError where
    the voxels are others.
    """
    name, other = volume.path, reference.path.name
    shape = reference.values.shape
    if not volume.oriented and volume.values.shape == shape:
        if not reference.oriented or same_grid(volume.affine, reference.affine, shape):
            return replace(volume, affine=reference.affine, oriented=reference.oriented), ""
        said = f"{name} states no orientation (sform and qform codes are 0): taken to lie on the grid of {other}."
        return replace(volume, affine=reference.affine, oriented=reference.oriented), said
    affine = check_affine(volume.affine, f"the affine of {name}")
    if volume.values.shape == shape and same_grid(affine, reference.affine, shape):
        return replace(volume, affine=reference.affine), ""
    reordered = _reordered(volume, reference)
    if reordered is not None:
        codes = ["".join(nib.aff2axcodes(one)) for one in (affine, reference.affine)]
        return reordered, f"{name} is stored along {codes[0]}, but {other} along {codes[1]}: its voxels were reordered."
    if volume.values.shape != shape:
        raise InputError(f"{name} has shape {volume.values.shape}, but {other} has {shape}: put both on one grid.")
    distance = corner_distance(affine, reference.affine, shape)
    raise InputError(
        f"{name} lies elsewhere than {other} (their affines place the corners up to {distance:.3g} mm apart): resample "
        f"it onto the grid of {other}."
    )


def same_grid(affine: np.ndarray, reference: np.ndarray, shape: Sequence[int]) -> bool:
    """Tell whether two affines (4, 4) place the voxels of a grid of one shape alike."""
    return corner_distance(affine, reference, shape) < _TOLERANCE * voxel_size(reference).min()


def corner_distance(affine: np.ndarray, reference: np.ndarray, shape: Sequence[int]) -> float:
    """Return the largest distance in mm between the corners of a grid as two affines (4, 4) place them."""
    corners = np.array(np.meshgrid(*[(0, n - 1) for n in shape])).reshape(3, -1)
    difference = np.asarray(affine, np.float64) - reference
    moved = difference[:3, :3] @ corners + difference[:3, 3:]
    return float(np.linalg.norm(moved, axis=0).max())


def _reordered(volume: NiftiVolume, reference: NiftiVolume) -> NiftiVolume | None:
    """Return the volume with its axes in the reference's order and sense; None where its voxels are others."""
    to_reference = nib.io_orientation(np.linalg.inv(reference.affine) @ volume.affine)
    if np.isnan(to_reference).any():
        return None
    values = nib.apply_orientation(volume.values, to_reference)
    if values.shape != reference.values.shape:
        return None
    affine = volume.affine @ nib.orientations.inv_ornt_aff(to_reference, volume.values.shape)
    if not same_grid(affine, reference.affine, values.shape):
        return None
    return replace(volume, values=np.ascontiguousarray(values), affine=reference.affine)
