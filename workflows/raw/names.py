"""Names of raw GRE files: which subject, session, scan, echo and part each is, and whether they make whole scans.

Names are `sub-01/[ses-a/]anat/sub-01[_ses-a]_acq-ori01[_run-1]_echo-1_part-mag_MEGRE.nii.gz` (or `.nii`; suffix MEGRE,
GRE or T2starw; one echo needs no `echo-`); `acq-`, `run-` or both tell head orientations apart. The names are parsed
here because every file that competes for a name has to be seen, so that duplicates are refused instead of picked from.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path

from ...files.errors import InputError

SUFFIXES = ("MEGRE", "GRE", "T2starw")
_NAME = re.compile(
    r"(?P<entities>(?:[A-Za-z0-9]+-[A-Za-z0-9]+_)+)(?P<suffix>" + "|".join(SUFFIXES) + r")\.nii(?:\.gz)?"
)
_LABEL_ENTITIES = ("acq", "run")


@dataclass(frozen=True)
class RawFile:
    """An image file, the entities of its name (`{"sub": "01", "acq": "ori01", …}`) and its suffix."""

    path: Path
    entities: dict[str, str]
    suffix: str

    @property
    def key(self) -> tuple[str, str]:
        """(session, label): what tells scans apart."""
        return self.entities.get("ses", ""), _label(self.entities)

    @property
    def part(self) -> str:
        """What the name says: "mag" where it says nothing, or "phase"."""
        return self.entities.get("part", "mag")  # BIDS: no part means magnitude

    @property
    def echo(self) -> int:
        """The echo's number, 1 where the name has none."""
        return int(self.entities.get("echo", "1"))


def subject_folders(bids_dir: Path, labels: Sequence[str] | None) -> list[Path]:
    """Return the folders of the named subjects (with or without `sub-`), or of all; InputError where one is absent."""
    if not bids_dir.is_dir():
        raise InputError(f"{bids_dir} is not a folder: give the BIDS dataset that holds the sub-… folders.")
    folders = {path.name: path for path in sorted(bids_dir.glob("sub-*")) if path.is_dir()}
    if not folders:
        raise InputError(f"{bids_dir} holds no sub-… folder: give a BIDS dataset (`chi33 convert` makes one).")
    if labels is None or not list(labels):
        return list(folders.values())
    wanted = list(dict.fromkeys("sub-" + label.removeprefix("sub-") for label in labels))
    if missing := [name for name in wanted if name not in folders]:
        raise InputError(
            f"{', '.join(missing)} is not in {bids_dir}: choose from {', '.join(name[4:] for name in folders)}."
        )
    return [folders[name] for name in wanted]


def scans_by_label(folder: Path, problems: list[str]) -> dict[tuple[str, str], list[RawFile]]:
    """Return the GRE files of a subject by (session, label); pictures without a part (a plain T2starw) are left out."""
    groups: dict[tuple[str, str], list[RawFile]] = defaultdict(list)
    # macOS leaves ._NAME beside a NAME
    for path in sorted([*folder.glob("anat/[!.]*.nii*"), *folder.glob("ses-*/anat/[!.]*.nii*")]):
        if not (match := _NAME.fullmatch(path.name)):
            if path.name.partition(".nii")[0].endswith(tuple(f"_{suffix}" for suffix in SUFFIXES)):
                problems.append(f"{path} is no BIDS name: write it as entity-label pairs of letters and digits.")
            continue
        entities = dict(part.split("-", 1) for part in match["entities"].strip("_").split("_"))
        session = path.parent.parent.name.removeprefix("ses-") if path.parent.parent != folder else None
        if entities.get("sub") != folder.name.removeprefix("sub-") or entities.get("ses") != session:
            problems.append(f"{path} names another subject or session than its folder: rename or move it.")
        elif not entities.get("echo", "1").isdecimal():
            problems.append(f"{path} has echo-{entities['echo']}, which is no number: rename it.")
        else:
            file = RawFile(path, entities, match["suffix"])
            groups[file.key].append(file)
    return {
        key: files
        for key, files in groups.items()
        if any("part" in file.entities or file.suffix == "MEGRE" for file in files)
    }


def check_labels(folder: Path, groups: dict[tuple[str, str], list[RawFile]], problems: list[str]) -> None:
    """Add the labels that mean one scan: `run-1` beside `run-01`, or the same `acq-` with and without a `run-`."""
    labels: dict[tuple[str, str], list[tuple[str, str]]] = defaultdict(list)
    for (session, label), files in groups.items():
        entities = files[0].entities
        labels[session, entities.get("acq", "")].append((entities.get("run", "").lstrip("0"), label or "no label"))
    for same_acq in labels.values():
        runs = [run for run, _ in same_acq]
        if len(set(runs)) < len(runs) or ("" in runs and len(runs) > 1):
            named = " and ".join(label for _, label in same_acq)
            problems.append(
                f"{folder} has scans labelled {named}, duplicates of one label: give each head orientation its own "
                "acq- or run-."
            )


