"""Maps in ppm, whatever unit their files are in: what a sidecar's Units means, and what a conversion needs to know.

A field in Hz, rad/s or T needs B0, one in rad also the echo time: from the sidecar (`field_strength`, EchoTime)
or given by hand. What cannot be converted for certain is refused.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from math import isfinite, pi
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from ...pipeline.frames import GYROMAGNETIC_RATIO
from ..errors import InputError
from ..sidecars import sidecar_path
from .field_strength import LARGEST_FIELD_STRENGTH, FieldStrength, field_strength_of

Quantity = Literal["field", "susceptibility"]
_LARGEST_ECHO_TIME = 0.5  # s
_SAME_STRENGTH = 1e-3


@dataclass(frozen=True)
class Unit:
    """A unit: its name, what it measures, and how much of ppm, Hz, rad or T one of it is."""

    name: str
    measures: Literal["share", "frequency", "angle", "induction"]
    scale: float


PPM = Unit("ppm", "share", 1.0)
_UNITS = {
    PPM: ("ppm", "partspermillion"),
    Unit("ppb", "share", 1e-3): ("ppb", "partsperbillion"),
    Unit("Hz", "frequency", 1.0): ("hz", "hertz"),
    Unit("kHz", "frequency", 1e3): ("khz", "kilohertz"),
    Unit("rad/s", "frequency", 0.5 / pi): ("rad/s", "rads-1"),
    Unit("rad", "angle", 1.0): ("rad",),
    Unit("mrad", "angle", 1e-3): ("mrad", "millirad"),
    Unit("deg", "angle", pi / 180): ("deg", "degree", "degrees", "°"),
    Unit("cycles", "angle", 2 * pi): ("cycle", "cycles", "turns"),
    Unit("T", "induction", 1.0): ("t", "tesla"),
    Unit("mT", "induction", 1e-3): ("mt", "millitesla"),
    Unit("uT", "induction", 1e-6): ("ut", "microtesla"),
    Unit("nT", "induction", 1e-9): ("nt", "nanotesla"),
    Unit("G", "induction", 1e-4): ("g", "gauss"),
}
_BY_SPELLING = {spelling: unit for unit, spellings in _UNITS.items() for spelling in spellings}
KNOWN = {
    "field": "ppm, ppb, Hz, rad/s, rad or T",
    "susceptibility": "ppm or ppb",
}


@dataclass(frozen=True)
class Given:
    """What a user says of files by hand; it wins over their sidecars. b0: T; echo_time: s."""

    units: str | None = None
    b0: float | None = None
    echo_time: float | None = None

    def check(self) -> Given:
        """Return this after checking its values; InputError names the option that cannot be."""
        if self.units is not None and unit_named(self.units) is None:
            raise InputError(f"--units must be {KNOWN['field']}, got {self.units!r}.")
        if self.b0 is not None and not 0 < self.b0 <= LARGEST_FIELD_STRENGTH:
            raise InputError(f"--b0 must be in tesla, above 0 and at most {LARGEST_FIELD_STRENGTH:g}, got {self.b0:g}.")
        if self.echo_time is not None and not 0 < self.echo_time <= _LARGEST_ECHO_TIME:
            raise InputError(
                f"--te must be in ms, above 0 and at most {1000 * _LARGEST_ECHO_TIME:g}, got {1000 * self.echo_time:g}."
            )
        return self


NOTHING_GIVEN = Given()


@dataclass(frozen=True)
class Scaling:
    """How stored values become ppm.

    unit: of the stored values; factor: ppm per stored unit; stated: whether anything says the unit; strength, echo_time
    (s): what the conversion used, None where it needs none; contradictions: sentences on what was overruled.
    """

    unit: Unit = PPM
    factor: float = 1.0
    stated: bool = False
    strength: FieldStrength | None = None
    echo_time: float | None = None
    contradictions: tuple[str, ...] = ()

    @property
    def converts(self) -> bool:
        """Tell whether the stored values are not in ppm."""
        return self.unit != PPM

    @property
    def words(self) -> str:
        """The conversion in words, such as "Hz at 2.895 T (ImagingFrequency): multiplied by 0.008112"."""
        used = "" if self.strength is None else f" at {self.strength.tesla:.5g} T ({self.strength.source})"
        if self.echo_time is not None:
            used += f" and TE {1000 * self.echo_time:.4g} ms"
        return f"{self.unit.name}{used}: multiplied by {self.factor:.4g}"

    @property
    def facts(self) -> dict[str, Any]:
        """What the sidecar of a result says of it."""
        told: dict[str, Any] = {"SourceUnits": self.unit.name if self.stated else "not stated, taken as ppm"}
        if self.converts:
            told["SourceUnitsToPpm"] = self.factor
        if self.strength is not None:
            told |= self.strength.facts
        if self.echo_time is not None:
            told["EchoTime"] = self.echo_time
        return told

    def apply(self, values: NDArray[np.float32]) -> NDArray[np.float32]:
        """Return stored values in ppm."""
        return values * np.float32(self.factor) if self.converts else values


def unit_named(text: str) -> Unit | None:
    """Return the unit that a text means ("Hz", "rad s^-1", "ppm of B0"), None where it is none that is known."""
    word = text.casefold().replace("µ", "u").replace("μ", "u").replace("⁻¹", "-1")
    word = re.sub(r"\s*(\(\s*si\s*\)|of b0|of b_0|relative to b0)\s*$", "", word.strip())
    word = re.sub(r"radians?", "rad", word)
    word = re.sub(r"\s*(?:/|\bper\b)\s*s(?:ec(?:ond)?)?$", "/s", word)
    return _BY_SPELLING.get(re.sub(r"[\s·*^_]|\.(?=s)", "", word))


def scaling_of(
    path: Path, sidecar: Mapping[str, Any], quantity: Quantity = "field", given: Given = NOTHING_GIVEN
) -> Scaling:
    """Return how the values of a file become ppm, from its sidecar and what is given by hand.

    quantity: what the file holds; a susceptibility is in ppm or ppb. Raises InputError where the unit is unknown, and
    where B0 or the echo time, which it needs, is not known.
    """
    unit, contradictions = _unit(path, sidecar, quantity, given)
    stated = unit is not None
    if unit is None or unit.measures == "share":
        known = unit or PPM
        return Scaling(known, known.scale, stated, contradictions=contradictions)
    strength, overruled = _strength(path, sidecar, unit, given)
    contradictions += overruled
    if unit.measures == "induction":
        return Scaling(unit, 1e6 * unit.scale / strength.tesla, stated, strength, contradictions=contradictions)
    hertz = unit.scale
    echo_time = None
    if unit.measures == "angle":
        echo_time, overruled = _echo_time(path, sidecar, unit, given)
        contradictions += overruled
        hertz = unit.scale / (2 * pi * echo_time)
    factor = hertz / (GYROMAGNETIC_RATIO * strength.tesla)
    return Scaling(unit, factor, stated, strength, echo_time, contradictions)


def conversions(scalings: Iterable[tuple[Path, Scaling]]) -> list[str]:
    """Return a sentence for each kind of conversion among files, with the first file and how many more there are."""
    groups: dict[str, list[Path]] = {}
    for path, scaling in scalings:
        if scaling.converts:
            groups.setdefault(scaling.words, []).append(path)
    return [
        f"{paths[0]}{f' and {len(paths) - 1} more are' if len(paths) > 1 else ' is'} in {words} to ppm."
        for words, paths in groups.items()
    ]


def _unit(
    path: Path, sidecar: Mapping[str, Any], quantity: Quantity, given: Given
) -> tuple[Unit | None, tuple[str, ...]]:
    text = sidecar.get("Units")
    if text is not None and not isinstance(text, str):
        raise InputError(f"{sidecar_path(path)} states Units {text!r}: give {KNOWN[quantity]}.")
    stated = None if text is None or not text.strip() else text
    unit = None if stated is None else unit_named(stated)
    if given.units is not None:
        chosen = unit_named(given.units)
        if unit is not None and unit != chosen:
            return chosen, (f"{path} is in {stated} by its sidecar: --units {given.units} is used.",)
        return chosen, ()
    if stated is None:
        return None, ()
    if unit is None or (quantity == "susceptibility" and unit.measures != "share"):
        what = "the field" if quantity == "field" else "the susceptibility"
        raise InputError(
            f"{path} is in {stated!r} by its sidecar, from which ppm cannot be told: give {what} in {KNOWN[quantity]} "
            "and say so in Units."
        )
    return unit, ()


def _strength(
    path: Path, sidecar: Mapping[str, Any], unit: Unit, given: Given
) -> tuple[FieldStrength, tuple[str, ...]]:
    stated = field_strength_of(sidecar)
    if given.b0 is not None:
        if stated is None:
            return FieldStrength(given.b0, given.b0, "--b0"), ()
        if any(abs(given.b0 - one) <= _SAME_STRENGTH * one for one in (stated.tesla, stated.nominal) if one):
            return stated, ()
        return FieldStrength(given.b0, given.b0, "--b0"), (
            f"{path} was made at {stated.tesla:.5g} T by its sidecar ({stated.source}): --b0 {given.b0:g} is used.",
        )
    if stated is None:
        raise InputError(
            f"{path} is in {unit.name}, but its field strength is not known: state MagneticFieldStrength (T) in its "
            "sidecar, or give --b0."
        )
    return stated, ()


def _echo_time(path: Path, sidecar: Mapping[str, Any], unit: Unit, given: Given) -> tuple[float, tuple[str, ...]]:
    stated = _stated_echo_time(path, sidecar)
    if given.echo_time is not None:
        if stated is None or abs(stated - given.echo_time) <= 1e-3 * stated:
            return given.echo_time, ()
        return given.echo_time, (
            f"{path} has a TE of {1000 * stated:.4g} ms by its sidecar: --te {1000 * given.echo_time:g} is used.",
        )
    if stated is None:
        raise InputError(
            f"{path} is in {unit.name}, but its echo time is not known: state EchoTime (s) in its sidecar, or "
            "give --te."
        )
    return stated, ()


def _stated_echo_time(path: Path, sidecar: Mapping[str, Any]) -> float | None:
    """EchoTime, or the difference of EchoTime1 and EchoTime2, of which the phase of a field map is."""
    times = [sidecar.get(key) for key in ("EchoTime1", "EchoTime2")]
    value = sidecar.get("EchoTime")
    if value is None and all(_is_number(time) for time in times):
        value = abs(times[1] - times[0])  # type: ignore[operator]
    if value is None:
        return None
    if not _is_number(value) or not 0 < value <= _LARGEST_ECHO_TIME:
        raise InputError(
            f"{sidecar_path(path)} states EchoTime {value!r}: give one number of seconds, at most {_LARGEST_ECHO_TIME}."
        )
    return float(value)


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and isfinite(value)
