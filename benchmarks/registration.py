"""Registers simulated scans and holds the result against the truth: python benchmarks/registration.py SIMULATED ...

One line a pair, moving scan to the first (`--all`: every scan to every other one): angle between the two poses in
degrees, error of the rotation in degrees, largest displacement in the brain in mm, quality, seconds. Brain masks are
the true ones (`--masks true`), the built-in ones (`--masks bet`) or none (`--masks none`). `--brains` measures the
built-in brain masks instead: Dice against brain tissue, islands, enclosed voxels, parts on necks,
farthest voxel outside in mm, seconds. `--cut N` cuts the lowest N mm off every second scan.
"""

from __future__ import annotations

import argparse
import json
import time
from dataclasses import dataclass, replace
from pathlib import Path

import nibabel as nib
import numpy as np
from chi33.pipeline.frames import rotation_angle, voxel_size
from chi33.pipeline.images.morphology import dice, mask_faults
from chi33.pipeline.masks.bet import brain_mask
from chi33.pipeline.registration.images import without_decay
from chi33.pipeline.registration.similarity import register
from numpy.typing import NDArray
from scipy import ndimage
from scipy.linalg import polar

_ECHOES = 3  # of a scan, that without_decay needs


@dataclass(frozen=True)
class SimulatedScan:
    """One scan with its truth: magnitudes (echo, x, y, z), echo times (s), true transform to the first scan."""

    name: str
    magnitude: NDArray[np.float32]
    echo_times: list[float]
    affine: NDArray[np.float64]
    brain: NDArray[np.bool_]
    transform: NDArray[np.float64]


def load_scans(folder: Path) -> list[SimulatedScan]:
    """Return the scans of the first subject of a simulated data set."""
    scans = []
    subject = sorted(folder.glob("sub-*"))[0]
    for path in sorted(subject.glob("anat/*_echo-1_part-mag_MEGRE.nii.gz")):
        name = path.name.partition("_echo-")[0]
        truth = folder / "derivatives" / "truth" / subject.name / "anat"
        paths = [path.with_name(f"{name}_echo-{number}_part-mag_MEGRE.nii.gz") for number in range(1, _ECHOES + 1)]
        images = [nib.load(one) for one in paths if one.exists()]
        sidecars = [one.with_name(one.name.replace(".nii.gz", ".json")) for one in paths if one.exists()]
        scans.append(
            SimulatedScan(
                name,
                np.stack([np.asarray(image.dataobj, np.float32) for image in images]),
                [echo_time(sidecar) for sidecar in sidecars],
                images[0].affine,
                np.asarray(nib.load(truth / f"{name}_desc-brain_mask.nii.gz").dataobj) > 0,
                np.loadtxt(truth / f"{name}_from-orig_to-subject_mode-image_xfm.txt"),
            )
        )
    return scans


def echo_time(sidecar: Path) -> float:
    """Return the echo time of a sidecar in seconds."""
    return float(json.loads(sidecar.read_text(encoding="utf-8"))["EchoTime"])


def transform_errors(
    found: NDArray, true: NDArray, brain: NDArray[np.bool_], affine: NDArray[np.float64]
) -> tuple[float, float]:
    """Return the rotation error (degrees) and the largest displacement in the brain (mm) of a transform."""
    error = found @ np.linalg.inv(true)
    voxels = np.argwhere(brain)[::50]
    points = true @ affine @ np.c_[voxels, np.ones(len(voxels))].T
    displaced = np.linalg.norm((error @ points - points)[:3], axis=0).max()
    return rotation_angle(polar(error[:3, :3])[0]), float(displaced)


def cut_below(scan: SimulatedScan, depth: float) -> SimulatedScan:
    """Return a scan without its lowest slices (third array axis), as thick as `depth` in mm."""
    first = round(depth / voxel_size(scan.affine)[2])
    affine = scan.affine.copy()
    affine[:3, 3] += first * affine[:3, 2]
    return replace(scan, magnitude=scan.magnitude[..., first:], brain=scan.brain[..., first:], affine=affine)


def mask_of(scan: SimulatedScan, kind: str) -> NDArray[np.bool_] | None:
    """Return the brain mask of a scan that is asked for: "true", "bet" or "none"."""
    if kind == "none":
        return None
    return scan.brain if kind == "true" else brain_mask(scan.magnitude[0], scan.affine)


def print_pairs(folder: Path, masks: str, *, every: bool, cut: float) -> None:
    """Print the line of every pair."""
    whole = load_scans(folder)
    scans = [cut_below(scan, cut) if cut and number % 2 else scan for number, scan in enumerate(whole)]
    steady = [without_decay(scan.magnitude, scan.echo_times) for scan in scans]
    brains = [mask_of(scan, masks) for scan in scans]
    for i in range(len(scans) if every else 1):
        for j in range(len(scans)):
            if i == j:
                continue
            true = np.linalg.inv(scans[i].transform) @ scans[j].transform
            start = time.perf_counter()
            found = register(
                steady[j][0], scans[j].affine, steady[i][0], scans[i].affine, brains[i], moving_mask=brains[j],
                moving_steady=steady[j][1], reference_steady=steady[i][1], minimum_quality=0.0,
            )  # fmt: skip
            seconds = time.perf_counter() - start
            angle, distance = transform_errors(found.transform, true, whole[j].brain, whole[j].affine)
            print(
                f"{folder.name} {scans[j].name} -> {scans[i].name}: {rotation_angle(true[:3, :3]):.1f} deg, error "
                f"{angle:.3f} deg, {distance:.3f} mm, quality {found.quality:.3f}, {seconds:.1f} s",
                flush=True,
            )


def print_brains(folder: Path) -> None:
    """Print the line of every built-in brain mask."""
    for scan in load_scans(folder):
        start = time.perf_counter()
        mask = brain_mask(scan.magnitude[0], scan.affine)
        seconds = time.perf_counter() - start
        size = voxel_size(scan.affine)
        faults = mask_faults(mask, size)
        outside = float(ndimage.distance_transform_edt(~scan.brain, sampling=size)[mask].max())
        print(
            f"{folder.name} {scan.name}: Dice {dice(mask, scan.brain):.3f}, islands {faults.islands}, enclosed "
            f"{faults.holes}, necks {faults.necks}, farthest outside {outside:.1f} mm, {seconds:.1f} s",
            flush=True,
        )


def main() -> None:
    """Print the lines of simulated folders."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folders", nargs="+", type=Path, metavar="SIMULATED")
    parser.add_argument("--masks", choices=("true", "bet", "none"), default="true")
    parser.add_argument("--all", action="store_true", dest="every")
    parser.add_argument("--cut", type=float, default=0.0, metavar="MM")
    parser.add_argument("--brains", action="store_true")
    arguments = parser.parse_args()
    for folder in arguments.folders:
        if arguments.brains:
            print_brains(folder)
        else:
            print_pairs(folder, arguments.masks, every=arguments.every, cut=arguments.cut)


if __name__ == "__main__":
    main()
