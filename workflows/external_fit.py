"""Fits of fields made elsewhere, from files to files (`chi33 fit`)."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..pipeline.errors import Chi33Warning, InputError
from ..pipeline.fits.closed_form import Prior, fit_susceptibility
from ..pipeline.frames import check_affine, check_b0_direction, voxel_frame, voxel_size
from ..pipeline.labels import reference_to_mask, scan_labels
from ..pipeline.resample import resample, resample_mask
from ..pipeline.tensors import rotate_components
from .derivatives import read_image, read_transform, sidecar_path, write_image
from .fit_interfaces import fit_sidecar, subject_b0_direction


@dataclass(frozen=True)
class _Field:
    """A local field on its own grid."""

    path: Path
    field: NDArray[np.float32]
    mask: NDArray[np.bool_]
    affine: NDArray[np.float64]


def fit_files(
    prefix: Path,
    fields: Sequence[Path],
    masks: Sequence[Path],
    *,
    b0_directions: Path | None = None,
    transforms: Sequence[Path] | None = None,
    prior: Prior | None = None,
    noise: float | None = None,
    overwrite: bool = False,
) -> list[Path]:
    """Fit fields in files and write maps beside `prefix`; return the paths written.

    fields: local fields in ppm; masks: one a field or one for all; b0_directions: text file of unit vectors along the
    array axes of the first field (one grid for all), or transforms: world-to-world 4x4 files, moving to reference.
    Raises InputError where files, grids and counts do not fit, or files exist and overwrite is False.
    """
    if (b0_directions is None) == (not transforms):
        raise InputError("give either --b0-directions (fields in one frame) or --transform (one a field), not both.")
    if len(masks) not in (1, len(fields)):
        raise InputError(f"{len(fields)} fields but {len(masks)} masks were given: give one a field, or one for all.")
    scans = [_read(f, masks[i if len(masks) > 1 else 0]) for i, f in enumerate(fields)]
    matrices = _matrices(transforms, len(fields))
    planned = _planned(prefix, len(fields), labels=matrices is not None)
    for path in planned:
        if not overwrite and (path.exists() or sidecar_path(path).exists()):
            raise InputError(f"{path} exists already: pass --overwrite to replace it.")
    affine, shape = scans[0].affine, scans[0].field.shape
    if matrices is None:
        directions = _in_one_frame(scans, Path(b0_directions))  # type: ignore[arg-type]
        moved, inside = [scan.field for scan in scans], [scan.mask for scan in scans]
    else:
        directions = [subject_b0_direction(s.affine, affine, m) for s, m in zip(scans, matrices, strict=True)]
        inside = [resample_mask(s.mask, s.affine, affine, shape, m) for s, m in zip(scans, matrices, strict=True)]
        moved = [
            resample(s.field, s.affine, affine, shape, m) * k for s, m, k in zip(scans, matrices, inside, strict=True)
        ]
    _check_overlap(scans, inside)
    support = np.logical_or.reduce(inside)
    found = fit_susceptibility(moved, voxel_size(affine), directions, prior=prior, noise=noise)
    for message in found.orientations.messages:
        warnings.warn(message, Chi33Warning, stacklevel=2)
    frame = voxel_frame(affine)
    tensor = rotate_components(reference_to_mask(found.tensor, support), frame)
    cosmos = reference_to_mask(found.cosmos, support)
    sidecar: dict[str, Any] = {
        "Units": "ppm",
        "Sources": [path.name for path in fields],
        **fit_sidecar(found, [path.name for path in fields], [(frame @ h).round(8).tolist() for h in directions]),
    }
    write_image(planned[0], cosmos, affine, sidecar)
    write_image(planned[1], tensor, affine, {**sidecar, "Components": ["xx", "xy", "xz", "yy", "yz", "zz"]})
    if matrices is not None:
        _write_labels(planned[2:], scans, matrices, tensor, cosmos, affine)
    return planned


def _read(field_path: Path, mask_path: Path) -> _Field:
    field, affine = read_image(field_path)
    mask, _ = read_image(mask_path)
    if field.ndim != 3:
        raise InputError(f"{field_path} has shape {field.shape}: give a 3-D field map.")
    if mask.shape != field.shape:
        raise InputError(
            f"{mask_path} has shape {mask.shape}, but {field_path.name} has {field.shape}: give its own mask."
        )
    inside = mask > 0
    if not inside.any():
        raise InputError(f"{mask_path} is empty: give a mask of the brain.")
    if not np.isfinite(field[inside]).all():
        raise InputError(f"{field_path} holds NaN or infinity inside its mask: repair the field or the mask.")
    return _Field(
        field_path, np.where(inside, field, np.float32(0)), inside, check_affine(affine, f"affine of {field_path}")
    )


def _matrices(transforms: Sequence[Path] | None, count: int) -> list[NDArray[np.float64]] | None:
    if not transforms:
        return None
    if len(transforms) != count:
        raise InputError(f"{count} fields but {len(transforms)} transforms were given: give one a field.")
    return [read_transform(path) for path in transforms]


def _check_overlap(scans: Sequence[_Field], inside: Sequence[NDArray[np.bool_]]) -> None:
    """Refuse a scan whose mask, on the common grid, touches none of the others."""
    covered = np.stack(inside).sum(axis=0)
    for scan, mask in zip(scans, inside, strict=True):
        if len(scans) > 1 and not (covered[mask] > 1).any():
            raise InputError(
                f"the mask of {scan.path} touches no other scan's mask in the common frame: check its transform and "
                "mask."
            )


def _in_one_frame(scans: Sequence[_Field], path: Path) -> list[NDArray[np.float64]]:
    try:
        rows = np.loadtxt(path, dtype=np.float64, ndmin=2, delimiter="," if "," in path.read_text() else None)
    except (OSError, ValueError) as error:
        raise InputError(f"{path} holds no table of numbers ({error}): give three numbers a line.") from error
    if rows.shape != (len(scans), 3):
        raise InputError(
            f"{path} holds {rows.shape[0]} rows of {rows.shape[1]}: give three numbers for each of {len(scans)} fields."
        )
    for scan in scans[1:]:
        if scan.field.shape != scans[0].field.shape or not np.allclose(scan.affine, scans[0].affine, atol=1e-3):
            raise InputError(f"{scan.path} is on another grid than {scans[0].path}: resample it, or give --transform.")
    directions = [check_b0_direction(row, f"row {i + 1} of {path}") for i, row in enumerate(rows)]
    return directions


def _planned(prefix: Path, count: int, *, labels: bool) -> list[Path]:
    names = ["_cosmos", "_tensor"]
    if labels:
        names += [f"_scan-{i + 1:02d}_{what}" for i in range(count) for what in ("chi33", "deltab", "cosmos")]
    return [prefix.with_name(f"{prefix.name}{name}.nii.gz") for name in names]


def _write_labels(
    planned: Sequence[Path],
    scans: Sequence[_Field],
    matrices: Sequence[NDArray[np.float64]],
    tensor: NDArray,
    cosmos: NDArray,
    affine: NDArray[np.float64],
) -> None:
    for index, (scan, matrix) in enumerate(zip(scans, matrices, strict=True)):
        found = scan_labels(tensor, cosmos, affine, scan.affine, scan.field.shape, matrix, scan.field, scan.mask)
        facts = {"Units": "ppm", "Sources": [scan.path.name]}
        for path, volume in zip(
            planned[3 * index : 3 * index + 3], (found.chi33, found.delta_b, found.cosmos), strict=True
        ):
            write_image(path, volume, scan.affine, facts)
