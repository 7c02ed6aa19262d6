"""All subjects of a derivatives folder: a line each in `index.html` and in `group_chi33.tsv`, and how to cite them.

Each report leaves its line in `OUT/logs/sub-01_summary.json`; the index is made of those, whoever wrote them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np

from ... import __version__
from ...files.atomic import write_atomically
from ...files.derivatives import read_json, write_json
from ...files.errors import InputError
from ...pipeline.orientations.conditioning import OrientationReport
from .checks import counted
from .measures import ScanMeasures
from .methods import Methods, recorded
from .references import REFERENCES, write_citations
from .template import render_index

GROUP_TABLE = "group_chi33.tsv"
_MISSING = "n/a"  # BIDS' word for it
_ROUNDS = 3  # of writing the index, where other runs write into the folder at the same time
_COLUMNS: Mapping[str, tuple[str, str]] = {  # of Summary: description, units
    "participant_id": ("Subject", ""),
    "status": ("ok: no warning; warnings: see the report; failed: the run did not end", ""),
    "scans": ("Head orientations", ""),
    "fit": ("Method of the susceptibility fit", ""),
    "largest_angle": ("Largest angle between two B0 directions in the head", "degree"),
    "tensor_rank": ("Rank of the matrix of B0 directions that determines the tensor, 6 where it does", ""),
    "tensor_condition": ("Condition number of that matrix", "1"),
    "cosmos_ratio": ("Largest over smallest sum of squared dipole kernels over k", "1"),
    "field_noise": ("Standard deviation of the fields that the fit assumed", "ppm"),
    "brain_volume": ("Volume of the brain mask, median over scans", "ml"),
    "valid_share": ("Part of the brain with a local field, median over scans", "1"),
    "local_std": ("Standard deviation of the local field, median over scans", "ppm"),
    "chi33_std": ("Standard deviation of chi33, median over scans", "ppm"),
    "residual_ratio": ("Standard deviation of the residual over that of the local field, median over scans", "1"),
    "reduced_chi2": ("Mean squared residual of the fit over the noise squared and the freedom left, median over scans",
                     "1"),
    "mask_dice": ("Dice of the brain mask with those of the other scans, median over scans", "1"),
    "registration_quality": ("Agreement of the brains after registration, at most 1, median over scans", "1"),
    "warnings": ("Warnings in the report", ""),
    "error": ("Why the run failed", ""),
}  # fmt: skip
_MEDIANS = {
    "brain_volume": "brain_volume", "valid_share": "valid_share", "local_std": "local_std", "chi33_std": "chi33_std",
    "residual_ratio": "residual_ratio", "reduced_chi2": "reduced_chi2", "mask_dice": "mask_dice",
    "registration_quality": "quality",
}  # fmt: skip


@dataclass(frozen=True)
class Summary:
    """One subject's line; None where a number is not known. The columns say what each is, and its units."""

    participant_id: str
    status: str
    scans: int | None = None
    fit: str | None = None
    largest_angle: float | None = None
    tensor_rank: int | None = None
    tensor_condition: float | None = None
    cosmos_ratio: float | None = None
    field_noise: float | None = None
    brain_volume: float | None = None
    valid_share: float | None = None
    local_std: float | None = None
    chi33_std: float | None = None
    residual_ratio: float | None = None
    reduced_chi2: float | None = None
    mask_dice: float | None = None
    registration_quality: float | None = None
    warnings: int | None = None
    error: str | None = None


def summarise(
    subject: str,
    scans: Sequence[ScanMeasures],
    orientations: OrientationReport | None,
    record: Mapping[str, Any],
    *,
    fit: str | None,
    warnings: int,
    errors: Sequence[str] = (),
) -> Summary:
    """Return the line of a subject that has a report."""
    medians: dict[str, Any] = {name: _median([scan.number(key) for scan in scans]) for name, key in _MEDIANS.items()}
    angles: dict[str, Any] = {}
    if orientations is not None:
        angles = {
            "largest_angle": orientations.spread, "tensor_rank": orientations.sti_rank,
            "tensor_condition": _finite(orientations.sti_condition), "cosmos_ratio": _finite(orientations.cosmos_ratio),
        }  # fmt: skip
    return Summary(
        participant_id=f"sub-{subject}", status="failed" if errors else "warnings" if warnings else "ok",
        scans=len(scans), fit=str(record.get("Fit") or fit or "") or None,
        field_noise=recorded(record, "FieldNoisePpm"), warnings=warnings,
        error=" ".join(errors) or None, **angles, **medians,
    )  # fmt: skip


