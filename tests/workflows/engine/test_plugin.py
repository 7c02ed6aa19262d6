"""Workers of a run: they keep to their step's processors and end with the run, with the programs that they started."""

from __future__ import annotations

import json
import os
import signal
import threading
import time
from pathlib import Path
from typing import Any

import pytest
from chi33.workflows.engine.plugin import WatchfulMultiProc
from nipype.interfaces.utility import Function
from nipype.pipeline import engine as pe


def _threads(path: str) -> str:
    """Write how many threads this process and programs that it starts take."""
    import json
    import os
    from pathlib import Path

    import numpy  # noqa: F401  # loads a BLAS
    from chi33.pipeline.computing.threads import fft_workers
    from threadpoolctl import threadpool_info

    told = {
        "OMP": os.environ["OMP_NUM_THREADS"],
        "FFT": fft_workers(),
        "pools": [p["num_threads"] for p in threadpool_info()],
    }
    Path(path).write_text(json.dumps(told))
    return path


def _sleep(path: str) -> str:
    """Start a program, write its number, and wait for it."""
    import subprocess
    from pathlib import Path

    program = subprocess.Popen(["sleep", "120"])
    Path(path + ".part").write_text(str(program.pid))
    Path(path + ".part").rename(path)
    program.wait()
    return path


def _workflow(folder: Path, function: Any, names: dict[str, int]) -> pe.Workflow:
    workflow = pe.Workflow("wf", base_dir=str(folder))
    for name, n_procs in names.items():
        node = pe.Node(Function(function=function, output_names=["out"]), name=name, n_procs=n_procs)
        node.inputs.path = str(folder / name)
        workflow.add_nodes([node])
    return workflow


def test_a_step_takes_as_many_threads_as_it_has_processors(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("chi33.pipeline.computing.threads.available_processors", lambda: 64)
    monkeypatch.setenv("OMP_NUM_THREADS", "48")
    plugin = WatchfulMultiProc({"n_procs": 3, "raise_insufficient": False})
    workflow = _workflow(tmp_path, _threads, {"two": 2, "nine": 9})
    try:
        workflow.run(plugin=plugin)
    finally:
        plugin.stop()
    for name, threads in (("two", 2), ("nine", 3)):  # no more than the run has
        told = json.loads((tmp_path / name).read_text())
        assert (told["OMP"], told["FFT"]) == (str(threads), threads)
        assert all(one <= threads for one in told["pools"])
    assert os.environ["OMP_NUM_THREADS"] == "48"


def _runs(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().split()[2] != "Z"
    except FileNotFoundError:
        return False


def test_an_interrupted_run_leaves_no_process(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    plugin = WatchfulMultiProc({"n_procs": 2, "raise_insufficient": False})

    def interrupt() -> None:
        while not ((tmp_path / "one").exists() and (tmp_path / "two").exists()):
            time.sleep(0.05)
        os.kill(os.getpid(), signal.SIGINT)

    threading.Thread(target=interrupt, daemon=True).start()
    try:
        with pytest.raises(KeyboardInterrupt):
            _workflow(tmp_path, _sleep, {"one": 1, "two": 1}).run(plugin=plugin)
    finally:
        plugin.stop()
    programs = [int((tmp_path / name).read_text()) for name in ("one", "two")]
    end = time.monotonic() + 10
    while any(map(_runs, programs)) and time.monotonic() < end:
        time.sleep(0.05)
    assert not any(map(_runs, programs))
    assert "Traceback" not in capfd.readouterr().err
