"""DICOM folders through dcm2niix, and its images grouped into multi-echo GRE scans, one a head orientation."""

from __future__ import annotations

import re
import subprocess
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from itertools import pairwise
from pathlib import Path
from typing import Any, Literal

import dcm2niix
import numpy as np

from ..pipeline.errors import InputError, StepError
from ..pipeline.frames import FloatArray
from .derivatives import open_image, read_json

Part = Literal["mag", "phase", "real", "imag"]
_POSTFIX = re.compile(r"_(ph|real|imaginary)(?=_|[a-z]?$)")
_POSTFIX_PARTS: dict[str, Part] = {"ph": "phase", "real": "real", "imaginary": "imag"}
_IMAGE_TYPES: tuple[tuple[set[str], Part], ...] = (
    ({"PHASE", "P"}, "phase"),
    ({"REAL", "R"}, "real"),
    ({"IMAGINARY", "I"}, "imag"),
)
_SERIES_IN_NAME = re.compile(r"s(\d+)")
_DERIVED = {"SWI", "MNIP", "MINIP", "MIP", "PROJECTION IMAGE"}
_IRRELEVANT = (  # warnings about names made here and about what GRE does not need
    "output filename",
    "Unable to distinguish Philips fieldmaps",
    "Missing GE protocol data block",
)
_CUT_SHORT = re.compile(r"File not large enough to store image data: *(.+)")
_NAMED_FILES = 3
_SAME_SCAN_SECONDS = 20.0  # parts and echoes of one scan start together; the next scan starts a scan later
_SAME_GRID_MM = 1e-3


@dataclass(frozen=True)
class DicomImage:
    """One NIfTI file of dcm2niix: its sidecar, which part it is, its grid and when it was acquired (s)."""

    path: Path
    sidecar: Mapping[str, Any]
    part: Part
    shape: tuple[int, ...]
    affine: FloatArray
    seconds: float | None

    @property
    def name(self) -> str:
        """The name by which a mapping file knows the image, the same at every conversion of the folder: "s3_e1_ph"."""
        return self.path.stem

    @property
    def series(self) -> int:
        """The DICOM series number, 0 where there is none."""
        named = _SERIES_IN_NAME.match(self.name)
        return int(self.sidecar.get("SeriesNumber", named[1] if named else 0))

    @property
    def day(self) -> str | None:
        """The date of acquisition, None where it is not stated."""
        stated = self.sidecar.get("AcquisitionDateTime")
        return str(stated).split("T")[0] if stated else None

    @property
    def study(self) -> str:
        """The UID of the study."""
        return str(self.sidecar.get("StudyInstanceUID", ""))

    @property
    def patient(self) -> tuple[str, str]:
        """Identifier and name, to tell patients apart; nowhere written."""
        return str(self.sidecar.get("PatientID", "")), str(self.sidecar.get("PatientName", ""))

    @property
    def echo_time(self) -> float:
        """Echo time in s, rounded to the microsecond; 0 where there is none."""
        return round(float(self.sidecar.get("EchoTime", 0)), 6)

    @property
    def series_name(self) -> str:
        """What the operator called the series."""
        return str(self.sidecar.get("SeriesDescription") or self.sidecar.get("ProtocolName") or "no name")

    @property
    def description(self) -> str:
        """The series as a person knows it: number and name."""
        return f"series {self.series} ({self.series_name})"

    def on_grid_of(self, other: DicomImage) -> bool:
        """Tell whether two images share their voxels."""
        return self.shape == other.shape and bool(np.abs(self.affine - other.affine).max() < _SAME_GRID_MM)

    def lacks_slices_of(self, other: DicomImage) -> bool:
        """Tell whether an image has the voxels of another, of the same start, but fewer slices."""
        apart = np.sort([np.abs(self.affine[:3, axis] - other.affine[:3, axis]).max() for axis in range(3)])
        together = self.seconds == other.seconds or (
            self.seconds is not None
            and other.seconds is not None
            and abs(self.seconds - other.seconds) <= _SAME_SCAN_SECONDS
        )
        fewer = np.not_equal(self.shape, other.shape).sum() == 1 and np.prod(self.shape) < np.prod(other.shape)
        return together and bool(fewer) and bool(apart[2] < _SAME_GRID_MM)


