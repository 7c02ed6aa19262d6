"""The subject's report, `OUT/sub-01.html`, and the index of subjects: all they show is read from derivatives."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np

from .. import __version__
from ..pipeline.errors import InputError
from ..pipeline.fits.prior import Prior
from ..pipeline.orientation_design import FIELD_NOISE, OrientationPlan, plan_orientations
from ..pipeline.orientation_words import plan_sentences
from ..pipeline.orientations import OrientationReport, assess_orientations
from .derivatives import Derivatives, write_atomically
from .figures import b0_figure, data_uri
from .plan_figure import draw_plan
from .report_checks import check_fit, check_scans, check_sign, collect_warnings, quantity
from .report_measures import (
    DEVIATIONS,
    ScanMeasures,
    find_scans,
    measure_scans,
    measure_subject,
)
from .report_methods import fit_rows, flatten, lookup, recorded, uncertainty_words, write_methods
from .report_pictures import (
    TITLES,
    Picture,
    map_picture,
    picture_scales,
    registration_pictures,
    scan_pictures,
    subject_pictures,
    tensor_pictures,
)
from .report_template import render_index, render_subject

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
)


_Column = tuple[str, str, str, int, float]  # key, title, unit, digits, factor
_DEVIATION_COLUMNS = (
    ("chi33sd_median", "χ33", "median, ppm"),
    ("chi33sd_p95", "χ33", "95th percentile, ppm"),
    ("deltabsd_median", "δB′", "median, ppm"),
    ("cosmossd_median", "COSMOS", "median, ppm"),
)
_PLAN_SENTENCES = 4
_PLAN_DPI = 110


def write_subject_report(
    out_dir: Path, subject: str, provenance: Mapping[str, Any], *, warned: Callable[[str], None] | None = None
) -> Path:
    """Write `OUT/sub-<subject>.html` from the derivatives of a subject; return its path.

    provenance: nested mappings, shown as a table. The methods paragraph uses, at any depth, the keys backend, tools
    ({name: version}), fit and the parameters of RunConfig; `stages` ([{stage, seconds}]) becomes a table of times and
    `warnings` ([sentence]) joins the warnings. warned: called with each warning that is not among these. Maps that are
    not there are left out. Raises InputError where the subject has no scan, a scan has no mask, or maps do not lie on
    the grid of their mask.
    """
    files = Derivatives(Path(out_dir), subject)
    found = find_scans(Path(out_dir), subject)
    scans = measure_scans(found)
    in_subject = measure_subject(files)
    directions = [scan.b0_direction for scan in scans if scan.b0_direction is not None]
    alone = len(scans) == 1 and lookup(provenance, "fit") == "none"
    orientations = assess_orientations(directions) if len(directions) == len(scans) and not alone else None
    record = in_subject.record
    checks = (*check_scans(scans), *check_sign(in_subject, provenance), *check_fit(record))
    warnings = collect_warnings(scans, checks, orientations, provenance)
    if warned is not None:
        for warning in warnings:
            if warning not in (provenance.get("warnings") or ()):
                warned(warning)
    registrations = registration_pictures(found, files)
    date = f"{datetime.now(UTC):%Y-%m-%d %H:%M} UTC"
    page = render_subject(
        title=f"sub-{subject}",
        version=__version__,
        date=date,
        summary=f"{_count(len(scans), 'scan')}, {_count(len(warnings), 'warning')}, report of {date}",
        warnings=warnings,
        columns=[
            {"title": "Voxels", "unit": "mm"},
            *({"title": title, "unit": unit} for _, title, unit, *_ in _columns(scans)),
        ],
        scans=_scan_sections(scans, registrations),
        sphere=_sphere(directions) if orientations else None,
        orientations=_conditioning(orientations) if orientations else None,
        plan=_plan(directions, record, subject) if orientations else None,
        fit=fit_rows(record),
        subject_pictures=subject_pictures(in_subject),
        tensor_pictures=tensor_pictures(in_subject),
        uncertainty=_uncertainty(scans, record),
        convention=_CONVENTION,
        checks=checks,
        methods=write_methods(provenance, record),
        stages=_stages(provenance),
        record=list(flatten({key: value for key, value in provenance.items() if key not in ("stages", "warnings")})),
    )
    return _write_page(files.report, page)


def write_group_index(out_dir: Path) -> Path:
    """Write `OUT/index.html`, a link and a line on each subject that has a report; return its path.

    Raises InputError where there is no report.
    """
    entries = []
    for path in sorted(Path(out_dir).glob("sub-*.html")):
        head = _Head.of(path)
        if head.meta.get("generator", "").startswith("chi33"):
            name = path.name.removesuffix(".html")
            entries.append({"href": path.name, "name": name, "summary": head.meta.get("description", "")})
    if not entries:
        raise InputError(f"{out_dir} holds no report of chi33 such as sub-01.html: repeat `chi33 run`.")
    page = render_index(
        title="chi33 reports", version=__version__, summary=_count(len(entries), "subject"), entries=entries
    )
    return _write_page(Path(out_dir) / "index.html", page)


class _Head(HTMLParser):
    """The named meta elements of a page."""

    def __init__(self) -> None:
        super().__init__()
        self.meta: dict[str, str] = {}

    @classmethod
    def of(cls, path: Path, size: int = 4096) -> _Head:
        """Read the first characters of a page, where a report has its meta elements."""
        head = cls()
        with path.open(encoding="utf-8", errors="replace") as file:
            head.feed(file.read(size))
        return head

    def handle_starttag(self, tag: str, attrs: Sequence[tuple[str, str | None]]) -> None:
        """Note a meta element."""
        values = dict(attrs)
        if tag == "meta" and values.get("name"):
            self.meta[str(values["name"])] = values.get("content") or ""


def _write_page(path: Path, page: str) -> Path:
    write_atomically(path, lambda temporary: temporary.write_text(page, encoding="utf-8"))
    return path


def _count(number: int, name: str) -> str:
    return f"{number} {name}{'' if number == 1 else 's'}"


def _scan_sections(scans: Sequence[ScanMeasures], registrations: Mapping[str, Picture]) -> list[dict[str, Any]]:
    scales = picture_scales(scans)
    sections = []
    for scan in scans:
        pictures = scan_pictures(scan, scales)
        if scan.name in registrations:
            pictures.append(registrations[scan.name])
        sections.append({"name": scan.name, "cells": _cells(scan, _columns(scans)), "pictures": pictures})
    return sections


def _columns(scans: Sequence[ScanMeasures]) -> list[_Column]:
    """The columns of which any scan has a number."""
    return [column for column in _COLUMNS if any(scan.number(column[0]) is not None for scan in scans)]


def _cells(scan: ScanMeasures, columns: Sequence[_Column]) -> list[str]:
    cells = [" × ".join(f"{edge:.3g}" for edge in scan.voxel_size)]
    for key, _, _, digits, factor in columns:
        value = scan.number(key)
        cells.append(quantity(None if value is None else factor * value, digits))
    return cells


def _sphere(directions: Sequence[np.ndarray]) -> dict[str, str]:
    tilts = ", ".join(f"{np.degrees(np.arccos(np.clip(abs(h[2]), 0, 1))):.0f}" for h in directions)
    return {
        "light": b0_figure(np.array(directions)),
        "dark": b0_figure(np.array(directions), dark=True),
        "alt": f"B0 directions of {_count(len(directions), 'scan')} on the sphere seen from above the head; angles to "
        f"the reference's B0 in degrees: {tilts}.",
    }


def _conditioning(report: OrientationReport) -> dict[str, Any]:
    def shown(value: float, digits: int) -> str:
        return quantity(value, digits) if np.isfinite(value) else "not determined"

    return {
        "rows": [
            ("Scans", str(report.n)),
            ("Largest angle between two directions", f"{report.spread:.1f}°"),
            ("Tensor: rank", f"{report.sti_rank} of 6"),
            ("Tensor: condition number", shown(report.sti_condition, 1)),
            ("Tensor: noise gain", shown(report.sti_noise_gain, 2)),
            ("COSMOS: max/min of ΣD²", shown(report.cosmos_ratio, 1)),
            ("COSMOS: noise gain", shown(report.cosmos_noise_gain, 2)),
        ],
        "messages": report.messages,
    }


def _plan(directions: Sequence[np.ndarray], record: Mapping[str, Any], subject: str) -> dict[str, Any]:
    """What each scan counts and what one more would add: sentences, and the figure of `chi33 plan`."""
    prior = Prior(**{part: _prior_width(record, part) for part in ("iso", "aniso")})
    noise = recorded(record, "FieldNoisePpm") or 0.0
    plan = plan_orientations(directions, noise=float(f"{noise:.2g}") if noise > 0 else FIELD_NOISE, prior=prior)
    said = plan_sentences(plan)[max(1, len(plan.report.messages)) :]  # the first ones stand beside the numbers already
    return {
        "sentences": [_typeset(sentence) for sentence in said[:_PLAN_SENTENCES]],
        "uri": data_uri(draw_plan(plan, title=f"sub-{subject}"), "jpeg", dpi=_PLAN_DPI),
        "alt": _plan_words(plan),
    }


def _prior_width(record: Mapping[str, Any], part: str) -> float:
    """A standard deviation of the prior in ppm: as recorded, infinite where the record says null, else the default."""
    key = f"Prior{part.title()}Ppm"
    width = recorded(record, key)
    if width is None:
        return np.inf if key in record else float(getattr(Prior(), part))
    return width if width > 0 else np.inf


def _typeset(sentence: str) -> str:
    """Give numbers a real minus sign, and no line break before a percent sign."""
    return re.sub(r"(?<![\w.])-(?=\d)", "\N{MINUS SIGN}", sentence).replace(" %", "\N{NO-BREAK SPACE}%")


def _plan_words(plan: OrientationPlan) -> str:
    best = plan.best[0] if plan.best else None
    place = f"; best next scan: pitch {best.pitch:+.0f}, roll {best.roll:+.0f} degrees" if best else ""
    return _typeset(
        f"B0 directions of {_count(len(plan.directions), 'scan')} in the head seen from above, over what one more scan "
        f"at each place would bring{place}."
    )


def _uncertainty(scans: Sequence[ScanMeasures], record: Mapping[str, Any]) -> dict[str, Any] | None:
    """The standard deviations: maps of the reference scan, the scan that was moved least, and numbers of every scan."""
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


def _stages(provenance: Mapping[str, Any]) -> list[tuple[str, str]]:
    stages = [(str(one["stage"]), float(one["seconds"])) for one in provenance.get("stages") or ()]
    rows = [(name, f"{seconds:.1f}") for name, seconds in stages]
    return [*rows, ("together", f"{sum(seconds for _, seconds in stages):.1f}")] if rows else []
