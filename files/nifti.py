"""NIfTI images as they are read: everything that chi33 takes in passes here.

In memory a volume is (x, y, z) or components-first (c, x, y, z); on disk it is (x, y, z) or (x, y, z, c).
"""

from __future__ import annotations

import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
from numpy.typing import NDArray

from .errors import InputError
from .headers import direction_problem, in_millimetres
from .sidecars import one_line

_UNREADABLE = (OSError, EOFError, ValueError, nib.filebasedimages.ImageFileError, nib.spatialimages.HeaderDataError)


def nifti_image(values: NDArray[Any], affine: NDArray[np.float64], *, slope: float = 1.0) -> nib.Nifti1Image:
    """Return an image of an array with its last axis, if there are four, the components.

    affine: voxel to world (4, 4) in mm, of the scanner's world; slope: that a reader multiplies the stored values by.
    """
    image = nib.Nifti1Image(values, affine)
    image.header.set_xyzt_units("mm", "unknown")
    image.set_qform(affine, code=1)
    image.set_sform(affine, code=1)
    if slope != 1.0:
        image.header.set_slope_inter(slope, 0)
    return image


def read_image(path: Path) -> tuple[NDArray[np.float32], NDArray[np.float64]]:
    """Return a NIfTI image as float32 (x, y, z), or components-first (c, x, y, z), and its affine (4, 4).

    Raises InputError where the file is missing, damaged, or not a real-valued 3-D or 4-D image.
    """
    image = open_image(path)
    if len(image.shape) not in (3, 4):
        raise InputError(f"{path} has shape {image.shape}: give a 3-D image, or a 4-D one with components last.")
    volume = read_data(image, path)
    return (np.moveaxis(volume, -1, 0) if volume.ndim == 4 else volume), np.asarray(image.affine, dtype=np.float64)


def open_image(path: Path) -> nib.Nifti1Image:
    """Open a NIfTI file without reading its data, its affine in mm.

    InputError where it is missing, damaged, complex or in colour, or has voxels no head is scanned with.
    """
    if not Path(path).is_file():
        raise InputError(f"{path} does not exist: check the name.")
    try:
        image = nib.load(path)
    except _UNREADABLE as error:
        raise InputError(f"{path} is damaged or no NIfTI ({one_line(error)}): copy or convert it again.") from error
    if not isinstance(image, nib.Nifti1Image):
        raise InputError(f"{path} is a {type(image).__name__}, not NIfTI: convert it to .nii.gz.")
    kind = image.get_data_dtype()
    if kind.kind not in "iuf":
        raise InputError(f"{path} holds values of type {kind}: give real numbers (magnitude and phase apart).")
    return in_millimetres(image, path)


def read_data(image: nib.Nifti1Image, path: Path) -> NDArray[np.float32]:
    """Read an opened image's scaled values as float32; InputError where the file is truncated or damaged."""
    try:
        return image.get_fdata(dtype=np.float32, caching="unchanged")
    except (*_UNREADABLE, zlib.error) as error:
        raise InputError(
            f"{path} is damaged: its data cannot be read to the end ({one_line(error)}); copy or convert it again."
        ) from error


@dataclass(frozen=True)
class NiftiVolume:
    """One volume of a file: values (x, y, z) float32, affine (4, 4) voxel to world in mm.

    oriented: whether the header states a world at all (sform or qform code above 0); direction_problem: why it does not
    tell where B0 points, in words, or empty.
    """

    path: Path
    values: NDArray[np.float32]
    affine: NDArray[np.float64]
    oriented: bool
    direction_problem: str = ""


def empty_volume(path: Path) -> NiftiVolume:
    """Return what the header of a file says of where it lies, without its voxels."""
    image = open_image(path)
    nothing = np.zeros((0, 0, 0), np.float32)
    affine = np.asarray(image.affine, dtype=np.float64)
    return NiftiVolume(Path(path), nothing, affine, _oriented(image), direction_problem(image))


def _oriented(image: nib.Nifti1Image) -> bool:
    return bool(image.header["sform_code"] > 0 or image.header["qform_code"] > 0)


def read_volume(path: Path) -> NiftiVolume:
    """Read one volume; axes of length 1 after the third are dropped.

    Raises InputError where the file cannot be read, has fewer than three axes, or holds several volumes.
    """
    image = open_image(path)
    shape = image.shape
    if len(shape) < 3 or any(size != 1 for size in shape[3:]):
        raise InputError(f"{path} has shape {shape}: give one 3-D volume.")
    values = read_data(image, path).reshape(shape[:3])
    affine = np.asarray(image.affine, dtype=np.float64)
    return NiftiVolume(Path(path), values, affine, _oriented(image), direction_problem(image))
