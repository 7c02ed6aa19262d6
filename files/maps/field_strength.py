"""The field strength at which a scan was really made: the frequency that the scanner ran at tells it.

Scanners state a nominal MagneticFieldStrength ("3 T") and run at another: at 123.255 MHz the field is 2.895 T, and a
susceptibility scaled by the nominal value is 3.5 % too small.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from math import isfinite
from typing import Any

from ...pipeline.frames import GYROMAGNETIC_RATIO

LARGEST_FIELD_STRENGTH = 30.0  # T
LARGEST_DEPARTURE = 0.05  # of the nominal value: beyond, the frequency is another nucleus's or a slip


@dataclass(frozen=True)
class FieldStrength:
    """The field of a scan.

    tesla: the value to compute with; nominal: in tesla, as stated (None where it is not); source: the sidecar key that
    told it.
    """

    tesla: float
    nominal: float | None
    source: str

    @property
    def facts(self) -> dict[str, Any]:
        """What a derivative's sidecar says of it."""
        told: dict[str, Any] = {"MagneticFieldStrength": self.tesla, "MagneticFieldStrengthSource": self.source}
        if self.nominal is not None and self.nominal != self.tesla:
            told["NominalMagneticFieldStrength"] = self.nominal
        return told


def field_strength_of(sidecar: Mapping[str, Any]) -> FieldStrength | None:
    """Return the field strength that a sidecar tells, or None where it states none that is possible.

    ImagingFrequency (MHz) / 42.577 where it lies within 5 % of MagneticFieldStrength (T), else MagneticFieldStrength;
    an ImagingFrequency without a nominal value to compare with is not trusted. A derivative's own record
    (MagneticFieldStrengthSource) is taken as it stands.
    """
    nominal = _positive(sidecar.get("MagneticFieldStrength"), LARGEST_FIELD_STRENGTH)
    if nominal is None:
        return None
    if isinstance(source := sidecar.get("MagneticFieldStrengthSource"), str):
        return FieldStrength(nominal, _positive(sidecar.get("NominalMagneticFieldStrength"), 1e3), source)
    frequency = _positive(sidecar.get("ImagingFrequency"), 1e4)
    if frequency is not None:
        measured = round(frequency / GYROMAGNETIC_RATIO, 6)
        if abs(measured - nominal) <= LARGEST_DEPARTURE * nominal:
            return FieldStrength(measured, nominal, "ImagingFrequency")
    return FieldStrength(nominal, nominal, "MagneticFieldStrength")


def _positive(value: Any, largest: float) -> float | None:
    if isinstance(value, bool) or not isinstance(value, int | float) or not isfinite(value) or not 0 < value <= largest:
        return None
    return float(value)
