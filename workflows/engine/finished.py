"""Whether a subject was finished before: nothing that its run depends on, and nothing that it wrote, has changed.

Files are told by path, size and times, not by content, so that a repeated command reads no image; a file that was only
touched costs a repeat in which Nipype, which hashes contents, keeps every step.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterable, Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

from ... import __version__
from ...files.errors import InputError
from ...files.manifest import Manifest, read_manifest
from ..config import RunConfig
from ..raw.dataset import RawSubject

INPUTS, OUTPUTS = "InputsDigest", "OutputsDigest"
_IRRELEVANT = {"backend", "dask", "fit_memory"}  # the backend counts as it was resolved


def inputs_digest(subject: RawSubject, config: RunConfig, backend: str, rois: Path | None = None) -> str:
    """Return a digest of all that the outputs of a subject follow from: scans, sidecars, settings, version.

    backend: "fsl" or "builtin"; rois: the regions of the report.
    """
    settings = {key: value for key, value in asdict(config).items() if key not in _IRRELEVANT}
    if rois is not None:
        settings["rois"] = str(rois)
    images = [path for scan in subject.scans for path in (*scan.magnitude, *scan.phase)]
    return _digest(
        {
            "version": __version__,
            "backend": backend,
            "settings": settings,
            "scans": [repr(scan) for scan in subject.scans],  # what their sidecars state is part of it
            "files": [_stamp(path) for path in (*images, *_given_files(settings.values(), subject.label))],
        }
    )


def outputs_digest(manifest: Manifest) -> str | None:
    """Return a digest of the files that a manifest lists; None where one is missing."""
    try:
        stats = [(name, (manifest.out_dir / name).stat()) for name in sorted(manifest.files)]
    except OSError:
        return None
    return _digest([(name, stat.st_size, stat.st_mtime_ns) for name, stat in stats])


def was_finished(out_dir: Path, subject: RawSubject, config: RunConfig, backend: str, rois: Path | None = None) -> bool:
    """Tell whether a run of this subject with these settings ended well and its outputs are as it left them."""
    try:
        manifest = read_manifest(out_dir, subject.label)
    except InputError:  # damaged: the run is repeated and writes another
        return False
    if manifest is None or INPUTS not in manifest.facts:
        return False
    return manifest.facts[INPUTS] == inputs_digest(subject, config, backend, rois) and manifest.facts.get(
        OUTPUTS
    ) == outputs_digest(manifest)


def _given_files(settings: Iterable[Any], subject: str) -> Iterator[Path]:
    """Yield the files that settings name, with those of the same stem beside them, and a subject's in a folder."""
    for value in settings:
        if not isinstance(value, str) or not os.path.exists(value):  # noqa: PTH110 (a Path raises where it may not look)
            continue
        path = Path(value)
        if path.is_dir():
            yield from sorted(path.rglob(f"sub-{subject}_*"))
        else:
            stem = path.name.partition(".")[0]
            yield from sorted(one for one in path.parent.iterdir() if one.name.partition(".")[0] == stem)


def _stamp(path: Path) -> tuple[str, int, int, int]:
    stat = path.stat()
    return os.path.realpath(path), stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns


def _digest(content: Any) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True, default=str).encode()).hexdigest()
