"""Subjects, not patches, are split, and nobody is in two splits."""

from __future__ import annotations

from pathlib import Path

import pytest
from chi33.datasets.build.build import BuildConfig, build_store
from chi33.datasets.build.splits import split_subjects
from chi33.datasets.loading.leakage import check_disjoint
from chi33.files.errors import Chi33Warning, InputError


@pytest.mark.parametrize(("number", "val"), [(2, ["02"]), (3, ["03"]), (9, ["09"]), (10, ["09", "10"])])
def test_without_names_the_last_fifth_validates(number: int, val: list[str]) -> None:
    splits = split_subjects([f"{n:02d}" for n in range(1, number + 1)])
    assert [label for label, split in splits.items() if split == "val"] == val
    assert sum(split == "train" for split in splits.values()) == number - len(val)


def test_one_subject_trains_with_a_warning() -> None:
    with pytest.warns(Chi33Warning, match="Only sub-01 is left"):
        assert split_subjects(["01"]) == {"01": "train"}


def test_named_subjects_go_where_they_are_named() -> None:
    splits = split_subjects(["01", "02", "03", "04"], ["sub-02"], ["03"])
    assert splits == {"01": "train", "02": "val", "03": "test", "04": "train"}
    assert split_subjects(["01", "02", "03"], None, ["03"]) == {"01": "train", "02": "val", "03": "test"}
    assert split_subjects(["01", "02"], [], []) == {"01": "train", "02": "train"}


def test_an_unknown_subject_is_named() -> None:
    with pytest.raises(InputError, match="sub-07 named for validation cannot be found: there are sub-01, sub-02"):
        split_subjects(["01", "02"], ["07"])
    with pytest.raises(InputError, match="sub-08 named for test"):
        split_subjects(["01", "02"], None, ["08"])


def test_a_subject_in_two_splits_is_refused() -> None:
    with pytest.raises(InputError, match="sub-02 cannot both validate and test"):
        split_subjects(["01", "02", "03"], ["02"], ["02", "03"])


def test_nobody_left_to_train_is_refused() -> None:
    with pytest.raises(InputError, match="no subject is left to train: sub-01, sub-02"):
        split_subjects(["01", "02"], ["01"], ["02"])


def test_overlapping_subjects_of_two_stores_are_refused(store_path: Path, derivatives: Path, tmp_path: Path) -> None:
    check_disjoint(store_path, "train", store_path, "val")
    config = BuildConfig(patch_size=10, patches_per_scan=2, val_subjects=("01",))
    build_store(derivatives, tmp_path / "other.h5", config)
    with pytest.raises(InputError, match=r"sub-01 is in train of .*store.h5 and in val of .*other.h5"):
        check_disjoint(store_path, "train", tmp_path / "other.h5", "val")


def test_an_unknown_split_is_refused(store_path: Path) -> None:
    with pytest.raises(InputError, match="split must be one of train, val, test, got 'training'"):
        check_disjoint(store_path, "training", store_path, "val")
