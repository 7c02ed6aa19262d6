"""Raw multi-echo GRE scans of a BIDS dataset: found by name, described by their sidecars, checked, loaded.

`raw_names` has the names, `sidecars` the keys that are read.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from itertools import pairwise
from pathlib import Path
from warnings import warn

import numpy as np

from ...files.errors import Chi33Warning
from ...files.maps.field_strength import LARGEST_FIELD_STRENGTH, field_strength_of
from .checks import check_raw, check_scan_data, header_problems, raise_problems
from .names import RawFile, ScanFilter, check_labels, files_by_part, scan_filter, scans_by_label, subject_folders
from .scan import RawScan, RawSubject, load_magnitude, load_phase
from .sidecars import Sidecar, Sidecars, b0_direction, filter_words, number, phase_scale, phase_sign

_MAX_ECHO_TIME = 0.5  # s


def find_subjects(
    bids_dir: Path,
    participant_labels: Sequence[str] | None = None,
    *,
    echo_times: Sequence[float] | None = None,
    field_strength: float | None = None,
    phase_range: tuple[float, float] | None = None,
    session_labels: Sequence[str] | None = None,
    scans: Sequence[str] | None = None,
    phase_sign: int | None = None,
    check_selection: bool = True,
) -> tuple[RawSubject, ...]:
    """Return the subjects of a BIDS dataset with their GRE scans, from file names and sidecars alone.

    participant_labels, session_labels: with or without `sub-`, `ses-`; None for all; scans: names to choose
    ("acq-ori02", "ori02") or, with "!" in front, to leave out (`ScanFilter`); what is left out is not looked at.
    echo_times (s, one an echo), field_strength (T) and phase_range (the values that mean -pi and +pi): of images whose
    sidecars do not state them. phase_sign: of every scan, whatever its sidecar or manufacturer says. Raises InputError
    with every problem of names and sidecars in one report: no phase or magnitude, echoes that do not match, missing or
    impossible EchoTime and MagneticFieldStrength, duplicates, and subjects, sessions or scans that are not there
    (check_selection=False: sessions and scans may be those of other subjects). `check_raw` checks the images.
    """
    sidecars = Sidecars(Path(bids_dir))
    problems: list[str] = []
    given = _Given(None if echo_times is None else tuple(echo_times), field_strength, phase_range)
    wanted = _Wanted(scan_filter(session_labels, scans))
    subjects = tuple(
        _subject(folder, sidecars, given, wanted, problems)
        for folder in subject_folders(Path(bids_dir), participant_labels)
    )
    if check_selection and (unused := wanted.filter.unused(wanted.seen)):
        known = ", ".join(
            sorted({"_".join(part for part in (f"ses-{a}" if a else "", b) if part) for a, b in wanted.seen})
        )
        problems.append(f"{', '.join(unused)} is no session or scan of these subjects: choose from {known or 'none'}.")
    if problems:  # one report: what the headers of the other scans say belongs in it
        problems += [line for subject in subjects for scan in subject.scans for line in header_problems(scan)]
    raise_problems(problems)
    return subjects if phase_sign is None else tuple(_with_sign(subject, phase_sign) for subject in subjects)


def _with_sign(subject: RawSubject, sign: int) -> RawSubject:
    """Return a subject whose scans have the sign that the user gave; warn where a sidecar states the other."""
    if against := [scan.name for scan in subject.scans if scan.sign_stated and scan.phase_sign != sign]:
        warn(
            f"sub-{subject.label}: --phase-sign {sign} overrules PhaseSign {-sign} in the sidecars of "
            f"{', '.join(against)}: leave it out if they are right.",
            Chi33Warning,
            stacklevel=3,
        )
    return replace(subject, scans=tuple(replace(scan, phase_sign=sign) for scan in subject.scans))


@dataclass(frozen=True)
class _Wanted:
    """The filter of scans, and every scan (session, label) that it was asked about."""

    filter: ScanFilter
    seen: set[tuple[str, str]] = field(default_factory=set)

    def of(self, groups: dict[tuple[str, str], list[RawFile]]) -> dict[tuple[str, str], list[RawFile]]:
        """Return the groups of files that the filter takes."""
        self.seen.update(groups)
        return {key: files for key, files in groups.items() if self.filter.takes(key)}


@dataclass(frozen=True)
class _Given:
    """What a user says of scans whose sidecars do not: echo times in s, field strength in T, range of the phase."""

    echo_times: tuple[float, ...] | None = None
    field_strength: float | None = None
    phase_range: tuple[float, float] | None = None

    def complete(self, files: Sequence[RawFile], stated: dict[Path, Sidecar], problems: list[str]) -> None:
        """Add to the sidecars of a scan's magnitude or phase files, echo by echo, what they do not state."""
        times = self.echo_times
        if times is not None and len(times) != len(files) and any("EchoTime" not in stated[f.path] for f in files):
            problems.append(
                f"{files[0].path.parent} holds {len(files)} part-{files[0].part} echoes of one scan, but {len(times)} "
                "echo times were given: give one an echo (split a 4-D file of several echoes into echo-1, echo-2 …)."
            )
            return
        for index, file in enumerate(files):
            more: dict[str, float] = {} if times is None else {"EchoTime": times[index % len(times)]}
            if self.field_strength is not None:
                more["MagneticFieldStrength"] = self.field_strength
            stated[file.path] = {**more, **stated[file.path]}