@dataclass(frozen=True)
class DicomScan:
    """One multi-echo scan: for each echo time (s, rising) its images by part, with phase or real and imaginary."""

    echoes: tuple[Mapping[Part, DicomImage], ...]
    echo_times: tuple[float, ...]

    @property
    def images(self) -> list[DicomImage]:
        """All images, echo by echo."""
        return [image for echo in self.echoes for image in echo.values()]


@dataclass(frozen=True)
class Unplaced:
    """A series that became no part of a scan, and why."""

    series: str
    reason: str


@dataclass(frozen=True)
class Grouping:
    """The scans found, in the order of acquisition, and for each other image, by name, why it belongs to none."""

    scans: tuple[DicomScan, ...]
    reasons: Mapping[str, str]

    def unplaced(self, images: Iterable[DicomImage]) -> tuple[Unplaced, ...]:
        """Return the series of the images that belong to no scan, each reason once."""
        told = [Unplaced(image.description, self.reasons[image.name]) for image in images if image.name in self.reasons]
        return tuple(dict.fromkeys(told))


def run_dcm2niix(dicom_dir: Path, folder: Path) -> tuple[str, ...]:
    """Convert a DICOM folder (searched to its depth) into folder; return the warnings that dcm2niix gave.

    Raises InputError where there is no DICOM image or files are cut short, StepError where dcm2niix fails without an
    image.
    """
    options = ["-g", "i", "-b", "y", "-ba", "n", "-z", "n", "-d", "9", "-w", "2", "-f", "s%s"]
    command = [dcm2niix.bin, *options, "-o", str(folder), str(dicom_dir)]
    done = subprocess.run(command, capture_output=True, text=True, errors="replace", check=False)
    lines = [line.strip() for line in (done.stdout + "\n" + done.stderr).splitlines() if line.strip()]
    errors = [line for line in lines if line.startswith("Error")]
    if cut := sorted({found[1] for line in lines if (found := _CUT_SHORT.search(line))}):
        named = ", ".join(Path(path).name for path in cut[:_NAMED_FILES]) + (", …" if len(cut) > _NAMED_FILES else "")
        raise InputError(
            f"{dicom_dir} holds {len(cut)} DICOM file{'s' * (len(cut) > 1)} cut short ({named}): copy what is missing "
            "from the scanner again, or take it out of the folder."
        )
    if not any(folder.glob("*.nii")):
        if any("Unable to find any DICOM" in line for line in errors):
            raise InputError(f"{dicom_dir} holds no DICOM images: give the folder with the scanner's files.")
        raise StepError(
            f"dcm2niix made no image of {dicom_dir} (exit code {done.returncode}: "
            f"{(errors or lines or ['no message'])[-1]}): check that the files are whole."
        )
    warnings = [line for line in lines if line.startswith(("Warning", "Error"))]
    return tuple(dict.fromkeys(line for line in warnings if not any(word in line for word in _IRRELEVANT)))


def read_images(folder: Path) -> list[DicomImage]:
    """Return what dcm2niix wrote into a folder, in the order of acquisition."""
    images = []
    for path in sorted(folder.glob("*.nii")):
        json_path = path.with_suffix(".json")
        sidecar = read_json(json_path) if json_path.is_file() else {}
        image = open_image(path)
        images.append(
            DicomImage(path, sidecar, _part(path, sidecar), image.shape, np.asarray(image.affine), _seconds(sidecar))
        )
    return sorted(images, key=lambda image: (image.seconds or 0.0, image.series, image.path.name))


def group_scans(images: Iterable[DicomImage]) -> Grouping:
    """Group images into scans; what belongs to none is named with the reason.

    Images of one grid that start within 20 s of one another are one scan; where the same part and echo time occur more
    than once there, in different series, the first of each make the first scan, the second the second.
    """
    scans: list[DicomScan] = []
    reasons: dict[str, str] = {}
    usable = []
    for image in images:
        if reason := why_unusable(image) or _why_derived(image):
            reasons[image.name] = reason
        else:
            usable.append(image)
    for image in usable:
        if whole := next((one for one in usable if image.lacks_slices_of(one)), None):
            reasons[image.name] = (
                f"has {_matrix(image)} voxels where series {whole.series} has {_matrix(whole)}: files are missing"
            )
    for cluster in _clusters([image for image in usable if image.name not in reasons]):
        for candidates in _occurrences(cluster, reasons):
            scan = _scan(candidates, reasons)
            scans += [scan] if scan else []
    scans.sort(key=lambda scan: min((image.seconds or 0.0, image.series) for image in scan.images))
    return Grouping(tuple(scans), reasons)


