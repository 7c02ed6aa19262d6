"""`chi33 plan`: how well head orientations determine COSMOS and the susceptibility tensor."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import numpy as np
from cyclopts import Parameter


def plan(
    dataset: Path | None = None, /, *, angles: Annotated[str | None, Parameter(allow_leading_hyphen=True)] = None
) -> None:
    """Show how well head orientations determine COSMOS and the susceptibility tensor.

    Give either angles or a folder: derivatives of `chi33 run` (or of `chi33 simulate`) hold the transforms.

    Parameters
    ----------
    dataset
        Derivatives folder with transforms (from-orig_to-subject), or a raw data set with derivatives inside.
    angles
        Head positions as "pitch,roll" or "pitch,roll,yaw" in degrees, joined by semicolons: "0,0;25,0;-25,0;0,25".
    """
    from ..pipeline.errors import InputError
    from ..pipeline.orientations import assess_orientations

    if (dataset is None) == (angles is None):
        raise InputError('give either --angles "0,0;25,0;0,25" or a folder with transforms, not both or neither.')
    named = {"": directions_from_angles(angles)} if angles else directions_from_transforms(Path(dataset))  # type: ignore[arg-type]
    for subject, directions in named.items():
        if subject:
            print(f"sub-{subject}")
        report = assess_orientations(directions)
        for index, h in enumerate(directions):
            tilt = np.degrees(np.arccos(np.clip(h[2], -1, 1)))
            print(f"  scan {index + 1}: B0 at ({h[0]:+.3f}, {h[1]:+.3f}, {h[2]:+.3f}), tilt {tilt:.1f} degrees")
        print(f"  largest angle between two: {report.spread:.1f} degrees")
        kernels = f"max/min of summed squared kernels {report.cosmos_ratio:.1f}"
        print(f"  COSMOS: {kernels}, noise gain {report.cosmos_noise_gain:.2f}")
        condition = f"condition number {report.sti_condition:.1f}, noise gain {report.sti_noise_gain:.2f}"
        print(f"  tensor: rank {report.sti_rank} of 6, {condition}")
        for message in report.messages or ("These orientations determine COSMOS and the tensor.",):
            print(f"  {message}")


def directions_from_angles(text: str) -> list[np.ndarray]:
    """Return B0 directions in the head for "pitch,roll[,yaw];…" in degrees (turns about x, then y, then z)."""
    from scipy.spatial.transform import Rotation

    from ..pipeline.errors import InputError

    directions = []
    for part in text.split(";"):
        try:
            numbers = [float(number) for number in part.split(",")]
        except ValueError:
            numbers = []
        if len(numbers) not in (2, 3) or not np.isfinite(numbers).all():
            raise InputError(f'each position must be "pitch,roll" or "pitch,roll,yaw" in degrees, got {part!r}.')
        turned = Rotation.from_euler("xyz", [*numbers, 0.0][:3], degrees=True).as_matrix()
        directions.append(turned.T[:, 2].copy())
    return directions


def directions_from_transforms(folder: Path) -> dict[str, list[np.ndarray]]:
    """Return the B0 directions in the subject frame by subject, from the transforms under a folder."""
    from ..pipeline.errors import InputError
    from ..pipeline.frames import b0_direction_in_subject_frame
    from ..workflows.derivatives import read_transform

    found: dict[str, list[np.ndarray]] = {}
    for path in sorted(folder.rglob("sub-*_from-orig_to-subject_mode-image_xfm.txt")):
        subject = path.name.partition("_")[0].removeprefix("sub-")
        found.setdefault(subject, []).append(b0_direction_in_subject_frame(read_transform(path)))
    if not found:
        raise InputError(
            f"{folder} holds no transforms (…_from-orig_to-subject_mode-image_xfm.txt): run `chi33 run` first, or give "
            "--angles."
        )
    return found
