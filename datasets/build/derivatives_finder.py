"""Finds the label maps of a derivatives folder: of `chi33 run`, the truth of `chi33 simulate`, or another program's.

Where a subject's last run left a manifest, what it lists is read and nothing else, as maps of an earlier run (of a scan
since taken away, of a fit since left out) may lie beside them. A subject without one is read by the names of its files.
"""

from __future__ import annotations

import re
import warnings
from collections.abc import Iterator
from pathlib import Path

from ...files.errors import Chi33Warning, InputError
from ...files.manifest import Manifest, manifest_path, read_manifest
from ..store.volume import FIELD, LABELS, MASK, PLAIN_SCAN
from .derivatives_reader import ScanFiles, SubjectFiles

_ENDINGS = {
    FIELD: "desc-local_fieldmap",
    "chi33": "desc-chi33_Chimap",
    "deltab": "desc-deltab_fieldmap",
    "cosmos": "desc-cosmos_Chimap",
    MASK: "desc-local_mask",
    "chi33sd": "desc-chi33sd_Chimap",
}
_BRAIN = "desc-brain_mask"
_TENSOR = "desc-tensor_Chimap"
_SUBJECT_SPACE = "space-subject"
_ORIENTATION = re.compile(r"(?:^|_)((?:acq|run)-[A-Za-z0-9]+)(?=_|$)")
_SESSION = re.compile(r"ses-[A-Za-z0-9]+")


def find_derivatives(folder: Path) -> tuple[SubjectFiles, ...]:
    """Return the files of every subject under a derivatives folder, sorted by subject and orientation.

    Subjects whose last run made no labels (`--fit none`) or did not end are left out with a warning. Raises InputError
    where the folder holds no scan with labels, where a scan lacks its field, its mask or a label that its other scans
    have, where two files claim the same place, and where a file that a manifest lists is missing; every message names
    the files.
    """
    if not folder.is_dir():
        raise InputError(f"{folder} is no folder: give the output folder of `chi33 run`.")
    subjects: list[SubjectFiles] = []
    without: dict[str, list[str]] = {}
    for subject_folder in sorted(folder.glob("sub-*")):
        if not subject_folder.is_dir():
            continue
        manifest = read_manifest(folder, subject_folder.name.removeprefix("sub-"))
        if manifest is not None and (reason := _why_no_labels(manifest)):
            without.setdefault(reason, []).append(subject_folder.name)
            continue
        found = _find_subject(subject_folder, manifest)
        if found.scans:
            subjects.append(found)
    if without:
        _tell_without_labels(folder, without, left_out=bool(subjects))
    if not subjects:
        raise InputError(
            f"{folder} holds no label map such as sub-01/anat/sub-01_acq-ori01_{_ENDINGS['chi33']}.nii.gz: give the "
            "output folder of `chi33 run`, or derivatives/truth of `chi33 simulate`."
        )
    _check_same_labels(subjects)
    return tuple(subjects)


def _why_no_labels(manifest: Manifest) -> str:
    if not manifest.files:
        return "did not end: repeat it"
    if str(manifest.facts.get("Fit", "")).lower() == "none":
        return "was with --fit none: repeat it with a fit to train on them"
    return ""


def _tell_without_labels(folder: Path, without: dict[str, list[str]], *, left_out: bool) -> None:
    told = [
        f"{', '.join(names)} in {folder} {'have' if len(names) > 1 else 'has'} no labels, as the last `chi33 run` {why}"
        for why, names in without.items()
    ]
    if not left_out:
        raise InputError(f"{'; '.join(told)}.")
    for message in told:
        warnings.warn(f"Left out, {message}.", Chi33Warning, stacklevel=3)


