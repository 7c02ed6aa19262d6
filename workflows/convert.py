"""DICOM to raw BIDS: dcm2niix, then echoes, magnitude and phase in radians under the names that `raw` reads."""

from __future__ import annotations

import hashlib
import os
import re
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from math import isclose, pi
from pathlib import Path

import numpy as np
from nibabel.arrayproxy import ArrayProxy
from numpy.typing import NDArray

from ..pipeline.errors import InputError
from ..pipeline.frames import check_affine, voxel_size
from .derivatives import (
    check_free_space,
    open_image,
    read_data,
    read_json,
    sidecar_path,
    write_dataset_description,
    write_image,
)
from .dicom import DicomImage, DicomScan, Part, Unplaced, group_scans, read_images, run_dcm2niix
from .sidecars import PhaseScale

# Names, dates and identifiers of the patient stay behind.
# fmt: off
_KEPT_KEYS = (
    "Modality", "MagneticFieldStrength", "ImagingFrequency", "Manufacturer", "ManufacturersModelName",
    "SoftwareVersions", "MRAcquisitionType", "SeriesDescription", "ProtocolName", "ScanningSequence",
    "SequenceVariant", "ScanOptions", "SequenceName", "PulseSequenceType", "SeriesNumber", "AcquisitionTime",
    "SliceThickness", "SpacingBetweenSlices", "EchoTime", "RepetitionTime", "FlipAngle", "PixelBandwidth",
    "DwellTime", "PartialFourier", "ParallelReductionFactorInPlane", "AcquisitionDuration",
    "ParallelReductionFactorOutOfPlane", "ReceiveCoilName", "CoilString", "PhaseEncodingAxis",
    "PhaseEncodingDirection", "ImageOrientationPatientDICOM", "ConversionSoftware", "ConversionSoftwareVersion",
)
# fmt: on
_FINGERPRINT = "SourceFingerprint"
_HALF_TURN_CODES = (2047.5, 2048.0, 8192.0, 32768.0)  # of 12-, 14- and 16-bit phase
_TOLERANCE = 2e-3  # vendors write pi as 3.142 or 3142
_ALTERNATING = -0.5


@dataclass(frozen=True)
class ConvertedScan:
    """One scan as it now stands in the dataset: its label ("acq-ori01"), files and what the scanner stated.

    echo_times in s, field_strength in T, voxel_size in mm; notes say what was done beyond copying.
    """

    label: str
    files: tuple[Path, ...]
    series: tuple[int, ...]
    shape: tuple[int, ...]
    voxel_size: tuple[float, ...]
    echo_times: tuple[float, ...]
    field_strength: float
    notes: tuple[str, ...]


@dataclass(frozen=True)
class Conversion:
    """What a conversion wrote, what it could not place, and the warnings of dcm2niix."""

    scans: tuple[ConvertedScan, ...]
    unplaced: tuple[Unplaced, ...]
    warnings: tuple[str, ...]


@dataclass(frozen=True)
class _Target:
    """Where a conversion goes, and the settings it was given."""

    bids_dir: Path
    subject: str
    session: str | None
    phase_range: tuple[float, float] | None
    phase_sign: int

    @property
    def prefix(self) -> str:
        return f"sub-{self.subject}" + (f"_ses-{self.session}" if self.session else "")

    @property
    def subject_dir(self) -> Path:
        return self.bids_dir / f"sub-{self.subject}"

    @property
    def folder(self) -> Path:
        return self.bids_dir.joinpath(*self.prefix.split("_"), "anat")


def convert_dicom(
    dicom_dir: Path,
    bids_dir: Path,
    *,
    subject: str,
    session: str | None = None,
    acq: str | None = None,
    phase_range: tuple[float, float] | None = None,
    phase_sign: int = 1,
    overwrite: bool = False,
) -> Conversion:
    """Convert the GRE scans of a DICOM folder into a raw BIDS dataset, creating it or adding to it.

    Scans become acq-ori01, acq-ori02, … in the order of acquisition, from the subject's next free number; acq names a
    single one. Magnitude and phase are float32, phase in radians (-pi...pi). phase_range: the values (after the DICOM's
    own scale) that mean -pi and +pi, for scanners that do not state them. phase_sign is recorded as PhaseSign.
    Nothing appears in the dataset before everything is converted. Raises InputError where there is no DICOM, no scan
    with magnitude and phase, an unknown phase scale, or where files would be replaced and overwrite is False.
    """
    session = None if session is None else _label("session", session)
    acq = None if acq is None else _label("acq", acq)
    target = _Target(Path(bids_dir), _label("subject", subject), session, phase_range, phase_sign)
    _check_settings(Path(dicom_dir), target)
    with _staging_in(target.bids_dir) as staging:
        raw, ready = staging / "dcm2niix", staging / "bids"
        raw.mkdir()
        ready.mkdir()
        warnings = run_dcm2niix(Path(dicom_dir), raw)
        scans, unplaced = group_scans(read_images(raw))
        if not scans:
            raise InputError(_nothing_found(Path(dicom_dir), unplaced))
        labels = _choose_labels(scans, target, acq, overwrite)
        converted = [_convert_scan(scan, label, ready, target) for scan, label in zip(scans, labels, strict=True)]
        _move_into_place(ready, labels, target)
    return Conversion(tuple(converted), tuple(unplaced), warnings)


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


