"""DICOM folders through dcm2niix: the images it makes, and what their sidecars state."""

from __future__ import annotations

import json
import re
import subprocess
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import dcm2niix
import nibabel as nib
import numpy as np

from ...files.errors import InputError, StepError
from ...files.sidecars import one_line
from ...pipeline.frames import FloatArray
from .headers import decoded, files_beside_gaps

Part = Literal["mag", "phase", "real", "imag"]
_POSTFIX = re.compile(r"_(ph|real|imaginary)(?=_|[a-z]?$)")
_POSTFIX_PARTS: dict[str, Part] = {"ph": "phase", "real": "real", "imaginary": "imag"}
_IMAGE_TYPES: tuple[tuple[set[str], Part], ...] = (
    ({"PHASE", "P"}, "phase"),
    ({"REAL", "R"}, "real"),
    ({"IMAGINARY", "I"}, "imag"),
)
_SERIES_IN_NAME = re.compile(r"s(\d+)")
_ECHO_IN_NAME = re.compile(r"_e(\d+)(?=_|[a-z]?$)")
_EVENLY_SPACED = re.compile(r"_Eq(_\d+)?[a-z]?$")  # dcm2niix's copy of an image with gaps, interpolated
_IRRELEVANT = (  # warnings about names made here and about what GRE does not need
    "output filename",
    "Unable to distinguish Philips fieldmaps",
    "Missing GE protocol data block",
)
_CUT_SHORT = re.compile(r"File not large enough to store image data: *(.+)")
_NAMED_FILES = 3
_SAME_GRID_MM = 1e-3
_CANNOT_WRITE = 7  # exit code of dcm2niix


@dataclass(frozen=True)
class DicomImage:
    """One NIfTI file of dcm2niix: its sidecar, which part it is, its grid and when it was acquired (s).

    fault: why its voxels cannot be used, "" where they can.
    """

    path: Path
    sidecar: Mapping[str, Any]
    part: Part
    shape: tuple[int, ...]
    affine: FloatArray
    seconds: float | None
    fault: str = ""

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
    def series_key(self) -> tuple[int, str]:
        """Number and UID of the series: what tells one from another."""
        return self.series, str(self.sidecar.get("SeriesInstanceUID", ""))

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
    def echo_number(self) -> int:
        """The number of the echo, 1 where there is none."""
        return int(self.sidecar.get("EchoNumber", 1))

    @cached_property
    def image_type(self) -> tuple[str, ...]:
        """The words of ImageType in capitals, apart at spaces and underscores, also those of its vendor's own."""
        stated = [*self.sidecar.get("ImageType", []), *self.sidecar.get("ImageTypeText", [])]
        return tuple(word for value in stated for word in re.split(r"[\s_]+", str(value).upper()) if word)

    @property
    def series_name(self) -> str:
        """What the operator called the series."""
        return str(self.sidecar.get("SeriesDescription") or self.sidecar.get("ProtocolName") or "no name")

    @property
    def description(self) -> str:
        """The series as a person knows it: number and name."""
        return f"series {self.series} ({self.series_name})"

    @property
    def made_by(self) -> str:
        """The manufacturer, in small letters."""
        return str(self.sidecar.get("Manufacturer", "")).lower()

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
class Reason:
    """Why an image is part of no scan, and what helps; said of a series: "series 3 (gre) has no phase"."""

    text: str
    remedy: str = ""

    def __str__(self) -> str:
        return f"{self.text}: {self.remedy}" if self.remedy else self.text


@dataclass(frozen=True)
class Unplaced:
    """A series that became no part of a scan, why, and what helps."""

    series: str
    reason: str
    remedy: str = ""

    @property
    def sentence(self) -> str:
        """Reason and remedy."""
        return str(Reason(self.reason, self.remedy))


@dataclass(frozen=True)
class Grouping:
    """The scans found, in the order of acquisition, and for each other image, by name, why it belongs to none."""

    scans: tuple[DicomScan, ...]
    reasons: Mapping[str, Reason]

    def unplaced(self, images: Iterable[DicomImage]) -> tuple[Unplaced, ...]:
        """Return the series of the images that belong to no scan, each reason once."""
        told = [
            Unplaced(image.description, reason.text, reason.remedy)
            for image in images
            if (reason := self.reasons.get(image.name))
        ]
        return tuple(dict.fromkeys(told))


