"""Where B0 lay in the head in each scan of a folder: from transforms, and from B0_dir where it is stated."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ...files.b0_direction import stated_b0_direction
from ...files.derivatives import read_transform
from ...files.errors import InputError
from ...files.manifest import read_manifest
from ...files.nifti import open_image
from ...files.sidecars import read_json
from ...pipeline.frames import check_affine, rotation_and_scale, voxel_frame
from .dataset import find_subjects
from .given_directions import directions_of_aligned

_TRANSFORM = "_from-orig_to-subject_mode-image_xfm.txt"
_SAME = 1e-3


@dataclass(frozen=True)
class ScanDirection:
    """A scan by its transform file, and its unit vector of B0 (3,) in the subject frame."""

    transform: Path
    direction: NDArray[np.float64]


def scan_directions(folder: Path) -> dict[str, list[ScanDirection]]:
    """Return the scans under a folder by subject label, each with its direction of B0 in the subject frame.

    Of a subject that `chi33 run` made, its last run's scans alone (its manifest). B0 lies along the scan's world +z, or
    where the B0_dir (voxel frame) of its raw images or maps says. Raises InputError where a file is damaged, the
    sidecars of a scan contradict one another, or two folders hold the same scan.
    """
    found: dict[str, list[ScanDirection]] = {}
    seen: dict[str, Path] = {}
    sidecars = [path for path in sorted(Path(folder).rglob("sub-*.json")) if "_space-" not in path.name]
    for path in sorted(Path(folder).rglob(f"sub-*{_TRANSFORM}")):
        subject = path.name.partition("_")[0].removeprefix("sub-")
        if not _is_current(path, subject):
            continue
        if path.name in seen:
            raise InputError(f"{seen[path.name]} and {path} are the same scan: give the folder of one of them.")
        seen[path.name] = path
        rotation, _ = rotation_and_scale(read_transform(path), str(path))
        found.setdefault(subject, []).append(ScanDirection(path, rotation @ _world_direction(path, sidecars)))
    return found


def raw_directions(folder: Path) -> dict[str, list[NDArray[np.float64]]]:
    """Return the directions of B0 (3,) in the world of raw scans that share one grid and state B0_dir, by subject.

    Raises InputError where a folder holds no raw scans either, or they are on grids of their own or state no B0_dir.
    """
    try:
        subjects = find_subjects(Path(folder))
    except InputError as error:
        raise InputError(
            f"{folder} holds no transforms (…_from-orig_to-subject_mode-image_xfm.txt): run `chi33 run` first, or give "
            "--angles."
        ) from error
    found = {}
    for subject in subjects:
        images = [open_image(scan.magnitude[0]) for scan in subject.scans]
        found[subject.label] = directions_of_aligned(subject, [(one.shape[:3], one.affine) for one in images])
    return found


def _is_current(path: Path, subject: str) -> bool:
    """Tell whether a transform belongs to its subject's last run; without a manifest all do."""
    out_dir = next((parent.parent for parent in path.parents if parent.name == f"sub-{subject}"), None)
    manifest = None if out_dir is None else read_manifest(out_dir, subject)
    return manifest is None or manifest.lists(path)


def _world_direction(transform: Path, sidecars: Sequence[Path]) -> NDArray[np.float64]:
    """B0 (3,) in a scan's world: what the sidecars of its images state along their arrays, else +z."""
    prefix = transform.name.removesuffix(_TRANSFORM) + "_"
    found: tuple[Path, NDArray[np.float64]] | None = None
    for sidecar in sidecars:
        h = stated_b0_direction(read_json(sidecar), sidecar) if sidecar.name.startswith(prefix) else None
        image = None if h is None else _image_of(sidecar, prefix)
        if h is None or image is None:
            continue
        direction = voxel_frame(check_affine(open_image(image).affine, f"affine of {image}")) @ h
        if found is not None and np.abs(direction - found[1]).max() > _SAME:
            raise InputError(f"{found[0]} and {sidecar} state different B0_dir of one scan: correct one of them.")
        found = found or (sidecar, direction)
    return np.array([0.0, 0.0, 1.0]) if found is None else found[1]


def _image_of(sidecar: Path, prefix: str) -> Path | None:
    """Return the image a sidecar lies beside, or one of its scan where it is inherited."""
    own = (sidecar.with_suffix(ending) for ending in (".nii.gz", ".nii"))
    return next((path for path in (*own, *sorted(sidecar.parent.glob(f"{prefix}*.nii*"))) if path.is_file()), None)
