"""A run validates on another store, says so in its records, and refuses one that shares a head with training."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from chi33.datasets.store.schema import open_store
from chi33.files.errors import InputError
from chi33.training.config import TrainConfig, load_config
from chi33.training.loading import samples_per_epoch, train_loader, validation_loader
from chi33.training.train import train
from tiny_store import write_tiny_store


@pytest.fixture(scope="session")
def other_store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store whose val subject is not in the tiny store's training."""
    path = tmp_path_factory.mktemp("other") / "other.h5"
    return write_tiny_store(path, {"04": "train", "05": "val"})


def weights(run: Path) -> dict[str, torch.Tensor]:
    return torch.load(run / "checkpoints" / "last.ckpt", weights_only=True)["chi33"]["state"]


def test_another_store_validates_and_is_recorded(
    tiny_store: Path, other_store: Path, quick: TrainConfig, tmp_path: Path
) -> None:
    config = replace(quick, epochs=2, val_store=str(other_store))
    train(tiny_store, tmp_path / "run", config)
    recorded = json.loads((tmp_path / "run" / "metrics.json").read_text())
    own, other = open_store(tiny_store), open_store(other_store)
    assert (recorded["store"], recorded["val_store"]) == ("tiny.h5", "other.h5")
    assert (recorded["content_hash"], recorded["val_content_hash"]) == (own.content_hash, other.content_hash)
    assert (recorded["split_hash"], recorded["val_split_hash"]) == (own.split_hash, other.split_hash)
    assert recorded["split_hash"] != recorded["val_split_hash"] != ""
    assert (recorded["train_subjects"], recorded["val_subjects"]) == (["01", "03"], ["05"])
    assert load_config(tmp_path / "run" / "config.toml").val_store == str(other_store)
    loader = validation_loader(own, config, other)
    assert loader is not None
    assert {volume for batch in loader for volume in batch["volume"]} == {"sub-05/acq-ori01"}


def test_a_store_that_shares_a_head_is_refused(tiny_store: Path, quick: TrainConfig, tmp_path: Path) -> None:
    by_label = write_tiny_store(tmp_path / "label.h5", {"04": "train", "01": "val"})
    with pytest.raises(InputError, match=r"^sub-01 is in train of .*tiny.h5 and in val of .*label.h5"):
        train(tiny_store, tmp_path / "run", replace(quick, val_store=str(by_label)))
    renamed = write_tiny_store(tmp_path / "renamed.h5", {"09": "val", "10": "train"})
    with pytest.raises(
        InputError, match=r"sub-01/acq-ori01 in train of .* and sub-09/acq-ori01 in val of .* same scan"
    ):
        train(tiny_store, tmp_path / "run", replace(quick, val_store=str(renamed)))
    assert not (tmp_path / "run").exists()


def test_a_store_without_validation_is_refused(tiny_store: Path, quick: TrainConfig, tmp_path: Path) -> None:
    store = write_tiny_store(tmp_path / "train.h5", {"08": "train"})
    with pytest.raises(InputError, match=r"train.h5 has no val patches: build it with subjects to validate on"):
        train(tiny_store, tmp_path / "run", replace(quick, val_store=str(store)))


def test_a_resumed_run_keeps_its_validation_wherever_it_lies(
    tiny_store: Path, other_store: Path, quick: TrainConfig, tmp_path: Path
) -> None:
    config = replace(quick, epochs=1, val_store=str(other_store))
    train(tiny_store, tmp_path / "run", config)
    with pytest.raises(
        InputError,
        match=r"validated on another store than .*tiny.h5: other.h5 .* there, tiny.h5 .* here; give that store with",
    ):
        train(tiny_store, tmp_path / "run", replace(config, val_store=None), resume=True)
    moved = tmp_path / "moved.h5"
    moved.write_bytes(other_store.read_bytes())
    assert train(tiny_store, tmp_path / "run", replace(config, epochs=2, val_store=str(moved)), resume=True).step == 6


def test_the_command_takes_a_validation_store(
    tiny_store: Path, other_store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, command: Callable[..., Any]
) -> None:
    monkeypatch.chdir(other_store.parent)
    options = ["--epochs", "1", "--samples-per-epoch", "2", "--device", "cpu", "--threads", "1"]
    (tmp_path / "c.toml").write_text("[network]\ndepth = 4\niterations = 1\n")
    words = ["train", tiny_store, tmp_path / "run", "--config", tmp_path / "c.toml", *options]
    assert command(*words, "--val-store", "other.h5").code == 0
    assert json.loads((tmp_path / "run" / "metrics.json").read_text())["val_subjects"] == ["05"]
    assert load_config(tmp_path / "run" / "config.toml").val_store == str(other_store)
    refused = command(*words, "--overwrite", "--val-store", "none.h5")
    assert refused.code == 2
    assert "none.h5 is no file" in refused.err


@pytest.mark.parametrize("draw", ["index", "random"])
def test_where_the_voxels_are_kept_does_not_change_the_training(
    tiny_store: Path, quick: TrainConfig, tmp_path: Path, draw: str
) -> None:
    found = []
    for keep in ("chunks", "memory", "device"):
        train(tiny_store, tmp_path / keep, replace(quick, epochs=2, draw=draw, keep=keep))
        found.append(weights(tmp_path / keep))
    for other in found[1:]:
        assert all(torch.equal(found[0][name], other[name]) for name in found[0])


def test_random_patches_are_new_every_epoch_and_as_many_as_asked(tiny_store: Path, quick: TrainConfig) -> None:
    store = open_store(tiny_store)
    config = replace(quick, epochs=2, draw="random", samples_per_epoch=40, batch_size=8, patch_size=6)
    assert samples_per_epoch(config, store) == 40 > samples_per_epoch(replace(config, draw="index"), store) == 12
    batches = list(train_loader(store, config, lambda: 0))
    corners = torch.cat([batch["corner"] for batch in batches])
    assert (len(batches), batches[0]["field"].shape) == (10, (8, 1, 6, 6, 6))
    assert len({tuple(corner) for corner in corners.tolist()}) > 70
    resumed = list(train_loader(store, config, lambda: 7))
    assert torch.equal(torch.cat([batch["corner"] for batch in resumed]), corners[56:])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"patch_size": 6}, "patch_size and min_brain are those of the store's index"),
        ({"keep": "device", "num_workers": 1}, "needs no loader processes"),
    ],
)
def test_settings_that_do_not_fit_leave_no_run(
    tiny_store: Path, quick: TrainConfig, tmp_path: Path, change: dict, message: str
) -> None:
    with pytest.raises(InputError, match=message):
        train(tiny_store, tmp_path / "run", replace(quick, **change))
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("change", "message"),
    [({"cache_mb": -1}, "cache_mb must be at least 0, got -1"), ({"patch_size": 0}, "patch_size must be at least 1")],
)
def test_ranges_are_checked(change: dict, message: str) -> None:
    with pytest.raises(InputError, match=message):
        TrainConfig(**change)
