"""The mapping file of a conversion: a table of every image found in a DICOM folder, with its place, to be edited.

Tab-separated, one row an image, in the order of acquisition. `image` names it; `part` (mag, phase, real, imag),
`session` and `acq` (a label, or "ignore") say where it goes, and `echo_ms` may be filled in where the DICOM does not
state it. The other columns are there to recognise the image. A row taken out is an image ignored.
"""

from __future__ import annotations

import csv
import re
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import timedelta
from math import isfinite
from pathlib import Path
from typing import get_args

from ...files.atomic import write_atomically
from ...files.errors import InputError
from ...pipeline.frames import voxel_size
from ..raw.dataset import raise_problems
from .conversion import DicomImage, DicomScan, Part, Reason
from .kinds import why_unusable

IGNORE = "ignore"
COLUMNS = (
    "image", "series", "description", "start", "matrix", "voxel_mm", "part", "echo_ms", "session", "acq", "note",
)  # fmt: skip
_NEEDED = ("image", "part", "echo_ms", "acq")
_PARTS: tuple[Part, ...] = get_args(Part)


@dataclass(frozen=True)
class PlacedScan:
    """A scan and its place in the dataset: bare session label, or None, and bare acq label, or None to number it.

    replaces: the label under which the same scan was converted before.
    """

    scan: DicomScan
    session: str | None = None
    label: str | None = None
    replaces: str | None = None


@dataclass(frozen=True)
class _Entry:
    """A row that places an image: its line in the file, its labels, and the image with the row's part and echo time."""

    line: int
    session: str | None
    label: str
    image: DicomImage


def map_rows(
    images: Sequence[DicomImage], placed: Iterable[PlacedScan], reasons: Mapping[str, Reason]
) -> tuple[dict[str, str], ...]:
    """Return a row for each image, by column, with the place proposed, or "ignore" and the reason."""
    places = {image.name: one for one in placed for image in one.scan.images}
    days = {day: number for number, day in enumerate(sorted({image.day for image in images if image.day}), start=1)}
    rows = []
    for image in images:
        place = places.get(image.name)
        rows.append(
            {
                "image": image.name,
                "series": str(image.series),
                "description": " ".join(image.series_name.split()),
                "start": _start(image, days),
                "matrix": "x".join(str(size) for size in image.shape),
                "voxel_mm": "x".join(f"{size:.3g}" for size in voxel_size(image.affine)),
                "part": image.part,
                "echo_ms": f"{1000 * image.echo_time:.6g}" if image.echo_time > 0 else "",
                "session": (place.session if place else None) or "",
                "acq": (place.label if place else None) or IGNORE,
                "note": "" if place else str(reasons.get(image.name, "")),
            }
        )
    return tuple(rows)


def check_map_target(path: Path, overwrite: bool) -> None:
    """Raise InputError where a mapping file cannot be written: one is there, or its folder is not."""
    if path.exists() and not overwrite:
        raise InputError(f"{path} is there already: pass --overwrite to plan anew, or leave --plan out to use it.")
    if not path.parent.is_dir():
        raise InputError(f"{path.parent} is not a folder: make it first, or choose another --map.")


def write_map(path: Path, rows: Iterable[Mapping[str, str]]) -> None:
    """Write rows as a mapping file."""
    lines = ["\t".join(COLUMNS), *("\t".join(row[column] for column in COLUMNS) for row in rows)]
    text = "\n".join(lines) + "\n"
    write_atomically(path, lambda temporary: temporary.write_text(text, encoding="utf-8"))


def place_by_map(path: Path, images: Sequence[DicomImage]) -> tuple[list[PlacedScan], dict[str, Reason]]:
    """Return the scans that a mapping file makes of images, and for each other image why it is in none.

    Raises InputError with a sentence for every row that cannot be followed, and for every scan that is not whole.
    """
    problems: list[str] = []
    known = {image.name: image for image in images}
    reasons = {image.name: Reason(f"is not listed in {path.name}") for image in images}
    seen: dict[str, int] = {}
    groups: dict[tuple[str | None, str], list[_Entry]] = defaultdict(list)
    for line, row in _read_rows(path):
        where, name = f"{path.name} line {line}", row["image"]
        image = known.get(name)
        if image is None:
            problems.append(
                f"{where}: there is no image {name!r} in this DICOM folder: take the line out, or plan anew."
            )
        elif name in seen:
            problems.append(f"{where}: {name} is in line {seen[name]} already: take one of them out.")
        elif row.get("series", "") not in ("", str(image.series)):
            problems.append(f"{where}: {name} is of series {image.series}, not {row['series']}: plan anew.")
        elif row["acq"].lower() == IGNORE:
            reasons[name] = Reason(f"is ignored in {path.name}" + (f" ({row['note']})" if row.get("note") else ""))
        elif entry := _entry(where, line, row, image, problems):
            del reasons[name]
            groups[entry.session, entry.label].append(entry)
        seen.setdefault(name, line)
    placed = [_placed(path, key, entries, problems) for key, entries in groups.items()]
    if len({session is None for session, _ in groups}) > 1:
        problems.append(f"{path.name} names a session for some scans only: name one for all of them, or for none.")
    if not groups and not problems:
        problems.append(f"{path.name} ignores every image: give those of one scan an acq label.")
    raise_problems(problems)
    scans = [one for one in placed if one is not None]
    return sorted(scans, key=lambda one: min((i.seconds or 0.0, i.series) for i in one.scan.images)), reasons