def files_by_part(files: list[RawFile], problems: list[str]) -> dict[str, list[RawFile]]:
    """Return {"mag": files by echo, "phase": files by echo} after checking that they belong together."""
    scan = f"sub-{files[0].entities['sub']} {'_'.join(part for part in files[0].key if part) or 'scan'}"
    if others := sorted({file.part for file in files} - {"mag", "phase"}):
        problems.append(
            f"{scan} has part-{others[0]} ({files[0].path.parent}): give part-mag and part-phase images instead."
        )
        return {}
    parts: dict[str, list[RawFile]] = {}
    if coils := sorted({file.entities["coil"] for file in files if "coil" in file.entities}):
        problems.append(
            f"{scan} holds the images of {len(coils)} receive coils apart (coil-{coils[0]} …): combine them first, on "
            "the scanner (adaptive combination) or by a method that takes out each coil's phase offset, and give one "
            "magnitude and one phase an echo."
        )
        return {}
    for part in ("mag", "phase"):
        by_echo: dict[int, list[RawFile]] = defaultdict(list)
        for file in files:
            if file.part == part:
                by_echo[file.echo].append(file)
        for echo, same in by_echo.items():
            if len(same) > 1:
                names = " and ".join(file.path.name for file in same)
                problems.append(f"{scan} has {len(same)} part-{part} files of echo {echo} ({names}): keep one.")
        parts[part] = [by_echo[echo][0] for echo in sorted(by_echo)]
    magnitude, phase = ([file.echo for file in parts[part]] for part in ("mag", "phase"))
    if not phase:
        problems.append(f"{scan} has no phase ({files[0].path.parent}): add its part-phase images.")
    elif not magnitude:
        problems.append(f"{scan} has no magnitude ({files[0].path.parent}): add its part-mag images.")
    elif magnitude != phase:
        problems.append(
            f"{scan} has magnitude of echoes {magnitude} but phase of echoes {phase}: add the missing files or remove "
            "the surplus ones."
        )
    return parts


def _label(entities: dict[str, str]) -> str:
    return "_".join(f"{entity}-{entities[entity]}" for entity in _LABEL_ENTITIES if entity in entities)


@dataclass(frozen=True)
class ScanFilter:
    """Which scans of a data set are taken: of these sessions (bare labels; None: all), and chosen by name.

    scans: selectors as `names_scan` knows them; those with "!" in front leave scans out, the others choose.
    """

    sessions: tuple[str, ...] | None = None
    scans: tuple[str, ...] = ()

    def takes(self, key: tuple[str, str]) -> bool:
        """Tell whether a scan (session, label) is taken."""
        if self.sessions is not None and key[0] not in self.sessions:
            return False
        if any(names_scan(text[1:], key) for text in self.scans if text.startswith("!")):
            return False
        chosen = [text for text in self.scans if not text.startswith("!")]
        return not chosen or any(names_scan(text, key) for text in chosen)

    def unused(self, keys: Collection[tuple[str, str]]) -> list[str]:
        """Return what the filter names that no scan (session, label) has."""
        sessions = [f"ses-{one}" for one in self.sessions or () if one not in {session for session, _ in keys}]
        return sessions + [one for one in self.scans if not any(names_scan(one.lstrip("!"), key) for key in keys)]


def scan_filter(sessions: Sequence[str] | None, scans: Sequence[str] | None) -> ScanFilter:
    """Return the filter of session labels (with or without ses-) and scan selectors."""
    bare = None if not sessions else tuple(one.removeprefix("ses-") for one in sessions)
    return ScanFilter(bare, tuple(scans or ()))


def names_scan(text: str, key: tuple[str, str]) -> bool:
    """Tell whether a text names a scan (session, label): "acq-ori02", "ori02", "ses-a_acq-ori02", "ses-a acq-ori02"."""
    session, label = key
    wanted = text.strip().replace(" ", "_")
    whole = "_".join(part for part in (f"ses-{session}" if session else "", label) if part) or "scan"
    short = label.removeprefix("acq-") if "_" not in label else label
    in_session = "_".join(part for part in (f"ses-{session}" if session else "", short) if part)
    return wanted in {whole, label, short, in_session}
