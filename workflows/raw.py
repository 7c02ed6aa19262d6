"""Raw multi-echo GRE scans of a BIDS dataset: found by name, described by their sidecars, checked, loaded.

`raw_names` has the names, `sidecars` the keys that are read.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from math import pi
from pathlib import Path
from warnings import warn

import numpy as np
from numpy.typing import NDArray

from ..pipeline.errors import Chi33Warning, InputError, InputProblems
from ..pipeline.frames import FloatArray, check_affine
from .derivatives import open_image, read_data
from .raw_names import RawFile, check_labels, files_by_part, scans_by_label, subject_folders
from .sidecars import PhaseScale, Sidecar, Sidecars, b0_direction, number, phase_scale, phase_sign

_MAX_ECHO_TIME = 0.5  # s
_MAX_FIELD_STRENGTH = 30.0  # T
_AFFINE_TOLERANCE = 1e-3  # mm
_PHASE_TOLERANCE = 1.001  # integer storage rounds pi
_SMALL_PHASE = 0.1  # rad
_NEGATIVE_SHARE = 0.01  # of a magnitude's voxels, which resampling may make


@dataclass(frozen=True)
class RawScan:
    """One scan (one head orientation) of a subject: files by echo and what their sidecars state.

    label is the entity string that tells it apart, e.g. "acq-ori01" or "acq-a_run-2" ("" where there is neither).
    magnitude, phase: one path an echo. echo_times: s. field_strength: T. phase_scale: stored values to radians.
    phase_sign: the factor that makes a paramagnetic sphere's phase positive along B0. b0_direction: the sidecar's
    B0_dir, a unit vector in the voxel frame, or None where the affine tells it.
    """

    subject: str
    session: str | None
    label: str
    magnitude: tuple[Path, ...]
    phase: tuple[Path, ...]
    echo_times: tuple[float, ...]
    field_strength: float
    phase_scale: tuple[PhaseScale, ...]
    phase_sign: int = 1
    b0_direction: tuple[float, float, float] | None = None

    @property
    def name(self) -> str:
        """A name unique in the subject: "acq-ori01", or "ses-a_acq-ori01" with a session."""
        parts = (f"ses-{self.session}" if self.session else "", self.label)
        return "_".join(part for part in parts if part) or "scan"


@dataclass(frozen=True)
class RawSubject:
    """A subject (bare label, "01") and its scans, over all sessions, in the order of their names."""

    label: str
    scans: tuple[RawScan, ...]


def find_subjects(
    bids_dir: Path,
    participant_labels: Sequence[str] | None = None,
    *,
    echo_times: Sequence[float] | None = None,
    field_strength: float | None = None,
) -> tuple[RawSubject, ...]:
    """Return the subjects of a BIDS dataset with their GRE scans, from file names and sidecars alone.

    participant_labels: with or without `sub-`; None for every subject; echo_times (s, one an echo) and field_strength
    (T): of images whose sidecars do not state them. Raises InputError with every problem of names
    and sidecars in one report: no phase or magnitude, echoes that do not match, missing or impossible EchoTime and
    MagneticFieldStrength, duplicates, and subjects that are not there. `check_raw` checks the images.
    """
    sidecars = Sidecars(Path(bids_dir))
    problems: list[str] = []
    given = _Given(None if echo_times is None else tuple(echo_times), field_strength)
    subjects = tuple(
        _subject(folder, sidecars, given, problems) for folder in subject_folders(Path(bids_dir), participant_labels)
    )
    if problems:  # one report: what the headers of the other scans say belongs in it
        problems += [line for subject in subjects for scan in subject.scans for line in _header_problems(scan)]
    raise_problems(problems)
    return subjects


@dataclass(frozen=True)
class _Given:
    """What a user says of scans whose sidecars do not: echo times in s and field strength in T."""

    echo_times: tuple[float, ...] | None = None
    field_strength: float | None = None

    def complete(self, files: Sequence[RawFile], stated: dict[Path, Sidecar], problems: list[str]) -> None:
        """Add to the sidecars of a scan's magnitude or phase files, echo by echo, what they do not state."""
        times = self.echo_times
        if times is not None and len(times) != len(files) and any("EchoTime" not in stated[f.path] for f in files):
            problems.append(
                f"{files[0].path.parent} holds {len(files)} part-{files[0].part} echoes of one scan, but {len(times)} "
                "echo times were given: give one an echo."
            )
            return
        for index, file in enumerate(files):
            more: dict[str, float] = {} if times is None else {"EchoTime": times[index % len(times)]}
            if self.field_strength is not None:
                more["MagneticFieldStrength"] = self.field_strength
            stated[file.path] = {**more, **stated[file.path]}


