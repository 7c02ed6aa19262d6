"""What the report makes of the numbers: expected ranges, the sign of the phase, and warnings in plain words."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ..pipeline.orientations import OrientationReport
from .report_measures import ScanMeasures, SubjectMeasures
from .report_methods import lookup, recorded

_LARGEST_VOLUME_RATIO = 1.1  # of one brain between scans
_LARGEST_DARK_SHARE = 0.5
_LARGEST_LAST_CHANGE = 5  # of the tolerance


@dataclass(frozen=True)
class Expected:
    """The range a number of a scan usually lies in (inclusive, None: open), and what it may mean where it does not.

    Ranges are those of healthy adult brains in vivo at 3 and 7 T. factor and digits: how it is shown.
    """

    key: str
    title: str
    unit: str
    low: float | None
    high: float | None
    below: str = ""
    above: str = ""
    factor: float = 1.0
    digits: int = 3

    def show(self, value: float) -> str:
        """Return a value in words, with its unit."""
        return quantity(value * self.factor, self.digits, self.unit)

    @property
    def words(self) -> str:
        """Return the range in words."""
        if self.low is None or self.high is None:
            return (
                f"at least {self.show(self.low)}" if self.low is not None else f"at most {self.show(self.high or 0.0)}"
            )
        return f"{quantity(self.low * self.factor, self.digits)} to {self.show(self.high)}"


@dataclass(frozen=True)
class Check:
    """One line of the table of checks: the range over the scans, what is expected, and whether it holds."""

    title: str
    value: str
    expected: str
    warnings: tuple[str, ...]

    @property
    def verdict(self) -> str:
        """`as expected` or `look`."""
        return "look" if self.warnings else "as expected"


EXPECTED = (
    Expected("brain_volume", "Brain volume", "ml", 900, 1900, "the mask may have lost brain; check its outline",
             "the mask may hold skull, eyes or neck; check its outline", digits=0),
    Expected("scale", "Registration scale", "", 0.99, 1.01, "one head keeps its size; check the registration",
             "one head keeps its size; check the registration", digits=4),
    Expected("valid_share", "Brain with a local field", "%", 0.75, None,
             "the labels miss much of the brain; check the mask and the phase at its edge", factor=100, digits=0),
    Expected("total_std", "Total field, std in the brain", "ppm", 0.005, 0.5,
             "the field is nearly empty; check echo times and field strength",
             "the field is not from a shimmed head; check echo times, field strength and unwrapping"),
    Expected("local_std", "Local field, std", "ppm", 0.004, 0.06,
             "the field is nearly empty; check echo times and field strength",
             "background or unwrapping errors remain; look at the local field for steps and edges"),
    Expected("chi33_std", "χ33, std", "ppm", 0.01, 0.08, "the map has too little contrast; the prior may be too strong",
             "noise or streaks dominate; look at the maps and at the registration"),
    Expected("chi33_p1", "χ33, 1st percentile", "ppm", -0.2, -0.01,
             "strongly diamagnetic tissue is rare; look for streaks",
             "white matter should be diamagnetic; the map has too little contrast"),
    Expected("chi33_p99", "χ33, 99th percentile", "ppm", 0.03, 0.35,
             "veins and deep nuclei should be brighter; the map has too little contrast",
             "more than veins explain; look for streaks"),
    Expected("correlation", "Correlation of χ33 with COSMOS", "", 0.8, None,
             "the tensor departs from the scalar fit more than anisotropy explains; check the registration",
             digits=2),
    Expected("residual_ratio", "Residual, part of the local field", "%", None, 0.6,
             above="the labels leave much of the field unexplained; check registration and background removal",
             factor=100, digits=0),
    Expected("chi33sd_median", "χ33, median standard deviation", "ppm", None, 0.02,
             above="the map is about as uncertain as its contrast is strong; look at the noise of the field, and add "
             "scans or larger tilts"),
)  # fmt: skip


def quantity(value: float | None, digits: int = 3, unit: str = "") -> str:
    """Return a number with a real minus sign and its unit, or a dash where there is none."""
    if value is None:
        return "–"
    text = f"{value:.{digits}f}".replace("-", "\N{MINUS SIGN}")
    return f"{text}\N{NO-BREAK SPACE}{unit}" if unit else text


def check_scans(scans: Sequence[ScanMeasures]) -> tuple[Check, ...]:
    """Return the checks of every number that at least one scan has."""
    checks = []
    for expected in EXPECTED:
        values = [(scan.name, value) for scan in scans if (value := scan.number(expected.key)) is not None]
        if values:
            checks.append(_check(expected, values))
    return (*checks, *_volume_agreement(scans))


def _check(expected: Expected, values: Sequence[tuple[str, float]]) -> Check:
    low = [one for one in values if expected.low is not None and one[1] < expected.low]
    high = [one for one in values if expected.high is not None and one[1] > expected.high]
    warnings = []
    for found, side, limit, reason in (
        (low, "below", expected.low, expected.below),
        (high, "above", expected.high, expected.above),
    ):
        if found and limit is not None:
            listed = ", ".join(f"{name} ({expected.show(value)})" for name, value in found)
            warnings.append(f"{expected.title} is {side} {expected.show(limit)} in {listed}: {reason}.")
    smallest, largest = min(value for _, value in values), max(value for _, value in values)
    spread = expected.show(largest)
    if quantity(smallest, expected.digits) != quantity(largest, expected.digits):
        spread = f"{quantity(smallest * expected.factor, expected.digits)} to {spread}"
    return Check(expected.title, spread, expected.words, tuple(warnings))


def _volume_agreement(scans: Sequence[ScanMeasures]) -> tuple[Check, ...]:
    if len(scans) < 2:
        return ()
    smallest, largest = (pick(scans, key=lambda scan: scan.brain_volume) for pick in (min, max))
    ratio = largest.brain_volume / smallest.brain_volume
    warnings: tuple[str, ...] = ()
    if ratio > _LARGEST_VOLUME_RATIO:
        warnings = (
            f"Brain masks differ by {100 * (ratio - 1):.0f} % in volume ({smallest.name} {smallest.brain_volume:.0f} "
            f"ml, {largest.name} {largest.brain_volume:.0f} ml), although it is one brain: check their outlines.",
        )
    most = f"at most {100 * (_LARGEST_VOLUME_RATIO - 1):.0f} %"
    return (Check("Brain volume, difference between scans", f"{100 * (ratio - 1):.1f} %", most, warnings),)


def check_fit(record: Mapping[str, Any]) -> tuple[Check, ...]:
    """Return the check that a fit's iteration came to its end, by its record; none where none is recorded."""
    change, tolerance = recorded(record, "LastRelativeChange"), recorded(record, "StoppingTolerance")
    if change is None or not tolerance:
        return ()
    most = _LARGEST_LAST_CHANGE * tolerance
    warnings: tuple[str, ...] = ()
    if record.get("StoppedBy") == "iteration limit" and change > most:
        limit = recorded(record, "IterationLimit")
        counted = f" of {limit:.0f}" if limit is not None else ""
        warnings = (
            f"The fit stopped at its iteration limit{counted} while χ33 still changed by {100 * change:.2g} % in a "
            f"step, more than {_LARGEST_LAST_CHANGE} times the tolerance ({100 * tolerance:.2g} %): the maps are not "
            "finished; repeat the run with more --iterations.",
        )
    expected = f"at most {100 * most:.2g} %, {_LARGEST_LAST_CHANGE} times the tolerance"
    return (Check("Last change of χ33 in the fit", f"{100 * change:.2g} %", expected, warnings),)


