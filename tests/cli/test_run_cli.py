"""`chi33 run` from the command line: options, settings file, dry run."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from chi33.files.toml_reader import read_config
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
    assert (asked["session_labels"], asked["scans"], asked["mem_gb"]) == (None, None, None)
    assert (asked["work_dir"], asked["n_procs"], asked["dry_run"], asked["write_graph"]) == (None, None, False, False)


def test_every_option_arrives(command: Callable[..., Any], asked: dict[str, Any]) -> None:
    ended = command(
        "run", "raw", "out", "participant", "--participant-label", "01", "sub-02,03", "-w", "work", "--n-procs", "3",
        "--session-label", "a", "--session-label", "ses-b", "--scan", "!acq-ori03", "--mem", "12.5",
        "--backend", "fsl", "--unwrap", "laplacian", "--fit", "closed", "--phase-sign", "-1", "--reference",
        "acq-ori02", "--prior-iso", "0.05", "--prior-aniso", "0.01", "--noise", "0.002", "--iterations", "7",
        "--weights", "mask", "--draws", "3", "--jackknife", "4", "--dask", "local", "--fit-memory", "2.5", "--device",
        "cuda:1", "--background", "lbv", "--masks", "/m",
        "--no-mask-consensus", "--te", "4,9.5,14", "--b0", "7", "--dry-run", "--write-graph",
        "--prior-correlation", "2", "--white-matter", "/wm.nii.gz", "--fibre", "/v1.nii.gz",
    )  # fmt: skip
    assert (ended.code, ended.err) == (0, "")
    assert asked["participant_labels"] == ["01", "sub-02", "03"]
    assert (asked["session_labels"], asked["scans"], asked["mem_gb"]) == (["a", "ses-b"], ["!acq-ori03"], 12.5)
    assert asked["config"] == RunConfig(
        backend="fsl", unwrap="laplacian", fit="closed", phase_sign=-1, reference="acq-ori02", prior_iso=0.05,
        prior_aniso=0.01, noise=0.002, iterations=7, weights="mask", draws=3, jackknife=4, dask="local",
        fit_memory=2.5, device="cuda:1", background="lbv", masks="/m", mask_consensus=False,
        echo_times=(0.004, 0.0095, 0.014), field_strength=7.0, prior_correlation=2.0, white_matter="/wm.nii.gz",
        fibre="/v1.nii.gz",
    )  # fmt: skip
    assert (asked["work_dir"], asked["n_procs"]) == (Path("work"), 3)
    assert (asked["dry_run"], asked["write_graph"]) == (True, True)


@pytest.mark.parametrize(("words", "scans"), [
    (["--scan", "acq-ori01", "--scan", "ori03"], ["acq-ori01", "ori03"]),
    (["--scan", "acq-ori01", "!run-2"], ["acq-ori01", "!run-2"]),
    (["--scan", "acq-ori01, acq-ori02,"], ["acq-ori01", "acq-ori02"]),
])  # fmt: skip
def test_scans_are_named_one_by_one_or_together(
    command: Callable[..., Any], asked: dict[str, Any], words: list[str], scans: list[str]
) -> None:
    assert command("run", "raw", "out", *words).code == 0
    assert asked["scans"] == scans


@pytest.mark.parametrize("option", ["--n-procs", "--nprocs", "--n_procs", "--n-cpus"])
def test_other_tools_names_of_the_number_of_processes(
    command: Callable[..., Any], asked: dict[str, Any], option: str
) -> None:
    assert command("run", "raw", "out", option, "3", "--participant_label", "01").code == 0
    assert (asked["n_procs"], asked["participant_labels"]) == (3, ["01"])


def test_what_the_stored_phase_means_is_two_numbers(command: Callable[..., Any], asked: dict[str, Any]) -> None:
    assert command("run", "raw", "out", "--phase-range", "-4096,4094").code == 0
    assert asked["config"].phase_range == (-4096.0, 4094.0)
    assert command("run", "raw", "out", "--phase-range", "-4096", "4095", "--n-procs", "2").code == 0
    assert (asked["config"].phase_range, asked["n_procs"]) == ((-4096.0, 4095.0), 2)
    ended = command("run", "raw", "out", "--phase-range", "4096")
    assert ended.code == 2
    assert "--phase-range must be two numbers joined by a comma" in ended.err


@pytest.mark.parametrize(("words", "missing"), [
    ([], "BIDS_DIR and OUT_DIR are"),
    (["raw"], "OUT_DIR is"),
    (["--scan", "ori01", "raw", "out"], "BIDS_DIR and OUT_DIR are"),
])  # fmt: skip
def test_folders_that_are_missing_are_named(
    command: Callable[..., Any], asked: dict[str, Any], words: list[str], missing: str
) -> None:
    ended = command("run", *words)
    assert ended.code == 2
    assert f"chi33: {missing}" in ended.err
    assert "write chi33 run BIDS_DIR OUT_DIR, and the options behind." in ended.err
    assert asked == {}


def test_the_printed_settings_are_those_of_a_run_and_are_read_back(
    command: Callable[..., Any], asked: dict[str, Any], tmp_path: Path
) -> None:
    options = ("--noise", "0.002", "--te", "4,9.5", "--masks", "/m ü", "--no-mask-consensus", "--fit", "masked")
    printed = command("run", "--print-config", *options)
    assert (printed.code, printed.err, asked) == (0, "", {})
    (tmp_path / "run.toml").write_text(printed.out, encoding="utf-8")
    assert command("run", "raw", "out", "--config", tmp_path / "run.toml").code == 0
    from_file = asked["config"]
    assert command("run", "raw", "out", *options).code == 0
    assert asked["config"] == from_file == read_config(RunConfig, tmp_path / "run.toml")
    again = command("run", "--print-config", "--config", tmp_path / "run.toml")
    assert again.out == printed.out


def test_settings_are_checked_before_they_are_printed(command: Callable[..., Any]) -> None:
    ended = command("run", "--print-config", "--noise", "-1")
    assert (ended.code, ended.out) == (2, "")


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
    ended = command("run", turning_head.folder, tmp_path / "out", "--backend", "builtin", "--dry-run")
    assert (ended.code, ended.err) == (0, "")
    assert ended.out.startswith("sub-01: 3 scans, backend builtin, reference acq-ori01, ")
    assert "fit=single-step, " in ended.out
    assert list(tmp_path.iterdir()) == []
    ended = command("run", turning_head.folder, tmp_path / "out", "--participant-label", "07", "--dry-run")
    assert ended.code == 2
    assert "sub-07 is not in" in ended.err
