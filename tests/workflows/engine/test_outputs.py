"""What is stale in an output folder goes; what the run did not write stays."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from chi33.files.manifest import Manifest, manifest_path, read_manifest
from chi33.workflows.engine.outputs import begin_outputs, finish_outputs

ANAT = "sub-01/anat"


def _write(out: Path, name: str, **sidecar: object) -> Path:
    """An image of the subject, with a sidecar where keys are given."""
    path = out / ANAT / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(name)
    if sidecar:
        path.with_name(name.removesuffix(".nii.gz").removesuffix(".txt") + ".json").write_text(json.dumps(sidecar))
    return path


def _names(out: Path) -> set[str]:
    return {path.name for path in out.rglob("*") if path.is_file() and path.parent.name != "logs"}


def _run(out: Path, *paths: Path) -> None:
    begin_outputs(out, "01", paths)
    for path in paths:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("new")
    finish_outputs(Manifest.of(out, "01", paths, {"Fit": "closed"}))


def test_what_an_earlier_run_listed_and_this_one_did_not_write_is_removed(tmp_path: Path) -> None:
    first, second = tmp_path / ANAT / "sub-01_a.nii.gz", tmp_path / ANAT / "sub-01_b.nii.gz"
    own = _write(tmp_path, "sub-01_roi.nii.gz")
    _run(tmp_path, first, second)
    _run(tmp_path, second)
    assert _names(tmp_path) == {second.name, own.name}
    manifest = read_manifest(tmp_path, "01")
    assert manifest is not None
    assert manifest.files == {f"{ANAT}/sub-01_b.nii.gz"}
    assert dict(manifest.facts) == {"Fit": "closed"}


def test_an_unfinished_run_vouches_for_nothing_and_the_next_one_clears_its_files(tmp_path: Path) -> None:
    first, second, third = (tmp_path / ANAT / f"sub-01_{name}.nii.gz" for name in "abc")
    _run(tmp_path, first)
    begin_outputs(tmp_path, "01", [second])  # killed after its first file
    second.write_text("half")
    between = read_manifest(tmp_path, "01")
    assert between is not None
    assert between.files == frozenset()
    assert not between.lists(first)
    begin_outputs(tmp_path, "01", [third])  # killed again
    _run(tmp_path, third)
    assert _names(tmp_path) == {third.name}


def test_outputs_of_a_version_without_manifest_are_known_by_name_and_sidecar(tmp_path: Path) -> None:
    ours = {"Description": "x", "BackgroundRemoval": "vsharp"}
    stale = [
        _write(tmp_path, "sub-01_acq-ori03_desc-chi33_Chimap.nii.gz", **ours),
        _write(tmp_path, "sub-01_space-subject_desc-tensor_Chimap.nii.gz", ReferenceScan="acq-ori01"),
        _write(tmp_path, "sub-01_acq-ori03_from-orig_to-subject_mode-image_xfm.txt", RotationDegrees=3.0),
        _write(tmp_path, "sub-01_desc-brain_mask.nii.gz", **ours),
    ]
    kept = [
        _write(tmp_path, "sub-01_acq-ori03_desc-brain_mask.nii.gz", Description="by hand"),
        _write(tmp_path, "sub-01_acq-ori03_desc-local_mask.nii.gz"),
        _write(tmp_path, "sub-01_acq-ori03_desc-lesion_mask.nii.gz", **ours),
        _write(tmp_path, "sub-01_acq-ori03_T1w.nii.gz", **ours),
    ]
    written = tmp_path / ANAT / "sub-01_acq-ori01_desc-chi33_Chimap.nii.gz"
    _run(tmp_path, written)
    images = {name for name in _names(tmp_path) if not name.endswith(".json")}
    assert images == {written.name, *(path.name for path in kept)}
    assert not [path for path in stale if path.exists()]


def test_temporary_files_of_a_killed_run_go_and_other_hidden_files_stay(tmp_path: Path) -> None:
    _write(tmp_path, ".sub-01_acq-ori01_desc-chi33_Chimap.0123456789abcdef0123456789abcdef.nii.gz")
    _write(tmp_path, ".sub-01_notes.txt")
    _run(tmp_path, tmp_path / ANAT / "sub-01_a.nii.gz")
    assert _names(tmp_path) == {".sub-01_notes.txt", "sub-01_a.nii.gz"}


def test_the_folder_of_a_session_that_is_no_more_goes(tmp_path: Path) -> None:
    session = tmp_path / "sub-01/ses-2/anat/sub-01_ses-2_a.nii.gz"
    _run(tmp_path, session, tmp_path / ANAT / "sub-01_a.nii.gz")
    _run(tmp_path, tmp_path / ANAT / "sub-01_a.nii.gz")
    assert [path.name for path in (tmp_path / "sub-01").iterdir()] == ["anat"]


@pytest.mark.parametrize("name", ["../../precious.txt", "/etc/hostname", ""])
def test_a_list_that_leaves_the_folder_is_not_followed(tmp_path: Path, name: str) -> None:
    out = tmp_path / "a" / "out"
    precious = tmp_path / "precious.txt"
    precious.write_text("mine")
    _run(out, out / ANAT / "sub-01_a.nii.gz")
    path = manifest_path(out, "01")
    content = json.loads(path.read_text())
    path.write_text(json.dumps(content | {"Files": [*content["Files"], name]}))
    _run(out, out / ANAT / "sub-01_b.nii.gz")
    assert precious.read_text() == "mine"
    assert Path("/etc/hostname").exists()
    assert _names(out) == {"sub-01_b.nii.gz"}


def test_a_damaged_manifest_is_replaced(tmp_path: Path) -> None:
    manifest_path(tmp_path, "01").parent.mkdir(parents=True)
    manifest_path(tmp_path, "01").write_text("{")
    _run(tmp_path, tmp_path / ANAT / "sub-01_a.nii.gz")
    assert read_manifest(tmp_path, "01") is not None
