"""DICOM to raw BIDS: dcm2niix, then echoes, magnitude and phase in radians under the names that `raw` reads."""

from __future__ import annotations

import re
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from ...files.derivatives import Derivatives, check_free_space, write_dataset_description
from ...files.errors import InputError
from ...files.sidecars import read_json, sidecar_path
from .conversion import DicomImage, DicomScan, Grouping, Unplaced, read_images, run_dcm2niix
from .groups import group_scans
from .headers import is_litter
from .map import PlacedScan, check_map_target, map_rows, place_by_map, write_map
from .pairing import NO_MAGNITUDE, NO_PHASE
from .writer import FINGERPRINT, ConvertedScan, fingerprint, write_scan


@dataclass(frozen=True)
class Conversion:
    """What a conversion wrote, what it could not place, and the warnings of dcm2niix."""

    scans: tuple[ConvertedScan, ...]
    unplaced: tuple[Unplaced, ...]
    warnings: tuple[str, ...]


@dataclass(frozen=True)
class ConversionPlan:
    """What a conversion would do: a row for each image, by the columns of a mapping file; dcm2niix's warnings."""

    rows: tuple[dict[str, str], ...]
    warnings: tuple[str, ...]


@dataclass(frozen=True)
class _Target:
    """Where a conversion goes, and the settings it was given."""

    bids_dir: Path
    subject: str
    session: str | None = None
    acq: str | None = None
    phase_range: tuple[float, float] | None = None
    phase_sign: int | None = None
    overwrite: bool = False

    @property
    def subject_dir(self) -> Path:
        return self.bids_dir / f"sub-{self.subject}"

    def names(self, session: str | None) -> Derivatives:
        """Return the prefix and folder of a session's files."""
        return Derivatives(self.bids_dir, self.subject, session)


def convert_dicom(
    dicom_dir: Path,
    bids_dir: Path,
    *,
    subject: str,
    session: str | None = None,
    acq: str | None = None,
    map_path: Path | None = None,
    phase_range: tuple[float, float] | None = None,
    phase_sign: int | None = None,
    overwrite: bool = False,
) -> Conversion:
    """Convert the GRE scans of a DICOM folder into a raw BIDS dataset, creating it or adding to it.

    Scans become acq-ori01, acq-ori02, … in the order of acquisition, from the subject's next free number; acq names a
    single one; map_path is a mapping file (`plan_conversion`) that places every image instead. Magnitude and phase are
    float32, phase in radians (-pi...pi), its sign as the scanner has it. phase_range: the values (after the DICOM's own
    scale) that mean -pi and +pi, for scanners that do not state them. phase_sign is recorded as PhaseSign; by default
    -1 for GE and 1 for the others. Nothing appears in the dataset before everything is converted. Raises InputError
    where there is no DICOM, no scan with magnitude and phase, an unknown phase scale, scans of several patients or (but
    for a map) days, a map that cannot be followed, or where files would be replaced and overwrite is False.
    """
    dicom_dir, target = Path(dicom_dir), _target(bids_dir, subject, session, acq, phase_range, phase_sign, overwrite)
    if map_path is not None and (given := target.session or target.acq):
        name = "--session" if target.session else "--acq"
        raise InputError(f"{map_path.name} names sessions and scans itself: leave {name} {given} out, or --map.")
    if map_path is not None and not map_path.is_file():
        raise InputError(f"{map_path} is not there: write it with --plan, or leave --map out.")
    _check_settings(dicom_dir, target)
    with _staging_in(target.bids_dir) as staging:
        images, warnings = _images_of(dicom_dir, staging)
        if map_path is not None:
            placed, reasons = place_by_map(map_path, images)
            grouping = Grouping(tuple(one.scan for one in placed), reasons)
        else:
            grouping = group_scans(images)
            if not grouping.scans:
                raise InputError(_nothing_found(dicom_dir, grouping.unplaced(images)))
            _check_one_day(dicom_dir, grouping.scans)
            placed = [PlacedScan(scan, target.session, target.acq) for scan in grouping.scans]
        _check_one_patient(dicom_dir, grouping.scans)
        placed = _labelled(placed, target)
        ready = staging / "bids"
        ready.mkdir()
        converted = [
            write_scan(
                one,
                ready,
                target.names(one.session),
                phase_range=target.phase_range,
                phase_sign=target.phase_sign,
            )
            for one in placed
        ]
        _move_into_place(ready, placed, target)
    return Conversion(tuple(converted), grouping.unplaced(images), warnings)


