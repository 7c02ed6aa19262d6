"""Whether the images of raw scans can be used: their headers, and what their values can mean."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from math import pi
from pathlib import Path
from warnings import warn

import numpy as np
from numpy.typing import NDArray

from ...files.errors import Chi33Warning, InputError, InputProblems
from ...files.headers import direction_problem
from ...files.nifti import open_image, read_data
from ...pipeline.frames import FloatArray, check_affine
from ...pipeline.phase.full_turn import TURN_TOLERANCE, PhaseRange, phase_range, turn_words
from .scan import RawScan, RawSubject
from .sidecars import ARBITRARY, PHASE_RANGE_OPTION, PhaseScale

_AFFINE_TOLERANCE = 1e-3  # mm
_PHASE_TOLERANCE = 1.001  # integer storage rounds pi
_SMALL_PHASE = 0.1  # rad
_NEGATIVE_SHARE = 0.01  # of a magnitude's voxels, which resampling may make


def check_raw(subjects: Iterable[RawSubject], *, data: bool = True, fewest: int = 2) -> None:
    """Check the images of every scan, and that each subject has at least `fewest` head orientations.

    data=False reads headers only; otherwise every file is read once (`check_scan_data`). Raises InputError with every
    problem of the dataset in one report.
    """
    problems: list[str] = []
    for subject in subjects:
        if len(subject.scans) < fewest:
            found = ", ".join(scan.name for scan in subject.scans) or "none"
            problems.append(
                f"sub-{subject.label} has {len(subject.scans)} head orientation ({found}), but COSMOS and STI need "
                "several: add scans with the head turned, told apart by acq- or run-, or give --fit none for its "
                "fields alone."
            )
        _note_mixed_echoes(subject)
        for scan in subject.scans:
            lines = header_problems(scan)
            problems += lines if lines or not data else _data_problems(scan)
    raise_problems(problems)


def _note_mixed_echoes(subject: RawSubject) -> None:
    """Warn where the scans of a subject differ in echo times or field strength, which each field map allows for."""
    kinds: dict[str, list[str]] = {}
    for scan in subject.scans:
        times = ", ".join(f"{1000 * time:.4g}" for time in scan.echo_times)
        kinds.setdefault(f"{times} ms at {scan.field_strength:.3g} T", []).append(scan.name)
    if len(kinds) > 1:
        listed = "; ".join(f"{kind} in {', '.join(names)}" for kind, names in kinds.items())
        warn(
            f"sub-{subject.label} mixes echo times or field strengths ({listed}): every scan is combined with its own; "
            "leave scans out if that is a mistake.",
            Chi33Warning,
            stacklevel=3,
        )


def check_scan_data(scan: RawScan) -> None:
    """Read every file of a scan and raise InputError naming those that cannot be used.

    Refused: damaged files, NaN or infinite values, an empty magnitude, phase outside -pi...pi radians where the sidecar
    states no scale, or beyond the scale it states, and phase that wraps at another turn than its scale has.
    """
    raise_problems(header_problems(scan) or _data_problems(scan))


def header_problems(scan: RawScan) -> list[str]:
    """Return what is wrong with the headers of a scan's images, a sentence each."""
    return list(_check_headers(scan))


def _check_headers(scan: RawScan) -> Iterator[str]:
    reference: tuple[Path, tuple[int, ...], FloatArray] | None = None
    for path in (*scan.magnitude, *scan.phase):
        try:
            image = open_image(path)
            affine = check_affine(image.affine, f"affine of {path}")
        except InputError as error:
            yield str(error)
            continue
        shape = image.shape
        if len(shape) < 3 or any(size != 1 for size in shape[3:]):
            volumes = f"; its {shape[3]} volumes are to be split if they are echoes" if len(shape) == 4 else ""
            yield f"{path} has shape {shape}: give one 3-D image an echo, magnitude and phase apart{volumes}."
        elif image.header["sform_code"] == 0 and image.header["qform_code"] == 0 and scan.b0_direction is None:
            yield f"{path} has no orientation (sform and qform codes are 0): set its sform, or B0_dir in its sidecar."
        elif reference is None and scan.b0_direction is None and (reason := direction_problem(image)):
            yield f"{path} {reason}."
            return
        elif reference is None:
            reference = path, shape[:3], affine
        elif shape[:3] != reference[1]:
            yield f"{path} has shape {shape[:3]} but {reference[0].name} has {reference[1]}: give images of one grid."
        elif (apart := float(np.abs(affine - reference[2]).max())) > _AFFINE_TOLERANCE:
            yield f"{path} and {reference[0].name} have affines that differ by {apart:.3g}: give images of one grid."


