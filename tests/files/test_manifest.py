from __future__ import annotations

import json
from pathlib import Path

import pytest
from chi33.files.errors import InputError
from chi33.files.manifest import Manifest, manifest_path, read_manifest


def test_a_manifest_lists_its_files_and_no_others(tmp_path: Path) -> None:
    ours, other = tmp_path / "sub-01" / "anat" / "a.nii.gz", tmp_path / "sub-01" / "anat" / "b.nii.gz"
    manifest = Manifest.of(tmp_path, "01", [ours], {"Fit": "masked"})
    path = manifest_path(tmp_path, "01")
    path.parent.mkdir()
    path.write_text(json.dumps(manifest.content))
    found = read_manifest(tmp_path, "01")
    assert found == manifest
    assert found.lists(ours)
    assert not found.lists(other)
    assert not found.lists(tmp_path.parent / "a.nii.gz")
    assert found.facts == {"Fit": "masked"}


def test_no_manifest_is_none_and_a_damaged_one_is_refused(tmp_path: Path) -> None:
    assert read_manifest(tmp_path, "01") is None
    path = manifest_path(tmp_path, "01")
    path.parent.mkdir()
    path.write_text("{}")
    with pytest.raises(InputError, match="repeat `chi33 run`"):
        read_manifest(tmp_path, "01")
