"""`chi33 inspect` from the command line: the page, the picture, the checks and their exit codes."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from chi33.datasets.store.schema import open_store
from chi33.datasets.store.volume import Geometry, Volume
from chi33.datasets.store.writer import StoreWriter
from chi33.pipeline.physics.tensor_field import dipole_field


@pytest.fixture
def store(tmp_path: Path) -> Path:
    """A subject to train and one to validate, one scan each, with two patches."""
    rng = np.random.default_rng(0)
    geometry = Geometry(np.eye(4), np.array([0.0, 0.0, 1.0]), 3.0)
    path = tmp_path / "my store.h5"
    with StoreWriter(path, {}) as writer:
        mask = np.ones((12, 12, 12), np.uint8)
        for subject, split in (("01", "train"), ("02", "val")):
            chi = (0.03 * rng.standard_normal(mask.shape)).astype(np.float32)
            deltab = 0.01 * chi[::-1]
            field = dipole_field(chi, (1, 1, 1), (0, 0, 1)) + deltab
            channels = {"field": field, "chi33": chi, "deltab": deltab, "mask": mask}
            writer.add_volume(Volume(f"sub-{subject}/acq-ori01", subject, channels, geometry), split)
            rows = np.array(
                [(f"sub-{subject}/acq-ori01".encode(), n, 0, 1, 1.0) for n in range(2)],
                [("volume", "S16"), ("i", "<i4"), ("j", "<i4"), ("k", "<i4"), ("brain_fraction", "<f4")],
            )
            writer.add_patches(split, rows, patch_size=8, min_brain=0.8, seed=0)
    return path


def test_page_and_picture(command: Callable[..., Any], store: Path) -> None:
    ended = command("inspect", store)
    assert (ended.code, ended.err) == (0, "")
    assert ended.out.startswith(f"{store}: ")
    sheet = store.with_name("my store_patches.png")
    assert ended.out.splitlines()[-1] == str(sheet)
    first = sheet.read_bytes()
    again = command("inspect", store, "--seed", "1", "--split", "val")
    assert again.code == 0
    assert again.out.splitlines()[-1] == f"{sheet} is kept: --overwrite draws it anew, --sheet another one."
    assert sheet.read_bytes() == first
    assert command("inspect", store, "--split", "val", "--overwrite").code == 0
    assert sheet.read_bytes() != first


def test_a_sheet_of_a_given_name_is_not_replaced(command: Callable[..., Any], store: Path, tmp_path: Path) -> None:
    sheet = tmp_path / "a.png"
    assert command("inspect", store, "--sheet", sheet, "--patches", "1").code == 0
    ended = command("inspect", store, "--sheet", sheet)
    assert ended.code == 2
    assert "a.png exists: give another name with --sheet, or pass --overwrite" in ended.err
    assert not store.with_name("my store_patches.png").exists()
    assert command("inspect", store, "--patches", "0").code == 0
    assert not store.with_name("my store_patches.png").exists()


def test_a_sound_store_is_verified(command: Callable[..., Any], store: Path) -> None:
    # Written without statistics, so exactly these are missing.
    ended = command("inspect", store, "--patches", "0", "--verify")
    assert ended.code == 2
    assert sorted(line for line in ended.out.splitlines() if line.startswith("the statistics")) == [
        "the statistics lack chi33.", "the statistics lack deltab.", "the statistics lack field.",
    ]  # fmt: skip
    assert ended.err.splitlines()[:3] == ["0/3 content hash", "1/3 sub-01/acq-ori01", "2/3 sub-02/acq-ori01"]
    with h5py.File(store, "r+") as handle:
        group = handle["volumes/sub-01/acq-ori01"]
        for name in ("field", "chi33", "deltab"):
            values = group[name][()].astype(np.float64)
            handle.create_group(f"statistics/{name}").attrs.update(mean=values.mean(), std=values.std(), count=1728)
    ended = command("inspect", store, "--patches", "0", "--verify")
    assert ended.code == 0
    assert ended.out.splitlines()[-1] == "sound: 2 volumes, 2 of them held against D∗χ33 + δB′"


def test_all_problems_are_listed_and_counted(command: Callable[..., Any], store: Path) -> None:
    with h5py.File(store, "r+") as handle:
        handle["volumes/sub-01/acq-ori01/mask"][0, 0, 0] = 9
        del handle["volumes/sub-02/acq-ori01"].attrs["residual_rms"]
    ended = command("inspect", store, "--patches", "0", "--verify")
    assert ended.code == 2
    assert "mask of sub-01/acq-ori01 holds [9], not only 0 and 1." in ended.out
    assert "does not match its content hash" in ended.out
    assert "residual not recorded, so not compared: sub-02/acq-ori01" in ended.out
    assert ended.err.splitlines()[-1] == (
        f"chi33: {store} has 2 problems, listed above: build it again from sound maps."
    )


def test_a_newer_store_is_refused_in_one_sentence(command: Callable[..., Any], store: Path) -> None:
    with h5py.File(store, "r+") as handle:
        handle.attrs["version"] = 99
    ended = command("inspect", store)
    assert (ended.code, ended.out) == (2, "")
    assert "has store version 99" in ended.err
    assert ended.err.count("\n") == 1


@pytest.mark.parametrize(("words", "sentence"), [
    (("--patches", "-1"), "--patches must be at least 0, got -1"),
    (("--seed", "-1"), "--seed must be at least 0, got -1"),
    (("--split", "all"), "all"),
    (("--split", "test"), "has no test patches to draw: choose one of train, val with --split"),
    (("--sheet", "a.jpg"), "a.jpg must end in .png"),
])  # fmt: skip
def test_options_that_cannot_be(
    command: Callable[..., Any], store: Path, words: tuple[str, ...], sentence: str
) -> None:
    ended = command("inspect", store, *words)
    assert ended.code == 2
    assert sentence in ended.err
    assert open_store(store).volumes
    assert [path.name for path in store.parent.iterdir()] == ["my store.h5"]
