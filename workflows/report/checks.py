"""What the report makes of the numbers: expected ranges, the sign of the phase, and warnings in plain words."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any

from ...pipeline.orientations.conditioning import OrientationReport
from .measures import ScanMeasures, SubjectMeasures
from .methods import lookup, recorded
from .sign import CLEAR, SIGN_DEPTH

NO_BREAK = "\N{NO-BREAK SPACE}"
_MOST_DIGITS = 12  # of a number beside a limit that it hardly passes
_LEAST_COMPARED = 3  # scans, of which one can stand out
_ECHO_TIMES, _ECHO_LEAST = 1.5, 0.01  # of the other scans' departure, and rad, from which a scan is named
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

    def show(self, value: float, digits: int | None = None) -> str:
        """Return a value in words, with its unit."""
        return quantity(value * self.factor, self.digits if digits is None else digits, self.unit)

    def passed(self, value: float) -> float | None:
        """Return the limit that a value is beyond; None where it lies in the range."""
        if self.low is not None and value < self.low:
            return self.low
        return self.high if self.high is not None and value > self.high else None

    def tell(self, *values: float) -> list[str]:
        """Return values in words, with as many digits as it takes that none beyond a limit reads like the limit."""
        digits = self.digits
        beyond = [(value, limit) for value in values if (limit := self.passed(value)) is not None]
        while digits < _MOST_DIGITS and any(self.show(a, digits) == self.show(b, digits) for a, b in beyond):
            digits += 1
        return [self.show(value, digits) for value in values]

    def spread(self, values: Sequence[float]) -> str:
        """Return the smallest and the largest of some values in words, once where they read alike."""
        smallest, largest = self.tell(min(values), max(values))
        return largest if smallest == largest else f"{smallest.removesuffix(NO_BREAK + self.unit)} to {largest}"

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
    unclear: bool = False

    @property
    def verdict(self) -> str:
        """`as expected`, `look`, or `cannot tell`."""
        return "look" if self.warnings else "cannot tell" if self.unclear else "as expected"


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


_VOLUMES = Expected("", "Brain volume, difference between scans", "%", None, 0.1, factor=100, digits=1)  # one brain


def quantity(value: float | None, digits: int = 3, unit: str = "") -> str:
    """Return a number with a real minus sign and its unit, or a dash where there is none."""
    if value is None:
        return "–"
    text = f"{round(value, digits) + 0.0:.{digits}f}".replace("-", "\N{MINUS SIGN}")  # + 0.0: no minus before a zero
    return f"{text}{NO_BREAK}{unit}" if unit else text


def counted(number: int, name: str) -> str:
    """Return a number with its noun, as in `1 scan` or `3 scans`."""
    return f"{number} {name}{'' if number == 1 else 's'}"


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
            listed = ", ".join(f"{name} ({expected.tell(value)[0]})" for name, value in found)
            warnings.append(f"{expected.title} is {side} {expected.show(limit)} in {listed}: {reason}.")
    return Check(expected.title, expected.spread([value for _, value in values]), expected.words, tuple(warnings))


def _volume_agreement(scans: Sequence[ScanMeasures]) -> tuple[Check, ...]:
    if len(scans) < 2:
        return ()
    smallest, largest = (pick(scans, key=lambda scan: scan.brain_volume) for pick in (min, max))
    apart = largest.brain_volume / smallest.brain_volume - 1 if smallest.brain_volume > 0 else 0.0
    told = _VOLUMES.tell(apart)[0]
    warnings: tuple[str, ...] = ()
    if _VOLUMES.passed(apart):
        warnings = (
            f"Brain masks differ by {told} in volume ({smallest.name} {smallest.brain_volume:.0f} ml, {largest.name} "
            f"{largest.brain_volume:.0f} ml), although it is one brain: check their outlines.",
        )
    return (Check(_VOLUMES.title, told, _VOLUMES.words, warnings),)


def check_echoes(scans: Sequence[ScanMeasures]) -> tuple[Check, ...]:
    """Return the check that no scan's echoes depart from a line much farther than those of the others."""
    known = [(scan.name, value) for scan in scans if (value := scan.number("echoes_median")) is not None]
    if len(known) < _LEAST_COMPARED:
        return ()
    usual = float(median(value for _, value in known))
    limit = max(_ECHO_TIMES * usual, _ECHO_LEAST)
    expected = Expected("echoes_median", "Departure of the echoes from a line, median", "rad", None, limit)
    warnings = tuple(
        f"The phase of the echoes of {name} departs from a line by {expected.show(value)} (median in the brain), that "
        f"of the other scans by {expected.show(usual)}: its field drifted, or the head moved, while it was measured; "
        "look at its total field, or leave it out."
        for name, value in known
        if value > limit
    )
    told = expected.spread([value for _, value in known])
    return (Check(expected.title, told, f"{expected.words}, {_ECHO_TIMES:g} times the usual", warnings),)