def _subject(folder: Path, sidecars: Sidecars, given: _Given, problems: list[str]) -> RawSubject:
    subject = folder.name.removeprefix("sub-")
    before = len(problems)
    groups = scans_by_label(folder, problems)
    check_labels(folder, groups, problems)
    if not groups and len(problems) == before:
        problems.append(
            f"{folder} has no GRE scan named like {folder.name}_acq-ori01_echo-1_part-mag_MEGRE.nii.gz: convert or "
            "rename its images, or choose other subjects with --participant-label."
        )
    scans = []
    for key, files in groups.items():
        before = len(problems)
        parts = files_by_part(files, problems)
        stated = {
            file.path: sidecars.of(file.path, file.entities, file.suffix, problems)
            for part in parts.values()
            for file in part
        }
        for part in parts.values():
            given.complete(part, stated, problems)
        if len(problems) == before and (scan := _scan(subject, key, parts, stated, problems)):
            scans.append(scan)
    return RawSubject(subject, tuple(sorted(scans, key=lambda scan: scan.name)))


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
            lines = _header_problems(scan)
            problems += lines if lines or not data else _data_problems(scan)
    raise_problems(problems)


def _note_mixed_echoes(subject: RawSubject) -> None:
    """Warn where the scans of a subject differ in echo times or field strength, which each field map allows for."""
    kinds: dict[str, list[str]] = {}
    for scan in subject.scans:
        times = ", ".join(f"{1000 * time:.4g}" for time in scan.echo_times)
        kinds.setdefault(f"{times} ms at {scan.field_strength:g} T", []).append(scan.name)
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

    Refused: damaged files, NaN or infinite values, an empty magnitude, and phase outside -pi...pi radians where the
    sidecar states no scale, or beyond the scale it states.
    """
    raise_problems(_header_problems(scan) or _data_problems(scan))


def _header_problems(scan: RawScan) -> list[str]:
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
            yield f"{path} has shape {shape}: give one 3-D image an echo, magnitude and phase apart."
        elif image.header["sform_code"] == 0 and image.header["qform_code"] == 0 and scan.b0_direction is None:
            yield f"{path} has no orientation (sform and qform codes are 0): set its sform, or B0_dir in its sidecar."
        elif reference is None:
            reference = path, shape[:3], affine
        elif shape[:3] != reference[1]:
            yield f"{path} has shape {shape[:3]} but {reference[0].name} has {reference[1]}: give images of one grid."
        elif (apart := float(np.abs(affine - reference[2]).max())) > _AFFINE_TOLERANCE:
            yield f"{path} and {reference[0].name} have affines that differ by {apart:.3g}: give images of one grid."


def _data_problems(scan: RawScan) -> list[str]:
    problems = []
    for path, scale in (*((p, None) for p in scan.magnitude), *zip(scan.phase, scan.phase_scale, strict=True)):
        try:
            stored = read_data(open_image(path), path)
        except InputError as error:
            problems.append(str(error))
            continue
        if bad := int(stored.size - np.isfinite(stored).sum()):
            problems.append(f"{path} holds {bad} NaN or infinite values of {stored.size}: replace them by 0.")
        elif not stored.any():
            problems.append(f"{path} is 0 everywhere: give the {'magnitude' if scale is None else 'phase'} image.")
        elif scale is None and (share := float((stored < 0).mean())) > _NEGATIVE_SHARE:
            problems.append(
                f"{path} is negative in {share:.0%} of its voxels, but a magnitude never is: give the magnitude image; "
                "magnitude and phase may be exchanged."
            )
        elif scale is not None:
            problems += _phase_range_problems(path, float(stored.min()), float(stored.max()), scale)
    return problems


def _phase_range_problems(path: Path, lowest: float, highest: float, scale: PhaseScale) -> list[str]:
    if not scale.stated and max(-lowest, highest) > pi * _PHASE_TOLERANCE:
        return [
            f"{path} holds phase from {lowest:g} to {highest:g}, outside -pi...pi, without a stated scale: add "
            "PhaseRange [low, high], the values that mean -pi and +pi, to its sidecar."
        ]
    middle, half = (scale.low + scale.high) / 2, (scale.high - scale.low) / 2
    if max(highest - middle, middle - lowest) > 2 * half * _PHASE_TOLERANCE:  # 0...2 pi is as good as -pi...pi
        return [
            f"{path} holds phase from {lowest:g} to {highest:g} where its sidecar says that {scale.low:g} means -pi "
            f"and {scale.high:g} means +pi: correct Units, PhaseRange or PhaseScale; magnitude and phase may be "
            "exchanged."
        ]
    if not scale.stated and max(-lowest, highest) < _SMALL_PHASE:
        warn(
            f"{path} holds phase from {lowest:g} to {highest:g} and states no Units: if that is not radians, state its "
            "PhaseRange [low, high] or repair scl_slope in its header.",
            Chi33Warning,
            stacklevel=2,
        )
    return []


def raise_problems(problems: Sequence[str]) -> None:
    """Raise InputError with one problem's sentence, or with the count and a line for each; nothing for none."""
    if problems:
        raise InputProblems(problems)