def _matrix(image: DicomImage) -> str:
    return "x".join(str(size) for size in image.shape)


def _part(path: Path, sidecar: Mapping[str, Any]) -> Part:
    if match := _POSTFIX.search(path.stem):
        return _POSTFIX_PARTS[match[1]]
    stated = {str(word).upper() for word in sidecar.get("ImageType", [])}
    return next((part for words, part in _IMAGE_TYPES if words & stated), "mag")


def _seconds(sidecar: Mapping[str, Any]) -> float | None:
    """Return when acquisition began, in s on a clock that only this session shares; None where it is not stated."""
    for key, form in (("AcquisitionDateTime", "%Y-%m-%dT%H:%M:%S.%f"), ("AcquisitionTime", "%H:%M:%S.%f")):
        if key in sidecar:
            try:
                return (datetime.strptime(sidecar[key], form) - datetime(1900, 1, 1)).total_seconds()
            except ValueError:
                continue
    return None


def why_unusable(image: DicomImage) -> str | None:
    """Return why an image can be part of no scan, None where it can."""
    if len(image.shape) != 3:
        return f"has {len(image.shape)} dimensions {image.shape}, a GRE echo has 3"
    if not image.sidecar or "_Eq" in image.path.stem:
        return "has slices at unequal distances: files are missing"
    if image.echo_time <= 0:
        return "states no echo time"
    if not image.sidecar.get("MagneticFieldStrength"):
        return "states no field strength"
    return None


def _why_derived(image: DicomImage) -> str | None:
    stated = {str(word).upper() for word in image.sidecar.get("ImageType", [])} & _DERIVED
    return f"is a derived image ({', '.join(sorted(stated))})" if stated and image.part == "mag" else None


def _clusters(images: Sequence[DicomImage]) -> list[list[DicomImage]]:
    """Split images by grid, then where more than 20 s pass between two starts."""
    grids: list[list[DicomImage]] = []
    for image in images:
        grid = next((members for members in grids if image.on_grid_of(members[0])), None)
        if grid is None:
            grids.append([image])
        else:
            grid.append(image)
    clusters = []
    for members in grids:
        members.sort(key=lambda image: (image.seconds is None, image.seconds or 0.0, image.series))
        clusters.append(members[:1])
        for earlier, later in pairwise(members):
            if later.seconds is None or earlier.seconds is None:
                apart = later.seconds != earlier.seconds
            else:
                apart = later.seconds - earlier.seconds > _SAME_SCAN_SECONDS
            if apart:
                clusters.append([])
            clusters[-1].append(later)
    return clusters


def _occurrences(cluster: list[DicomImage], reasons: dict[str, str]) -> list[list[DicomImage]]:
    """Split a cluster so that each part has each echo time once: by the order of the series."""
    alike: dict[tuple[str, float], list[DicomImage]] = defaultdict(list)
    for image in sorted(cluster, key=lambda image: image.series):
        alike[image.part, image.echo_time].append(image)
    scans: dict[int, list[DicomImage]] = defaultdict(list)
    for images in alike.values():
        if len({image.series for image in images}) < len(images):
            reason = f"has {len(images)} {images[0].part} images of one echo time (coils apart, or repetitions)"
            reasons |= {image.name: reason for image in images}
            continue
        for index, image in enumerate(images):
            scans[index].append(image)
    return list(scans.values())


def _scan(images: list[DicomImage], reasons: dict[str, str]) -> DicomScan | None:
    by_echo: dict[float, dict[Part, DicomImage]] = defaultdict(dict)
    for image in images:
        by_echo[image.echo_time][image.part] = image
    times = sorted(by_echo)
    with_phase = [time for time in times if "phase" in by_echo[time] or {"real", "imag"} <= by_echo[time].keys()]
    with_magnitude = [time for time in times if "mag" in by_echo[time] or {"real", "imag"} <= by_echo[time].keys()]
    if with_phase == with_magnitude == times:
        return DicomScan(tuple(by_echo[time] for time in times), tuple(times))
    if not with_phase:
        reason = "has no phase image of the same grid and acquisition time"
    elif not with_magnitude:
        reason = "has no magnitude image of the same grid and acquisition time"
    else:
        reason = f"has magnitude at echo times {with_magnitude} s but phase at {with_phase} s"
    reasons |= {image.name: reason for image in images}
    return None
