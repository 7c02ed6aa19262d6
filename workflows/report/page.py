"""The subject's report, `OUT/sub-01.html`: all it shows is read from derivatives, of a failed run nothing."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np

from ... import __version__
from ...files.derivatives import Derivatives
from ...pipeline.frames import GYROMAGNETIC_RATIO, FloatArray
from ...pipeline.orientations.conditioning import OrientationReport, assess_orientations
from .checks import Check, check_echoes, check_fit, check_scans, check_sign, collect_warnings, counted, quantity
from .failure import failed_page, stated_errors
from .files import ScanFiles, SubjectFiles, find_scans
from .group import Summary, summarise, write_group_index, write_page, write_summary
from .measures import DEVIATIONS, ScanMeasures, SubjectMeasures, measure_scans, measure_subject
from .methods import fit_rows, flatten, lookup, recorded, uncertainty_words, write_methods
from .orientations import conditioning, next_scan, sphere
from .pictures import (
    TITLES,
    Picture,
    map_picture,
    picture_scales,
    registration_pictures,
    scan_pictures,
    subject_pictures,
    tensor_pictures,
)
from .plots import chi33_histogram, convergence
from .regions import RegionTable, region_table
from .template import render_subject

_CONVENTION = "Neurological convention: the left of a picture is the subject's left (L, R; P posterior, A anterior)."
_COLUMNS = (  # number, title, unit, digits, factor
    ("tilt", "B0 tilt", "°", 2, 1),
    ("rotation", "Rotation", "°", 2, 1),
    ("shift", "Shift", "mm", 2, 1),
    ("scale", "Scale", "", 4, 1),
    ("quality", "Agreement", "of brains", 2, 1),
    ("mask_dice", "Mask", "Dice, others", 3, 1),
    ("brain_volume", "Brain", "ml", 0, 1),
    ("valid_share", "Field valid", "% of brain", 1, 100),
    ("total_std", "Total field", "std, ppm", 4, 1),
    ("local_std", "Local field", "std, ppm", 4, 1),
    ("residual_std", "Residual", "std, ppm", 4, 1),
    ("residual_ratio", "Residual", "% of local", 0, 100),
    ("chi33_std", "χ33", "std, ppm", 4, 1),
    ("correlation", "Correlation", "χ33, COSMOS", 2, 1),
    ("noise", "Noise", "ppm", 4, 1),
    ("reduced_chi2", "Reduced χ²", "of the fit", 2, 1),
    ("score_tensor", "Held out, tensor", "% of local", 0, 100),
    ("score_cosmos", "Held out, COSMOS", "% of local", 0, 100),
)


_Column = tuple[str, str, str, int, float]  # key, title, unit, digits, factor
_DEVIATION_COLUMNS = (
    ("chi33sd_median", "χ33", "median, ppm"),
    ("chi33sd_p95", "χ33", "95th percentile, ppm"),
    ("deltabsd_median", "δB′", "median, ppm"),
    ("cosmossd_median", "COSMOS", "median, ppm"),
)
_IN_HERTZ = ("total_std", "local_std", "residual_std", "noise")  # columns in ppm of B0
_CHI_SQUARE = (
    "Noise: the standard deviation of what the fit leaves of a scan's field, at the median voxel, by which the scan "
    "counts. Reduced χ²: the mean square of what the fit leaves of a scan's field, over the square of the noise and "
    "the share of freedom left; 1 where it is the noise alone, less where the noise was assumed larger than it is."
)


def write_subject_report(
    out_dir: Path,
    subject: str,
    provenance: Mapping[str, Any],
    *,
    warned: Callable[[str], None] | None = None,
    rois: Path | None = None,
) -> Path:
    """Write `OUT/sub-<subject>.html` from the derivatives of a subject; return its path.

    Where the subject has a manifest, only what it lists is read. provenance: nested mappings, shown as a table. The
    methods paragraph uses, at any depth, the keys backend, tools ({name: version}), fit and the parameters of
    RunConfig; `stages` ([{stage, seconds}]) becomes a table of times, with `began` and `ended` (ISO 8601) beside it;
    `warnings` and `errors` ([sentence]) stand on top. warned: called with each warning that is not among these; rois:
    regions, as of region_table. Maps that are not there are left out. The subject's line of the group and how to cite
    its methods go to OUT/logs. Raises InputError where the subject has no scan, a scan has no mask, or maps do not lie
    on the grid of their mask.
    """
    shown = _gather(Path(out_dir), subject, provenance, rois)
    if warned is not None:
        for warning in shown.warnings:
            if warning not in (provenance.get("warnings") or ()):
                warned(warning)
    methods = write_methods(provenance, shown.record)
    page = render_subject(
        title=f"sub-{subject}", methods=methods, **_content(shown, subject), **_provenance(provenance)
    )
    path = write_page(shown.files.place.report, page)
    write_summary(Path(out_dir), _summary(shown, subject, provenance), methods)
    return path


def write_error_report(out_dir: Path, subject: str, error: str, provenance: Mapping[str, Any]) -> Path:
    """Write `OUT/sub-<subject>.html` of a run that failed: why, at which step, where its log is; return its path.

    error: the sentence that the user saw, as of explain_crash; provenance: as of write_subject_report, `step`, `log`
    and `crash` where the sentence does not name them. No map is shown: what lies in the folder is of an earlier run or
    of a part of this one.
    """
    page = failed_page(Path(out_dir), subject, error, provenance, date=_now())
    path = write_page(Derivatives(Path(out_dir), subject).report, page)
    write_summary(Path(out_dir), Summary(f"sub-{subject}", "failed", error=error))
    return path


@dataclass(frozen=True)
class _Shown:
    """All that a subject's page is made of; undetermined: why the tensor is not shown as measured, or empty."""

    files: SubjectFiles
    found: Sequence[ScanFiles]
    subject: SubjectMeasures
    scans: Sequence[ScanMeasures]
    directions: Sequence[FloatArray]
    orientations: OrientationReport | None
    undetermined: str
    regions: RegionTable | None
    checks: Sequence[Check]
    warnings: tuple[str, ...]
    errors: tuple[str, ...]

    @property
    def record(self) -> Mapping[str, Any]:
        """What the tensor's sidecar says of the fit."""
        return self.subject.record


