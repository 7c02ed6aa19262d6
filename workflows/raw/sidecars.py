"""What the JSON sidecars of raw scans state: inherited as BIDS says, and each value checked as it is read.

Keys: EchoTime (s), MagneticFieldStrength (T), Units, and chi33's own PhaseRange ([low, high]: the values that mean -pi
and +pi), PhaseScale (radians per stored unit), PhaseSign (+1 or -1) and B0_dir (unit vector of B0, voxel frame).
Readers add a sentence to `problems` instead of raising, so that one report names everything that is wrong.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from math import isfinite, pi
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...files.errors import InputError
from ...files.sidecars import read_json
from ...files.vendors import manufacturer_phase_sign
from ...pipeline.frames import check_b0_direction

Sidecar = Mapping[str, Any]
LARGEST_PHASE = np.nextafter(np.float32(pi), np.float32(0))  # float32's own pi lies above pi
_FILTERED = {"SWI", "SWIP", "FILTERED", "HPF", "HIGHPASS", "HIGH_PASS", "PHASE_FILTERED", "VENOUS"}
ARBITRARY = "arbitrary"
_RADIANS = ("rad", "radian", "radians")
PHASE_RANGE_OPTION = "--phase-range LOW,HIGH"
_OPTIONS = {"EchoTime": "--te", "MagneticFieldStrength": "--b0"}


@dataclass(frozen=True)
class PhaseScale:
    """Which stored values mean -pi (low) and +pi (high); stated tells whether the sidecar, or the user, says so.

    explicit: by PhaseRange or PhaseScale, not by Units alone; units: as the sidecar has them.
    """

    low: float = -pi
    high: float = pi
    stated: bool = False
    explicit: bool = False
    units: str | None = None

    @property
    def said_by(self) -> str:
        """Who says what the values mean, with a verb: "its sidecar says"."""
        return "its sidecar says" if self.units != PHASE_RANGE_OPTION else f"{PHASE_RANGE_OPTION} says"

    def to_radians(self, stored: NDArray[np.float32]) -> NDArray[np.float32]:
        """Return stored phase values in radians, float32, wrapped to -pi...pi."""
        middle, per_unit = (self.low + self.high) / 2, 2 * pi / (self.high - self.low)
        radians = (stored - np.float32(middle)) * np.float32(per_unit)
        outside = np.abs(radians) > np.float32(pi)
        radians[outside] -= np.float32(2 * pi) * np.round(radians[outside] / np.float32(2 * pi))
        return np.clip(radians, -LARGEST_PHASE, LARGEST_PHASE, out=radians)


class Sidecars:
    """JSON sidecars by the BIDS inheritance principle, each file read once."""

    def __init__(self, bids_dir: Path) -> None:
        self.bids_dir = bids_dir
        self._folders: dict[Path, list[tuple[dict[str, str], str, Path]]] = {}
        self._content: dict[Path, dict[str, Any]] = {}

    def of(self, path: Path, entities: Mapping[str, str], suffix: str, problems: list[str]) -> Sidecar:
        """Return the keys that apply to an image: the nearest folder wins, and in it the name with more entities."""
        merged: dict[str, Any] = {}
        folder = path.parent
        lineage = [folder, *folder.parents[: len(folder.relative_to(self.bids_dir).parts)]]
        for level in reversed(lineage):
            for stated, kind, json_path in self._list(level):
                if kind == suffix and stated.items() <= entities.items():
                    merged |= self._read(json_path, problems)
        return merged

    def _list(self, folder: Path) -> list[tuple[dict[str, str], str, Path]]:
        if folder not in self._folders:
            found = []
            for path in sorted(folder.glob("[!.]*.json")):  # macOS leaves ._NAME beside a NAME
                *parts, suffix = path.stem.split("_")
                if all("-" in part for part in parts):
                    found.append((dict(part.split("-", 1) for part in parts), suffix, path))
            self._folders[folder] = sorted(found, key=lambda entry: len(entry[0]))
        return self._folders[folder]

    def _read(self, path: Path, problems: list[str]) -> dict[str, Any]:
        if path not in self._content:
            try:
                self._content[path] = read_json(path)
            except InputError as error:
                self._content[path] = {}
                problems.append(str(error))
        return self._content[path]


def number(sidecar: Sidecar, key: str, path: Path, largest: float, unit: str, problems: list[str]) -> float:
    """Return a positive number of at most largest; NaN, and a problem, where it is missing or impossible."""
    value = sidecar.get(key)
    if value is None:
        problems.append(f"{path} has no {key} in its sidecar: add it, in {unit}, or give {_OPTIONS[key]}.")
    elif isinstance(value, list) and len(value) > 1:
        problems.append(
            f"{path} states {len(value)} values of {key}, {value!r}: split an image of several echoes into one 3-D "
            f"image an echo (echo-1, echo-2 …), each with its own {key}."
        )
    elif isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value <= largest:
        problems.append(f"{path} states {key} {value!r}: give a number between 0 and {largest:g} {unit}.")
    else:
        return float(value)
    return float("nan")


def _finite(values: Any, count: int) -> bool:
    return (
        isinstance(values, list)
        and len(values) == count
        and all(isinstance(v, int | float) and not isinstance(v, bool) and isfinite(v) for v in values)
    )


def phase_scale(
    sidecar: Sidecar, path: Path, problems: list[str], given: tuple[float, float] | None = None
) -> PhaseScale:
    """Return the scale of PhaseRange, PhaseScale or Units, in this order; radians, not stated, where there is none.

    given: the values that mean -pi and +pi of images whose sidecars do not tell.
    """
    units = sidecar.get("Units")
    if (limits := sidecar.get("PhaseRange")) is not None:
        if _finite(limits, 2) and limits[0] < limits[1]:
            return PhaseScale(float(limits[0]), float(limits[1]), stated=True, explicit=True)
        problems.append(f"{path} states PhaseRange {limits!r}: give [low, high], the values that mean -pi and +pi.")
    elif (per_unit := sidecar.get("PhaseScale")) is not None:
        if _finite([per_unit], 1) and per_unit > 0:
            return PhaseScale(-pi / per_unit, pi / per_unit, stated=True, explicit=True)
        problems.append(f"{path} states PhaseScale {per_unit!r}: give the radians per stored unit, above 0.")
    elif units in _RADIANS:
        return PhaseScale(stated=True, units="rad")
    elif units == "mrad":
        return PhaseScale(-1000 * pi, 1000 * pi, stated=True, units="mrad")
    elif units not in (None, "", ARBITRARY):
        problems.append(f"{path} states Units {units!r}: give rad, or arbitrary with PhaseRange [low, high].")
    elif given is not None:
        return PhaseScale(*given, stated=True, units=PHASE_RANGE_OPTION)
    return PhaseScale(units=ARBITRARY if units == ARBITRARY else None)


def phase_sign(sidecar: Sidecar, path: Path, problems: list[str]) -> tuple[int, bool]:
    """Return the sign of the phase, and whether PhaseSign states it: else that of the manufacturer (-1 for GE)."""
    if (sign := sidecar.get("PhaseSign")) is None:
        return manufacturer_phase_sign(sidecar), False
    if isinstance(sign, bool) or sign not in (1, -1):
        problems.append(f"{path} states PhaseSign {sign!r}: give 1 or -1.")
        return 1, True
    return int(sign), True


def filter_words(sidecar: Sidecar) -> str:
    """Return what a phase image's ImageType says of a filter that took its background out, "" where it says nothing."""
    stated = {str(word).upper() for word in sidecar.get("ImageType") or ()}
    return ", ".join(sorted(stated & _FILTERED))


def b0_direction(sidecar: Sidecar, path: Path, problems: list[str]) -> tuple[float, float, float] | None:
    """Return B0_dir, a unit vector in the voxel frame, or None where it is not stated."""
    if (direction := sidecar.get("B0_dir")) is None:
        return None
    if not _finite(direction, 3):
        problems.append(f"{path} states B0_dir {direction!r}: give three numbers, a unit vector in the voxel frame.")
        return None
    try:
        x, y, z = check_b0_direction(direction, f"B0_dir of {path}").tolist()
    except InputError as error:
        problems.append(str(error))
        return None
    return x, y, z