def plan_conversion(
    dicom_dir: Path,
    bids_dir: Path,
    *,
    subject: str,
    session: str | None = None,
    acq: str | None = None,
    map_path: Path | None = None,
    overwrite: bool = False,
) -> ConversionPlan:
    """Return where `convert_dicom` would put each image of a DICOM folder, and write it as a mapping file to edit.

    Sessions of several days are proposed as 01, 02, … unless session names one. The dataset is left alone. Raises
    InputError where there is no DICOM, scans of several patients, or a mapping file already and overwrite is False.
    """
    dicom_dir, target = Path(dicom_dir), _target(bids_dir, subject, session, acq, None, None, overwrite)
    _check_settings(dicom_dir, target)
    if map_path is not None:
        check_map_target(map_path, overwrite)
    with _staging_in(target.bids_dir) as staging:
        images, warnings = _images_of(dicom_dir, staging)
        grouping = group_scans(images)
        _check_one_patient(dicom_dir, grouping.scans)
        days = _days(grouping.scans)
        placed = []
        for scan, day in zip(grouping.scans, days, strict=True):
            proposed = f"{sorted(set(days)).index(day) + 1:02d}" if len(set(days)) > 1 else None
            placed.append(PlacedScan(scan, target.session or proposed, target.acq))
        rows = map_rows(images, _labelled(placed, replace(target, overwrite=True)), grouping.reasons)
    if map_path is not None:
        write_map(map_path, rows)
    return ConversionPlan(rows, warnings)


def _target(
    bids_dir: Path,
    subject: str,
    session: str | None,
    acq: str | None,
    phase_range: tuple[float, float] | None,
    phase_sign: int | None,
    overwrite: bool,
) -> _Target:
    return _Target(
        Path(bids_dir),
        _label("subject", subject),
        None if session is None else _label("session", session),
        None if acq is None else _label("acq", acq),
        phase_range,
        phase_sign,
        overwrite,
    )


def _images_of(dicom_dir: Path, staging: Path) -> tuple[list[DicomImage], tuple[str, ...]]:
    raw = staging / "dcm2niix"
    raw.mkdir()
    warnings = run_dcm2niix(dicom_dir, raw)
    return read_images(raw, dicom_dir), warnings


@contextmanager
def _staging_in(bids_dir: Path) -> Iterator[Path]:
    """Yield a temporary folder on the dataset's own disk; a dataset that was not there before stays away on failure."""
    new = not bids_dir.exists()
    bids_dir.mkdir(parents=True, exist_ok=True)
    try:
        with tempfile.TemporaryDirectory(prefix=".chi33-convert-", dir=bids_dir) as staging:
            yield Path(staging)
    finally:
        if new and not any(bids_dir.iterdir()):
            bids_dir.rmdir()


def _label(name: str, value: str) -> str:
    bare = value.removeprefix({"subject": "sub-", "session": "ses-", "acq": "acq-"}[name])
    if not re.fullmatch(r"[A-Za-z0-9]+", bare):
        raise InputError(f"{name} must be letters and digits only, got {value!r}: choose another label.")
    return bare


def _check_settings(dicom_dir: Path, target: _Target) -> None:
    if not dicom_dir.is_dir():
        raise InputError(f"{dicom_dir} is not a folder: give the folder with the scanner's DICOM files.")
    sizes = [path.stat().st_size for path in dicom_dir.rglob("*") if path.is_file()]
    if not sizes:
        raise InputError(f"{dicom_dir} is empty: give the folder with the scanner's DICOM files.")
    if target.phase_range is not None and not target.phase_range[0] < target.phase_range[1]:
        raise InputError(f"phase_range must rise from low to high, got {target.phase_range}: swap the two values.")
    if target.phase_sign not in (None, 1, -1):
        raise InputError(f"phase_sign must be 1 or -1, got {target.phase_sign}: choose one.")
    if target.bids_dir.exists() and not target.bids_dir.is_dir():
        raise InputError(f"{target.bids_dir} is a file: give a folder for the BIDS dataset.")
    check_free_space(target.bids_dir, 4 * sum(sizes))  # dcm2niix's images and float32 ones side by side