def run_dcm2niix(dicom_dir: Path, folder: Path) -> tuple[str, ...]:
    """Convert a DICOM folder (searched to its depth) into folder; return the warnings that dcm2niix gave.

    Raises InputError where there is no DICOM image or files are cut short, StepError where dcm2niix cannot be started,
    ends before its time, or makes no image.
    """
    options = ["-g", "i", "-b", "y", "-ba", "n", "-z", "n", "-d", "9", "-w", "2", "-f", "s%s"]
    command = [dcm2niix.bin, *options, "-o", str(folder), str(dicom_dir)]
    try:
        done = subprocess.run(command, capture_output=True, text=True, errors="replace", check=False)
    except OSError as error:
        raise StepError(f"dcm2niix cannot be started ({one_line(error)}): install chi33 anew.") from error
    lines = [line.strip() for line in (done.stdout + "\n" + done.stderr).splitlines() if line.strip()]
    errors = [line for line in lines if line.startswith("Error")]
    if cut := _cut_short(lines):
        named = ", ".join(cut[:_NAMED_FILES]) + (", …" if len(cut) > _NAMED_FILES else "")
        raise InputError(
            f"{dicom_dir} holds {len(cut)} DICOM file{'s' * (len(cut) > 1)} cut short ({named}): copy what is missing "
            "from the scanner again, or take it out of the folder."
        )
    made = any(folder.glob("*.nii"))
    if not made and any(word in line for line in lines for word in ("Unable to find any DICOM", "No valid DICOM")):
        raise InputError(f"{dicom_dir} holds no DICOM images: give the folder with the scanner's files.")
    if not made or done.returncode < 0 or done.returncode == _CANNOT_WRITE:
        raise StepError(
            f"dcm2niix {'stopped early in' if made else 'made no image of'} {dicom_dir} (exit code {done.returncode}: "
            f"{(errors or lines or ['no message'])[-1]}): check that the files are whole and the disk has space."
        )
    warnings = [line for line in lines if line.startswith(("Warning", "Error"))]
    return tuple(dict.fromkeys(line for line in warnings if not any(word in line for word in _IRRELEVANT)))


def _cut_short(lines: Iterable[str]) -> list[str]:
    """Return the names of the files that dcm2niix found cut short; what macOS puts beside a file is none of them."""
    names = {Path(found[1]).name for line in lines if (found := _CUT_SHORT.search(line))}
    return sorted(name for name in names if not name.startswith("._"))


def read_images(folder: Path, dicom_dir: Path) -> list[DicomImage]:
    """Return what dcm2niix wrote into a folder, made from dicom_dir, in the order of acquisition."""
    paths = sorted(folder.glob("*.nii"))
    interpolated = {path.stem for path in paths if _EVENLY_SPACED.search(path.stem)}
    paths = [path for path in paths if path.stem not in interpolated]
    gapped = {_EVENLY_SPACED.sub("", stem) for stem in interpolated}
    images = []
    for path, sidecar in decoded({path: _read_sidecar(path) for path in paths}, dicom_dir).items():
        opened = nib.load(path)
        if not isinstance(opened, nib.Nifti1Image):
            raise StepError(f"dcm2niix made {path.name}, which is no NIfTI image: check that the files are whole.")
        fault = "is a picture in colour" if opened.get_data_dtype().kind not in "iuf" else ""
        if path.stem in gapped or not sidecar:
            sidecar = sidecar or _stand_in(path)
            beside = files_beside_gaps(dicom_dir, sidecar)
            fault = "has slices at unequal distances: files are missing" + (f" {beside}" if beside else "")
        affine = np.asarray(opened.affine)
        images.append(DicomImage(path, sidecar, _part(path, sidecar), opened.shape, affine, _seconds(sidecar), fault))
    return sorted(images, key=lambda image: (image.seconds or 0.0, image.series, image.path.name))


def _stand_in(path: Path) -> dict[str, Any]:
    """Return what the name of an image tells, and other images of its series: dcm2niix gave it no sidecar."""
    series, echo = _SERIES_IN_NAME.match(path.stem), _ECHO_IN_NAME.search(path.stem)
    known: dict[str, Any] = {"EchoNumber": int(echo[1])} if echo else {}
    beside = path.parent.glob(f"{series[0]}_*.json") if series else ()
    for sidecar in map(_read_sidecar, sorted(beside)):
        same = ("SeriesNumber", "SeriesInstanceUID", "StudyInstanceUID", "SeriesDescription", "ProtocolName")
        return {key: sidecar[key] for key in same if key in sidecar} | known
    return known | ({"SeriesNumber": int(series[1])} if series else {})


def _read_sidecar(path: Path) -> dict[str, Any]:
    """Return dcm2niix's sidecar of an image, {} where there is none; old encodings leave control characters in it."""
    json_path = path.with_suffix(".json")
    if not json_path.is_file():
        return {}
    try:
        content = json.loads(json_path.read_bytes().decode("utf-8", errors="replace"), strict=False)
    except ValueError as error:
        raise StepError(
            f"dcm2niix wrote a sidecar of {path.stem} that cannot be read ({one_line(error)}): take that series out of "
            "the folder."
        ) from error
    return content if isinstance(content, dict) else {}


def _part(path: Path, sidecar: Mapping[str, Any]) -> Part:
    if match := _POSTFIX.search(path.stem):
        return _POSTFIX_PARTS[match[1]]
    stated = {str(word).upper() for word in sidecar.get("ImageType", [])}
    return next((part for words, part in _IMAGE_TYPES if words & stated), "mag")


def _seconds(sidecar: Mapping[str, Any]) -> float | None:
    """Return when acquisition began, in s on a clock that only this session shares; None where it is not stated.

    Midnight to the microsecond is what stands in for a time taken out.
    """
    for key, form in (("AcquisitionDateTime", "%Y-%m-%dT%H:%M:%S.%f"), ("AcquisitionTime", "%H:%M:%S.%f")):
        try:
            seconds = (datetime.strptime(str(sidecar.get(key)), form) - datetime(1900, 1, 1)).total_seconds()
        except ValueError:
            continue
        if seconds % 86400:
            return seconds
    return None