def _data_problems(scan: RawScan) -> list[str]:
    problems: list[str] = []
    for path in scan.magnitude:
        magnitude = _read(path, "magnitude", problems)
        if magnitude is not None and (share := float((magnitude < 0).mean())) > _NEGATIVE_SHARE:
            problems.append(
                f"{path} is negative in {share:.0%} of its voxels, but a magnitude never is: give the magnitude image; "
                "magnitude and phase may be exchanged."
            )
    ranges = []
    for path, scale in zip(scan.phase, scan.phase_scale, strict=True):
        phase = _read(path, "phase", problems)
        if phase is None:
            continue
        if found := _values_problem(path, float(phase.min()), float(phase.max()), scale):
            return [*problems, found]  # the other echoes have the same
        elif (range_ := phase_range(phase)) is not None:
            ranges.append((path, scale, range_))
        elif not scale.stated and float(np.abs(phase).max()) < _SMALL_PHASE:
            warn(
                f"{path} holds phase from {phase.min():g} to {phase.max():g} and states no Units: if that is not "
                "radians, state its PhaseRange [low, high] or repair scl_slope in its header.",
                Chi33Warning,
                stacklevel=2,
            )
    return problems or _turn_problems(scan, ranges)


def _read(path: Path, kind: str, problems: list[str]) -> NDArray[np.float32] | None:
    """Return the values of an image, or None and a problem where they cannot be used."""
    try:
        stored = read_data(open_image(path), path)
    except InputError as error:
        problems.append(str(error))
        return None
    if bad := int(stored.size - np.isfinite(stored).sum()):
        problems.append(f"{path} holds {bad} NaN or infinite values of {stored.size}: replace them by 0.")
    elif not stored.any():
        problems.append(f"{path} is 0 everywhere: give the {kind} image.")
    else:
        return stored
    return None


def _values_problem(path: Path, lowest: float, highest: float, scale: PhaseScale) -> str:
    """Return why values cannot be phase on a scale, in a sentence, or an empty string."""
    if not scale.stated and max(-lowest, highest) > pi * _PHASE_TOLERANCE:
        return (
            f"{path} holds phase from {lowest:g} to {highest:g}, outside -pi...pi, without a stated scale: add "
            f"PhaseRange [low, high], the values that mean -pi and +pi, to its sidecar, or give {PHASE_RANGE_OPTION}."
        )
    if scale.units == ARBITRARY:
        return (
            f"{path} states Units 'arbitrary' and no PhaseRange, so what its values from {lowest:g} to {highest:g} "
            "mean is not known: add PhaseRange [low, high], the values that mean -pi and +pi, to its sidecar, or give "
            f"{PHASE_RANGE_OPTION}."
        )
    middle, half = (scale.low + scale.high) / 2, (scale.high - scale.low) / 2
    if max(highest - middle, middle - lowest) > 2 * half * _PHASE_TOLERANCE:  # 0...2 pi is as good as -pi...pi
        return (
            f"{path} holds phase from {lowest:g} to {highest:g} where {scale.said_by} that {scale.low:g} means -pi "
            f"and {scale.high:g} means +pi: correct Units, PhaseRange or PhaseScale; magnitude and phase may be "
            "exchanged."
        )
    return ""


def _turn_problems(scan: RawScan, found: Sequence[tuple[Path, PhaseScale, PhaseRange]]) -> list[str]:
    """Return why the phase of a scan cannot have the turn that its scale says; warn where that is only doubtful."""
    wrong = [(path, scale, range_) for path, scale, range_ in found if not range_.is_turn_of(scale.high - scale.low)]
    if wrong and not wrong[0][1].explicit:
        path, scale, range_ = wrong[0]
        stated = "without stated Units, which means radians" if not scale.stated else f"and {scale.said_by} otherwise"
        return [
            f"{path} {turn_words(range_, scale.high - scale.low)}, {stated}: correct Units, or add PhaseRange "
            f"[{range_.low:.4g}, {range_.high:.4g}] to its sidecar if these are the values that mean -pi and +pi."
        ]
    for path, scale, range_ in wrong:
        warn(
            f"{path} {turn_words(range_, scale.high - scale.low)} by its PhaseRange or PhaseScale: check them.",
            Chi33Warning,
            stacklevel=2,
        )
    unnamed = [one for one in found if not one[1].stated]
    if unnamed and len(unnamed) == len(scan.phase) and not any(range_.wraps for _, _, range_ in unnamed):
        low, high = min(one[2].low for one in unnamed), max(one[2].high for one in unnamed)
        if high - low < (1 - TURN_TOLERANCE) * 2 * pi:
            return [
                f"{unnamed[0][0]} states no Units and its values, {low:.4g} to {high:.4g} over all echoes, never wrap: "
                "state Units 'rad' in its sidecar if they are radians, else PhaseRange [low, high], the values that "
                f"mean -pi and +pi (or {PHASE_RANGE_OPTION})."
            ]
    return []


def raise_problems(problems: Sequence[str]) -> None:
    """Raise InputError with one problem's sentence, or with the count and a line for each; nothing for none."""
    if problems:
        raise InputProblems(problems)
