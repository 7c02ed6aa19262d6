"""What a run leaves in the output folder: the list of its files, and nothing that an earlier run left beside them.

While a subject is at work its manifest vouches for no file: `Files` is empty, and `Earlier` lists what earlier runs
wrote and this one may write, so that a run that is killed is known as such and the next one knows what to remove.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterable, Iterator
from pathlib import Path

from nipype.pipeline import engine as pe

from ...files.derivatives import read_json, sidecar_path, write_json
from ...files.errors import InputError
from ...files.manifest import Manifest, manifest_path, read_manifest
from ..interfaces.scan import Export, ExportIfMade
from ..products import PRODUCT_NAMES

EARLIER = "Earlier"
_OWN_KEYS = {"BackgroundRemoval", "ReferenceScan", "RotationDegrees"}  # one of them is in every sidecar of a run
_TEMPORARY = re.compile(r"\..+\.[0-9a-f]{32}(?:\.nii\.gz|\.json|\.txt)")


def exported_files(workflow: pe.Workflow) -> frozenset[Path]:
    """Return every file that a workflow exports, with the sidecars."""
    return _exported_by(workflow, Export)


def files_not_made(workflow: pe.Workflow) -> frozenset[Path]:
    """Return the files that a workflow exports where the data ask for them, and that are not there."""
    return frozenset(path for path in _exported_by(workflow, ExportIfMade) if not path.exists())


def _exported_by(workflow: pe.Workflow, kind: type[Export]) -> frozenset[Path]:
    nodes = (workflow.get_node(name) for name in workflow.list_node_names())
    images = [Path(node.inputs.out_file) for node in nodes if isinstance(node.interface, kind)]
    return frozenset([*images, *(sidecar_path(path) for path in images)])


def begin_outputs(out_dir: Path, subject: str, files: Iterable[Path]) -> None:
    """Declare the outputs of a subject unfinished before the first of them changes; files: what the run will write."""
    earlier = _earlier(out_dir, subject) | Manifest.of(out_dir, subject, files, {}).files
    _write(Manifest.of(out_dir, subject, (), {EARLIER: sorted(earlier)}))


def finish_outputs(manifest: Manifest) -> None:
    """Remove what earlier runs left and this one did not write, then write the manifest of its files."""
    out_dir, subject = Path(manifest.out_dir), manifest.subject
    for name in sorted(_earlier(out_dir, subject) - manifest.files):
        (out_dir / name).unlink(missing_ok=True)
    for path in _temporary_files(out_dir, subject):
        path.unlink(missing_ok=True)
    _remove_empty_folders(out_dir / f"sub-{subject}")
    _write(manifest)


def _write(manifest: Manifest) -> None:
    write_json(manifest_path(manifest.out_dir, manifest.subject), manifest.content)


def _earlier(out_dir: Path, subject: str) -> frozenset[str]:
    """Return the paths, relative to out_dir, of all that earlier runs wrote of a subject.

    As its manifest lists them; without one (chi33 before manifests), what has a name and a sidecar of ours.
    """
    try:
        manifest = read_manifest(out_dir, subject)
    except InputError:  # damaged: names tell
        manifest = None
    if manifest is not None:
        listed = manifest.facts.get(EARLIER, ())
        return frozenset(name for name in (*manifest.files, *listed) if _lies_in(out_dir, name))
    return Manifest.of(out_dir, subject, _files_with_our_names(out_dir, subject), {}).files


def _lies_in(out_dir: Path, name: str) -> bool:
    """Tell whether a listed path stays in the output folder, also where somebody edited the list."""
    return not Path(name).is_absolute() and ".." not in Path(name).parts and bool(Path(name).parts)


def _files_with_our_names(out_dir: Path, subject: str) -> Iterator[Path]:
    kinds = "|".join(re.escape(f"desc-{desc}_{suffix}") for suffix, desc in sorted(PRODUCT_NAMES))
    ours = re.compile(
        rf"sub-{re.escape(subject)}_(?:.+_)?(?:{kinds}|from-orig_to-subject_mode-image_xfm)\.(?:nii\.gz|txt)"
    )
    for path in (Path(out_dir) / f"sub-{subject}").rglob(f"sub-{subject}_*"):
        beside = sidecar_path(path)
        if ours.fullmatch(path.name) and beside.is_file():
            with contextlib.suppress(InputError):
                if _OWN_KEYS & read_json(beside).keys():
                    yield from (path, beside)


def _temporary_files(out_dir: Path, subject: str) -> list[Path]:
    """Return what a killed run left under a temporary name."""
    return [path for path in (Path(out_dir) / f"sub-{subject}").rglob(".sub-*") if _TEMPORARY.fullmatch(path.name)]


def _remove_empty_folders(folder: Path) -> None:
    """Remove the folders of sessions that are no more."""
    for path in sorted((*folder.glob("ses-*/*"), *folder.glob("ses-*")), reverse=True):
        with contextlib.suppress(OSError):  # a file, or a folder that holds one
            path.rmdir()
