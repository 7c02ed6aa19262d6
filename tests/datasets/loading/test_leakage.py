"""Nobody validates who trained, in one store or two, by name or under another one."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from chi33.datasets.build.build import BuildConfig, build_store
from chi33.datasets.loading.leakage import check_disjoint
from chi33.datasets.store.schema import open_store
from chi33.files.errors import InputError


def copied(derivatives: Path, folder: Path, names: dict[str, str]) -> Path:
    """Some of the subjects under other labels."""
    for label, other in names.items():
        for path in (derivatives / f"sub-{label}").rglob("*"):
            if path.is_file():
                target = folder / f"sub-{other}" / "anat" / path.name.replace(f"sub-{label}", f"sub-{other}")
                target.parent.mkdir(parents=True, exist_ok=True)
                shutil.copy(path, target)
    return folder


def build(derivatives: Path, path: Path, val: str, **options: object) -> Path:
    build_store(derivatives, path, BuildConfig(patch_size=10, patches_per_scan=2, val_subjects=(val,), **options))
    return path


def test_a_label_in_both_stores_is_refused(store_path: Path, derivatives: Path, tmp_path: Path) -> None:
    other = build(derivatives, tmp_path / "other.h5", "01")
    with pytest.raises(InputError, match=r"^sub-01 is in train of .*store.h5 and in val of .*other.h5: [^.]*\.$"):
        check_disjoint(store_path, "train", other, "val")
    check_disjoint(store_path, "train", build(derivatives, tmp_path / "fine.h5", "02"), "val")


def test_a_head_under_another_label_is_refused(store_path: Path, derivatives: Path, tmp_path: Path) -> None:
    renamed = copied(derivatives, tmp_path / "renamed", {"01": "77", "02": "78"})
    other = build(renamed, tmp_path / "other.h5", "77")
    with pytest.raises(
        InputError,
        match=r"^sub-01/acq-ori0\d in train of .*store.h5 and sub-77/acq-ori0\d in val of .*other.h5 are the same scan "
        r"under two labels: [^.]*\.$",
    ):
        check_disjoint(store_path, "train", other, "val")
    check_disjoint(store_path, "train", build(renamed, tmp_path / "fine.h5", "78"), "val")


def test_a_head_under_two_labels_of_one_store_is_refused(derivatives: Path, tmp_path: Path) -> None:
    twice = copied(derivatives, tmp_path / "twice", {"01": "01"})
    store = build(copied(derivatives, twice, {"01": "02"}), tmp_path / "s.h5", "02")
    with pytest.raises(InputError, match="are the same scan under two labels"):
        check_disjoint(store, "train", store, "val")


def test_volumes_without_fingerprints_are_told_by_label_alone(derivatives: Path, tmp_path: Path) -> None:
    store = build(derivatives, tmp_path / "s.h5", "02", augment=1)
    opened = open_store(store)
    assert [volume.fingerprint for volume in opened.volumes if volume.source == "augmented"] == ["", ""]
    check_disjoint(opened, "train", opened, "val")
