"""Runs that are repeated or killed: what is kept, and that the labels are those of an unbroken run."""

from __future__ import annotations

import os
import shutil
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from chi33.files.derivatives import Derivatives, read_json, read_transform


def _maps(folder: Path) -> dict[str, bytes]:
    """Every file of the subject, but not what says when it was made."""
    return {path.name: path.read_bytes() for path in sorted((folder / "sub-01" / "anat").iterdir())}


def _times(folder: Path) -> dict[str, int]:
    return {path.name: path.stat().st_mtime_ns for path in (folder / "sub-01" / "anat").iterdir()}


def _steps(printed: str) -> list[str]:
    return [line for line in printed.splitlines() if line.startswith("[")]


def _kill_after(process: Any, enough: Callable[[int, str], bool], *, group: bool = True) -> list[str]:
    """Kill a run with SIGKILL once it has said enough; return what it said."""
    said: list[str] = []
    for line in process.stdout:
        said.append(line.rstrip())
        if enough(len(said), line):
            break
    else:
        raise AssertionError(f"the run ended before it was killed: {process.communicate()[1]}")
    (os.killpg if group else os.kill)(process.pid, signal.SIGKILL)
    process.stdout.close()
    process.stderr.close()
    assert process.wait() == -signal.SIGKILL
    return said


def test_a_finished_run_is_repeated_at_once(finished: Any, chi33: Callable[..., Any]) -> None:
    before = _times(finished.out)
    ended = chi33(*finished.command)
    assert ended.code == 0, ended.err
    assert ended.out == f"sub-01: finished before, nothing to do (report: {finished.out / 'sub-01.html'})\n"
    assert _times(finished.out) == before


def test_a_run_that_lost_its_report_keeps_every_step_and_file(finished: Any, chi33: Callable[..., Any]) -> None:
    before = _times(finished.out)
    (finished.out / "sub-01.html").unlink()
    ended = chi33(*finished.command)
    assert ended.code == 0, ended.err
    assert (finished.out / "sub-01.html").is_file()
    assert _times(finished.out) == before
    assert _steps(ended.out)
    assert all(line.endswith("(kept)") for line in _steps(ended.out))
    assert not any("(kept)" in line for line in _steps(finished.printed))
    first, again = finished.printed.splitlines(), ended.out.splitlines()
    assert [line for line in again if "bet: " in line] == [line for line in first if "bet: " in line]


def test_another_setting_killed_half_way_leaves_no_trace(
    finished: Any, chi33: Callable[..., Any], start_chi33: Callable[..., Any]
) -> None:
    """Laplacian unwrapping overwrites fields until it is killed; the first setting then brings every map back."""
    before = _maps(finished.out)
    process = start_chi33(*finished.command, "--unwrap", "laplacian")
    said = _kill_after(process, lambda count, line: "local_field" in line and "(kept)" not in line)
    assert [line for line in _steps("\n".join(said)) if "bet" in line and not line.endswith("(kept)")] == []
    ended = chi33(*finished.command)
    assert ended.code == 0, ended.err
    assert _maps(finished.out) == before
    assert all(line.endswith("(kept)") for line in _steps(ended.out) if "bet" in line or ".register" in line)


@pytest.fixture(scope="module")
def unbroken(
    turning_head: Any, make_stand_ins: Callable, chi33: Callable[..., Any], tmp_path_factory: pytest.TempPathFactory
) -> tuple[dict[str, bytes], dict[str, str]]:
    """The maps of a run that nothing broke, and the environment it ran in."""
    folder = tmp_path_factory.mktemp("unbroken")
    stand_ins = make_stand_ins(folder / "fsl", turning_head.folder)
    options = ["--n-procs", "2", "--mask-method", "bet"]
    ended = chi33("run", turning_head.folder, folder / "out", *options, environment=stand_ins.environment)
    assert ended.code == 0, ended.err
    return _maps(folder / "out"), stand_ins.environment


@pytest.mark.parametrize(
    ("lines", "group"), [(2, True), (12, True), (24, True), (9, False)], ids=["early", "middle", "late", "main alone"]
)
def test_a_killed_run_goes_on_to_the_same_labels(
    turning_head: Any,
    unbroken: tuple[dict[str, bytes], dict[str, str]],
    chi33: Callable[..., Any],
    start_chi33: Callable[..., Any],
    tmp_path: Path,
    lines: int,
    group: bool,
) -> None:
    """Killed with all its processes, or alone so that its workers are orphaned."""
    whole, environment = unbroken
    out = tmp_path / "out"
    command = ("run", turning_head.folder, out, "--n-procs", "2", "--mask-method", "bet")
    _kill_after(start_chi33(*command, environment=environment), lambda count, line: count >= lines, group=group)
    left = _maps(out) if (out / "sub-01" / "anat").is_dir() else {}
    assert all(content == whole[name] for name, content in left.items() if not name.startswith("."))
    assert not (out / "sub-01.html").exists()
    ended = chi33(*command, environment=environment)
    assert ended.code == 0, ended.err
    assert {name: content for name, content in _maps(out).items() if not name.startswith(".")} == whole
    assert (out / "sub-01.html").is_file()
    shutil.rmtree(tmp_path, ignore_errors=True)


def test_the_other_head_went_through_fsl(finished: Any, simulated: Path, fsl: Any) -> None:
    """Transforms of recorded FLIRT matrices are the truth; the record names FSL and its version."""
    found, true = Derivatives(finished.out, "02"), Derivatives(simulated / "derivatives" / "truth", "02")
    for scan in ("acq-ori01", "acq-ori02", "acq-ori03"):
        np.testing.assert_allclose(
            read_transform(found.transform(scan)), read_transform(true.transform(scan)), atol=1e-4
        )
    assert len(fsl.calls("bet")) == 3
    assert len(fsl.calls("flirt")) == 2
    record = read_json(finished.out / "logs" / "sub-02_provenance.json")
    assert record["backend"] == "fsl"
    assert record["tools"]["FSL"].startswith("6.0.7.99")
    assert read_json(finished.out / "logs" / "sub-01_provenance.json")["backend"] == "builtin"
    index = (finished.out / "index.html").read_text(encoding="utf-8")
    assert "sub-01.html" in index
    assert "sub-02.html" in index
