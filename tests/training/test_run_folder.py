"""A run takes the place of another once it has started, and never writes into a folder that is not its own."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from chi33.datasets.loading.patch_dataset import Patches
from chi33.files.errors import InputError, StepError
from chi33.files.toml_reader import override
from chi33.files.toml_writer import to_toml
from chi33.training import run_folder
from chi33.training import train as fit
from chi33.training.config import NetworkConfig, TrainConfig
from chi33.training.inference.weights import load_network, save_atomically
from chi33.training.module import UnrolledModule
from chi33.training.run_folder import RunFolder
from chi33.training.train import train
from tiny_store import write_tiny_store


@pytest.fixture
def brief() -> TrainConfig:
    """Two steps of a very small network."""
    return TrainConfig(
        epochs=1, samples_per_epoch=4, val_samples=2, device="cpu", threads=1,
        network=NetworkConfig(depth=4, iterations=1),
    )  # fmt: skip


@pytest.fixture
def run(tiny_store: Path, brief: TrainConfig, tmp_path: Path) -> Path:
    """The folder of a run that ended well."""
    train(tiny_store, tmp_path / "run", brief)
    (tmp_path / "run" / "notes.txt").write_text("of the user")
    return tmp_path / "run"


def content(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def fail_at_the_first_step(monkeypatch: pytest.MonkeyPatch, error: BaseException) -> None:
    def step(self: UnrolledModule, batch: Any, batch_idx: int) -> torch.Tensor:
        raise error

    monkeypatch.setattr(UnrolledModule, "training_step", step)


FAILURES = [
    (RuntimeError("CUDA out of memory. Tried to allocate 20 MiB"), StepError, "a step needs more memory than cpu has"),
    (MemoryError(), StepError, "choose a batch_size below 2, smaller patches, or a smaller depth"),
    (RuntimeError("DataLoader worker (pid 7) is killed by signal: Killed."), StepError, "loader processes died"),
    (ValueError("anything"), ValueError, "anything"),
]


@pytest.mark.parametrize(("raised", "kind", "message"), FAILURES)
def test_a_start_that_fails_keeps_the_old_run(
    tiny_store: Path, brief: TrainConfig, run: Path, monkeypatch: pytest.MonkeyPatch,
    raised: Exception, kind: type[Exception], message: str,
) -> None:  # fmt: skip
    before = content(run)
    fail_at_the_first_step(monkeypatch, raised)
    with pytest.raises(kind, match=message):
        train(tiny_store, run, replace(brief, seed=1), overwrite=True)
    with pytest.raises(kind, match=message):
        train(tiny_store, run, replace(brief, epochs=2), resume=True)
    assert content(run) == before


def test_a_start_that_fails_leaves_no_folder(
    tiny_store: Path, brief: TrainConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fail_at_the_first_step(monkeypatch, MemoryError())
    with pytest.raises(StepError):
        train(tiny_store, tmp_path / "new" / "run", brief)
    assert list(tmp_path.iterdir()) == []
    monkeypatch.undo()
    with pytest.raises(StepError, match="the training loss became"):
        train(tiny_store, tmp_path / "run", override(brief, {"network.step": 1e38}))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"keep": "memory"}, "GB uncompressed, but this machine's memory has"),
        ({"draw": "random", "patch_size": 60}, "a patch of 60 voxels does not fit a volume of shape"),
        ({"label": "cosmos"}, "has no cosmos label in sub-01/acq-ori01"),
        ({"val_store": "none.h5"}, r"none.h5 is no file"),
    ],
)
def test_what_cannot_be_trained_is_refused_before_the_old_run_goes(
    tiny_store: Path, brief: TrainConfig, run: Path, monkeypatch: pytest.MonkeyPatch, change: dict, message: str
) -> None:
    before = content(run)
    monkeypatch.setattr("chi33.datasets.loading.patch_dataset.physical_memory", lambda: 1000)
    with pytest.raises(InputError, match=message):
        train(tiny_store, run, replace(brief, **change), overwrite=True)
    assert content(run) == before


def test_a_new_run_replaces_the_old_one_and_leaves_other_files(tiny_store: Path, brief: TrainConfig, run: Path) -> None:
    before = content(run)
    train(tiny_store, run, replace(brief, seed=1), overwrite=True)
    after = content(run)
    assert before.keys() == after.keys()
    assert {name for name in before if before[name] == after[name]} == {"notes.txt"}


def test_a_disk_that_refuses_the_first_checkpoint_keeps_the_old_run(
    tiny_store: Path, brief: TrainConfig, run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = content(run)

    def full(content: Any, path: Path) -> None:
        raise StepError(f"{path} could not be written (No space left on device)")

    monkeypatch.setattr("chi33.training.recorder.save_atomically", full)
    with pytest.raises(StepError, match="No space left"):
        train(tiny_store, run, replace(brief, seed=1), overwrite=True)
    assert content(run) == before


class KilledError(Exception):
    """Stands for the end of the process: nothing after it is done."""


def killed_replacements(run: Path, tmp_path: Path, folder: RunFolder) -> Iterator[Path]:
    """Yield copies of a run whose replacement was killed at each of its file operations in turn."""
    replace_file = os.replace
    for number in range(20):
        copy = tmp_path / f"killed-{number}"
        shutil.copytree(run, copy)
        left = [number]

        def replaced(source: Any, target: Any, left: list[int] = left) -> None:
            if left[0] == 0:
                raise KilledError
            left[0] -= 1
            replace_file(source, target)

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(os, "replace", replaced)
            patch.setattr(run_folder, "_undo", lambda path: None)
            try:
                with replace(folder, path=copy).begin(fresh=True):
                    save_atomically({}, copy / "checkpoints" / "last.ckpt")
            except KilledError:
                pass
            else:
                return
        yield copy


def test_a_replacement_that_is_killed_leaves_the_old_run_whole(
    tiny_store: Path, brief: TrainConfig, run: Path, tmp_path: Path
) -> None:
    folder = RunFolder(run, brief, {"chi33_version": "1", "content_hash": "0"}, tiny_store, tiny_store)
    before = content(run)
    count = 0
    for killed in killed_replacements(run, tmp_path, folder):
        run_folder.recover(killed)
        assert content(killed) == before
        count += 1
    assert count == 9  # five of the old run and their folder, then two records and a checkpoint


def test_resuming_does_not_write_into_a_foreign_folder(
    tiny_store: Path, brief: TrainConfig, run: Path, tmp_path: Path, command: Callable[..., Any]
) -> None:
    makers: dict[str, Callable[[Path], None]] = {
        "photos": lambda folder: (folder / "cat.jpg").touch(),
        "website": lambda folder: (folder / "config.toml").write_text('title = "mine"\n'),
        "metrics": lambda folder: (folder / "metrics.json").write_text('{"loss": 1}'),
        "lightning": lambda folder: save_atomically({"state_dict": {}}, folder / "checkpoints" / "last.ckpt"),
        "headless": lambda folder: shutil.copytree(run / "checkpoints", folder / "checkpoints"),
    }
    for name, make in makers.items():
        folder = tmp_path / name
        folder.mkdir()
        make(folder)
        before = content(folder)
        for options in ({"resume": True}, {"overwrite": True}, {}):
            with pytest.raises(InputError, match=rf"^{folder} is not empty and holds no run of `chi33 train`"):
                train(tiny_store, folder, brief, **options)
        ended = command("train", tiny_store, folder, "--resume")
        assert ended.code == 2
        assert "holds no run of `chi33 train`" in ended.err
        assert content(folder) == before
    (tmp_path / "empty").mkdir()
    (tmp_path / "empty" / ".DS_Store").touch()
    assert train(tiny_store, tmp_path / "empty", brief, resume=True).step == 2


def test_what_keeps_a_run_from_being_resumed_is_named(tiny_store: Path, brief: TrainConfig, run: Path) -> None:
    before = content(run)
    for change, message in (
        ({"network.depth": 6, "seed": 2}, r"cannot change seed \(0 before, 2 now\), network.depth \(4 before, 6 now\)"),
        ({"learning_rate": 0.01}, r"cannot change learning_rate \(0.001 before, 0.01 now\): leave it as it was"),
    ):
        with pytest.raises(InputError, match=message):
            train(tiny_store, run, override(brief, change), resume=True)
    other = write_tiny_store(run.parent / "other.h5", {"07": "val", "08": "train"})
    with pytest.raises(
        InputError,
        match=r"on another store than .*other.h5: tiny.h5 \(content .*\) there, other.h5 \(content .*\) here;",
    ):
        train(other, run, brief, resume=True)
    assert content(run) == before


def test_weights_without_a_checkpoint_are_not_lost_by_resuming(tiny_store: Path, brief: TrainConfig, run: Path) -> None:
    shutil.rmtree(run / "checkpoints")
    before = content(run)
    with pytest.raises(InputError, match=r"has weights, but no checkpoints/last.ckpt to resume from: pass --overwrite"):
        train(tiny_store, run, brief, resume=True)
    assert content(run) == before
    train(tiny_store, run, brief, overwrite=True)


def test_a_checkpoint_of_another_network_than_the_config_is_refused(
    tiny_store: Path, brief: TrainConfig, run: Path
) -> None:
    other = override(brief, {"network.depth": 6})
    (run / "config.toml").write_text(to_toml(replace(other, label="chi33")))
    with pytest.raises(InputError, match=r"last.ckpt is of another network than .*config.toml says"):
        train(tiny_store, run, other, resume=True)


def test_a_run_of_before_labels_is_resumed(tiny_store: Path, brief: TrainConfig, run: Path) -> None:
    (run / "config.toml").write_text(to_toml(brief))
    recorded = json.loads((run / "metrics.json").read_text())
    del recorded["targets"]
    (run / "metrics.json").write_text(json.dumps(recorded))
    assert train(tiny_store, run, replace(brief, epochs=2), resume=True).step == 4
    assert load_network(run).predicts == ("chi33", "deltab")


def test_a_folder_that_cannot_be_written_is_refused_before_the_first_step(
    tiny_store: Path, brief: TrainConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setattr(fit, "validation_loader", lambda *arguments: pytest.fail("work began"))
    with pytest.raises(InputError, match=r"file/run cannot be written \(Not a directory\): choose another folder"):
        train(tiny_store, tmp_path / "file" / "run", brief)


def test_what_a_loader_process_refuses_is_one_sentence(
    tiny_store: Path, brief: TrainConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(self: Patches, key: Any) -> None:
        raise InputError("tiny.h5 was replaced by another store while it was in use: start again.")

    monkeypatch.setattr(Patches, "__getitem__", refuse)
    with pytest.raises(InputError, match=r"^tiny.h5 was replaced by another store while it was in use: start again.$"):
        train(tiny_store, tmp_path / "run", replace(brief, num_workers=1))
    assert not (tmp_path / "run").exists()
