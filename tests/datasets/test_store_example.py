"""The example of a training loop of one's own on a store."""

from __future__ import annotations

import runpy
from pathlib import Path

import pytest

EXAMPLE = Path(__file__).resolve().parents[2] / "examples" / "store_in_your_own_loop.py"


def test_a_store_feeds_a_loop_of_ones_own(store_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    runpy.run_path(str(EXAMPLE))["main"](str(store_path), 3)
    said = capsys.readouterr().out.splitlines()
    assert said[0].endswith("volumes")
    losses = [float(line.rpartition(" ")[2]) for line in said[1:]]
    assert len(losses) == 3
    assert all(loss > 0 for loss in losses)
