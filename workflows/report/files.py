"""Which files the report shows of a subject: the outputs that its run's manifest lists, or without one those found."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ...files.derivatives import Derivatives, is_complete, read_json, sidecar_path
from ...files.errors import InputError
from ...files.manifest import Manifest, read_manifest

_PLAIN = "scan"  # what a scan is called whose files have no entity that tells it apart


@dataclass(frozen=True)
class SubjectFiles:
    """The maps of a subject as a whole. manifest: None where the run left none; then every file counts."""

    place: Derivatives
    manifest: Manifest | None = None

    @classmethod
    def of(cls, out_dir: Path, subject: str) -> SubjectFiles:
        """Return the files of a subject under a derivatives folder; InputError where its manifest is damaged."""
        return cls(Derivatives(Path(out_dir), subject), read_manifest(Path(out_dir), subject))

    def path(self, desc: str, suffix: str) -> Path:
        """Return the path of one of the maps in the subject frame; it need not exist."""
        return self.place.path(suffix=suffix, desc=desc, space="subject")

    def lists(self, path: Path) -> bool:
        """Tell whether a file counts as an output of the subject's last run."""
        return self.manifest is None or self.manifest.lists(path)

    def has(self, path: Path) -> bool:
        """Tell whether a map is there: listed, and written to its end."""
        return self.lists(path) and is_complete(path)


@dataclass(frozen=True)
class ScanFiles:
    """One scan of a subject: where its files lie and the label in their names ("acq-ori01", "" where there is none)."""

    files: Derivatives
    label: str
    subject: SubjectFiles

    @property
    def name(self) -> str:
        """`ori01` for the usual label, otherwise all entities: `ses-a acq-ori01`, `acq-a run-2`, `ses-1`, `scan`."""
        return self.raw_name.removeprefix("acq-") if "_" not in self.raw_name else self.raw_name.replace("_", " ")

    @property
    def raw_name(self) -> str:
        """The name that the fit's record and the workflow have of the scan, `acq-ori01` or `ses-a_acq-ori01`."""
        session = f"ses-{self.files.session}" if self.files.session else ""
        return "_".join(part for part in (session, self.label) if part) or _PLAIN

    def path(self, desc: str, suffix: str) -> Path:
        """Return the path of one of the scan's maps; it need not exist."""
        return self.files.path(self.label, suffix=suffix, desc=desc)

    def has(self, path: Path) -> bool:
        """Tell whether a map is there: listed, and written to its end."""
        return self.subject.has(path)

    @property
    def echo(self) -> Path:
        """The path of the picture of one echo's phase and weight."""
        return self.files.figure(self.label, suffix="MEGRE", desc="phase")

    @property
    def transform(self) -> Path:
        """The path of the transform to the subject frame."""
        return self.files.transform(self.label)

    @property
    def has_transform(self) -> bool:
        """Whether the transform is there."""
        return self.subject.lists(self.transform) and self.transform.is_file()

    def record(self, path: Path) -> dict[str, Any]:
        """Return the sidecar of one of the files; nothing where there is none."""
        beside = sidecar_path(path)
        return read_json(beside) if self.subject.lists(path) and beside.is_file() else {}


def find_scans(out_dir: Path, subject: str) -> tuple[ScanFiles, ...]:
    """Return the scans of a subject, over all its sessions, in the order of their labels.

    Where the subject has a manifest, only scans of which it lists a file. Raises InputError where there is none.
    """
    whole = SubjectFiles.of(Path(out_dir), subject)
    folder = Path(out_dir) / f"sub-{subject}"
    sessions = sorted(path.name.removeprefix("ses-") for path in folder.glob("ses-*") if path.is_dir())
    scans = []
    for files in (whole.place, *(Derivatives(Path(out_dir), subject, one) for one in sessions)):
        pattern = re.compile(rf"{re.escape(files.prefix)}_(?:((?:acq|run)-.+?)_)?(?:desc|from)-")
        matches = (
            pattern.match(path.name) for path in sorted(files.folder.glob(f"{files.prefix}_*")) if whole.lists(path)
        )
        labels = {match[1] or "" for match in matches if match and "space-" not in match[0]}
        scans += [ScanFiles(files, label, whole) for label in sorted(labels)]
    if not scans:
        missing = "lists" if whole.manifest else "holds"
        place = f"the manifest of sub-{subject}" if whole.manifest else str(folder)
        raise InputError(f"{place} {missing} no scan of sub-{subject}: repeat `chi33 run`, or check the label.")
    return tuple(scans)
