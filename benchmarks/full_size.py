"""Runs a command and prints its wall time and the peak of its and its children's memory: the full-size measurement.

    chi33 simulate FULL --orientations 12 --voxel 1 --oblique 8 --seed 21
    python benchmarks/full_size.py chi33 run FULL OUT

Memory is the proportional set size summed over all processes of the command (Linux).
"""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path


def proportional_memory(session: int) -> float:
    """Return the memory in GB of all processes of a session."""
    total = 0
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = stat.read_text().rpartition(")")[2].split()
            if int(fields[3]) == session:
                lines = (stat.parent / "smaps_rollup").read_text().splitlines()
                total += next(int(line.split()[1]) for line in lines if line.startswith("Pss:"))
        except (OSError, StopIteration, IndexError):
            continue
    return total / 1e6


def main(command: Sequence[str]) -> int:
    """Run the command in a session of its own; return its exit code."""
    began, peak = time.monotonic(), 0.0
    process = subprocess.Popen(command, start_new_session=True)
    while process.poll() is None:
        peak = max(peak, proportional_memory(process.pid))
        time.sleep(1)
    print(f"{time.monotonic() - began:.0f} s, peak {peak:.2f} GB, exit code {process.returncode}")
    return process.returncode


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
