"""Fits of fields made elsewhere, from files to files (`chi33 fit`)."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..pipeline.errors import Chi33Warning, InputError
from ..pipeline.fits.closed_form import check_device
from ..pipeline.fits.execution import Execution
from ..pipeline.fits.masked import Keep
from ..pipeline.fits.methods import FitOptions, fit_fields
from ..pipeline.fits.uncertainty import Uncertainty
from ..pipeline.frames import check_affine, check_b0_direction, voxel_frame, voxel_size
from ..pipeline.labels import reference_to_mask, scan_labels
from ..pipeline.resample import resample
from ..pipeline.tensors import rotate_components
from .derivatives import read_image, read_transform, sidecar_path, write_image
from .fit_inputs import ScanField, SubjectFields, fit_sidecar, scan_b0_direction, to_subject_frame


@dataclass(frozen=True)
class _Field:
    """A field on its own grid."""

    path: Path
    field: NDArray[np.float32]
    mask: NDArray[np.bool_]
    affine: NDArray[np.float64]
    weight: NDArray[np.float32] | None = None


def fit_files(
    prefix: Path,
    fields: Sequence[Path],
    masks: Sequence[Path],
    *,
    b0_directions: Path | None = None,
    transforms: Sequence[Path] | None = None,
    weights: Sequence[Path] | None = None,
    total: bool = False,
    options: FitOptions | None = None,
    dask: str = "threads",
    memory: float | None = None,
    device: str = "cpu",
    overwrite: bool = False,
    progress: Callable[[str], None] | None = None,
) -> list[Path]:
    """Fit fields in files and write maps beside `prefix`; return the paths written.

    fields: in ppm; masks: where they are known, one a field or one for all; b0_directions: text file of unit vectors
    along the array axes of the first field (one grid for all), or transforms: world-to-world 4x4 files, moving to
    reference; weights: one a field, proportional to 1 / standard deviation; total: the fields hold the background
    (single-step fit); options: method, prior and the rest; dask, memory (GB), device: where the fit runs.
    Raises InputError where files, grids and counts do not fit, or files exist and overwrite is False.
    """
    used = options or FitOptions(method="single-step" if total else "masked")
    if total != (used.method == "single-step"):
        raise InputError(f"the {used.method} fit takes {'local' if total else 'total'} fields: see --total and --fit.")
    if weights and used.method == "closed":
        raise InputError("the closed fit counts all voxels the same: leave out --weights, or give --fit masked.")
    check_device(device)
    if (b0_directions is None) == (not transforms):
        raise InputError("give either --b0-directions (fields in one frame) or --transform (one a field), not both.")
    matrices = _matrices(transforms, len(fields))
    deviations = bool(used.draws or used.jackknife)
    planned = _planned(prefix, len(fields), labels=matrices is not None, deviations=deviations)
    for path in planned:
        if not overwrite and (path.exists() or sidecar_path(path).exists()):
            raise InputError(f"{path} exists already: pass --overwrite to replace it.")
    names = [str(path) for path in fields]
    with Execution(dask, memory=memory) as execution:  # before the long preparation: a scheduler may not be there
        scans = _read_all(fields, masks, weights, execution.keep)
        affine = scans[0].affine
        placed, back = _place(scans, matrices, b0_directions, total, execution.keep)
        found, uncertainty = fit_fields(
            placed.fields, placed.weights, voxel_size(affine), placed.directions, used, execution=execution,
            names=names, device=device, progress=progress,
        )  # fmt: skip
    for message in found.orientations.messages:
        warnings.warn(message, Chi33Warning, stacklevel=2)
    frame = voxel_frame(affine)
    tensor = rotate_components(reference_to_mask(found.tensor, placed.determined), frame)
    cosmos = reference_to_mask(found.cosmos, placed.determined)
    world = [(frame @ h).round(8).tolist() for h in placed.directions]
    sidecar: dict[str, Any] = {
        "Units": "ppm",
        "Sources": [path.name for path in fields],
        **fit_sidecar(
            found, [path.name for path in fields], world, weights="file" if weights else "mask", uncertainty=uncertainty
        ),
    }
    outputs = _Outputs(prefix, affine, sidecar)
    outputs.write("cosmos", cosmos)
    outputs.write("tensor", tensor, {"Components": ["xx", "xy", "xz", "yy", "yz", "zz"]})
    if matrices is not None:
        _write_labels(outputs, scans, matrices, tensor, cosmos)
    if uncertainty is not None:
        outputs.write("cosmossd", uncertainty.cosmos * placed.determined)
        _write_deviations(outputs, scans, uncertainty, placed.determined, back)
    return planned


@dataclass(frozen=True)
class _Outputs:
    """The files beside a prefix: maps on the first grid unless another is given, with one sidecar's facts."""

    prefix: Path
    affine: NDArray[np.float64]
    facts: dict[str, Any]

    def write(self, name: str, volume: NDArray, more: dict[str, Any] | None = None) -> None:
        """Write a map on the first grid."""
        write_image(_path(self.prefix, name), volume, self.affine, {**self.facts, **(more or {})})

    def write_scan(self, index: int, name: str, volume: NDArray, scan: _Field, affine: NDArray) -> None:
        """Write a map of one scan."""
        path = _path(self.prefix, f"scan-{index + 1:02d}_{name}")
        write_image(path, volume, affine, {**self.facts, "Sources": [scan.path.name]})


