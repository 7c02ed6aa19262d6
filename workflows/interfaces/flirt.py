"""FLIRT matrices to and from world-to-world transforms (RAS+, mm).

FLIRT works in FSL coordinates: voxel index times voxel size, with x mirrored, ((nx - 1) - i) dx, where the affine's
determinant is positive (fsl.fmrib.ox.ac.uk, FLIRT FAQ, "format of the matrix"). fslpy holds that convention.
"""

from __future__ import annotations

from pathlib import Path

import nibabel as nib
import numpy as np
from fsl.data.image import Nifti
from fsl.transform.flirt import fromFlirt, toFlirt
from numpy.typing import ArrayLike, NDArray

from ...files.derivatives import open_image, read_transform
from ...files.errors import InputError
from ...pipeline.frames import check_affine, voxel_size

ImageLike = Path | str | nib.Nifti1Image


def flirt_to_world(
    matrix: ArrayLike | Path | str, moving_image: ImageLike, reference_image: ImageLike
) -> NDArray[np.float64]:
    """Return the world-to-world matrix (4, 4), moving to reference, in mm, of a FLIRT matrix or its text file.

    moving_image and reference_image are FLIRT's -in and -ref, as paths or nibabel images; only their headers count.
    The rotation and scale are those of `frames.rotation_and_scale` of the result, never of the FLIRT matrix itself.
    Raises InputError for a matrix that is not 4x4 and finite, and for images whose affine and voxel size disagree.
    """
    moving, reference = _fsl_grid(moving_image), _fsl_grid(reference_image)
    return np.asarray(fromFlirt(_matrix(matrix), moving, reference, "world", "world"))


def world_to_flirt(
    transform: ArrayLike | Path | str, moving_image: ImageLike, reference_image: ImageLike
) -> NDArray[np.float64]:
    """Return the FLIRT matrix (4, 4) of a world-to-world matrix, moving to reference: the inverse of flirt_to_world."""
    moving, reference = _fsl_grid(moving_image), _fsl_grid(reference_image)
    return np.asarray(toFlirt(_matrix(transform), moving, reference, "world", "world"))


def _matrix(matrix: ArrayLike | Path | str) -> NDArray[np.float64]:
    if isinstance(matrix, Path | str):
        return read_transform(Path(matrix))
    values = np.asarray(matrix, dtype=np.float64)
    if values.shape != (4, 4) or not np.isfinite(values).all():
        raise InputError(f"a FLIRT matrix must be 4x4 and finite, got shape {values.shape}.")
    return values


def _fsl_grid(image: ImageLike) -> Nifti:
    """Return fslpy's view of an image's grid, with the affine that nibabel reads."""
    name = str(image) if isinstance(image, Path | str) else "image"
    opened = open_image(Path(image)) if isinstance(image, Path | str) else image
    affine = check_affine(opened.affine, f"affine of {name}")
    zooms = np.asarray(opened.header.get_zooms()[:3], dtype=np.float64)
    sizes = voxel_size(affine)
    if not np.allclose(zooms, sizes, rtol=1e-3):  # FLIRT measures in pixdim, the world in the affine
        raise InputError(
            f"{name} has voxels of {np.round(zooms, 4).tolist()} mm by its pixdim but {np.round(sizes, 4).tolist()} mm "
            "by its affine: repair the header."
        )
    header = nib.Nifti1Header()
    header.set_data_shape(opened.shape[:3])
    header.set_zooms(sizes)
    header.set_sform(affine, code=1)
    return Nifti(header=header)