def check_sign(subject: SubjectMeasures, provenance: Mapping[str, Any]) -> tuple[Check, ...]:
    """Return the check that the strongest sources (veins, iron-rich nuclei) are paramagnetic, where COSMOS is there."""
    share = subject.dark_share
    if share is None:
        return ()
    warnings: tuple[str, ...] = ()
    if share > _LARGEST_DARK_SHARE:
        remedy = "1" if lookup(provenance, "phase_sign") == -1 else "-1"
        warnings = (
            f"{100 * share:.0f} % of the strongest sources are diamagnetic, but veins and iron-rich nuclei should be "
            f"the strongest, and paramagnetic: the phase sign may be flipped; set --phase-sign {remedy}.",
        )
    value, most = f"{100 * share:.0f} %", f"at most {100 * _LARGEST_DARK_SHARE:.0f} %"
    return (Check("Diamagnetic part of the strongest 1 % of sources", value, most, warnings),)


def collect_warnings(
    scans: Sequence[ScanMeasures],
    checks: Sequence[Check],
    orientations: OrientationReport | None,
    provenance: Mapping[str, Any],
) -> tuple[str, ...]:
    """Return every warning of the report once: of the run, the files, the head orientations and the checks."""
    stated = provenance.get("warnings") or ()
    found = [str(one) for one in ([stated] if isinstance(stated, str) else stated)]
    for scan in scans:
        found += [f"{name} has no sidecar, so writing it did not end: repeat `chi33 run`." for name in scan.unfinished]
        if scan.repaired:
            found.append(f"The brain mask of {scan.name} was repaired ({scan.repaired}): look at its outline.")
    missing = [scan.name for scan in scans if scan.b0_direction is None]
    if missing:
        found.append(f"{', '.join(missing)}: no transform to the subject frame, so the head orientation is not known.")
    if orientations is not None:
        found += orientations.messages
    found += [warning for check in checks for warning in check.warnings]
    return tuple(dict.fromkeys(found))
