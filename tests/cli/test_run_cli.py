"""`chi33 run` from the command line: options, settings file, dry run."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from chi33.workflows.config import RunConfig


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """What the command asks of the workflow."""
    seen: dict[str, Any] = {}

    def run(bids_dir: Path, out_dir: Path, **options: Any) -> list[Path]:
        seen.update(bids_dir=bids_dir, out_dir=out_dir, **options)
        return []

    monkeypatch.setattr("chi33.workflows.run.run_participants", run)
    return seen


def test_defaults(command: Callable[..., Any], asked: dict[str, Any]) -> None:
    assert command("run", "raw", "out").code == 0
    assert (asked["bids_dir"], asked["out_dir"]) == (Path("raw"), Path("out"))
    assert asked["config"] == RunConfig()
    assert asked["participant_labels"] is None
    assert (asked["work_dir"], asked["n_procs"], asked["dry_run"], asked["write_graph"]) == (None, None, False, False)


def test_every_option_arrives(command: Callable[..., Any], asked: dict[str, Any]) -> None:
    ended = command(
        "run", "raw", "out", "participant", "--participant-label", "01", "sub-02,03", "-w", "work", "--n-procs", "3",
        "--backend", "fsl", "--unwrap", "laplacian", "--fit", "closed", "--phase-sign", "-1", "--reference",
        "acq-ori02", "--prior-iso", "0.05", "--prior-aniso", "0.01", "--noise", "0.002", "--iterations", "7",
        "--weights", "mask", "--draws", "3", "--jackknife", "4", "--dask", "local", "--fit-memory", "2.5", "--device",
        "cuda:1", "--background", "lbv", "--masks", "/m",
        "--no-mask-consensus", "--te", "4,9.5,14", "--b0", "7", "--dry-run", "--write-graph",
    )  # fmt: skip
    assert (ended.code, ended.err) == (0, "")
    assert asked["participant_labels"] == ["01", "sub-02", "03"]
    assert asked["config"] == RunConfig(
        backend="fsl", unwrap="laplacian", fit="closed", phase_sign=-1, reference="acq-ori02", prior_iso=0.05,
        prior_aniso=0.01, noise=0.002, iterations=7, weights="mask", draws=3, jackknife=4, dask="local",
        fit_memory=2.5, device="cuda:1", background="lbv", masks="/m", mask_consensus=False,
        echo_times=(0.004, 0.0095, 0.014), field_strength=7.0,
    )  # fmt: skip
    assert (asked["work_dir"], asked["n_procs"]) == (Path("work"), 3)
    assert (asked["dry_run"], asked["write_graph"]) == (True, True)


@pytest.mark.parametrize(("te", "message"), [
    ("4;9", "--te must be numbers in ms joined by commas, such as 4,9,14, got '4;9'"),
    ("0.004,0.009", "--te 0.004,0.009 looks like seconds: give milliseconds"),
    ("9,4", r"echo_times must be positive, rising and below 0.5 s, got [0.009, 0.004] s"),
])  # fmt: skip
def test_echo_times_that_cannot_be(command: Callable[..., Any], asked: dict[str, Any], te: str, message: str) -> None:
    ended = command("run", "raw", "out", "--te", te)
    assert ended.code == 2
    assert message in ended.err
    assert not asked


def test_options_win_over_the_settings_file(command: Callable[..., Any], asked: dict[str, Any], tmp_path: Path) -> None:
    (tmp_path / "run.toml").write_text('prior_iso = 0.1\nbackend = "builtin"\nbet_threshold = 0.3\n')
    assert command("run", "raw", "out", "--config", tmp_path / "run.toml", "--prior-iso", "0.02").code == 0
    assert asked["config"] == RunConfig(prior_iso=0.02, backend="builtin", bet_threshold=0.3)


def test_an_unknown_key_is_named(command: Callable[..., Any], asked: dict[str, Any], tmp_path: Path) -> None:
    (tmp_path / "run.toml").write_text("prior_isso = 0.1\n")
    ended = command("run", "raw", "out", "--config", tmp_path / "run.toml")
    assert ended.code == 2
    assert ended.err.endswith("run.toml has an unknown key prior_isso: did you mean prior_iso?\n")
    assert asked == {}
    ended = command("run", "raw", "out", "--config", tmp_path / "none.toml")
    assert ended.code == 2
    assert "none.toml cannot be read" in ended.err


@pytest.mark.parametrize(("option", "value", "message"), [
    ("--noise", "-1", "noise must be positive, got -1.0."),
    ("--draws", "1", "one draw gives no standard deviation: ask for at least 2, or 0 for none."),
    ("--jackknife", "-2", "draws and jackknife groups must not be negative, got 0 and -2."),
    ("--iterations", "0", "iterations must be at least 1, got 0."),
    ("--fit-memory", "0", "fit_memory must be positive, got 0.0."),
    ("--device", "gpu", "device must be 'cpu', 'cuda' or 'cuda:N', got 'gpu'."),
    ("--dask", "node7",
     "dask must be 'threads', 'local' or the address of a scheduler such as tcp://host:8786, got 'node7'."),
])  # fmt: skip
def test_a_value_out_of_range_is_named(
    command: Callable[..., Any], asked: dict[str, Any], option: str, value: str, message: str
) -> None:
    ended = command("run", "raw", "out", option, value)
    assert (ended.code, ended.err) == (2, f"chi33: {message}\n")
    assert asked == {}


@pytest.mark.parametrize(("option", "value"), [("--fit", "tikhonov"), ("--weights", "ones"), ("--draws", "many")])
def test_a_word_that_is_no_choice_is_refused(
    command: Callable[..., Any], asked: dict[str, Any], option: str, value: str
) -> None:
    ended = command("run", "raw", "out", option, value)
    assert ended.code == 2
    assert ended.err.startswith("chi33: ")
    assert option in ended.err
    assert ended.err.count("\n") == 1
    assert asked == {}


@pytest.mark.parametrize("count", ["0", "-2"])
def test_the_number_of_processes_must_be_positive(command: Callable[..., Any], turning_head: Any, count: str) -> None:
    ended = command("run", turning_head.folder, "out", "--dry-run", "--n-procs", count)
    assert ended.code == 2
    assert f"--n-procs must be at least 1, got {count}" in ended.err


def test_a_dry_run_writes_nothing(command: Callable[..., Any], turning_head: Any, tmp_path: Path) -> None:
    ended = command("run", turning_head.folder, tmp_path / "out", "--backend", "builtin", "--dry-run", "--write-graph")
    assert (ended.code, ended.err) == (0, "")
    assert ended.out.startswith("sub-01: 3 scans, backend builtin, reference acq-ori01, ")
    assert "fit=single-step, " in ended.out
    assert list(tmp_path.iterdir()) == []
    ended = command("run", turning_head.folder, tmp_path / "out", "--participant-label", "07", "--dry-run")
    assert ended.code == 2
    assert "sub-07 is not in" in ended.err
