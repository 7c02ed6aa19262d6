"""`chi33 train` from the command line: options, settings file, log lines and resuming."""

from __future__ import annotations

import csv
import os
import signal
import sys
from pathlib import Path

import cyclopts
import pytest
from chi33.cli.train import train
from chi33.files.errors import InputError
from chi33.training.config import load_config

sys.path.insert(0, str(Path(__file__).parents[1] / "training"))
from tiny_store import write_tiny_store

QUICK = "--samples-per-epoch 4 --device cpu --threads 1"


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_store(tmp_path_factory.mktemp("train") / "tiny.h5")


def command(*words: str | Path) -> None:
    app = cyclopts.App(name="chi33", result_action="return_value")
    app.command(train)
    split = [token for word in words for token in (word.split() if isinstance(word, str) else [str(word)])]
    app(["train", *split], exit_on_error=False, print_error=False)


def steps(run: Path) -> list[int]:
    with open(run / "log.csv", newline="") as handle:
        return [int(row["step"]) for row in csv.DictReader(handle)]


def test_options_win_over_the_settings_file(store: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "c.toml").write_text("epochs = 9\nbatch_size = 4\n[network]\ndepth = 4\n")
    command(store, tmp_path / "run", f"--config {tmp_path / 'c.toml'} --epochs 2 --dropout 0 --seed 3", QUICK)
    config = load_config(tmp_path / "run" / "config.toml")
    assert (config.epochs, config.batch_size, config.seed, config.samples_per_epoch) == (2, 4, 3, 4)
    assert (config.network.depth, config.network.dropout) == (4, 0.0)
    printed = capsys.readouterr()
    assert printed.err.count("epoch ") == 3  # a plain line an epoch, and one for the untrained network
    assert "epoch 2 step 2/2 train " in printed.err
    assert "zero map" in printed.err
    assert "best loss" in printed.out
    assert printed.out.rstrip().endswith("weights.pt")


def test_resume_keeps_the_settings_and_goes_on(store: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "c.toml").write_text("epochs = 3\n[network]\ndepth = 4\n")
    run = tmp_path / "run"
    command(store, run, f"--config {tmp_path / 'c.toml'} --max-minutes 0.0001", QUICK)
    assert "minutes are over: --resume continues" in capsys.readouterr().out
    assert steps(run) == [0, 1]
    command(store, run, "--resume")
    assert steps(run) == [0, 1, 2, 4, 6]
    command(store, run, "--resume --epochs 4")
    assert steps(run) == [0, 1, 2, 4, 6, 8]
    assert load_config(run / "config.toml").network.depth == 4


def test_ctrl_c_leaves_a_run_to_resume_and_exits_130(
    store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from chi33.training.recorder import Recorder

    original = Recorder.on_train_start

    def interrupted(self: Recorder, *arguments: object) -> None:
        original(self, *arguments)  # type: ignore[arg-type]
        os.kill(os.getpid(), signal.SIGINT)

    monkeypatch.setattr(Recorder, "on_train_start", interrupted)
    (tmp_path / "c.toml").write_text("epochs = 2\n[network]\ndepth = 4\n")
    with pytest.raises(SystemExit) as stop:
        command(store, tmp_path / "run", f"--config {tmp_path / 'c.toml'}", QUICK)
    assert stop.value.code == 130
    assert "stopped at step 1 of 4, because SIGINT came: --resume continues" in capsys.readouterr().out
    monkeypatch.undo()
    command(store, tmp_path / "run", "--resume")
    assert steps(tmp_path / "run") == [0, 2, 4]


def test_errors_come_before_anything_is_written(store: Path, tmp_path: Path) -> None:
    (tmp_path / "c.toml").write_text("epoch = 9\n")
    with pytest.raises(InputError, match="unknown key epoch: did you mean epochs"):
        command(store, tmp_path / "run", f"--config {tmp_path / 'c.toml'}")
    with pytest.raises(InputError, match="there is no model 'unet'"):
        command(store, tmp_path / "run", "--model unet")
    with pytest.raises(InputError, match=r"none.h5 is no file"):
        command(tmp_path / "none.h5", tmp_path / "run")
    with pytest.raises(InputError, match="batch_size must be at least 1, got 0"):
        command(store, tmp_path / "run", "--batch-size 0")
    with pytest.raises(cyclopts.CycloptsError):
        command(store, tmp_path / "run", "--device tpu")
    assert not (tmp_path / "run").exists()


def test_the_printed_settings_need_no_data_and_are_read_back(
    store: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command("--print-config --epochs 2 --dropout 0.25 --draw random")
    page = capsys.readouterr().out
    (tmp_path / "train.toml").write_text(page, encoding="utf-8")
    printed = load_config(tmp_path / "train.toml")
    assert (printed.epochs, printed.network.dropout, printed.draw) == (2, 0.25, "random")
    command(f"--print-config --config {tmp_path / 'train.toml'}")
    assert capsys.readouterr().out == page
    for words in ((), (store,)):
        with pytest.raises(InputError, match=r"RUN_DIR (is|are) missing: write chi33 train STORE RUN_DIR"):
            command(*words)