def _gather(out_dir: Path, subject: str, provenance: Mapping[str, Any], rois: Path | None) -> _Shown:
    """Read and measure what the page shows; arguments as of write_subject_report."""
    found, files = find_scans(out_dir, subject), SubjectFiles.of(out_dir, subject)
    in_subject = measure_subject(files)
    record = in_subject.record
    scans = with_fit_numbers(measure_scans(found), record)
    alone = len(scans) == 1 and lookup(provenance, "fit") == "none"
    directions = [scan.b0_direction for scan in scans if scan.b0_direction is not None]
    orientations = assess_orientations(directions) if len(directions) == len(scans) and not alone else None
    undetermined = _undetermined(orientations, record)
    regions = region_table(found, files, Path(rois), determined=not undetermined) if rois is not None else None
    checks = (*check_scans(scans), *check_echoes(scans), *check_sign(in_subject, provenance), *check_fit(record))
    warnings = collect_warnings(scans, checks, orientations, provenance)
    if rois is not None and regions is None and any("chi33" in scan.planes for scan in scans):
        warnings += (f"No region of {Path(rois).name} lies where the labels of sub-{subject} are: check its frame.",)
    return _Shown(
        files, found, in_subject, scans, directions, orientations, undetermined, regions, checks, warnings,
        stated_errors(provenance),
    )  # fmt: skip


