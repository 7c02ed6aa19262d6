"""Every script of examples/ runs and says what it should."""

from __future__ import annotations

import re
import runpy
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).resolve().parents[1] / "examples"
ALONE = ("arrays_to_chi33", "background_methods", "echoes_to_susceptibility")


def main_of(name: str) -> object:
    return runpy.run_path(str(EXAMPLES / f"{name}.py"))["main"]


def test_all_examples_are_run_by_tests() -> None:
    assert {path.stem for path in EXAMPLES.glob("*.py")} == {*ALONE, "store_in_your_own_loop"}


@pytest.mark.parametrize("name", ALONE)
def test_an_example_runs(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    main_of(name)()  # type: ignore[operator]
    said = capsys.readouterr().out
    correlations = [float(value) for value in re.findall(r"r = ([\d.]+)", said)]
    errors = [float(value) for value in re.findall(r"error ([\d.]+)", said)]
    assert correlations or errors
    assert all(value > 0.7 for value in correlations)
    assert all(value < 0.5 for value in errors)
