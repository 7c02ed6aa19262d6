"""Runs at the same time, as of a job array, and runs that are interrupted."""

from __future__ import annotations

import os
import shutil
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from chi33.files.manifest import read_manifest


@pytest.fixture
def two_heads(make_head: Callable, make_stand_ins: Callable, tmp_path: Path) -> tuple[Path, dict[str, str]]:
    """A raw data set of two subjects, and the environment of its stand-ins of FSL."""
    head = make_head(tmp_path / "raw", turns=((0, 0), (25, 10)))
    for root in (head.folder / "derivatives" / "truth", head.folder):
        for path in sorted(root.glob("sub-01/anat/*")):
            new = Path(str(path).replace("sub-01", "sub-02"))
            new.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(path, new)
    return head.folder, make_stand_ins(tmp_path / "fsl", head.folder).environment


def test_participants_and_repetitions_at_the_same_time_all_end_well(
    two_heads: tuple[Path, dict[str, str]], start_chi33: Callable[..., Any], tmp_path: Path
) -> None:
    """Two subjects share output and working folder; one of them is started twice, with another working folder."""
    raw, environment = two_heads
    options = ["--fit", "closed", "--n-procs", "1", "--mask-method", "bet", "--participant-label"]
    common = ("run", raw, tmp_path / "out", *options)
    runs = [
        start_chi33(*common, *more, environment=environment)
        for more in (("01",), ("02",), ("01", "-w", tmp_path / "elsewhere"))
    ]
    told = [(*run.communicate(timeout=300), run.returncode) for run in runs]
    assert [code for *_, code in told] == [0, 0, 0], told
    first, other, second = (out for out, *_ in told)
    assert "waiting for another run of sub-" not in other  # the index, written in a moment, all may wait for
    waited = [said for said in (first, second) if "waiting for another run of sub-01 in" in said]
    if waited:  # unless one had ended before the other looked
        (line,) = [line for line in waited[0].splitlines() if line.startswith("waiting for another run of sub-")]
        assert any(f"process {run.pid} on " in line for run in runs)
        assert "sub-01: finished by another run: " in waited[0]
    index = (tmp_path / "out" / "index.html").read_text(encoding="utf-8")
    for label in ("01", "02"):
        manifest = read_manifest(tmp_path / "out", label)
        assert manifest is not None
        assert all((tmp_path / "out" / name).is_file() for name in manifest.files)
        assert f"sub-{label}.html" in index
    hidden = {path.name for path in (tmp_path / "out").rglob(".*")}
    assert hidden == {".bidsignore", ".index.lock", ".sub-01.lock", ".sub-02.lock"}


def _of_session(session: int) -> list[str]:
    """The commands of the processes of a session that still run."""
    found = []
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            state, _, _, owner = path.read_text().rpartition(")")[2].split()[:4]
            if int(owner) == session and state != "Z":
                found.append(path.with_name("cmdline").read_bytes().replace(b"\0", b" ").decode())
        except OSError:
            continue
    return found


def test_an_interrupted_run_says_one_sentence_and_ends_its_programs(
    turning_head: Any, start_chi33: Callable[..., Any], tmp_path: Path
) -> None:
    """As Ctrl-C does: the whole group of the terminal is interrupted while brains are extracted."""
    options = ["--backend", "builtin", "--mask-method", "bet", "--n-procs", "2"]
    run = start_chi33("run", turning_head.folder, tmp_path / "out", *options)
    while not any("brainextractor" in one for one in _of_session(run.pid)):
        assert run.poll() is None, run.communicate()
        time.sleep(0.05)
    os.killpg(run.pid, signal.SIGINT)
    _, said = run.communicate(timeout=60)
    assert (run.returncode, said) == (130, "chi33: interrupted; repeat the command to go on.\n")
    end = time.monotonic() + 10
    while (left := _of_session(run.pid)) and time.monotonic() < end:
        time.sleep(0.1)
    assert left == []
    manifest = read_manifest(tmp_path / "out", "01")
    assert manifest is not None
    assert not manifest.files


def test_an_interrupted_simulation_says_one_sentence_and_leaves_nothing(
    start_chi33: Callable[..., Any], tmp_path: Path
) -> None:
    run = start_chi33("simulate", tmp_path / "raw", "--voxel", "3", "--orientations", "3")
    for line in run.stdout:
        if "building the head" in line:
            break
    os.killpg(run.pid, signal.SIGINT)
    _, said = run.communicate(timeout=60)
    assert run.returncode == 130
    assert said.count("\n") == 1
    assert said.startswith("chi33: interrupted")
    assert list(tmp_path.iterdir()) == []
    assert _of_session(run.pid) == []