def _read_rows(path: Path) -> list[tuple[int, dict[str, str]]]:
    """Return the rows with their line numbers, cells stripped; forgiving of what spreadsheets add."""
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path} cannot be read as text: give a tab-separated table in UTF-8.") from error
    lines = list(csv.reader(text.splitlines(), delimiter="\t"))
    header = [cell.strip() for cell in lines[0]] if lines else []
    if missing := [column for column in _NEEDED if column not in header]:
        raise InputError(
            f"{path} lacks the column{'s' * (len(missing) > 1)} {', '.join(missing)} in its first line: keep it "
            "tab-separated, with the header that --plan wrote."
        )
    rows = []
    for number, cells in enumerate(lines[1:], start=2):
        if any(cell.strip() for cell in cells):
            padded = [cell.strip() for cell in cells] + [""] * (len(header) - len(cells))
            rows.append((number, dict(zip(header, padded, strict=False))))
    return rows


def _entry(where: str, line: int, row: dict[str, str], image: DicomImage, problems: list[str]) -> _Entry | None:
    before = len(problems)
    part = next((part for part in _PARTS if part == row["part"].lower()), None)
    if part is None:
        problems.append(f"{where}: part must be one of {', '.join(_PARTS)}, got {row['part']!r}.")
    labels = {}
    for name, prefix in (("session", "ses-"), ("acq", "acq-")):
        labels[name] = row.get(name, "").removeprefix(prefix)
        if not re.fullmatch(r"[A-Za-z0-9]*" if name == "session" else r"[A-Za-z0-9]+", labels[name]):
            problems.append(
                f"{where}: {name} must be letters and digits only, got {row[name]!r}"
                + (" (or ignore)." if name == "acq" else ".")
            )
    image = _with_echo_time(where, row["echo_ms"], image, problems)
    if reason := why_unusable(image) if len(problems) == before else None:
        problems.append(f"{where}: {image.name} {reason}: set its acq to {IGNORE}.")
    if part is None or len(problems) > before:
        return None
    return _Entry(line, labels["session"] or None, labels["acq"], replace(image, part=part))


def _with_echo_time(where: str, cell: str, image: DicomImage, problems: list[str]) -> DicomImage:
    """Return the image with the echo time of a cell (ms) where the DICOM states none; they must not contradict."""
    if not cell:
        return image
    try:
        milliseconds = float(cell.replace(",", "."))
    except ValueError:
        milliseconds = float("nan")
    if not (isfinite(milliseconds) and milliseconds > 0):
        problems.append(f"{where}: echo_ms must be milliseconds above 0, got {cell!r}.")
    elif image.echo_time <= 0:
        return replace(image, sidecar={**image.sidecar, "EchoTime": milliseconds / 1000})
    elif abs(milliseconds - 1000 * image.echo_time) > 2e-3:
        problems.append(
            f"{where}: echo_ms is {cell}, but the DICOM states {1000 * image.echo_time:.6g}: keep what it states."
        )
    return image


def _placed(path: Path, key: tuple[str | None, str], entries: list[_Entry], problems: list[str]) -> PlacedScan | None:
    """Build the scan of rows with one label, or add what is wrong with it to problems."""
    before = len(problems)
    session, label = key
    name = (f"ses-{session} " if session else "") + f"acq-{label}"
    echoes: dict[float, dict[Part, _Entry]] = defaultdict(dict)
    for entry in entries:
        same = echoes[entry.image.echo_time].setdefault(entry.image.part, entry)
        if same is not entry:
            problems.append(
                f"{path.name} lines {same.line} and {entry.line}: {name} has two {entry.image.part} images at "
                f"{1000 * entry.image.echo_time:.6g} ms: give one another acq, or {IGNORE}."
            )
        if not entry.image.on_grid_of(entries[0].image):
            problems.append(
                f"{path.name} lines {entries[0].line} and {entry.line}: {name} has images of different grids: "
                "give them different acq."
            )
    for time, parts in sorted(echoes.items()):
        both = {"real", "imag"} <= parts.keys()
        lines = ", ".join(str(entry.line) for entry in parts.values())
        for part, kind in (("mag", "magnitude"), ("phase", "phase")):
            if part not in parts and not both:
                problems.append(
                    f"{path.name} line{'s' * (len(parts) > 1)} {lines}: {name} has no {kind} at {1000 * time:.6g} ms: "
                    f"place the {kind} image (or real and imag) of that echo, or ignore the echo."
                )
    if len(problems) > before:
        return None
    ordered = sorted(echoes)
    found = tuple({part: entry.image for part, entry in echoes[time].items()} for time in ordered)
    return PlacedScan(DicomScan(found, tuple(ordered)), session, label)


def _start(image: DicomImage, days: Mapping[str, int]) -> str:
    """Return the time of day, with the number of the day where there are several: dates stay behind."""
    if image.seconds is None:
        return ""
    clock = str(timedelta(seconds=int(image.seconds) % 86400))
    return f"day {days[image.day]} {clock}" if image.day and len(days) > 1 else clock
