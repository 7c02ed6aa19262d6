"""Ctrl-C ends the command, and no worker process gets it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from chi33.pipeline.computing.interrupts import interrupts_held_back

BLOCKED = "import signal; print(signal.SIGINT in signal.pthread_sigmask(signal.SIG_BLOCK, []))"


def interrupts_are_blocked(_: int = 0) -> bool:
    return signal.SIGINT in signal.pthread_sigmask(signal.SIG_BLOCK, [])


def test_an_interrupt_waits_for_the_end_of_the_block() -> None:
    reached: list[str] = []

    def work() -> None:
        with interrupts_held_back():
            os.kill(os.getpid(), signal.SIGINT)
            time.sleep(0.01)
            reached.append("the end")

    with pytest.raises(KeyboardInterrupt):
        work()
    assert reached == ["the end"]
    assert not interrupts_are_blocked()


def test_processes_started_in_the_block_never_get_one() -> None:
    with interrupts_held_back():
        inside = subprocess.run([sys.executable, "-c", BLOCKED], capture_output=True, text=True, check=True)
    outside = subprocess.run([sys.executable, "-c", BLOCKED], capture_output=True, text=True, check=True)
    assert (inside.stdout, outside.stdout) == ("True\n", "False\n")


CLUSTER = """
import signal
from chi33.pipeline.fits.execution import Execution

def blocked(_=0):
    return signal.SIGINT in signal.pthread_sigmask(signal.SIG_BLOCK, [])

if __name__ == "__main__":
    with Execution("local", workers=1) as execution:
        print(execution.map(blocked, [1]), blocked())
"""


def test_workers_of_a_local_cluster_never_get_one(tmp_path: Path) -> None:
    script = tmp_path / "cluster.py"
    script.write_text(CLUSTER)
    done = subprocess.run([sys.executable, str(script)], capture_output=True, text=True, check=False, timeout=120)
    assert done.stdout == "[True] False\n", done.stderr