def load_magnitude(scan: RawScan, echo: int) -> NDArray[np.float32]:
    """Return the magnitude (x, y, z) of an echo (counted from 0), float32, in the file's own unit."""
    path = scan.magnitude[echo]
    image = open_image(path)
    return read_data(image, path).reshape(image.shape[:3])


def load_phase(scan: RawScan, echo: int) -> NDArray[np.float32]:
    """Return the phase (x, y, z) of an echo (counted from 0): radians in -pi...pi, float32, times the scan's sign."""
    path = scan.phase[echo]
    image = open_image(path)
    return scan.phase_sign * scan.phase_scale[echo].to_radians(read_data(image, path).reshape(image.shape[:3]))


def _scan(
    subject: str,
    key: tuple[str, str],
    parts: dict[str, list[RawFile]],
    sidecars: dict[Path, Sidecar],
    problems: list[str],
) -> RawScan | None:
    """Build a scan from matched files, or add what its sidecars lack to problems."""
    before = len(problems)
    magnitude, phase = (tuple(file.path for file in parts[part]) for part in ("mag", "phase"))
    paths = (*magnitude, *phase)
    times = [number(sidecars[p], "EchoTime", p, _MAX_ECHO_TIME, "s", problems) for p in paths]
    strengths = [number(sidecars[p], "MagneticFieldStrength", p, _MAX_FIELD_STRENGTH, "T", problems) for p in paths]
    scales = tuple(phase_scale(sidecars[path], path, problems) for path in phase)
    signs = {phase_sign(sidecars[path], path, problems) for path in phase}
    directions = {b0_direction(sidecars[path], path, problems) for path in paths} - {None}
    name = f"sub-{subject} {'_'.join(part for part in key if part) or 'scan'}"
    if len(problems) == before:
        echoes = len(phase)
        _check_agreement(name, times[:echoes], times[echoes:], strengths, problems)
        if len(signs) > 1:
            problems.append(f"{name} states both PhaseSign +1 and -1 in its echoes: correct the sidecars.")
        if len(directions) > 1:
            problems.append(f"{name} states {len(directions)} different B0_dir in its sidecars: correct them.")
    if len(problems) > before:
        return None
    return RawScan(
        subject=subject,
        session=key[0] or None,
        label=key[1],
        magnitude=magnitude,
        phase=phase,
        echo_times=tuple(times[len(phase) :]),
        field_strength=strengths[0],
        phase_scale=scales,
        phase_sign=signs.pop(),
        b0_direction=directions.pop() if directions else None,
    )


def _check_agreement(
    name: str, magnitude: list[float], phase: list[float], strengths: list[float], problems: list[str]
) -> None:
    if not np.allclose(magnitude, phase, rtol=1e-4, atol=0):
        problems.append(f"{name} states echo times {magnitude} s for magnitude but {phase} s for phase: correct them.")
    elif any(later <= earlier for earlier, later in pairwise(phase)):
        problems.append(f"{name} has echo times {phase} s, which do not rise from echo to echo: correct EchoTime.")
    if max(strengths) - min(strengths) > 0.01:
        problems.append(f"{name} states field strengths from {min(strengths)} to {max(strengths)} T: correct them.")
