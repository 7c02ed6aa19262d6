"""Fits of fields made elsewhere, from files to files (`chi33 fit`)."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..files.derivatives import remove_image, sidecar_path, write_image
from ..files.errors import Chi33Warning, InputError
from ..files.maps.units import NOTHING_GIVEN, Given
from ..pipeline.fits.closed_form import check_device
from ..pipeline.fits.execution import Execution
from ..pipeline.fits.masked import Keep
from ..pipeline.fits.methods import FitOptions, fit_fields
from ..pipeline.fits.result import Fit
from ..pipeline.fits.uncertainty import Uncertainty
from ..pipeline.frames import voxel_frame, voxel_size
from ..pipeline.labels import reference_to_mask, scan_deviations, scan_labels
from ..pipeline.physics.tensors import rotate_components
from .fit_files import GivenFiles, GivenScan, read_given
from .fit_inputs import ScanField, SubjectFields, fit_sidecar, fit_warnings, to_subject_frame
from .tissue_files import TissueFiles

TISSUE_FROM_DATA = TissueFiles()
_PLAUSIBLE = (0.004, 0.1)  # ppm, of the standard deviation of a brain's susceptibility


def fit_files(
    prefix: Path,
    fields: Sequence[Path],
    masks: Sequence[Path],
    *,
    b0_directions: Path | None = None,
    transforms: Sequence[Path] | None = None,
    weights: Sequence[Path] | None = None,
    given: Given = NOTHING_GIVEN,
    total: bool = False,
    options: FitOptions | None = None,
    dask: str = "threads",
    memory: float | None = None,
    device: str = "cpu",
    overwrite: bool = False,
    progress: Callable[[str], None] | None = None,
    tissue: TissueFiles = TISSUE_FROM_DATA,
) -> list[Path]:
    """Fit fields in files and write maps beside `prefix`; return the paths written.

    fields: in ppm of B0 by their sidecars, or in what these or `given` say and ppm can be told from; masks: where they
    are known, one a field or one for all; b0_directions: text file of unit vectors along the array axes of the first
    field (one grid for all), or transforms: world-to-world 4x4 files, moving to reference; with neither, fields on one
    grid whose sidecars state B0_dir; weights: one a field, proportional to 1 / standard deviation; total: the fields
    hold the background (single-step fit); options: method, prior and the rest; tissue: what its prior is told of white
    matter and fibres; dask, memory (GB), device: where the fit
    runs. Raises InputError where files, grids, units and counts do not fit, where transforms do not bring the scans
    onto one another, or files exist and overwrite is False.
    """
    used = options or FitOptions(method="single-step" if total else "masked")
    if total != (used.method == "single-step"):
        raise InputError(f"the {used.method} fit takes {'local' if total else 'total'} fields: see --total and --fit.")
    if weights and used.method == "closed":
        raise InputError("the closed fit counts all voxels the same: leave out --weights, or give --fit masked.")
    check_device(device)
    tissue.check(used.method)
    files = GivenFiles(fields, masks, b0_directions, transforms, weights)
    files.check()
    deviations = bool(used.draws or used.jackknife)
    planned = _planned(
        prefix, len(fields), labels=bool(transforms), deviations=deviations,
        frequency=used.method != "closed" and tissue.frequency != 0,
    )  # fmt: skip
    for path in planned:
        if not overwrite and (path.exists() or sidecar_path(path).exists()):
            raise InputError(f"{path} exists already: pass --overwrite to replace it.")
    with Execution(dask, memory=memory) as execution:  # before the long preparation: a scheduler may not be there
        scans, said = read_given(files, total=total, given=given.check(), keep=execution.keep)
        _tell(said, scans, progress)
        affine = scans[0].input.affine
        placed = _place(scans, total, execution.keep)
        used = replace(used, anatomy=tissue.options(placed.determined, affine))
        found, uncertainty = fit_fields(
            placed.fields, placed.weights, voxel_size(affine), placed.directions, used, execution=execution,
            names=[str(path) for path in fields], device=device, progress=progress,
        )  # fmt: skip
    for message in fit_warnings(found, [scan.input.path.name for scan in scans]):
        warnings.warn(message, Chi33Warning, stacklevel=2)
    _write_all(prefix, scans, placed, found, uncertainty, own_grids=bool(transforms))
    if found.frequency is None and (none := _path(prefix, "frequency")) in planned:
        planned.remove(none)
        remove_image(none)
    return planned


def _write_all(
    prefix: Path,
    scans: Sequence[GivenScan],
    placed: SubjectFields,
    found: Fit,
    uncertainty: Uncertainty | None,
    *,
    own_grids: bool,
) -> None:
    affine, names = scans[0].input.affine, [scan.input.path.name for scan in scans]
    frame = voxel_frame(affine)
    tensor = rotate_components(reference_to_mask(found.tensor, placed.determined), frame)
    cosmos = reference_to_mask(found.cosmos, placed.determined)
    _check_result(cosmos, placed.determined)
    world = [(frame @ h).round(8).tolist() for h in placed.directions]
    weights = "mask" if scans[0].weight is None else "file"
    sidecar: dict[str, Any] = {
        "Units": "ppm",
        "Sources": names,
        **_source_facts(scans),
        **fit_sidecar(found, names, world, weights=weights, uncertainty=uncertainty),
    }
    outputs = _Outputs(prefix, affine, sidecar)
    outputs.write("cosmos", cosmos)
    outputs.write("tensor", tensor, {"Components": ["xx", "xy", "xz", "yy", "yz", "zz"]})
    if found.frequency is not None:
        outputs.write("frequency", found.frequency * placed.determined)
    if own_grids:
        _write_labels(outputs, scans, tensor, cosmos, placed.determined)
    if uncertainty is not None:
        outputs.write("cosmossd", uncertainty.cosmos * placed.determined)
        _write_deviations(outputs, scans, uncertainty, placed.determined, own_grids=own_grids)


@dataclass(frozen=True)
class _Outputs:
    """The files beside a prefix: maps on the first grid unless another is given, with one sidecar's facts."""

    prefix: Path
    affine: NDArray[np.float64]
    facts: dict[str, Any]

    def write(self, name: str, volume: NDArray[Any], more: dict[str, Any] | None = None) -> None:
        """Write a map on the first grid."""
        write_image(_path(self.prefix, name), volume, self.affine, {**self.facts, **(more or {})})

    def write_scan(self, index: int, name: str, volume: NDArray[Any], scan: GivenScan, affine: NDArray[Any]) -> None:
        """Write a map of one scan."""
        path = _path(self.prefix, f"scan-{index + 1:02d}_{name}")
        own = {"Sources": [scan.input.path.name], **scan.input.facts}
        write_image(path, volume, affine, {**self.facts, **own})