def _content(shown: _Shown, subject: str) -> dict[str, Any]:
    """Return what the page says and shows, by the names of its template, but for methods and provenance."""
    oriented, unknown = shown.orientations, bool(shown.undetermined)
    date = _now()
    summary = f"{counted(len(shown.scans), 'scan')}, {counted(len(shown.warnings), 'warning')}, report of {date}"
    return {
        "version": __version__,
        "date": date,
        "summary": f"failed: {summary}" if shown.errors else summary,
        "errors": shown.errors,
        "warnings": shown.warnings,
        "sphere": sphere(shown.directions) if oriented else None,
        "orientations": conditioning(oriented) if oriented else None,
        "plan": next_scan(shown.directions, shown.record, subject) if oriented else None,
        "fit": fit_rows(shown.record),
        "convergence": convergence(shown.record),
        "undetermined": shown.undetermined,
        "subject_pictures": subject_pictures(shown.subject, undetermined=unknown),
        "tensor_pictures": tensor_pictures(shown.subject, undetermined=unknown),
        "regions": _region_words(shown.regions) if shown.regions else None,
        "uncertainty": _uncertainty(shown.scans, shown.record),
        "convention": _CONVENTION,
        "checks": shown.checks,
        **_scan_content(shown.scans, registration_pictures(shown.found, shown.files)),
    }


def _summary(shown: _Shown, subject: str, provenance: Mapping[str, Any]) -> Summary:
    """Return the subject's line of the group."""
    return summarise(
        subject, shown.scans, shown.orientations, shown.record, fit=lookup(provenance, "fit"),
        warnings=len(shown.warnings), errors=shown.errors,
    )  # fmt: skip


def _now() -> str:
    return f"{datetime.now(UTC):%Y-%m-%d %H:%M} UTC"


def with_fit_numbers(scans: Sequence[ScanMeasures], record: Mapping[str, Any]) -> list[ScanMeasures]:
    """Return the scans with the numbers `noise` (ppm), `score_tensor`, `score_cosmos` (shares) and `reduced_chi2`.

    They are the fit's own where it recorded them. Else, of the latter, for a fit of local fields, the square of the
    standard deviation of the residual over that of the noise, where the local field is valid; none for a single-step
    fit, whose residual is not that of that field.
    """
    own = dict(zip(record.get("Scans") or (), record.get("ReducedChiSquare") or (), strict=False))
    recorded_numbers = {
        number: dict(zip(record.get("Scans") or (), record.get(key) or (), strict=False))
        for number, key in (("noise", "ScanNoisePpm"), ("score_tensor", "ScoreTensor"), ("score_cosmos", "ScoreCosmos"))
    }
    noise, local = recorded(record, "FieldNoisePpm"), record.get("Fit") in ("closed", "masked")
    found = []
    for scan in scans:
        value, residual = own.get(scan.raw_name), scan.number("residual_std")
        if value is None and local and noise and residual is not None:
            value = (residual / noise) ** 2
        numbers = {key: of_scan.get(scan.raw_name) for key, of_scan in recorded_numbers.items()}
        numbers["reduced_chi2"] = value
        known = {key: float(number) for key, number in numbers.items() if number is not None}
        found.append(replace(scan, numbers=scan.numbers | known) if known else scan)
    return found


def _undetermined(orientations: OrientationReport | None, record: Mapping[str, Any]) -> str:
    """Why the tensor is not shown as measured; empty where the orientations determine it, or are not known."""
    rank = recorded(record, "TensorRank")
    if rank is None and orientations is not None:
        rank = orientations.sti_rank
    if rank is None or rank >= 6:
        return ""
    return (
        f"The tensor is not determined by these orientations (rank {rank:.0f} of 6): its components, MSA and the "
        "principal eigenvector come from the prior where the scans leave them open, and are not shown as measured."
    )


def _scan_content(scans: Sequence[ScanMeasures], registrations: Mapping[str, Picture]) -> dict[str, Any]:
    """Return what the page says and shows of each scan."""
    scales, columns = picture_scales(scans), _columns(scans)
    sections = []
    for scan in scans:
        pictures = scan_pictures(scan, scales)
        if scan.name in registrations:
            pictures.append(registrations[scan.name])
        sections.append({"name": scan.name, "cells": _cells(scan, columns), "pictures": pictures})
    return {
        "columns": [
            {"title": "Voxels", "unit": "mm"},
            *({"title": title, "unit": unit} for _, title, unit, *_ in columns),
        ],
        "scans": sections,
        "hertz": _hertz_words(scans),
        "chi_square": _CHI_SQUARE if any(column[0] == "reduced_chi2" for column in columns) else "",
        "histogram": chi33_histogram(scans),
    }


