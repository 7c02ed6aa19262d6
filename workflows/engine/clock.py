"""How long the steps of a run took: each by itself, and the stages as time that passed on the wall clock."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ...files.derivatives import read_json, write_json
from ...files.errors import InputError

Announce = Callable[[str], None]


@dataclass(frozen=True)
class Interval:
    """When a step began (s since the epoch) and how long it took (s)."""

    began: float
    seconds: float


@dataclass
class StageClock:
    """Collects how long each step took, announces the ends, and keeps the times for a run that is repeated.

    total: of the steps; file: of the times, JSON.
    """

    announce: Announce
    total: int
    file: Path
    started: dict[str, float] = field(default_factory=dict)
    times: dict[str, Interval] = field(default_factory=dict)
    done: set[str] = field(default_factory=set)

    def __post_init__(self) -> None:
        """Read the times of earlier runs."""
        self.earlier = _read(self.file)

    def steps(self) -> dict[str, Interval]:
        """Return the times of all steps that are done; of kept ones, in the run that once did them."""
        known = {**self.earlier, **self.times}
        return {name: known[name] for name in sorted(self.done) if name in known}

    def __call__(self, node: Any, status: str) -> None:
        """Nipype's status callback."""
        name = node.fullname
        if status == "start":
            self.started[name] = time.time()
        elif status == "end" and name not in self.done:
            self.done.add(name)
            if name in self.started:
                began = self.started[name]
                self.times[name] = Interval(began, max(0.0, time.time() - began))
                self._write()
            if not getattr(node, "run_without_submitting", False):  # exports, and what only picks from a list
                took = f" {self.times[name].seconds:.1f} s" if name in self.times else " (kept)"
                self.announce(f"[{len(self.done)}/{self.total}] {name.partition('.')[2]}{took}")

    def _write(self) -> None:
        known = {**self.earlier, **self.times}
        write_json(self.file, {name: [round(one.began, 2), round(one.seconds, 2)] for name, one in known.items()})


def _read(file: Path) -> dict[str, Interval]:
    """Return the times of earlier runs; none where the file is damaged or of an older kind: they are only shown."""
    try:
        content = read_json(file) if file.is_file() else {}
        return {name: Interval(float(began), float(seconds)) for name, (began, seconds) in content.items()}
    except (InputError, TypeError, ValueError):
        return {}


def stage_of(step: str) -> str | None:
    """Return the stage that a step is counted for ("bet" of each scan), None for exports and what only joins lists."""
    name = step.rpartition(".")[2]
    if name.startswith(("export_", "all_")):
        return None
    return name.rstrip("0123456789").rstrip("_")


def stage_seconds(steps: dict[str, Interval]) -> dict[str, float]:
    """Return the wall-clock seconds of each stage, in the order in which they began.

    While steps of a stage ran side by side, time passed but once.
    """
    stages: dict[str, list[Interval]] = {}
    for step, interval in sorted(steps.items(), key=lambda one: one[1].began):
        if interval.seconds > 0 and (stage := stage_of(step)) is not None:
            stages.setdefault(stage, []).append(interval)
    return {stage: round(wall_seconds(intervals), 2) for stage, intervals in stages.items()}


def wall_seconds(intervals: Iterable[Interval]) -> float:
    """Return how much time intervals cover together, overlaps counted once."""
    covered, end = 0.0, float("-inf")
    for one in sorted(intervals, key=lambda interval: interval.began):
        last = one.began + one.seconds
        covered += max(0.0, last - max(one.began, end))
        end = max(end, last)
    return covered
