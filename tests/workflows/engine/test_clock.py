"""Times of a run: steps side by side take no longer than the clock on the wall says."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace

import pytest
from chi33.workflows.engine.clock import Interval, StageClock, stage_seconds, wall_seconds
from hypothesis import given
from hypothesis import strategies as st


@pytest.mark.parametrize(("intervals", "seconds"), [
    ([], 0), ([(0, 5)], 5), ([(0, 5), (0, 5)], 5), ([(0, 5), (3, 4)], 7), ([(0, 9), (2, 3)], 9),
    ([(10, 1), (0, 1)], 2), ([(0, 1), (1, 1)], 2),
])  # fmt: skip
def test_overlaps_count_once(intervals: list[tuple[float, float]], seconds: float) -> None:
    assert wall_seconds([Interval(*one) for one in intervals]) == pytest.approx(seconds)


@given(st.lists(st.tuples(st.integers(0, 60), st.integers(0, 20)), max_size=8))
def test_the_time_covered_is_that_of_the_seconds_covered(intervals: list[tuple[int, int]]) -> None:
    covered = {second for began, length in intervals for second in range(began, began + length)}
    assert wall_seconds([Interval(*one) for one in intervals]) == pytest.approx(len(covered))


def test_a_stage_of_scans_side_by_side_is_no_sum() -> None:
    steps = {
        "sub_01_wf.a_wf.total_field": Interval(131, 10),
        "sub_01_wf.mask_a_wf.bet": Interval(100, 30),
        "sub_01_wf.mask_b_wf.bet": Interval(101, 30),
        "sub_01_wf.export_a_chi33_file": Interval(150, 1),
        "sub_01_wf.all_masks": Interval(150, 1),
    }
    assert list(stage_seconds(steps).items()) == [("bet", 31), ("total_field", 10)]


def _node(name: str, at_once: bool = False) -> SimpleNamespace:
    return SimpleNamespace(fullname=f"sub_01_wf.{name}", run_without_submitting=at_once)


def test_kept_steps_keep_the_time_they_once_took(tmp_path: Path) -> None:
    lines: list[str] = []
    first = StageClock(lines.append, 3, tmp_path / "seconds.json")
    for status in ("start", "end"):
        first(_node("mask_wf.bet"), status)
    first(_node("export_x", at_once=True), "end")
    again = StageClock(lines.append, 3, tmp_path / "seconds.json")
    again(_node("mask_wf.bet"), "end")
    assert lines == ["[1/3] mask_wf.bet 0.0 s", "[1/3] mask_wf.bet (kept)"]
    (kept,) = again.steps().values()
    assert kept.began == pytest.approx(first.steps()["sub_01_wf.mask_wf.bet"].began, abs=0.01)


@pytest.mark.parametrize("content", ["{", "[]", json.dumps({"sub_01_wf.bet": 12.5}), json.dumps({"a": ["b", None]})])
def test_times_that_cannot_be_read_stop_no_run(tmp_path: Path, content: str) -> None:
    (tmp_path / "seconds.json").write_text(content)
    clock = StageClock(print, 1, tmp_path / "seconds.json")
    clock(_node("bet"), "end")
    assert clock.steps() == {}
