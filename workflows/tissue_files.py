"""What a user tells of tissue: a white-matter probability and fibre directions, brought onto the subject's grid."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal, cast

import numpy as np
from numpy.typing import NDArray

from ..files.errors import InputError
from ..files.grids import same_grid
from ..files.nifti import NiftiVolume, open_image, read_data, read_volume
from ..pipeline.fits.tissue.prior import TissueOptions
from ..pipeline.frames import voxel_frame
from ..pipeline.images.resample import resample

WHITE_MATTER = ("auto", "none")  # words that are no file
_ROUNDING = 1e-3  # beyond 0 and 1, of maps that were interpolated
_COVERED = 0.8  # least share of the brain that a map must show
_UNIT = 0.05  # departure of a vector's length from 1
_FEW = 0.01  # of the vectors, that may be of another length


@dataclass(frozen=True)
class TissueFiles:
    """What the prior is told: white_matter "auto", "none" or a file; fibre: a file or None; correlation in mm.

    frequency: prior standard deviation in ppm of a frequency that all scans share (TissueOptions), 0 for none, "auto"
    where the data show one.
    """

    white_matter: str = "auto"
    fibre: str | None = None
    correlation: float = TissueOptions().correlation
    frequency: float | Literal["auto"] = "auto"

    def check(self, method: str) -> TissueFiles:
        """Return itself; raise InputError where a file cannot be used, or the fit has no use for it."""
        TissueOptions(correlation=self.correlation, frequency=self.frequency)
        given = [
            name
            for name, used in (
                ("--white-matter", self.white_matter not in WHITE_MATTER),
                ("--fibre", self.fibre is not None),
                ("--isotropic-frequency", self.frequency not in ("auto", 0)),
            )
            if used
        ]
        if given and method in ("closed", "none"):
            raise InputError(
                f"{given[0]} goes with --fit masked or single-step, got --fit {method}, whose prior is the same in all "
                "voxels: leave it out, or choose another fit."
            )
        if self.white_matter not in WHITE_MATTER:
            _read_probability(Path(self.white_matter))
        if self.fibre is not None:
            _read_vectors(Path(self.fibre))
        return self

    def options(self, brain: NDArray[np.bool_], affine: NDArray[np.float64]) -> TissueOptions:
        """Return the options of the fit on the subject's grid; brain: its mask (x, y, z); InputError as check's."""
        found = TissueOptions(correlation=self.correlation, frequency=self.frequency)
        if self.white_matter in WHITE_MATTER:
            found = replace(found, white_matter=cast(Literal["auto", "none"], self.white_matter))
        else:
            found = replace(found, white_matter=white_matter_on(Path(self.white_matter), brain, affine))
        if self.fibre is not None:
            found = replace(found, fibre=fibre_on(Path(self.fibre), brain, affine))
        return found


def absolute_map(white_matter: str | None) -> str | None:
    """Return a word as it is and a file with its whole path."""
    return white_matter if white_matter in (None, *WHITE_MATTER) else str(Path(str(white_matter)).absolute())


def white_matter_on(path: Path, brain: NDArray[np.bool_], affine: NDArray[np.float64]) -> NDArray[np.float32]:
    """Return a probability of white matter on a grid (brain mask (x, y, z) and affine); raises InputError."""
    volume = _read_probability(path)
    shape = brain.shape
    if not volume.oriented:
        if volume.values.shape != shape:
            raise InputError(
                f"{path} states no orientation and has shape {volume.values.shape}, not the subject frame's {shape}: "
                "resample it onto the reference scan, or set its sform."
            )
        found = volume.values
    else:
        seen = resample(np.ones_like(volume.values), volume.affine, affine, shape, order=1) > 0.5
        covered = float(seen[brain].mean()) if brain.any() else 0.0
        if covered < _COVERED:
            raise InputError(
                f"{path} shows {covered:.0%} of the subject's brain: give a map in the world of the reference scan."
            )
        found = resample(volume.values, volume.affine, affine, shape, order=1)
    found = np.clip(found, 0, 1)
    if not found[brain].any():
        raise InputError(f"{path} is 0 in the whole brain: give a map in the world of the reference scan.")
    return np.asarray(found, np.float32)


def _read_probability(path: Path) -> NiftiVolume:
    volume = read_volume(path)
    finite = bool(np.isfinite(volume.values).all())
    low, high = (float(volume.values.min()), float(volume.values.max())) if finite else (np.nan, np.nan)
    if not finite or low < -_ROUNDING or high > 1 + _ROUNDING:
        held = f"{low:.3g} to {high:.3g}" if finite else "values that are not finite"
        raise InputError(f"the white-matter map {path} holds {held}: give probabilities from 0 to 1.")
    if high <= 0:
        raise InputError(f"the white-matter map {path} is 0 everywhere: give probabilities from 0 to 1.")
    return volume


def fibre_on(path: Path, brain: NDArray[np.bool_], affine: NDArray[np.float64]) -> NDArray[np.float32]:
    """Return fibre directions (3, x, y, z) along the array axes of a grid, 0 where the file has none.

    The file holds unit vectors (x, y, z, 3) along the axes of the world (RAS+), as chi33's own desc-pev maps do, on the
    subject's grid. Raises InputError.
    """
    vectors, own = _read_vectors(path)
    shape = brain.shape
    if vectors.shape[1:] != shape or not same_grid(own, affine, shape):
        raise InputError(
            f"the fibre map {path} lies on another grid (shape {vectors.shape[1:]}) than the subject frame ({shape}): "
            "resample it onto the reference scan."
        )
    if not np.square(vectors[:, brain]).any():
        raise InputError(f"the fibre map {path} holds no direction inside the brain: give one on the reference scan.")
    return np.tensordot(voxel_frame(affine).T, vectors, axes=1).astype(np.float32)


def _read_vectors(path: Path) -> tuple[NDArray[np.float32], NDArray[np.float64]]:
    """Return vectors (3, x, y, z) of length 1 or 0 and the affine."""
    image = open_image(path)
    shape = tuple(
        size for axis, size in enumerate(image.shape) if axis < 3 or size != 1
    )  # NIfTI vectors: (x, y, z, 1, 3)
    if len(shape) != 4 or shape[3] != 3:
        raise InputError(f"the fibre map {path} has shape {image.shape}: give unit vectors, (x, y, z, 3).")
    vectors = np.moveaxis(read_data(image, path).reshape(shape), -1, 0)
    lengths = np.linalg.norm(vectors, axis=0)
    known = lengths > 0
    if not np.isfinite(lengths).all() or not known.any():
        raise InputError(f"the fibre map {path} holds no directions, or values that are not finite: give unit vectors.")
    wrong = np.abs(lengths[known] - 1) > _UNIT
    if wrong.mean() > _FEW:
        off = lengths[known][wrong]
        raise InputError(
            f"the fibre map {path} holds vectors of length {off.min():.3g} to {off.max():.3g} in {wrong.mean():.0%} of "
            "its voxels: give unit vectors, and 0 where none is known."
        )
    kept = np.where(known & (np.abs(lengths - 1) <= _UNIT), vectors / np.maximum(lengths, 1e-6), 0)
    return np.asarray(kept, np.float32), np.asarray(image.affine, np.float64)
