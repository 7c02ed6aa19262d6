"""Brain masks from a magnitude image by deepbet's networks (Fisch 2024), an optional extra."""

from __future__ import annotations

import importlib.metadata
import subprocess
import sys
import tempfile
from pathlib import Path

import nibabel as nib
import numpy as np
from nibabel import orientations
from numpy.typing import ArrayLike, NDArray

from ...files.errors import InputError, StepError
from ..computing.threads import fft_workers
from ..frames import check_affine, voxel_size
from ..images.morphology import clean_mask
from .bet import check_magnitude, check_volume

PACKAGE = "deepbet"
INSTALL = "pip install 'chi33[deepbet]'"
_NETWORKS = ("data/models/bbox_model.pt", "data/models/model.pt")  # beside the package: the wheel has them there
_PROBABILITY = 0.99  # the networks' edge lies outside the brain; see benchmarks/RESULTS.md


def deepbet_version() -> str | None:
    """Return the version of deepbet that is installed; None where it is not."""
    try:
        return importlib.metadata.version(PACKAGE)
    except importlib.metadata.PackageNotFoundError:
        return None


def network_files() -> tuple[Path, Path]:
    """Return the files of the network that finds the head's brain and of the one that outlines it.

    deepbet is not imported, so none of its own dependencies is needed. Raises InputError where it is not installed.
    """
    try:
        package = importlib.metadata.distribution(PACKAGE)
    except importlib.metadata.PackageNotFoundError:
        raise InputError(
            f"mask_method deepbet needs the package deepbet: install it with {INSTALL}, or use mask_method bet."
        ) from None
    finder, outliner = (Path(str(package.locate_file(name))) for name in _NETWORKS)
    for path in (finder, outliner):
        if not path.is_file():
            raise InputError(
                f"deepbet {package.version} has no network {path}: install it anew with {INSTALL}, or use mask_method "
                "bet."
            )
    return finder, outliner


def learned_brain_mask(magnitude: ArrayLike, affine: ArrayLike, *, timeout: float = 900.0) -> NDArray[np.bool_]:
    """Return the brain mask (x, y, z) of a gradient-echo magnitude, by deepbet: brain and the CSF around it.

    magnitude: (x, y, z), any unit; affine: voxel-to-world (4, 4), which says where the top of the head is. One
    network finds the brain, the other outlines it on a grid of 256^3; islands and holes are taken out. Raises
    InputError for an image without contrast and where deepbet is not installed, StepError where no brain is found.
    Source: Fisch 2024 (deepbet).
    """
    matrix = check_affine(affine)
    image = check_magnitude(magnitude)
    probability = _in_subprocess(image, matrix, network_files(), timeout)
    size = voxel_size(matrix)
    mask = clean_mask(probability >= _PROBABILITY, size)
    check_volume(mask, size)
    return mask


def _in_subprocess(
    image: NDArray[np.float32], affine: NDArray[np.float64], networks: tuple[Path, Path], timeout: float
) -> NDArray[np.float32]:
    """Return the probability of brain; in a process of its own, which gives PyTorch's memory back when it ends."""
    to_canonical = orientations.io_orientation(affine)
    back = orientations.ornt_transform(orientations.axcodes2ornt("RAS"), to_canonical)
    with tempfile.TemporaryDirectory(prefix="chi33-deepbet-") as folder:
        source, target = (Path(folder) / name for name in ("magnitude.npy", "probability.npy"))
        np.save(source, np.ascontiguousarray(nib.apply_orientation(image, to_canonical)))
        command = [sys.executable, "-m", f"{__package__}.deepbet_networks", *map(str, (source, target, *networks))]
        try:
            done = subprocess.run(
                [*command, str(fft_workers())], capture_output=True, text=True, timeout=timeout, check=False
            )
        except subprocess.TimeoutExpired as error:
            raise StepError(f"deepbet did not end within {timeout:.0f} s: give masks yourself.") from error
        if done.returncode != 0 or not target.exists():
            detail = (done.stderr or done.stdout).strip().splitlines()
            raise StepError(
                f"deepbet failed (exit code {done.returncode}: {detail[-1] if detail else 'no message'}): check the "
                "magnitude, use mask_method bet, or give masks yourself."
            )
        return np.asarray(nib.apply_orientation(np.load(target), back), np.float32)
