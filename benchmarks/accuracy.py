"""Holds the output of `chi33 run` on simulated heads against their truth: python benchmarks/accuracy.py OUT TRUTH.

One line a scan: registration (rotation error in degrees, largest displacement in the brain in mm, angle of B0 in
degrees), Dice of the brain mask, share of the brain with a local field, correlation of the local field, and for chi33,
COSMOS and delta B' correlation, slope and normalised error (all demeaned where the local field is valid).
"""

from __future__ import annotations

import sys
from pathlib import Path

import nibabel as nib
import numpy as np
from chi33.pipeline.frames import b0_direction_in_subject_frame, rotation_angle
from numpy.typing import NDArray
from scipy.linalg import polar


def load(path: Path) -> NDArray[np.float32]:
    """Return a volume."""
    return np.asarray(nib.load(path).dataobj, np.float32)


def registration_errors(found: NDArray, true: NDArray, mask: NDArray, affine: NDArray) -> tuple[float, float, float]:
    """Return the rotation error (degrees), the largest displacement in the mask (mm), the error of B0 (degrees)."""
    error = found @ np.linalg.inv(true)
    voxels = np.argwhere(mask)[::200]
    points = true @ affine @ np.c_[voxels, np.ones(len(voxels))].T
    displaced = np.linalg.norm((error @ points - points)[:3], axis=0).max()
    cosine = b0_direction_in_subject_frame(found) @ b0_direction_in_subject_frame(true)
    return rotation_angle(polar(error[:3, :3])[0]), float(displaced), float(np.degrees(np.arccos(min(1.0, cosine))))


def agreement(estimate: NDArray, truth: NDArray) -> tuple[float, float, float]:
    """Return correlation, slope and normalised error of two demeaned sets of values."""
    a, b = estimate - estimate.mean(), truth - truth.mean()
    return float(np.corrcoef(a, b)[0, 1]), float((a @ b) / (b @ b)), float(np.linalg.norm(a - b) / np.linalg.norm(b))


def scan_line(anat: Path, truth: Path, scan: str) -> str:
    """Return the line of one scan."""
    transform = f"{scan}_from-orig_to-subject_mode-image_xfm.txt"
    affine = nib.load(truth / f"{scan}_desc-brain_mask.nii.gz").affine
    brain = load(truth / f"{scan}_desc-brain_mask.nii.gz") > 0
    mask = load(anat / f"{scan}_desc-brain_mask.nii.gz") > 0
    valid = (load(anat / f"{scan}_desc-local_mask.nii.gz") > 0) & brain
    rotation, displaced, b0 = registration_errors(
        np.loadtxt(anat / transform), np.loadtxt(truth / transform), brain, affine
    )
    dice = 2 * (mask & brain).sum() / (mask.sum() + brain.sum())
    parts = [
        f"{scan}: rotation {rotation:.3f} deg, {displaced:.3f} mm, B0 {b0:.3f} deg, Dice {dice:.3f}, "
        f"valid {valid.sum() / brain.sum():.3f}"
    ]
    for name in ("local_fieldmap", "chi33_Chimap", "cosmos_Chimap", "deltab_fieldmap"):
        file = f"{scan}_desc-{name}.nii.gz"
        r, slope, error = agreement(load(anat / file)[valid], load(truth / file)[valid])
        parts.append(f"{name.partition('_')[0]} r {r:.3f} slope {slope:.3f} error {error:.3f}")
    return "; ".join(parts)


def main(out: Path, truth: Path) -> None:
    """Print the line of every scan of every subject."""
    for anat in sorted(out.glob("sub-*/anat")):
        beside = truth / anat.parent.name / "anat"
        for path in sorted(anat.glob("*_xfm.txt")):
            print(scan_line(anat, beside, path.name.partition("_from-")[0]))


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