def _path(prefix: Path, name: str) -> Path:
    return prefix.with_name(f"{prefix.name}_{name}.nii.gz")


def _place(
    scans: Sequence[_Field],
    matrices: Sequence[NDArray[np.float64]] | None,
    b0_directions: Path | None,
    total: bool,
    keep: Keep,
) -> tuple[SubjectFields, list[NDArray[np.float64]] | None]:
    """Return the fields on the first grid, and the transforms from there to each scan (None: all on that grid)."""
    if matrices is None:
        directions = _in_one_frame(scans, Path(b0_directions))  # type: ignore[arg-type]
        transforms = [np.eye(4)] * len(scans)
    else:
        directions = [np.asarray(scan_b0_direction(scan.affine), np.float64) for scan in scans]
        transforms = list(matrices)
    own = [
        ScanField(str(scan.path), scan.field, scan.mask, scan.affine, transform, h, scan.weight)
        for scan, transform, h in zip(scans, transforms, directions, strict=True)
    ]
    placed = to_subject_frame(own, scans[0].affine, scans[0].field.shape, total=total, keep=keep)
    return placed, None if matrices is None else [np.asarray(np.linalg.inv(one), np.float64) for one in matrices]


def _read_all(
    fields: Sequence[Path], masks: Sequence[Path], weights: Sequence[Path] | None, keep: Keep
) -> list[_Field]:
    if len(masks) not in (1, len(fields)):
        raise InputError(f"{len(fields)} fields but {len(masks)} masks were given: give one a field, or one for all.")
    if weights and len(weights) != len(fields):
        raise InputError(f"{len(fields)} fields but {len(weights)} weights were given: give one a field.")
    scans = [_read(field, masks[i if len(masks) > 1 else 0], keep) for i, field in enumerate(fields)]
    if not weights:
        return scans
    return [replace(scan, weight=keep(_read_weight(path, scan))) for scan, path in zip(scans, weights, strict=True)]


def _read_weight(path: Path, scan: _Field) -> NDArray[np.float32]:
    weight, _ = read_image(path)
    if weight.shape != scan.field.shape:
        raise InputError(f"{path} has shape {weight.shape}, but {scan.path.name} has {scan.field.shape}.")
    inside = weight[scan.mask]
    if not np.isfinite(inside).all() or inside.min() < 0 or not inside.any():
        raise InputError(
            f"{path} must hold weights that are finite, not negative and not all zero inside the mask of "
            f"{scan.path.name}."
        )
    return np.where(scan.mask, weight, np.float32(0))


def _read(field_path: Path, mask_path: Path, keep: Keep) -> _Field:
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
    own = check_affine(affine, f"affine of {field_path}")
    return _Field(field_path, keep(np.where(inside, field, np.float32(0))), keep(inside), own)


def _matrices(transforms: Sequence[Path] | None, count: int) -> list[NDArray[np.float64]] | None:
    if not transforms:
        return None
    if len(transforms) != count:
        raise InputError(f"{count} fields but {len(transforms)} transforms were given: give one a field.")
    return [read_transform(path) for path in transforms]


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


def _planned(prefix: Path, count: int, *, labels: bool, deviations: bool) -> list[Path]:
    names = ["cosmos", "tensor"]
    parts = ["chi33", "deltab", "cosmos"] if labels else []
    if deviations:
        names.append("cosmossd")
        parts += ["chi33sd", "deltabsd"]
    names += [f"scan-{i + 1:02d}_{what}" for i in range(count) for what in parts]
    return [_path(prefix, name) for name in names]


def _write_labels(
    outputs: _Outputs,
    scans: Sequence[_Field],
    matrices: Sequence[NDArray[np.float64]],
    tensor: NDArray,
    cosmos: NDArray,
) -> None:
    for index, (scan, matrix) in enumerate(zip(scans, matrices, strict=True)):
        found = scan_labels(
            tensor, cosmos, outputs.affine, scan.affine, scan.field.shape, matrix, scan.field, scan.mask
        )
        for name, volume in (("chi33", found.chi33), ("deltab", found.delta_b), ("cosmos", found.cosmos)):
            outputs.write_scan(index, name, volume, scan, scan.affine)


def _write_deviations(
    outputs: _Outputs,
    scans: Sequence[_Field],
    uncertainty: Uncertainty,
    determined: NDArray[np.bool_],
    back: Sequence[NDArray[np.float64]] | None,
) -> None:
    for index, scan in enumerate(scans):
        for name, volume in (("chi33sd", uncertainty.chi33[index]), ("deltabsd", uncertainty.delta_b[index])):
            volume = volume * determined
            if back is not None:
                volume = resample(volume, outputs.affine, scan.affine, scan.field.shape, back[index], order=1)
            outputs.write_scan(index, name, volume, scan, outputs.affine if back is None else scan.affine)
