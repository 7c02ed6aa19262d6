"""`chi33 convert`: DICOM to raw BIDS."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from cyclopts import Parameter

from .store_options import bounds

if TYPE_CHECKING:
    from rich.console import Console

    from ..files.maps.field_strength import FieldStrength
    from ..workflows.dicom.convert import Conversion, ConversionPlan


def convert(
    dicom_dir: Path,
    bids_dir: Path,
    /,
    *,
    subject: str,
    session: str | None = None,
    acq: str | None = None,
    map: Path | None = None,
    plan: bool = False,
    phase_range: Annotated[str | None, Parameter(allow_leading_hyphen=True)] = None,
    phase_sign: Literal[1, -1] | None = None,
    overwrite: bool = False,
) -> None:
    """Convert the multi-echo GRE scans of a DICOM folder into a raw BIDS dataset.

    Each scan becomes one head orientation (acq-ori01, acq-ori02, … in the order of acquisition, after those that the
    subject has already), with magnitude and phase of every echo as float32 NIfTI; phase in radians, -pi to pi. Nothing
    appears in the dataset before everything is converted. A table tells what was found, the field at which the scanner
    ran, and each series that was not placed, with the reason.

    Magnitude and phase are paired only where it is certain: images on the same voxels that start together, or, without
    start times, as many of one part as of the other, in series of one name that follow one another. Where a series was
    lost, what is left over is not placed; `--plan --map FILE` writes all images into a table to edit, and `--map FILE`
    converts by it.

    An acquisition that was exported twice is one scan: the export without distortion correction, or without filter, is
    taken where its magnitude and phase are whole; where the choice is not clear, neither is, and the table asks for a
    map. Phase differences, field maps, averages over echoes, water and fat images, SWI and maps of T2* or
    susceptibility are never taken for an echo. Images of single coil elements are named: combine the coils on the
    scanner.

    Phase is read on the scale that its header states (Siemens, GE, Philips, or radians). Phase that does not wrap at
    the turn of that scale is refused, unless `--phase-range` says which values mean -pi and +pi. The sign of every
    second slice, which some reconstructions reverse, is restored.

    Parameters
    ----------
    dicom_dir
        Folder with the scanner's DICOM files; folders inside it are searched too.
    bids_dir
        The BIDS dataset to create or to add to.
    subject
        Subject label, e.g. 01.
    session
        Session label, where the subject was scanned in several sessions.
    acq
        Label of the orientation, e.g. ori01, where the folder holds one scan.
    map
        Mapping file (tab-separated): a row an image, with its part, session and acq label or "ignore".
    plan
        Show what would go where, and write it to the file of --map, but convert nothing.
    phase_range
        The two stored values that mean -pi and +pi radians, for scanners that do not state them, e.g. 0,4096; they
        are those after the DICOM's own scale.
    phase_sign
        -1 where the scanner's phase falls with a rising field; recorded in the sidecars as PhaseSign. By default -1
        for GE and 1 for the others.
    overwrite
        Replace scans that were converted before, or the mapping file.

    Examples
    --------
    All scans of a folder, as orientations of one subject::

        chi33 convert dicom bids --subject 01

    The same by a table that was looked through first::

        chi33 convert dicom bids --subject 01 --map scans.tsv --plan
        chi33 convert dicom bids --subject 01 --map scans.tsv
    """
    from rich.console import Console

    from ..workflows.dicom.convert import convert_dicom, plan_conversion

    console = Console()
    doing = f"{'Planning' if plan else 'Converting'} {dicom_dir}"
    if not console.is_terminal:
        print(doing, flush=True)
    with console.status(doing):  # silent where there is no terminal
        if plan:
            planned = plan_conversion(
                dicom_dir, bids_dir, subject=subject, session=session, acq=acq, map_path=map, overwrite=overwrite
            )
        else:
            converted = convert_dicom(
                dicom_dir,
                bids_dir,
                subject=subject,
                session=session,
                acq=acq,
                map_path=map,
                phase_range=bounds("--phase-range", phase_range),
                phase_sign=phase_sign,
                overwrite=overwrite,
            )
    if plan:
        _show_plan(console, planned, map)
    else:
        _show_conversion(console, converted, bids_dir)


def _show_conversion(console: Console, conversion: Conversion, bids_dir: Path) -> None:
    _show(
        console,
        "Converted",
        ("scan", "series", "matrix", "voxel (mm)", "echo times (ms)", "B0 (T)", "notes"),
        [
            (
                scan.label,
                ", ".join(str(number) for number in scan.series),
                "x".join(str(size) for size in scan.shape),
                "x".join(f"{size:.3g}" for size in scan.voxel_size),
                ", ".join(f"{1000 * time:.4g}" for time in scan.echo_times),
                _tesla(scan.field_strength),
                "; ".join(scan.notes),
            )
            for scan in conversion.scans
        ],
    )
    if conversion.unplaced:
        _show(console, "Not placed", ("series", "reason"), [(one.series, one.sentence) for one in conversion.unplaced])
    for warning in conversion.warnings:
        print(f"dcm2niix: {warning}")
    files = sum(len(scan.files) for scan in conversion.scans)
    print(f"{files} images of {len(conversion.scans)} scans written to {bids_dir}")


def _tesla(field: FieldStrength) -> str:
    """Return the field that the scanner ran at, with what it is called where that differs: "2.895 (nominal 3)"."""
    run, nominal = f"{field.tesla:.4g}", f"{field.nominal or field.tesla:.4g}"
    return run if run == nominal else f"{run} (nominal {nominal})"


def _show_plan(console: Console, plan: ConversionPlan, map_path: Path | None) -> None:
    names = {"echo_ms": "echo (ms)", "voxel_mm": "voxel (mm)"}
    columns = [name for name in plan.rows[0] if any(row[name] for row in plan.rows)]
    rows = [tuple(row[name] for name in columns) for row in plan.rows]
    _show(console, "Planned", tuple(names.get(name, name) for name in columns), rows)
    for warning in plan.warnings:
        print(f"dcm2niix: {warning}")
    if map_path is not None:
        print(
            f"{len(rows)} images listed in {map_path}: edit part, session and acq, then convert with --map {map_path}"
        )


def _show(console: Console, title: str, columns: tuple[str, ...], rows: list[tuple[str, ...]]) -> None:
    """Print rows as a table on a terminal, and as one plain line each in a log."""
    if not console.is_terminal:
        for row in rows:
            cells = [f"{name}: {cell}" for name, cell in zip(columns, row, strict=True) if cell]
            print(f"{title}: " + ", ".join(cells))
        return
    from rich.table import Table

    table = Table(*columns, title=title)
    for row in rows:
        table.add_row(*row)
    console.print(table)
