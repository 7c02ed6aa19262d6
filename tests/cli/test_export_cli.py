"""`chi33 export` from the command line: options, what is printed, and what is refused."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from chi33.datasets.store.volume import Geometry, Volume
from chi33.datasets.store.writer import StoreWriter


@pytest.fixture
def store(tmp_path: Path) -> Path:
    """A subject to train and one to validate, with COSMOS and χ33 but no δB′, and no patches."""
    path = tmp_path / "s.h5"
    rng = np.random.default_rng(0)
    geometry = Geometry(np.eye(4), np.array([0.0, 0.0, 1.0]), 3.0)
    with StoreWriter(path, {}) as writer:
        for subject, split in (("01", "train"), ("02", "val")):
            mask = np.ones((12, 12, 12), np.uint8)
            maps = {name: rng.standard_normal(mask.shape).astype(np.float32) for name in ("field", "chi33", "cosmos")}
            writer.add_volume(Volume(f"sub-{subject}/acq-a", subject, {**maps, "mask": mask}, geometry), split)
    return path


def test_options_reach_the_folder_and_the_summary_tells(
    command: Callable[..., Any], store: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    words = ("--patch-rule", "random", "--patch-size", "6", "--patches-per-scan", "4", "--min-brain", "0.9")
    ended = command("export", store, out, "--layout", "qsmnet", "--split", "train", "--label", "chi33", *words)
    assert ended.code == 0
    assert ended.err == "0/1 train sub-01/acq-a\n"
    lines = ended.out.splitlines()
    assert lines[0] == "The label is chi33."
    assert "PS = '6'" in lines[1]
    assert "There are 4 patches." in lines[1]
    assert lines[-1].startswith(f"{out}: 1 train volumes, 4 files, ")
    with h5py.File(out / "Data/Train/Training_data_patch/training_data_patch_QSMnet_6.hdf5") as handle:
        assert handle["temp_l"].shape == (4, 6, 6, 6, 1)
    again = command("export", store, out, "--layout", "bids")
    assert again.code == 2
    assert "is not empty" in again.err
    replaced = command("export", store, out, "--layout", "bids", "--split", "train", "val", "--overwrite")
    assert replaced.code == 0
    assert replaced.out.splitlines()[-1].startswith(f"{out}: 1 train, 1 val volumes, ")


@pytest.mark.parametrize(("words", "sentence"), [
    ((), "--layout"),
    (("--layout", "dicom"), "dicom"),
    (("--layout", "qsmnet", "--split", "both"), "both"),
    (("--layout", "modl-qsm"), "sub-01/acq-a has no deltab, which the layout modl-qsm needs"),
    (("--layout", "modl-qsm", "--split", "val"), "has no place for the split 'val'"),
    (("--layout", "qsmnet", "--patch-size", "6"), "need --patch-rule: add it"),
    (("--layout", "qsmnet", "--patch-rule", "lpcnn", "--patches-per-scan", "6"), "does not apply"),
    (("--layout", "bids", "--split", "test"), "has no test volumes: it has train, val"),
])  # fmt: skip
def test_what_cannot_be_exported(
    command: Callable[..., Any], store: Path, tmp_path: Path, words: tuple[str, ...], sentence: str
) -> None:
    ended = command("export", store, tmp_path / "out", *words)
    assert ended.code == 2
    assert sentence in ended.err
    assert ended.err.splitlines()[-1].startswith("chi33: ")
    assert not (tmp_path / "out").exists()


def test_a_store_without_patches_is_exported_by_a_rule_only(
    command: Callable[..., Any], store: Path, tmp_path: Path
) -> None:
    ended = command("export", store, tmp_path / "out", "--layout", "lpcnn")
    assert ended.code == 2
    assert (ended.out, ended.err.count("\n")) == ("", 1)
    assert "has no train patches: draw some with --patch-rule" in ended.err
    ended = command("export", store, tmp_path / "out", "--layout", "lpcnn", "--patch-rule", "grid", "--patch-size", "6")
    assert ended.code == 0
    assert (tmp_path / "out/data/numpy_data/partition/list/validation.txt").read_text().startswith("Sub002 p0 ori1\n")
