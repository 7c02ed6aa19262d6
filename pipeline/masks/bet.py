"""Brain masks from a magnitude image by the Brain Extraction Tool's algorithm (Smith 2002)."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from pathlib import Path

import nibabel as nib
import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import ndimage

from ...files.errors import InputError, StepError
from ..frames import check_affine, voxel_frame, voxel_size
from ..images.morphology import clean_mask
from ..images.resample import resample
from ..phase.echoes import smooth_inside

BET_SPACING = 2.0  # mm
_COARSE = (BET_SPACING, BET_SPACING, BET_SPACING, 1.0)
_DIGITS = 3  # of a voxel size in mm; headers round
_PADDING = 30  # voxels; the surface may leave the image while it inflates
_SHADING_WIDTH = 30.0  # mm
_MINIMUM_VOLUME = 200.0  # ml
_OPENING = 6.0  # mm; a nerve or a vein that the surface follows out of the brain is thinner than twice this
_LARGEST_VOLUME = 1950.0  # ml; more than that holds eyes or neck
_USUAL_VOLUME = 1600.0  # ml
_ATTEMPTS, _STEP, _HIGHEST = 4, 0.05, 0.85  # of the fractional threshold
_RUN = """
import sys, nibabel, numpy, trimesh
from brainextractor import BrainExtractor
source, target, threshold, *sphere = sys.argv[1:]
bet = BrainExtractor(nibabel.load(source), bt=float(threshold))
if sphere:  # centre and radius in voxels, as BET's options -c and -r
    *centre, radius = map(float, sphere)
    bet.c, bet.r = numpy.array(centre), radius / 2
    apart = numpy.indices(bet.shape) - bet.c[:, None, None, None]
    bet.tm = numpy.median(bet.data[(apart**2).sum(axis=0) < radius**2])
    bet.surface = trimesh.creation.icosphere(subdivisions=4, radius=bet.r)
    bet.surface.apply_translation(bet.c)
    bet.vertices, bet.faces = numpy.array(bet.surface.vertices), numpy.array(bet.surface.faces)
    bet.update_surface_attributes()
bet.run(400)
mask = bet.compute_mask().astype(numpy.uint8)
nibabel.save(nibabel.Nifti1Image(mask, bet.img.affine), target)
"""


def brain_mask(
    magnitude: ArrayLike, affine: ArrayLike, *, fractional_threshold: float = 0.5, timeout: float = 900.0
) -> NDArray[np.bool_]:
    """Return the brain mask (x, y, z) of a gradient-echo magnitude, by BET's deformable surface.

    magnitude: (x, y, z), any unit; affine: voxel-to-world (4, 4); fractional_threshold: 0-1, smaller keeps more.
    Coil shading is divided out, the image is resampled to 2 mm and zero-padded, and the mask is cleaned. Where it is
    larger than any brain, the surface starts again from a sphere at the top of the head, with a higher threshold.
    Raises InputError for an image without contrast, StepError where no brain is found. Source: Smith 2002
    (brainextractor).
    """
    image = check_magnitude(magnitude)
    matrix = check_affine(affine)
    if not 0 < fractional_threshold < 1:
        raise InputError(f"fractional_threshold must lie between 0 and 1, got {fractional_threshold}.")
    size = np.round(voxel_size(matrix), _DIGITS)
    coarse = _isotropic(_flattened(image, size), size)
    core = _plausible(coarse, _upwards(matrix), fractional_threshold, timeout)
    soft = resample(core.astype(np.float32), np.diag(_COARSE), np.diag([*size, 1.0]), image.shape, order=1)
    mask = clean_mask(soft >= 0.5, size, opening=_OPENING)
    check_volume(mask, size)
    return mask


def check_magnitude(magnitude: ArrayLike) -> NDArray[np.float32]:
    """Return an image (x, y, z) to look for a brain in as float32; raises InputError where it has no contrast."""
    image = np.asarray(magnitude, np.float32)
    if image.ndim != 3 or not np.isfinite(image).all() or np.ptp(image) == 0:
        raise InputError(f"the magnitude (shape {image.shape}) has no contrast, so no brain can be found in it.")
    return image


def check_volume(mask: NDArray[np.bool_], size: ArrayLike) -> None:
    """Raise StepError for a mask (x, y, z) that is smaller than any brain; size: voxel size (3,) mm."""
    volume = float(mask.sum() * np.prod(np.asarray(size, np.float64)) / 1000)
    if volume < _MINIMUM_VOLUME:
        raise StepError(
            f"brain extraction found {volume:.0f} ml, less than any brain: check the magnitude, or give masks yourself."
        )


def _plausible(
    coarse: NDArray[np.float32], upwards: NDArray[np.float64], threshold: float, timeout: float
) -> NDArray[np.bool_]:
    """Return the mask of a 2 mm image; tried again with BET's robust centre where it is too large for a brain."""
    sphere: tuple[float, ...] = ()
    padded = np.pad(coarse, _PADDING)
    for _ in range(_ATTEMPTS):
        found = _extract(padded, threshold, timeout, sphere)
        core = found[_PADDING:-_PADDING, _PADDING:-_PADDING, _PADDING:-_PADDING]
        if core.sum() * BET_SPACING**3 / 1000 <= _LARGEST_VOLUME or threshold >= _HIGHEST:
            break
        sphere = _sphere_at_the_top(core, upwards)
        threshold = min(threshold + _STEP, _HIGHEST)
    return core