def _median(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return float(np.median(known)) if known else None


def _finite(value: float) -> float | None:
    return float(value) if np.isfinite(value) else None


def write_summary(out_dir: Path, summary: Summary, methods: Methods | None = None) -> Path:
    """Write a subject's line into OUT/logs and the citations of all subjects there; return the line's path."""
    folder = Path(out_dir) / "logs"
    said = {"Methods": methods.markdown, "References": list(methods.keys)} if methods and methods.keys else {}
    path = write_json(folder / f"{summary.participant_id}_summary.json", {**asdict(summary), **said})
    _write_citations(folder)
    return path


def _write_citations(folder: Path) -> None:
    """Write CITATION.md and CITATION.bib of all subjects: those of the same methods together."""
    methods: dict[str, list[str]] = {}
    keys: list[str] = []
    for path in sorted(folder.glob("sub-*_summary.json")):
        content = read_json(path)
        if isinstance(text := content.get("Methods"), str):
            methods.setdefault(text, []).append(str(content.get("participant_id")))
            cited = [key for key in content.get("References") or () if key in REFERENCES]
            keys += [key for key in cited if key not in keys]
    if methods:
        write_citations(folder, {", ".join(names): text for text, names in methods.items()}, keys)


def write_group_index(out_dir: Path) -> Path:
    """Write `OUT/index.html` and `OUT/group_chi33.tsv`, a line on each subject that has a report; return the former.

    Subjects whose run failed are listed as such. Raises InputError where there is no report.
    """
    out_dir = Path(out_dir)
    for _ in range(_ROUNDS):
        before = _reports(out_dir)
        entries = [_entry(out_dir, path) for path in before]
        if not entries:
            raise InputError(f"{out_dir} holds no report of chi33 such as sub-01.html: repeat `chi33 run`.")
        _write_table(out_dir, [entry["summary"] for entry in entries])
        _write_citations(out_dir / "logs")
        page = render_index(
            title="chi33 reports", version=__version__, summary=_counts(entries), entries=entries, table=GROUP_TABLE
        )
        index = write_page(out_dir / "index.html", page)
        if _reports(out_dir) == before:  # no other run has added a subject in the meantime
            break
    return index


def write_page(path: Path, page: str) -> Path:
    """Write an HTML page, by rename; return its path."""
    write_atomically(path, lambda temporary: temporary.write_text(page, encoding="utf-8"))
    return path


def _reports(out_dir: Path) -> dict[Path, int]:
    """Return the reports of chi33 in a folder, with when they were written (ns)."""
    found = {path: path.stat().st_mtime_ns for path in sorted(out_dir.glob("sub-*.html"))}
    return {path: when for path, when in found.items() if _Head.of(path).meta.get("generator", "").startswith("chi33")}


def _entry(out_dir: Path, report: Path) -> dict[str, Any]:
    name, line = report.stem, _Head.of(report).meta.get("description", "")
    path = out_dir / "logs" / f"{name}_summary.json"
    if path.is_file():
        content, known = read_json(path), {one.name for one in fields(Summary)}
        summary = Summary(**{"participant_id": name, "status": "", **{k: v for k, v in content.items() if k in known}})
    else:  # a report of an earlier version
        summary = Summary(name, "warnings" if line and ", 0 warnings" not in line else "ok")
    return {"href": report.name, "name": name, "line": line, "summary": summary}


def _counts(entries: Sequence[Mapping[str, Any]]) -> str:
    states = [entry["summary"].status for entry in entries]
    words = {"ok": "without warnings", "warnings": "with warnings", "failed": "failed"}
    said = [f"{states.count(one)} {word}" for one, word in words.items() if one in states]
    return f"{counted(len(entries), 'subject')}: {', '.join(said)}"


def _write_table(out_dir: Path, rows: Sequence[Summary]) -> None:
    lines = ["\t".join(_COLUMNS), *("\t".join(_cell(getattr(row, name)) for name in _COLUMNS) for row in rows)]
    text = "\n".join(lines) + "\n"
    table = out_dir / GROUP_TABLE
    write_atomically(table, lambda temporary: temporary.write_text(text, encoding="utf-8"))
    told = {
        name: {"Description": said, **({"Units": units} if units else {})} for name, (said, units) in _COLUMNS.items()
    }
    write_json(table.with_suffix(".json"), told)


def _cell(value: Any) -> str:
    if value is None or value == "":
        return _MISSING
    return f"{value:.6g}" if isinstance(value, float) else " ".join(str(value).split())


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
