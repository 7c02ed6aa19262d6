"""The list of files to import: from a table (CSV or TSV), or from lists of equal length."""

from __future__ import annotations

import csv
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from ...files.errors import InputError
from ...pipeline.frames import check_b0_direction
from .import_volumes import ImportedScan

_NEEDED = ("subject", "scan", "field", "label", "mask")
_COLUMNS = (*_NEEDED, "deltab")


def scans_of_lists(
    fields: Sequence[Path],
    labels: Sequence[Path],
    masks: Sequence[Path],
    subjects: Sequence[str],
    deltabs: Sequence[Path] = (),
) -> tuple[ImportedScan, ...]:
    """Return scans from lists with one entry a scan; the scans of a subject become acq-ori01 and so on.

    Raises InputError where the lists have different lengths.
    """
    for name, values in (("--label", labels), ("--mask", masks), ("--subjects", subjects), ("--deltab", deltabs)):
        if len(values) != len(fields) and not (name == "--deltab" and not values):
            raise InputError(f"{name} names {len(values)}, but --field names {len(fields)}: give one a field.")
    counted: Counter[str] = Counter()
    scans = []
    for number, (field, label, mask, named) in enumerate(zip(fields, labels, masks, subjects, strict=True)):
        subject = named.removeprefix("sub-")
        counted[subject] += 1
        deltab = deltabs[number] if deltabs else None
        scans.append(ImportedScan(subject, f"acq-ori{counted[subject]:02d}", field, label, mask, deltab))
    return tuple(scans)


def scans_of_table(path: Path) -> tuple[ImportedScan, ...]:
    """Return scans from a table with the columns subject, scan, field, label, mask and, where wanted, deltab.

    Comma-separated, or separated by tabs where the name ends in .tsv. Relative paths start at the table's folder; a
    scan `ori01` becomes `acq-ori01`. Raises InputError where the file cannot be read, a column is missing or unknown,
    or a cell is empty.
    """
    try:
        with path.open(encoding="utf-8-sig", newline="") as handle:
            reader = csv.DictReader(handle, delimiter="\t" if path.suffix.lower() == ".tsv" else ",", strict=True)
            columns = [str(name).strip() for name in reader.fieldnames or ()]
            reader.fieldnames = columns
            _check_columns(path, columns)
            return tuple(_scan_of_row(path, number, row) for number, row in enumerate(reader, start=2))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise InputError(
            f"{path} cannot be read as a table ({' '.join(str(error).split())}): check the file."
        ) from error


def with_b0_directions(scans: Sequence[ImportedScan], path: Path) -> tuple[ImportedScan, ...]:
    """Return scans with B0 directions read from a text file: a unit vector (voxel frame) a line, in the scans' order.

    Raises InputError where the file cannot be read, has another number of lines, or a vector is no unit vector.
    """
    try:
        directions = np.loadtxt(path, dtype=np.float64, ndmin=2)
    except (OSError, ValueError) as error:
        raise InputError(
            f"{path} cannot be read ({' '.join(str(error).split())}): give three numbers a line."
        ) from error
    if directions.shape != (len(scans), 3):
        raise InputError(
            f"{path} must hold three numbers on each of {len(scans)} lines, one a scan, got {directions.shape[0]} "
            f"lines of {directions.shape[1]}."
        )
    placed = []
    for number, (scan, direction) in enumerate(zip(scans, directions, strict=True), start=1):
        x, y, z = (float(part) for part in check_b0_direction(direction, f"line {number} of {path}"))
        placed.append(replace(scan, b0_direction=(x, y, z)))
    return tuple(placed)


def _check_columns(path: Path, columns: list[str]) -> None:
    missing = [name for name in _NEEDED if name not in columns]
    unknown = [name for name in columns if name not in _COLUMNS]
    if missing or unknown:
        what = f"lacks the column{'s' if len(missing) > 1 else ''} {', '.join(missing)}" if missing else (
            f"has an unknown column {unknown[0]!r}"
        )  # fmt: skip
        raise InputError(f"{path} {what}: the columns are {', '.join(_NEEDED)} and, where there is δB′, deltab.")


def _scan_of_row(path: Path, number: int, row: dict[str, str | None]) -> ImportedScan:
    if None in row:
        raise InputError(f"{path} has more cells on line {number} than columns: check the separators.")
    cells = {name: (cell or "").strip() for name, cell in row.items()}
    empty = [name for name in _NEEDED if not cells[name]]
    if empty:
        raise InputError(f"{path} has no {empty[0]} on line {number}: fill it in, or remove the line.")
    scan = cells["scan"]
    if "-" not in scan:
        scan = f"acq-{scan}"
    field, label, mask = (path.parent / cells[name] for name in ("field", "label", "mask"))
    deltab = path.parent / cells["deltab"] if cells.get("deltab") else None
    return ImportedScan(cells["subject"].removeprefix("sub-"), scan, field, label, mask, deltab)
