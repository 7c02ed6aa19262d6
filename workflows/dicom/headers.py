"""What only the DICOM files themselves tell: how their text is encoded, and between which of them files are missing."""

from __future__ import annotations

import os
import re
import warnings
from collections import defaultdict
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from pydicom import Dataset

_ESCAPE = "\x1b"
_GE_PARTS = (0x0043, 0x102F)
_SAME_ECHO_MS = 1e-3
_NAMED_GAPS = 2


def is_litter(path: Path) -> bool:
    """Tell whether a file is what an operating system leaves in a folder."""
    return path.name.startswith("._") or path.name in (".DS_Store", "Thumbs.db", "desktop.ini")


def decoded(sidecars: Mapping[Path, Mapping[str, Any]], dicom_dir: Path) -> dict[Path, dict[str, Any]]:
    """Return sidecars of dcm2niix, by image, with their text as the scanner meant it.

    dcm2niix takes every byte for a Latin-1 character, whatever SpecificCharacterSet says.
    """
    found = {path: dict(sidecar) for path, sidecar in sidecars.items()}
    foreign = [
        (sidecar, key)
        for sidecar in found.values()
        for key, value in sidecar.items()
        if isinstance(value, str) and (_ESCAPE in value or not value.isascii())
    ]
    if foreign:
        encodings = _encodings(dicom_dir)
        for sidecar, key in foreign:
            sidecar[key] = _decode(sidecar[key], encodings)
    return found


def _encodings(dicom_dir: Path) -> list[str]:
    """Return the Python encodings of the first file that states a character set, none where no file does."""
    from pydicom.charset import convert_encodings

    for _, ds in _headers(dicom_dir, ["SpecificCharacterSet"]):
        if stated := ds.get("SpecificCharacterSet"):
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                return list(convert_encodings(stated))
    return []


def _decode(text: str, encodings: list[str]) -> str:
    from pydicom.charset import decode_bytes

    try:
        stored = text.encode("latin-1")
    except UnicodeEncodeError:  # read as something else already
        return _printable(text)
    if encodings and encodings[0] != "utf8":
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return _printable(decode_bytes(stored, encodings, set(b"^=")))
    try:
        return _printable(stored.decode("utf-8"))
    except UnicodeDecodeError:
        return _printable(text)


def _printable(text: str) -> str:
    return re.sub(r"[\x00-\x1f\x7f-\x9f]", "", text)


def files_beside_gaps(dicom_dir: Path, sidecar: Mapping[str, Any]) -> str:
    """Return where slices are missing in the image of a sidecar: "between a.dcm and b.dcm", "" where no file tells.

    Files of the image are those of its series and echo time; of several parts among them each is looked at alone.
    """
    stacks: dict[tuple[str, ...], dict[float, str]] = defaultdict(dict)
    tags = [
        "SeriesInstanceUID", "SeriesNumber", "EchoTime", "EchoNumbers", "ImageType", "ImagePositionPatient",
        "ImageOrientationPatient", _GE_PARTS,
    ]  # fmt: skip
    for path, ds in _headers(dicom_dir, tags):
        if not _is_of(ds, sidecar):
            continue
        position, axes = ds.get("ImagePositionPatient"), ds.get("ImageOrientationPatient")
        if position is None or axes is None:
            continue
        normal = np.cross(*np.reshape(np.array(axes, float), (2, 3)))
        part = str(ds[_GE_PARTS].value) if _GE_PARTS in ds else ""
        along = round(float(normal @ np.array(position, float)), 3)
        stacks[(*map(str, ds.get("ImageType") or ()), part)][along] = path.name
    pairs = []
    for stack in stacks.values():
        places = sorted(stack)
        steps = np.diff(places)
        if len(steps):
            gaps = np.flatnonzero(steps > 1.5 * np.median(steps)).tolist()
            pairs += [f"{stack[places[gap]]} and {stack[places[gap + 1]]}" for gap in gaps]
    return "between " + "; ".join(pairs[:_NAMED_GAPS]) if pairs else ""


def _is_of(ds: Dataset, sidecar: Mapping[str, Any]) -> bool:
    """Tell whether a file belongs to the series and echo of a sidecar, which may lack the UID and the echo time."""
    for key in ("SeriesInstanceUID", "SeriesNumber"):
        if key in sidecar:
            if str(ds.get(key)) != str(sidecar[key]):
                return False
            break
    if "EchoTime" in sidecar:
        return abs(float(ds.get("EchoTime") or 0) - 1000 * float(sidecar["EchoTime"])) < _SAME_ECHO_MS
    return "EchoNumber" not in sidecar or str(ds.get("EchoNumbers")) == str(sidecar["EchoNumber"])


def _headers(dicom_dir: Path, tags: list[Any]) -> Iterator[tuple[Path, Dataset]]:
    """Yield the given tags of every DICOM file of a folder, in the order of names."""
    from pydicom import dcmread
    from pydicom.errors import InvalidDicomError

    for folder, folders, names in os.walk(dicom_dir):
        folders.sort()
        for path in (Path(folder) / name for name in sorted(names)):
            if not is_litter(path):
                try:
                    yield path, dcmread(path, stop_before_pixels=True, specific_tags=tags)
                except (InvalidDicomError, OSError, ValueError, KeyError, NotImplementedError):
                    continue
