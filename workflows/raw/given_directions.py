"""Directions of B0 that a user gives for scans whose affines do not tell them, and scans that need them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ...files.errors import InputError
from ...files.grids import same_grid
from ...pipeline.frames import check_b0_direction, rotation_and_scale, rotation_angle, voxel_frame
from ...pipeline.orientations.conditioning import COSMOS_MIN_SPREAD
from .scan import RawScan, RawSubject

_REMEDY = "state B0_dir (unit vector along the array axes) in the sidecar of each scan, or give --b0-directions"
Direction = tuple[float, float, float]


def with_directions(subjects: Sequence[RawSubject], path: Path | None) -> list[RawSubject]:
    """Return subjects whose scans have the directions of B0 (voxel frame) that a text file gives; None: as they are.

    A line holds three numbers, a line a scan of the one subject in the order of the scans' names, or the name of a scan
    (acq-ori01, sub-01_acq-ori01) and three numbers. They win over B0_dir of the sidecars. Raises InputError.
    """
    if path is None:
        return list(subjects)
    rows = read_directions(path)
    names = [(subject.label, scan) for subject in subjects for scan in subject.scans]
    if all(not name for name, _ in rows):
        if len(subjects) > 1 or len(rows) != len(names):
            raise InputError(
                f"{path} holds {len(rows)} directions for {len(names)} scans of {len(subjects)} subject(s): give one "
                "line a scan of one subject, or the name of the scan before each."
            )
        found = [h for _, h in rows]
    else:
        found = [_of_scan(path, rows, label, scan) for label, scan in names]
    given = iter(found)
    return [
        replace(subject, scans=tuple(replace(scan, b0_direction=next(given)) for scan in subject.scans))
        for subject in subjects
    ]


def read_directions(path: Path) -> list[tuple[str, Direction]]:
    """Return the names ("" for none) and directions of a file's lines; raises InputError."""
    try:
        lines = Path(path).read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path} cannot be read ({error}): give a text file of one direction a scan.") from error
    rows = []
    for number, line in enumerate(lines, start=1):
        words = line.partition("#")[0].replace(",", " ").split()
        if not words:
            continue
        name = words.pop(0) if len(words) == 4 else ""
        try:
            x, y, z = (float(word) for word in words)
        except ValueError:
            raise InputError(
                f"line {number} of {path} is {line.strip()!r}: give three numbers, the unit vector of B0 along the "
                "array axes, and before them a scan's name where several subjects are run."
            ) from None
        h = check_b0_direction((x, y, z), f"line {number} of {path}")
        rows.append((name, (float(h[0]), float(h[1]), float(h[2]))))
    if not rows:
        raise InputError(f"{path} holds no direction: give three numbers a scan.")
    return rows


def _of_scan(path: Path, rows: Sequence[tuple[str, Direction]], label: str, scan: RawScan) -> Direction:
    called = {scan.name, f"sub-{label}_{scan.name}", scan.name.removeprefix("acq-")}
    found = [h for name, h in rows if name in called]
    if len(found) != 1:
        raise InputError(
            f"{path} holds {len(found)} lines of sub-{label}_{scan.name}: give one with its name and three numbers."
        )
    return found[0]


def shared_direction_problem(
    grids: Sequence[tuple[tuple[int, ...], NDArray[np.float64]]],
    transforms: Sequence[NDArray[np.float64]],
    stated: Sequence[Direction | None],
) -> str:
    """Return why nothing tells how the heads lay to B0, a sentence, or "".

    grids: shape and affine (4, 4) of each scan; transforms: to the subject frame (4, 4); stated: B0 in the voxel frame
    of each scan where it is known otherwise than by the affine. Scans on one grid whose heads lie alike were resampled
    after they were scanned, and their affine then gives all the same direction.
    """
    shape, affine = grids[0]
    if len(grids) < 2 or all(h is not None for h in stated):
        return ""
    if not all(other == shape and same_grid(own, affine, shape) for other, own in grids):
        return ""
    rotations = [rotation_and_scale(one)[0] for one in transforms]
    angle = max(rotation_angle(one @ rotations[0].T) for one in rotations)
    if angle >= COSMOS_MIN_SPREAD:
        return ""
    return (
        f"the scans share one grid and the heads in them lie alike (to {angle:.1f} degrees), so they were resampled "
        f"or not tilted, and nothing tells how each lay to B0: {_REMEDY}."
    )


def directions_of_aligned(
    subject: RawSubject, grids: Sequence[tuple[tuple[int, ...], NDArray[np.float64]]]
) -> list[NDArray[np.float64]]:
    """Return the directions of B0 (3,) in the world of scans that share one grid and state them.

    grids: shape and affine of each scan. Raises InputError where they do not share a grid or one states none.
    """
    shape, affine = grids[0]
    if not all(other == shape and same_grid(own, affine, shape) for other, own in grids):
        raise InputError(
            f"the scans of sub-{subject.label} lie on grids of their own, so only a registration tells how the head "
            "lay: give the derivatives of `chi33 run`, or --angles."
        )
    silent = [scan.name for scan in subject.scans if scan.b0_direction is None]
    if silent:
        raise InputError(
            f"the scans of sub-{subject.label} share one grid and {', '.join(silent)} states no B0_dir: {_REMEDY}, or "
            "give the derivatives of `chi33 run`, whose registration finds rotated heads."
        )
    return [voxel_frame(affine) @ np.asarray(scan.b0_direction) for scan in subject.scans]
