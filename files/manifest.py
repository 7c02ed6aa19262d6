"""What a run made of a subject: the list that tells its outputs from those of an earlier run.

`OUT/logs/sub-01_manifest.json` is written last, when every file in it is there. Report, index and store read what it
lists and nothing else; the run removes what an earlier manifest listed and its own does not. A folder without a
manifest (a simulation's truth, maps of another program) is read by its names alone.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from .errors import InputError

_VERSION = 1


@dataclass(frozen=True)
class Manifest:
    """The outputs of one subject's last run.

    out_dir: the derivatives folder; subject: bare label; files: paths relative to out_dir, with "/"; facts: what else
    is recorded of the run (fit, reference, scans).
    """

    out_dir: Path
    subject: str
    files: frozenset[str]
    facts: Mapping[str, Any] = field(default_factory=dict)

    @classmethod
    def of(cls, out_dir: Path, subject: str, paths: Iterable[Path], facts: Mapping[str, Any]) -> Manifest:
        """Return the manifest of paths under out_dir."""
        root = Path(out_dir).absolute()
        names = frozenset(Path(path).absolute().relative_to(root).as_posix() for path in paths)
        return cls(Path(out_dir), subject, names, dict(facts))

    @property
    def content(self) -> dict[str, Any]:
        """What the file holds."""
        return {"Version": _VERSION, "Subject": self.subject, **self.facts, "Files": sorted(self.files)}

    def lists(self, path: Path) -> bool:
        """Tell whether a file is an output of the run."""
        absolute = Path(path).absolute()
        root = self.out_dir.absolute()
        return absolute.is_relative_to(root) and absolute.relative_to(root).as_posix() in self.files


def manifest_path(out_dir: Path, subject: str) -> Path:
    """Return where a subject's manifest lies."""
    return Path(out_dir) / "logs" / f"sub-{subject}_manifest.json"


def read_manifest(out_dir: Path, subject: str) -> Manifest | None:
    """Return a subject's manifest, None where there is none; InputError where it is damaged."""
    path = manifest_path(out_dir, subject)
    if not path.is_file():
        return None
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        files = frozenset(str(name) for name in content["Files"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InputError(f"{path} is no manifest of a run ({error}): repeat `chi33 run` for sub-{subject}.") from error
    facts = {key: value for key, value in content.items() if key not in ("Version", "Subject", "Files")}
    return Manifest(Path(out_dir), subject, files, facts)
