"""Training: it learns, it leaves a whole run folder, and an interrupted run goes on as if it had not been."""

from __future__ import annotations

import csv
import itertools
import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from chi33.files.errors import Chi33Warning, InputError, StepError
from chi33.files.toml_reader import override
from chi33.files.toml_writer import to_toml
from chi33.training.config import NetworkConfig, TrainConfig, load_config
from chi33.training.inference.weights import load_network
from chi33.training.module import UnrolledModule
from chi33.training.train import Progress, train
from tiny_store import write_tiny_store


class KilledError(Exception):
    """Raised in the middle of a run."""


def log(run: Path) -> list[dict[str, float]]:
    """The lines of the epochs, without that of the untrained network."""
    with open(run / "log.csv", newline="", encoding="utf-8") as handle:
        rows = [{key: float(value) for key, value in row.items()} for row in csv.DictReader(handle)]
    return [row for row in rows if row["step"] > 0]


def state(run: Path) -> dict[str, torch.Tensor]:
    return torch.load(run / "checkpoints" / "last.ckpt", weights_only=True)["chi33"]["state"]


def same(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def kill_at(*steps: int):
    def report(progress: Progress) -> None:
        if progress.step in steps:
            raise KilledError

    return report


def test_run_folder_holds_everything(tiny_store: Path, quick: TrainConfig, tmp_path: Path) -> None:
    result = train(tiny_store, tmp_path / "run", quick)
    rows = log(tmp_path / "run")
    assert [row["epoch"] for row in rows] == [1, 2, 3, 4]
    assert [row["step"] for row in rows] == [3, 6, 9, 12]
    assert all(row["untrained_loss"] == result.untrained_loss for row in rows)
    with open(tmp_path / "run" / "log.csv", newline="", encoding="utf-8") as handle:
        untrained = next(csv.DictReader(handle))
    assert (untrained["step"], float(untrained["val_loss"])) == ("0", result.untrained_loss)
    assert load_config(tmp_path / "run" / "config.toml") == replace(quick, label="chi33")
    metrics = json.loads((tmp_path / "run" / "metrics.json").read_text())
    assert metrics["best_loss"] == result.best_loss == min(row["val_loss"] for row in rows)
    assert metrics["zero_map_loss"] == result.zero_map_loss > 0
    assert metrics["train_subjects"] == ["01", "03"]
    assert metrics["val_subjects"] == ["02"]
    left = sorted(p.relative_to(tmp_path / "run").as_posix() for p in (tmp_path / "run").rglob("*") if p.is_file())
    assert left == [
        "checkpoints/best.ckpt",
        "checkpoints/last.ckpt",
        "config.toml",
        "log.csv",
        "metrics.json",
        "weights.pt",
    ]


def test_training_lowers_the_loss_below_zero_map_and_untrained_network(tmp_path: Path) -> None:
    store = write_tiny_store(tmp_path / "store.h5", patches=12)
    config = TrainConfig(
        epochs=10, samples_per_epoch=12, batch_size=4, val_samples=8, device="cpu", threads=2, learning_rate=3e-3,
        network=NetworkConfig(depth=6, dropout=0.0),
    )  # fmt: skip
    result = train(store, tmp_path / "run", config)
    rows = log(tmp_path / "run")
    assert rows[-1]["train_loss"] < 0.9 * rows[0]["train_loss"]
    assert result.best_loss < 0.97 * result.zero_map_loss
    assert result.best_loss < 0.97 * result.untrained_loss


def test_one_pair_can_be_learnt_by_heart(tmp_path: Path) -> None:
    store = write_tiny_store(tmp_path / "store.h5", {"01": "train"}, patches=1)
    config = TrainConfig(
        epochs=40, batch_size=1, device="cpu", threads=2, learning_rate=5e-3, plateau_patience=40,
        network=NetworkConfig(depth=4, dropout=0.0, iterations=2),
    )  # fmt: skip
    with pytest.warns(Chi33Warning, match="has no val patches"):
        train(store, tmp_path / "run", config)
    losses = [row["train_loss"] for row in log(tmp_path / "run")]
    assert losses[-1] < 0.6 * losses[0]


def test_killed_anywhere_and_resumed_equals_unbroken(tiny_store: Path, quick: TrainConfig, tmp_path: Path) -> None:
    unbroken, broken = tmp_path / "unbroken", tmp_path / "broken"
    train(tiny_store, unbroken, quick)
    for step in (1, 3, 4, 8, 11, 12):  # within an epoch, at its end, at the very end
        with pytest.raises(KilledError):
            train(tiny_store, broken, quick, resume=True, progress=kill_at(step))
    train(tiny_store, broken, quick, resume=True)
    assert same(state(unbroken), state(broken))
    drop = ("seconds",)
    assert [{k: v for k, v in r.items() if k not in drop} for r in log(broken)] == [
        {k: v for k, v in r.items() if k not in drop} for r in log(unbroken)
    ]


def test_steps_since_the_last_checkpoint_are_repeated(tiny_store: Path, quick: TrainConfig, tmp_path: Path) -> None:
    rare = replace(quick, checkpoint_minutes=60.0)
    train(tiny_store, tmp_path / "unbroken", rare)
    with pytest.raises(KilledError):
        train(tiny_store, tmp_path / "broken", rare, progress=kill_at(5))
    steps: list[int] = []
    train(tiny_store, tmp_path / "broken", rare, resume=True, progress=lambda p: steps.append(p.step))
    assert steps == list(range(4, 13))  # the epoch's checkpoint was at step 3
    assert same(state(tmp_path / "unbroken"), state(tmp_path / "broken"))


def test_loader_processes_do_not_change_the_result(tiny_store: Path, quick: TrainConfig, tmp_path: Path) -> None:
    train(tiny_store, tmp_path / "one", replace(quick, epochs=2))
    workers = replace(quick, epochs=2, num_workers=1)
    with pytest.raises(KilledError):
        train(tiny_store, tmp_path / "two", workers, progress=kill_at(2))
    train(tiny_store, tmp_path / "two", workers, resume=True)
    assert same(state(tmp_path / "one"), state(tmp_path / "two"))


def test_a_finished_run_can_be_extended_and_does_nothing_otherwise(
    tiny_store: Path, quick: TrainConfig, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    train(tiny_store, run, replace(quick, epochs=2))
    train(tiny_store, run, replace(quick, epochs=2), resume=True)
    assert len(log(run)) == 2
    result = train(tiny_store, run, quick, resume=True)
    assert [row["step"] for row in log(run)] == [3, 6, 9, 12]
    assert result.step == 12
    train(tiny_store, tmp_path / "straight", quick)
    assert same(state(run), state(tmp_path / "straight"))


def test_process_killed_hard_leaves_a_checkpoint_to_resume(
    tiny_store: Path, quick: TrainConfig, tmp_path: Path
) -> None:
    config = replace(quick, epochs=400)
    (tmp_path / "c.toml").write_text(to_toml(config))
    code = (
        "import sys; from chi33.training.train import train; from chi33.training.config import load_config; "
        "train(sys.argv[1], sys.argv[2], load_config(sys.argv[3]))"
    )
    run = tmp_path / "run"
    environment = {**os.environ, "PYTHONSAFEPATH": "1"}
    process = subprocess.Popen([sys.executable, "-c", code, tiny_store, run, tmp_path / "c.toml"], env=environment)
    try:
        deadline = time.monotonic() + 60
        while not (run / "checkpoints" / "last.ckpt").exists():
            assert process.poll() is None
            assert time.monotonic() < deadline
            time.sleep(0.05)
        time.sleep(0.3)
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait()
    reached = torch.load(run / "checkpoints" / "last.ckpt", weights_only=True)["global_step"]
    steps: list[int] = []

    def watch(progress: Progress) -> None:
        steps.append(progress.step)
        if len(steps) == 4:
            raise KilledError

    with pytest.raises(KilledError):
        train(tiny_store, run, config, resume=True, progress=watch)
    assert steps == [reached + 1, reached + 2, reached + 3, reached + 4]
    rows = log(run)
    assert [row["step"] for row in rows] == [3 * (i + 1) for i in range(len(rows))]


def test_interrupt_stops_at_a_step_with_a_checkpoint(tiny_store: Path, quick: TrainConfig, tmp_path: Path) -> None:
    def interrupt(progress: Progress) -> None:
        if progress.step == 4:
            os.kill(os.getpid(), signal.SIGINT)

    result = train(tiny_store, tmp_path / "run", replace(quick, checkpoint_minutes=60.0), progress=interrupt)
    assert result.stopped == "SIGINT came"
    assert torch.load(tmp_path / "run" / "checkpoints" / "last.ckpt", weights_only=True)["global_step"] == 5
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_time_limit_validates_and_stops(tiny_store: Path, quick: TrainConfig, tmp_path: Path) -> None:
    result = train(tiny_store, tmp_path / "run", quick, max_minutes=1e-4)
    assert result.stopped == "0.0001 minutes are over"
    rows = log(tmp_path / "run")
    assert len(rows) == 1
    assert rows[0]["epoch"] == pytest.approx(1 / 3, abs=1e-3)
    resumed = train(tiny_store, tmp_path / "run", quick, resume=True)
    assert resumed.step == 12
    train(tiny_store, tmp_path / "straight", quick)
    assert same(state(tmp_path / "run"), state(tmp_path / "straight"))


def test_learning_rate_halves_on_a_plateau(tiny_store: Path, quick: TrainConfig, tmp_path: Path) -> None:
    still = replace(quick, epochs=6, learning_rate=1e-6, plateau_patience=0)
    train(tiny_store, tmp_path / "run", still)
    rates = [row["learning_rate"] for row in log(tmp_path / "run")]
    assert rates[0] == 1e-6
    assert rates[-1] < rates[0]
    assert {round(a / b) for a, b in itertools.pairwise(rates)} <= {1, 2}


def test_l2_adds_the_sum_of_squares_of_the_kernels(tiny_store: Path, quick: TrainConfig) -> None:
    from chi33.datasets.store.schema import open_store
    from chi33.training.labels import normalisation_of
    from chi33.training.loading import train_loader

    normalisation = normalisation_of(open_store(tiny_store), ("chi33", "deltab"))
    config = override(quick, {"network.dropout": 0.0, "l2": 0.1})
    module = UnrolledModule(config, normalisation)
    batch = next(iter(train_loader(open_store(tiny_store), config, lambda: 0)))
    kernels = [m.weight for m in module.modules() if isinstance(m, torch.nn.Conv3d)]
    penalty = 0.1 * sum((k**2).sum() for k in kernels)
    torch.testing.assert_close(module.training_step(batch, 0), module.loss(batch) + penalty, rtol=1e-4, atol=1e-5)


def test_zero_map_loss_is_that_of_zero_ppm(tiny_store: Path, quick: TrainConfig) -> None:
    from chi33.datasets.store.schema import open_store
    from chi33.training.labels import normalisation_of
    from chi33.training.loading import train_loader

    store = open_store(tiny_store)
    module = UnrolledModule(quick, normalisation_of(store, ("chi33", "deltab")))
    batch = next(iter(train_loader(store, quick, lambda: 0)))
    expected = sum(
        (batch[name] * batch["mask"]).abs().mean() / store.statistics[name].std for name in ("chi33", "deltab")
    )
    torch.testing.assert_close(module.zero_map_loss(batch), expected.float(), rtol=1e-4, atol=1e-6)


def test_best_weights_are_of_the_best_epoch(tiny_store: Path, quick: TrainConfig, tmp_path: Path) -> None:
    result = train(tiny_store, tmp_path / "run", quick)
    best = torch.load(tmp_path / "run" / "checkpoints" / "best.ckpt", weights_only=True)
    assert best["global_step"] == next(r["step"] for r in log(tmp_path / "run") if r["val_loss"] == result.best_loss)
    loaded = load_network(tmp_path / "run").network.state_dict()
    assert all(torch.equal(loaded[name], tensor) for name, tensor in best["chi33"]["state"].items())


class TestBadInput:
    """Each in one sentence, with nothing half-written."""

    def test_existing_run(self, tiny_store: Path, quick: TrainConfig, tmp_path: Path) -> None:
        train(tiny_store, tmp_path / "run", replace(quick, epochs=1))
        with pytest.raises(InputError, match="holds a run already: pass --resume to continue it, or --overwrite"):
            train(tiny_store, tmp_path / "run", quick)
        before = state(tmp_path / "run")
        train(tiny_store, tmp_path / "run", replace(quick, epochs=1, seed=1), overwrite=True)
        assert not same(before, state(tmp_path / "run"))

    def test_foreign_folder_or_file(self, tiny_store: Path, quick: TrainConfig, tmp_path: Path) -> None:
        (tmp_path / "photos").mkdir()
        (tmp_path / "photos" / "cat.jpg").touch()
        with pytest.raises(InputError, match="is not empty and holds no run"):
            train(tiny_store, tmp_path / "photos", quick, overwrite=True)
        with pytest.raises(InputError, match="is a file: give a folder for the run"):
            train(tiny_store, tmp_path / "photos" / "cat.jpg", quick)

    def test_resumed_with_other_settings_or_store(self, tiny_store: Path, quick: TrainConfig, tmp_path: Path) -> None:
        train(tiny_store, tmp_path / "run", replace(quick, epochs=1))
        with pytest.raises(InputError, match="a resumed training cannot change batch_size"):
            train(tiny_store, tmp_path / "run", replace(quick, batch_size=3), resume=True)
        other = write_tiny_store(tmp_path / "other.h5", {"07": "val", "08": "train"})
        with pytest.raises(InputError, match=r"was trained on another store than .*other.h5"):
            train(other, tmp_path / "run", quick, resume=True)

    def test_resumed_from_a_damaged_checkpoint(self, tiny_store: Path, quick: TrainConfig, tmp_path: Path) -> None:
        train(tiny_store, tmp_path / "run", replace(quick, epochs=1))
        last = tmp_path / "run" / "checkpoints" / "last.ckpt"
        last.write_bytes(last.read_bytes()[:5000])
        with pytest.raises(InputError, match=r"last.ckpt is no weights file, or it is damaged"):
            train(tiny_store, tmp_path / "run", quick, resume=True)

    def test_store_without_training_patches(self, quick: TrainConfig, tmp_path: Path) -> None:
        store = write_tiny_store(tmp_path / "val.h5", {"01": "val"})
        with pytest.raises(InputError, match="has no"):
            train(store, tmp_path / "run", quick)
        assert not (tmp_path / "run").exists()

    def test_subject_in_both_splits(self, tiny_store: Path, quick: TrainConfig, tmp_path: Path) -> None:
        import shutil

        import h5py

        path = tmp_path / "leak.h5"
        shutil.copy(tiny_store, path)
        with h5py.File(path, "a") as handle:
            handle["volumes/sub-02/acq-ori01"].attrs["subject"] = "01"
        with pytest.raises(InputError, match="sub-01 is in train"):
            train(path, tmp_path / "run", quick)

    def test_unknown_model_device_and_limits(self, tiny_store: Path, quick: TrainConfig, tmp_path: Path) -> None:
        with pytest.raises(InputError, match="there is no model 'unet': choose one of modl-qsm"):
            train(tiny_store, tmp_path / "run", replace(quick, model="unet"))
        with pytest.raises(InputError, match="max_minutes must be positive, got 0"):
            train(tiny_store, tmp_path / "run", quick, max_minutes=0)
        if not torch.cuda.is_available():
            with pytest.raises(InputError, match="device is cuda, but PyTorch finds no CUDA GPU"):
                train(tiny_store, tmp_path / "run", replace(quick, device="cuda"))

    def test_loss_that_explodes(self, tiny_store: Path, quick: TrainConfig, tmp_path: Path) -> None:
        with pytest.raises(StepError, match=r"the training loss became (nan|inf) at step"):
            train(tiny_store, tmp_path / "run", override(quick, {"network.step": 1e38}))