def phase_scale_of(image: DicomImage, stored: NDArray[np.float32]) -> PhaseScale | None:
    """Return which values of dcm2niix's phase image mean -pi and +pi, from its header and vendor; None if unknown.

    stored: the values after the header's slope and intercept. Philips precise values are radians, its display values
    milliradians or 12-bit codes; Siemens stores a turn in 4096 codes; GE stores milliradians.
    """
    slope, intercept = _header_scale(image.path)
    vendor = str(image.sidecar.get("Manufacturer", "")).lower()
    lowest, highest = float(stored.min()), float(stored.max())
    scale: PhaseScale | None = None
    if isclose(intercept, -pi, rel_tol=_TOLERANCE):
        scale = PhaseScale(stated=True)
    elif isclose(intercept, -1000 * pi, rel_tol=_TOLERANCE):
        scale = PhaseScale(-1000 * pi, 1000 * pi, stated=True)
    elif any(isclose(-intercept, code * slope, rel_tol=1e-4) for code in _HALF_TURN_CODES):
        scale = PhaseScale(intercept, -intercept, stated=True)
    elif max(-lowest, highest) <= pi * (1 + _TOLERANCE) and highest - lowest > 1:
        scale = PhaseScale(stated=True)
    elif vendor.startswith("siemens") and highest > 2 * pi:
        scale = PhaseScale(0.0, 4096.0, stated=True) if lowest >= 0 else PhaseScale(-4096.0, 4096.0, stated=True)
    elif vendor.startswith("ge") and highest - lowest > 2 * pi:
        scale = PhaseScale(-1000 * pi, 1000 * pi, stated=True)
    if scale is None or not _within(scale, lowest, highest):
        return None
    return scale


def alternating_slices(signal: NDArray[np.complex64]) -> bool:
    """Tell whether a complex image (x, y, z) changes sign from slice to slice, as some GE 3-D reconstructions do."""
    product = np.vdot(signal[..., :-1], signal[..., 1:]).real
    size = float(np.sum(np.abs(signal[..., :-1]) * np.abs(signal[..., 1:])))
    return size > 0 and float(product) / size < _ALTERNATING


def _within(scale: PhaseScale, lowest: float, highest: float) -> bool:
    slack = _TOLERANCE * (scale.high - scale.low)
    return scale.low - slack <= lowest and highest <= scale.high + slack


def _header_scale(path: Path) -> tuple[float, float]:
    proxy = open_image(path).dataobj
    assert isinstance(proxy, ArrayProxy)  # what nibabel gives for a file
    return float(proxy.slope), float(proxy.inter)


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
    if target.phase_sign not in (1, -1):
        raise InputError(f"phase_sign must be 1 or -1, got {target.phase_sign}: choose one.")
    if target.bids_dir.exists() and not target.bids_dir.is_dir():
        raise InputError(f"{target.bids_dir} is a file: give a folder for the BIDS dataset.")
    check_free_space(target.bids_dir, 4 * sum(sizes))  # dcm2niix's images and float32 ones side by side


def _nothing_found(dicom_dir: Path, unplaced: Iterable[Unplaced]) -> str:
    reasons = "; ".join(dict.fromkeys(f"{one.series} {one.reason}" for one in unplaced))
    return (
        f"{dicom_dir} holds no GRE scan with magnitude and phase ({reasons}): export the phase images too, or the real "
        "and imaginary ones."
    )


def _fingerprint(scan: DicomScan) -> str:
    """Return what recognises a scan that was converted before, without telling who was scanned."""
    keys = ("SeriesInstanceUID", "AcquisitionDateTime", "AcquisitionTime", "SeriesNumber")
    stated = sorted({"|".join(str(image.sidecar.get(key)) for key in keys) for image in scan.images})
    return hashlib.sha256("\n".join(stated).encode()).hexdigest()[:16]


