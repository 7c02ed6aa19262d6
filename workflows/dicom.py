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
_IRRELEVANT = ("output filename", "Unable to distinguish Philips fieldmaps")  # warnings about names made here
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
    def series(self) -> int:
        """The DICOM series number, 0 where there is none."""
        return int(self.sidecar.get("SeriesNumber", 0))

    @property
    def echo_time(self) -> float:
        """Echo time in s, rounded to the microsecond; 0 where there is none."""
        return round(float(self.sidecar.get("EchoTime", 0)), 6)

    @property
    def description(self) -> str:
        """The series as a person knows it: number and name."""
        name = self.sidecar.get("SeriesDescription") or self.sidecar.get("ProtocolName") or "no name"
        return f"series {self.series} ({name})"

    def on_grid_of(self, other: DicomImage) -> bool:
        """Tell whether two images share their voxels."""
        return self.shape == other.shape and bool(np.abs(self.affine - other.affine).max() < _SAME_GRID_MM)


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


def run_dcm2niix(dicom_dir: Path, folder: Path) -> tuple[str, ...]:
    """Convert a DICOM folder (searched to its depth) into folder; return the warnings that dcm2niix gave.

    Raises InputError where there is no DICOM image, StepError where dcm2niix fails without an image.
    """
    options = ["-g", "i", "-b", "y", "-ba", "n", "-z", "n", "-d", "9", "-w", "2", "-f", "s%s"]
    command = [dcm2niix.bin, *options, "-o", str(folder), str(dicom_dir)]
    done = subprocess.run(command, capture_output=True, text=True, errors="replace", check=False)
    lines = [line.strip() for line in (done.stdout + "\n" + done.stderr).splitlines() if line.strip()]
    errors = [line for line in lines if line.startswith("Error")]
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


def group_scans(images: Iterable[DicomImage]) -> tuple[list[DicomScan], list[Unplaced]]:
    """Group images into scans, in the order of acquisition; what belongs to none is returned with the reason.

    Images of one grid that start within 20 s of one another are one scan; where the same part and echo time occur more
    than once there, in different series, the first of each make the first scan, the second the second.
    """
    scans: list[DicomScan] = []
    unplaced: list[Unplaced] = []
    usable = []
    for image in images:
        if reason := _unusable(image):
            unplaced.append(Unplaced(image.description, reason))
        else:
            usable.append(image)
    for cluster in _clusters(usable):
        for candidates in _occurrences(cluster, unplaced):
            scan = _scan(candidates, unplaced)
            scans += [scan] if scan else []
    scans.sort(key=lambda scan: min((image.seconds or 0.0, image.series) for image in scan.images))
    return scans, list(dict.fromkeys(unplaced))


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


def _unusable(image: DicomImage) -> str | None:
    if len(image.shape) != 3:
        return f"has {len(image.shape)} dimensions {image.shape}, a GRE echo has 3"
    if image.echo_time <= 0:
        return "states no echo time"
    if not image.sidecar.get("MagneticFieldStrength"):
        return "states no field strength"
    if "_Eq" in image.path.stem:
        return "has slices at unequal distances"
    return None


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


def _occurrences(cluster: list[DicomImage], unplaced: list[Unplaced]) -> list[list[DicomImage]]:
    """Split a cluster so that each part has each echo time once: by the order of the series."""
    alike: dict[tuple[str, float], list[DicomImage]] = defaultdict(list)
    for image in sorted(cluster, key=lambda image: image.series):
        alike[image.part, image.echo_time].append(image)
    scans: dict[int, list[DicomImage]] = defaultdict(list)
    for images in alike.values():
        if len({image.series for image in images}) < len(images):
            reason = f"has {len(images)} {images[0].part} images of one echo time (coils apart, or repetitions)"
            unplaced += [Unplaced(image.description, reason) for image in images]
            continue
        for index, image in enumerate(images):
            scans[index].append(image)
    return list(scans.values())


def _scan(images: list[DicomImage], unplaced: list[Unplaced]) -> DicomScan | None:
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
    unplaced += [Unplaced(image.description, reason) for image in images]
    return None