def check_fit(record: Mapping[str, Any]) -> tuple[Check, ...]:
    """Return the check that a fit's iteration came to its end, by its record; none where none is recorded."""
    change, tolerance = recorded(record, "LastRelativeChange"), recorded(record, "StoppingTolerance")
    if change is None or not tolerance:
        return ()
    most = _LARGEST_LAST_CHANGE * tolerance
    expected = Expected("change", "Last change of χ33 in the fit", "%", None, most, factor=100, digits=2)
    told = expected.tell(change)[0]
    warnings: tuple[str, ...] = ()
    if record.get("StoppedBy") == "iteration limit" and expected.passed(change):
        limit = recorded(record, "IterationLimit")
        counted = f" of {limit:.0f}" if limit is not None else ""
        warnings = (
            f"The fit stopped at its iteration limit{counted} while χ33 still changed by {told} in a step, more than "
            f"{_LARGEST_LAST_CHANGE} times the tolerance ({100 * tolerance:.2g} %): the maps are not finished; repeat "
            "the run with more --iterations.",
        )
    return (Check(expected.title, told, f"{expected.words}, {_LARGEST_LAST_CHANGE} times the tolerance", warnings),)


def check_sign(subject: SubjectMeasures, provenance: Mapping[str, Any]) -> tuple[Check, ...]:
    """Return the check of the phase's sign by the strongest sources deep in the brain, where COSMOS is there."""
    found = subject.sign
    if found is None:
        return ()
    share = f"{100 * found.share:.0f} %"
    warnings: tuple[str, ...] = ()
    if found.verdict == "flipped":
        remedy = -_sign_of_most(provenance)
        warnings = (
            f"Only {share} of the strongest sources deep in the brain are paramagnetic, but veins and iron-rich nuclei "
            f"should be: the sign of the phase seems flipped; set --phase-sign {remedy}.",
        )
    told = {"right": "", "flipped": "", "unclear": " (cannot tell the sign)"}[found.verdict]
    title = f"Paramagnetic part of the strongest sources, {SIGN_DEPTH:.0f} mm and more inside the brain"
    return (Check(title, share + told, f"at least {100 * CLEAR:.0f} %", warnings, unclear=bool(told)),)


def _sign_of_most(provenance: Mapping[str, Any]) -> int:
    """Return the sign that most scans were computed with, 1 where it is not recorded."""
    signs = [int(sign) for sign in (lookup(provenance, "signs") or {}).values()]
    if not signs:
        return -1 if lookup(provenance, "phase_sign") == -1 else 1
    return 1 if 2 * signs.count(1) >= len(signs) else -1


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
    for note in dict.fromkeys(note for scan in scans for note in scan.notes):
        found.append(f"{', '.join(scan.name for scan in scans if note in scan.notes)}: {note}")
    missing = [scan.name for scan in scans if scan.b0_direction is None]
    if missing:
        found.append(f"{', '.join(missing)}: no transform to the subject frame, so the head orientation is not known.")
    if orientations is not None:
        found += orientations.messages
    found += [warning for check in checks for warning in check.warnings]
    return tuple(dict.fromkeys(found))