def _columns(scans: Sequence[ScanMeasures]) -> list[_Column]:
    """Return the columns of which any scan has a number."""
    return [column for column in _COLUMNS if any(scan.number(column[0]) is not None for scan in scans)]


def _cells(scan: ScanMeasures, columns: Sequence[_Column]) -> list[tuple[str, str]]:
    """Return a scan's cells: the text, and what stands beside it on hover."""
    cells = [(" × ".join(f"{edge:.3g}" for edge in scan.voxel_size), "")]
    for key, _, _, digits, factor in columns:
        value, hover = scan.number(key), ""
        if key in _IN_HERTZ and value is not None and scan.tesla is not None:
            hover = f"{value * GYROMAGNETIC_RATIO * scan.tesla:.2f} Hz"
        cells.append((quantity(None if value is None else factor * value, digits), hover))
    return cells


def _hertz_words(scans: Sequence[ScanMeasures]) -> str:
    fields = sorted({scan.tesla for scan in scans if scan.tesla is not None})
    said = [f"{GYROMAGNETIC_RATIO * tesla:.1f} Hz at {tesla:.4g} T" for tesla in fields]
    return f"A field of 1 ppm is {', '.join(said)}." if said else ""


def _region_words(table: RegionTable) -> dict[str, Any]:
    rows = [
        (name, [quantity(value, 2 if index == 0 else 4) for index, value in enumerate(numbers)])
        for name, numbers in table.rows
    ]
    return {"source": table.source, "columns": table.columns, "rows": rows}


def _uncertainty(scans: Sequence[ScanMeasures], record: Mapping[str, Any]) -> dict[str, Any] | None:
    """Return the standard deviations: maps of the reference scan, which moved least, and numbers of every scan."""
    known = [scan for scan in scans if any(desc in scan.planes for desc in DEVIATIONS)]
    if not known:
        return None
    reference = min(known, key=lambda scan: np.inf if scan.rotation is None else scan.rotation)
    columns = [one for one in _DEVIATION_COLUMNS if any(one[0] in scan.numbers for scan in known)]
    scales = picture_scales(scans)
    return {
        "sentence": uncertainty_words(record) or "How they were estimated is not recorded.",
        "pictures": [
            map_picture(
                TITLES[desc], f" of scan {reference.name}", reference.planes[desc], scales[desc], reference.brain
            )
            for desc in DEVIATIONS
            if desc in reference.planes
        ],
        "reference": reference.name,
        "columns": [{"title": title, "unit": unit} for _, title, unit in columns],
        "rows": [
            (f"{number} · {scan.name}", [quantity(scan.number(key), 4) for key, *_ in columns])
            for number, scan in enumerate(scans, 1)
            if scan in known
        ],
    }


def _provenance(provenance: Mapping[str, Any]) -> dict[str, Any]:
    """Return the times of the stages, how long the run took, and the rest as rows."""
    stages = [(str(one["stage"]), f"{float(one['seconds']):.1f}") for one in provenance.get("stages") or ()]
    left_out = ("stages", "warnings", "errors")
    rows = list(flatten({key: value for key, value in provenance.items() if key not in left_out}))
    return {"stages": stages, "wall": _wall(provenance), "record": rows}


def _wall(provenance: Mapping[str, Any]) -> str:
    """How long the run took from start to end, in words; empty where that is not recorded."""
    try:
        began, ended = (datetime.fromisoformat(str(provenance[key])) for key in ("began", "ended"))
        minutes, seconds = divmod(round((ended - began).total_seconds()), 60)
    except (KeyError, ValueError, TypeError):
        return ""
    took = f"{minutes} min {seconds} s" if minutes else f"{seconds} s"
    return f"This run took {took} from start to end; what an earlier one had done it kept." if minutes >= 0 else ""


__all__ = ["write_error_report", "write_group_index", "write_subject_report"]