def _path(prefix: Path, name: str) -> Path:
    return prefix.with_name(f"{prefix.name}_{name}.nii.gz")


def _tell(said: Sequence[str], scans: Sequence[GivenScan], progress: Callable[[str], None] | None) -> None:
    """Say what was made of the files: conversions and what is doubtful as warnings, units taken as ppm as a line."""
    for remark in dict.fromkeys(said):
        warnings.warn(remark, Chi33Warning, stacklevel=3)
    silent = sum(not scan.input.scaling.stated for scan in scans)
    if silent and progress is not None:
        progress(f"units: {silent} of {len(scans)} fields state no Units and are taken as ppm of B0 (see --units)")


def _place(scans: Sequence[GivenScan], total: bool, keep: Keep) -> SubjectFields:
    """Return the fields on the first grid."""
    own = [
        ScanField(
            str(scan.input.path),
            scan.input.field,
            scan.input.mask,
            scan.input.affine,
            scan.transform,
            scan.input.b0_direction,
            scan.weight,
        )
        for scan in scans
    ]  # fmt: skip
    return to_subject_frame(own, scans[0].input.affine, scans[0].input.field.shape, total=total, keep=keep)


def _source_facts(scans: Sequence[GivenScan]) -> dict[str, Any]:
    """Return what is the same in all fields' facts, and the units of each where they differ."""
    facts = [scan.input.facts for scan in scans]
    common = {key: value for key, value in facts[0].items() if all(one.get(key) == value for one in facts)}
    if "SourceUnits" not in common:
        common["SourceUnits"] = [one["SourceUnits"] for one in facts]
    return common


def _check_result(cosmos: NDArray[np.floating], determined: NDArray[np.bool_]) -> None:
    spread = float(cosmos[determined].std())
    if not _PLAUSIBLE[0] <= spread <= _PLAUSIBLE[1]:
        warnings.warn(
            f"the fitted susceptibility has a standard deviation of {spread:.2g} ppm, a brain's is 0.02 to 0.05: check "
            "the units of the fields, and their masks.",
            Chi33Warning,
            stacklevel=3,
        )


def _planned(prefix: Path, count: int, *, labels: bool, deviations: bool, frequency: bool) -> list[Path]:
    names = ["cosmos", "tensor"]
    parts = ["chi33", "deltab", "cosmos"] if labels else []
    if frequency:
        names.append("frequency")
    if deviations:
        names.append("cosmossd")
        parts += ["chi33sd", "deltabsd"]
    names += [f"scan-{i + 1:02d}_{what}" for i in range(count) for what in parts]
    return [_path(prefix, name) for name in names]


def _write_labels(
    outputs: _Outputs, scans: Sequence[GivenScan], tensor: NDArray[Any], cosmos: NDArray[Any], brain: NDArray[np.bool_]
) -> None:
    for index, scan in enumerate(scans):
        own = scan.input
        found = scan_labels(
            tensor, cosmos, outputs.affine, own.affine, own.field.shape, scan.transform, own.field, own.mask,
            b0_direction=own.b0_direction, brain=brain,
        )  # fmt: skip
        for name, volume in (("chi33", found.chi33), ("deltab", found.delta_b), ("cosmos", found.cosmos)):
            outputs.write_scan(index, name, volume, scan, own.affine)


def _write_deviations(
    outputs: _Outputs,
    scans: Sequence[GivenScan],
    uncertainty: Uncertainty,
    determined: NDArray[np.bool_],
    *,
    own_grids: bool,
) -> None:
    for index, scan in enumerate(scans):
        affine = scan.input.affine
        found = np.stack([uncertainty.chi33[index], uncertainty.delta_b[index]]) * determined
        if own_grids:
            found = scan_deviations(found, outputs.affine, affine, scan.transform, scan.input.mask)
        for name, volume in zip(("chi33sd", "deltabsd"), found, strict=True):
            outputs.write_scan(index, name, volume, scan, affine if own_grids else outputs.affine)
