"""One scan of a DICOM folder written as raw BIDS: magnitude and phase of each echo, with what describes them."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...files.derivatives import Derivatives, write_image
from ...files.maps.field_strength import FieldStrength, field_strength_of
from ...files.vendors import manufacturer_phase_sign
from ...pipeline.frames import check_affine, voxel_size
from ...pipeline.phase.alternating import alternating_axes
from .conversion import DicomImage, DicomScan, Part
from .kinds import distortion_of, is_corrected
from .map import PlacedScan
from .volumes import check_turn, read_echo

# Names, dates and identifiers of the patient stay behind.
# fmt: off
_KEPT_KEYS = (
    "Modality", "MagneticFieldStrength", "ImagingFrequency", "Manufacturer", "ManufacturersModelName",
    "SoftwareVersions", "MRAcquisitionType", "ImageType", "SeriesDescription", "ProtocolName", "ScanningSequence",
    "SequenceVariant", "ScanOptions", "SequenceName", "PulseSequenceType", "SeriesNumber", "AcquisitionTime",
    "SliceThickness", "SpacingBetweenSlices", "EchoTime", "RepetitionTime", "FlipAngle", "PixelBandwidth",
    "DwellTime", "PartialFourier", "ParallelReductionFactorInPlane", "AcquisitionDuration",
    "ParallelReductionFactorOutOfPlane", "ReceiveCoilName", "CoilString", "PhaseEncodingAxis",
    "PhaseEncodingDirection", "ImageOrientationPatientDICOM", "ConversionSoftware", "ConversionSoftwareVersion",
)
# fmt: on
FINGERPRINT = "SourceFingerprint"


@dataclass(frozen=True)
class ConvertedScan:
    """One scan as it now stands in the dataset: its label ("acq-ori01"), files and what the scanner stated.

    echo_times in s, voxel_size in mm; notes say what was done beyond copying.
    """

    label: str
    files: tuple[Path, ...]
    series: tuple[int, ...]
    shape: tuple[int, ...]
    voxel_size: tuple[float, ...]
    echo_times: tuple[float, ...]
    field_strength: FieldStrength
    notes: tuple[str, ...]


def fingerprint(scan: DicomScan) -> str:
    """Return what recognises a scan that was converted before, without telling who was scanned."""
    keys = ("SeriesInstanceUID", "AcquisitionDateTime", "AcquisitionTime", "SeriesNumber")
    stated = sorted({"|".join(str(image.sidecar.get(key)) for key in keys) for image in scan.images})
    return hashlib.sha256("\n".join(stated).encode()).hexdigest()[:16]


def write_scan(
    placed: PlacedScan,
    folder: Path,
    names: Derivatives,
    *,
    phase_range: tuple[float, float] | None = None,
    phase_sign: int | None = None,
) -> ConvertedScan:
    """Write a scan's images and sidecars into folder; return how they are described in the dataset of names.

    phase_range: the stored values that mean -pi and +pi; phase_sign: recorded as PhaseSign, None for the vendor's.
    """
    scan, first = placed.scan, placed.scan.images[0]
    affine = check_affine(first.affine, f"affine of {first.description}")
    sign = phase_sign or manufacturer_phase_sign(first.sidecar)
    notes = ["PhaseSign -1 as of GE (else --phase-sign 1)"] if sign == -1 and phase_sign is None else []
    notes += [*_correction(scan), *check_turn(scan.echoes, phase_range)]
    alternating = _alternating_axes(scan, phase_range)
    files = []
    for number, echo in enumerate(scan.echoes, start=1):
        volumes = read_echo(echo, phase_range).with_signs_restored(alternating)
        notes += volumes.notes
        parts: tuple[tuple[Part, NDArray[np.float32], dict[str, Any]], ...] = (
            ("mag", volumes.magnitude, {}),
            ("phase", volumes.phase, {"Units": "rad", "PhaseSign": sign}),
        )
        for part, volume, extra in parts:
            name = f"{names.prefix}_acq-{placed.label}_echo-{number}_part-{part}_MEGRE.nii.gz"
            stated = _described(echo.get(part) or echo["real"]) | {FINGERPRINT: fingerprint(scan)}
            write_image(folder / name, volume, affine, stated | extra)
            files.append(names.folder / name)
    field_strength = field_strength_of(first.sidecar)
    assert field_strength is not None  # an image without one is in no scan
    return ConvertedScan(
        label=f"acq-{placed.label}",
        files=tuple(files),
        series=tuple(sorted({image.series for image in scan.images})),
        shape=first.shape,
        voxel_size=tuple(voxel_size(affine).tolist()),
        echo_times=scan.echo_times,
        field_strength=field_strength,
        notes=tuple(dict.fromkeys(notes)),
    )


def _described(image: DicomImage) -> dict[str, Any]:
    return {key: image.sidecar[key] for key in _KEPT_KEYS if key in image.sidecar}


def _correction(scan: DicomScan) -> list[str]:
    kinds = sorted({distortion_of(image) for image in scan.images if is_corrected(image)})
    return [f"corrected for distortion ({', '.join(kinds)}): wraps of the phase were interpolated"] if kinds else []


def _alternating_axes(scan: DicomScan, phase_range: tuple[float, float] | None) -> tuple[int, ...]:
    """Return the array axes along which a scan's signs alternate: the same in all echoes, seen best in the first."""
    first = read_echo(scan.echoes[0], phase_range).signal
    if len(scan.echoes) == 1:
        return alternating_axes(first)
    return alternating_axes(first, read_echo(scan.echoes[1], phase_range).signal, scan.echo_times[:2])