def _choose_labels(scans: list[DicomScan], target: _Target, acq: str | None, overwrite: bool) -> list[str]:
    """Return an acq label for each scan, refusing what is there already unless overwrite.

    Numbers go on over all sessions of the subject; only the session's own scans can be replaced.
    """
    if acq is not None and len(scans) > 1:
        raise InputError(f"acq {acq!r} names one scan, but there are {len(scans)}: leave it out to number them.")
    known: dict[str, str] = {}  # fingerprint to label
    taken: set[str] = set()
    number = 0
    for path in [*target.subject_dir.glob("anat/*_acq-*"), *target.subject_dir.glob("ses-*/anat/*_acq-*")]:
        if not (found := re.search(r"_acq-([A-Za-z0-9]+)_", path.name)):
            continue
        if numbered := re.fullmatch(r"ori(\d+)", found[1]):
            number = max(number, int(numbered[1]))
        if path.parent == target.folder:
            taken.add(found[1])
            if path.suffix == ".json":
                known[str(read_json(path).get(_FINGERPRINT))] = found[1]
    labels = []
    for scan in scans:
        converted = known.get(_fingerprint(scan))
        label = acq or converted or f"ori{(number := number + 1):02d}"
        if not overwrite and (converted or label in taken):
            raise InputError(
                f"{target.folder} holds acq-{converted or label} already: pass --overwrite to replace it"
                + (", or choose another --acq." if acq and not converted else ".")
            )
        labels.append(label)
    return labels


def _convert_scan(scan: DicomScan, label: str, folder: Path, target: _Target) -> ConvertedScan:
    """Write a scan's images and sidecars into folder; return how they are described in the dataset."""
    notes: list[str] = []
    files = []
    first = scan.images[0]
    affine = check_affine(first.affine, f"affine of {first.description}")
    for number, echo in enumerate(scan.echoes, start=1):
        source = echo.get("phase") or echo["real"]
        magnitude, phase = _magnitude_and_phase(echo, target.phase_range, notes)
        common = {key: source.sidecar[key] for key in _KEPT_KEYS if key in source.sidecar}
        common |= {_FINGERPRINT: _fingerprint(scan)}
        for part, volume, extra in (
            ("mag", magnitude, {}),
            ("phase", phase, {"Units": "rad", "PhaseSign": target.phase_sign}),
        ):
            name = f"{target.prefix}_acq-{label}_echo-{number}_part-{part}_MEGRE.nii.gz"
            write_image(folder / name, volume, affine, common | extra)
            files.append(target.folder / name)
    return ConvertedScan(
        label=f"acq-{label}",
        files=tuple(files),
        series=tuple(sorted({image.series for image in scan.images})),
        shape=first.shape,
        voxel_size=tuple(voxel_size(affine).tolist()),
        echo_times=scan.echo_times,
        field_strength=float(first.sidecar["MagneticFieldStrength"]),
        notes=tuple(dict.fromkeys(notes)),
    )


def _magnitude_and_phase(
    echo: Mapping[Part, DicomImage], phase_range: tuple[float, float] | None, notes: list[str]
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Return magnitude and phase (radians) of one echo, from real and imaginary where there is no phase image."""
    volumes = {part: read_data(open_image(image.path), image.path) for part, image in echo.items()}
    if "phase" in echo:
        phase = _radians(echo["phase"], volumes["phase"], phase_range)
    else:
        notes.append("phase from real and imaginary")
        phase = np.arctan2(volumes["imag"], volumes["real"])
    magnitude = volumes["mag"] if "mag" in volumes else np.hypot(volumes["real"], volumes["imag"])
    source: DicomImage = echo.get("phase") or echo["real"]
    made_by_ge = str(source.sidecar.get("Manufacturer", "")).upper().startswith("GE")
    if made_by_ge and alternating_slices((magnitude * np.exp(1j * phase)).astype(np.complex64)):
        notes.append("sign of every second slice restored")
        phase[..., 1::2] -= np.copysign(np.float32(pi), phase[..., 1::2])
    return magnitude, phase


def _radians(
    image: DicomImage, stored: NDArray[np.float32], phase_range: tuple[float, float] | None
) -> NDArray[np.float32]:
    if phase_range is not None:
        scale = PhaseScale(*phase_range, stated=True)
        if _within(scale, float(stored.min()), float(stored.max())):
            return scale.to_radians(stored)
    elif found := phase_scale_of(image, stored):
        return found.to_radians(stored)
    stated = f"beyond --phase-range {phase_range[0]:g} {phase_range[1]:g}" if phase_range else "of no stated scale"
    raise InputError(
        f"The phase of {image.description} holds {stored.min():g} to {stored.max():g}, {stated}: give --phase-range "
        "with the values that mean -pi and +pi."
    )


def _move_into_place(ready: Path, labels: list[str], target: _Target) -> None:
    """Rename the finished files into the dataset, image before sidecar, replacing what the labels had before."""
    if not (target.bids_dir / "dataset_description.json").exists():
        write_dataset_description(target.bids_dir, name=target.bids_dir.resolve().name, dataset_type="raw")
    target.folder.mkdir(parents=True, exist_ok=True)
    for label in labels:
        for old in target.folder.glob(f"{target.prefix}_acq-{label}_*"):
            old.unlink()
    for image in sorted(ready.glob("*.nii.gz")):
        os.replace(image, target.folder / image.name)
        os.replace(sidecar_path(image), target.folder / sidecar_path(image).name)