def _nothing_found(dicom_dir: Path, unplaced: Iterable[Unplaced]) -> str:
    unplaced = tuple(unplaced)
    reasons = "; ".join(dict.fromkeys(f"{one.series} {one.reason}" for one in unplaced))
    remedies = dict.fromkeys(one.remedy for one in unplaced if one.remedy)
    causes = [remedy for remedy in remedies if remedy not in (NO_PHASE, NO_MAGNITUDE)]  # others follow from these
    remedy = "; ".join(causes or remedies) or NO_PHASE
    return f"{dicom_dir} holds no GRE scan with magnitude and phase ({reasons}): {remedy}."


def _check_one_patient(dicom_dir: Path, scans: Sequence[DicomScan]) -> None:
    if (count := len({image.patient for scan in scans for image in scan.images})) > 1:
        raise InputError(f"{dicom_dir} holds scans of {count} patients: convert the folder of one patient at a time.")


def _check_one_day(dicom_dir: Path, scans: Sequence[DicomScan]) -> None:
    days = sorted(set(_days(scans)))
    if len(days) > 1:
        raise InputError(
            f"{dicom_dir} holds scans of {len(days)} days ({', '.join(days)}): convert the folder of one day at a time "
            "with --session, or let --plan --map FILE name the sessions."
        )


def _days(scans: Sequence[DicomScan]) -> list[str]:
    """Return the day of each scan's study, "" where none is stated: a session that runs past midnight is of one day."""
    began: dict[str, str] = {}
    for image in (image for scan in scans for image in scan.images):
        if image.day:
            began[image.study] = min(began.get(image.study, image.day), image.day)
    return [began.get(scan.images[0].study, min(began.values(), default="")) for scan in scans]


def _labelled(placed: Sequence[PlacedScan], target: _Target) -> list[PlacedScan]:
    """Return the scans with an acq label each, refusing what is there already unless overwrite.

    Numbers go on over all sessions of the subject; only the session's own scans can be replaced.
    """
    if target.acq is not None and len(placed) > 1:
        raise InputError(
            f"acq {target.acq!r} names one scan, but there are {len(placed)}: leave it out to number them."
        )
    known: dict[tuple[Path, str], str] = {}  # folder and fingerprint to label
    taken: set[tuple[Path, str]] = set()
    number = 0
    for path in [*target.subject_dir.glob("anat/*_acq-*"), *target.subject_dir.glob("ses-*/anat/*_acq-*")]:
        if is_litter(path) or not (found := re.search(r"_acq-([A-Za-z0-9]+)_", path.name)):
            continue
        if numbered := re.fullmatch(r"ori(\d+)", found[1]):
            number = max(number, int(numbered[1]))
        taken.add((path.parent, found[1]))
        if path.suffix == ".json":
            known[path.parent, str(read_json(path).get(FINGERPRINT))] = found[1]
    labelled = []
    for one in placed:
        folder = target.names(one.session).folder
        converted = known.get((folder, fingerprint(one.scan)))
        label = one.label or converted or f"ori{(number := number + 1):02d}"
        if not target.overwrite and (converted or (folder, label) in taken):
            raise InputError(
                f"{folder} holds acq-{converted or label} already: pass --overwrite to replace it"
                + (", or choose another --acq." if target.acq and not converted else ".")
            )
        labelled.append(replace(one, label=label, replaces=converted))
    return labelled


def _move_into_place(ready: Path, placed: Sequence[PlacedScan], target: _Target) -> None:
    """Rename the finished files into the dataset, image before sidecar, replacing what the labels had before."""
    if not (target.bids_dir / "dataset_description.json").exists():
        write_dataset_description(target.bids_dir, name=target.bids_dir.resolve().name, dataset_type="raw")
    for one in placed:
        names = target.names(one.session)
        names.folder.mkdir(parents=True, exist_ok=True)
        for label in {one.label, one.replaces} - {None}:
            for old in names.folder.glob(f"{names.prefix}_acq-{label}_*"):
                old.unlink()
    for one in placed:
        names = target.names(one.session)
        for image in sorted(ready.glob(f"{names.prefix}_acq-{one.label}_*.nii.gz")):
            image.replace(names.folder / image.name)
            sidecar_path(image).replace(names.folder / sidecar_path(image).name)