def _find_subject(subject_folder: Path, manifest: Manifest | None) -> SubjectFiles:
    subject = subject_folder.name.removeprefix("sub-")
    scans: dict[str, dict[str, Path]] = {}
    space: dict[str, Path] = {}
    for path in sorted(_images(subject_folder, manifest)):
        stem = path.name.removesuffix(".gz").removesuffix(".nii")
        if _SUBJECT_SPACE in stem.split("_"):
            if not _ORIENTATION.search(stem):
                _place(space, stem, path, {**_ENDINGS, "tensor": _TENSOR, "brain": _BRAIN})
            continue
        name = _scan_name(stem, subject)
        if name is not None:
            _place(scans.setdefault(name, {}), stem, path, {**_ENDINGS, "brain": _BRAIN})
    if manifest is not None:
        _check_listed(manifest, [*space.values(), *(path for paths in scans.values() for path in paths.values())])
    files = tuple(
        _scan_files(subject, name, paths, subject_folder)
        for name, paths in sorted(scans.items())
        if FIELD in paths or (paths and _ORIENTATION.search(name))  # a mask alone may be that of another image
    )
    return SubjectFiles(subject, files, space)


def _images(subject_folder: Path, manifest: Manifest | None) -> Iterator[Path]:
    """Return the NIfTI files of a subject: those that its manifest lists, else those that are there and not hidden."""
    if manifest is not None:
        listed = (manifest.out_dir / name for name in manifest.files if name.startswith(f"{subject_folder.name}/"))
        yield from (path for path in listed if path.name.endswith((".nii", ".nii.gz")))
        return
    for ending in ("*.nii", "*.nii.gz"):
        for path in subject_folder.rglob(ending):
            # macOS leaves ._sub-01_….nii.gz on foreign disks, which hold no image
            if not any(part.startswith(".") for part in path.relative_to(subject_folder).parts):
                yield path


def _check_listed(manifest: Manifest, paths: list[Path]) -> None:
    if missing := [path for path in paths if not path.is_file()]:
        more = f" and {len(missing) - 1} more" if len(missing) > 1 else ""
        listed = manifest_path(manifest.out_dir, manifest.subject)
        verb = "are" if more else "is"
        raise InputError(
            f"{missing[0]}{more} {verb} missing, though {listed} lists {'them' if more else 'it'}: repeat `chi33 run` "
            f"for sub-{manifest.subject}, or remove that manifest to read what is there."
        )


def _scan_name(stem: str, subject: str) -> str | None:
    """Return what tells a scan apart: `acq-ori01`, `ses-1_run-01`, `ses-1`; PLAIN_SCAN for sub-01 alone, else None."""
    head = stem.split("_desc-")[0]
    if head == f"sub-{subject}":
        return PLAIN_SCAN
    name = head.removeprefix(f"sub-{subject}_")
    if name == head or "_space-" in head:
        return None
    return name if _ORIENTATION.search(name) or _SESSION.fullmatch(name) else None


def _place(paths: dict[str, Path], stem: str, path: Path, endings: dict[str, str]) -> None:
    for name, ending in endings.items():
        if stem.endswith(f"_{ending}"):
            if name in paths:
                raise InputError(f"{paths[name]} and {path} are the same map twice: remove one of them.")
            paths[name] = path


def _scan_files(subject: str, orientation: str, paths: dict[str, Path], folder: Path) -> ScanFiles:
    chosen = dict(paths)
    brain = chosen.pop("brain", None)
    if MASK not in chosen and brain is not None:
        chosen[MASK] = brain
    needed = [FIELD, MASK]
    if "chi33" in chosen or "deltab" in chosen or "cosmos" not in chosen:
        needed += ["chi33", "deltab"]
    files = ScanFiles(subject, orientation, chosen)
    _check_present(files, needed, folder)
    return files


def _check_present(scan: ScanFiles, needed: list[str], folder: Path) -> None:
    missing = [f"{scan.prefix}_{_ENDINGS[name]}.nii.gz" for name in needed if name not in scan.paths]
    if missing:
        raise InputError(
            f"{folder} lacks {', '.join(missing)}: repeat `chi33 run` for sub-{scan.subject}, or move this scan's "
            "other files away."
        )


def _check_same_labels(subjects: list[SubjectFiles]) -> None:
    scans = [scan for subject in subjects for scan in subject.scans]
    everywhere = [label for label in LABELS if any(label in scan.paths for scan in scans)]
    for scan in scans:
        _check_present(scan, everywhere, scan.paths[FIELD].parent)