def _subject(folder: Path, sidecars: Sidecars, given: _Given, wanted: _Wanted, problems: list[str]) -> RawSubject:
    subject = folder.name.removeprefix("sub-")
    before = len(problems)
    all_groups = scans_by_label(folder, problems)
    groups = wanted.of(all_groups)
    check_labels(folder, groups, problems)
    if not all_groups and len(problems) == before:
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
        if len(problems) == before and (scan := _scan(subject, key, parts, stated, given, problems)):
            scans.append(scan)
    return RawSubject(subject, tuple(sorted(scans, key=lambda scan: scan.name)))


def _scan(
    subject: str,
    key: tuple[str, str],
    parts: dict[str, list[RawFile]],
    sidecars: dict[Path, Sidecar],
    given: _Given,
    problems: list[str],
) -> RawScan | None:
    """Build a scan from matched files, or add what its sidecars lack to problems."""
    before = len(problems)
    magnitude, phase = (tuple(file.path for file in parts[part]) for part in ("mag", "phase"))
    paths = (*magnitude, *phase)
    times = [number(sidecars[p], "EchoTime", p, _MAX_ECHO_TIME, "s", problems) for p in paths]
    for path in paths:
        number(sidecars[path], "MagneticFieldStrength", path, LARGEST_FIELD_STRENGTH, "T", problems)
    strengths = [found for path in paths if (found := field_strength_of(sidecars[path]))]
    scales = tuple(phase_scale(sidecars[path], path, problems, given.phase_range) for path in phase)
    signs = {phase_sign(sidecars[path], path, problems) for path in phase}
    directions = {b0_direction(sidecars[path], path, problems) for path in paths} - {None}
    name = f"sub-{subject} {'_'.join(part for part in key if part) or 'scan'}"
    if len(problems) == before:
        echoes = len(phase)
        _check_agreement(name, times[:echoes], times[echoes:], [one.tesla for one in strengths], problems)
        if len({sign for sign, _ in signs}) > 1:
            problems.append(f"{name} states both PhaseSign +1 and -1 in its echoes: correct the sidecars.")
        if len(directions) > 1:
            problems.append(f"{name} states {len(directions)} different B0_dir in its sidecars: correct them.")
    if len(problems) > before:
        return None
    sign, sign_stated = max(signs, key=lambda one: one[1])
    return RawScan(
        subject=subject,
        session=key[0] or None,
        label=key[1],
        magnitude=magnitude,
        phase=phase,
        echo_times=tuple(times[len(phase) :]),
        field_strength=strengths[0].tesla,
        phase_scale=scales,
        phase_sign=sign,
        b0_direction=directions.pop() if directions else None,
        strength=strengths[0],
        sign_stated=sign_stated,
        filtered=next((words for path in phase if (words := filter_words(sidecars[path]))), ""),
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


__all__ = ["RawScan", "RawSubject", "check_raw", "check_scan_data", "find_subjects", "load_magnitude", "load_phase",
           "raise_problems"]  # fmt: skip