def _sphere_at_the_top(mask: NDArray[np.bool_], upwards: NDArray[np.float64]) -> tuple[float, ...]:
    """Return centre and radius, in voxels of the padded image, of a usual brain at the top of a mask with a neck."""
    voxels = np.argwhere(mask)
    radius = float(np.cbrt(3 * _USUAL_VOLUME * 1000 / (4 * np.pi))) / BET_SPACING
    centre = voxels.mean(axis=0)
    height = float(np.percentile(voxels @ upwards, 99.5)) - 0.95 * radius
    centre = centre + upwards * max(height - float(centre @ upwards), 0.0)
    return (*(float(c) for c in centre + _PADDING), radius)


def _upwards(affine: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the unit vector of the world's +z along the array's axes."""
    return np.asarray(voxel_frame(affine).T @ [0.0, 0.0, 1.0])


def _flattened(image: NDArray[np.float32], size: NDArray[np.float64]) -> NDArray[np.float32]:
    bright = max(float(np.percentile(image, 99)), 1e-30)
    head = image > 0.1 * bright
    local = smooth_inside(image, head, size, _SHADING_WIDTH)
    return np.where(local > 0, image / np.maximum(local, 0.1 * bright), 0).astype(np.float32)


def _isotropic(image: NDArray[np.float32], size: NDArray[np.float64]) -> NDArray[np.float32]:
    """Return an image with voxels of 2 mm along its own axes; no rounding of the affine gets in: BET amplifies it."""
    sigma = np.sqrt(np.maximum(BET_SPACING**2 - size**2, 0)) / 2.355 / size
    smooth = ndimage.gaussian_filter(image, sigma)
    count = np.maximum(np.ceil(np.array(image.shape) * size / BET_SPACING - 1e-6).astype(int), 1)
    return resample(smooth, np.diag([*size, 1.0]), np.diag(_COARSE), count.tolist(), order=1)


def _extract(
    volume: NDArray[np.float32], threshold: float, timeout: float, sphere: tuple[float, ...] = ()
) -> NDArray[np.bool_]:
    """Run the surface in a process of its own: it can leave the image and take the interpreter with it."""
    with tempfile.TemporaryDirectory(prefix="chi33-bet-") as folder:
        paths = [str(Path(folder) / name) for name in ("magnitude.nii", "mask.nii")]
        nib.save(nib.Nifti1Image(volume, np.diag(_COARSE)), paths[0])
        command = [sys.executable, "-c", _RUN, *paths, str(threshold), *map(str, sphere)]
        environment = {**os.environ, "NUMBA_NUM_THREADS": "1", "OMP_NUM_THREADS": "1"}
        try:
            done = subprocess.run(
                command, capture_output=True, text=True, timeout=timeout, env=environment, check=False
            )
        except subprocess.TimeoutExpired as error:
            raise StepError(f"brain extraction did not end within {timeout:.0f} s: give masks yourself.") from error
        if done.returncode != 0 or not Path(paths[1]).exists():
            detail = (done.stderr or done.stdout).strip().splitlines()
            raise StepError(
                f"brain extraction failed (exit code {done.returncode}: {detail[-1] if detail else 'no message'}): "
                "check the magnitude, or give masks yourself."
            )
        return nib.Nifti1Image.from_filename(paths[1]).get_fdata(dtype=np.float32) > 0
