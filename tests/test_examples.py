"""Every script of examples/ runs and says what it should."""

from __future__ import annotations

import re
import runpy
from pathlib import Path
from typing import Any

import chi33
import numpy as np
import pytest
from scipy.spatial.transform import Rotation

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


def test_the_lines_of_the_readme_go_from_arrays_to_chi33() -> None:
    text = (EXAMPLES.parent / "README.md").read_text(encoding="utf-8")
    (block,) = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    assert len([line for line in block.splitlines() if line and not line.startswith("#")]) <= 15
    shape, voxel, times = (32, 34, 30), (2.0, 2.0, 2.0), (0.005, 0.010, 0.015)
    x, y, z = np.meshgrid(*(np.linspace(-1, 1, n) for n in shape), indexing="ij")
    mask = x**2 + y**2 + z**2 < 0.8
    tensor = np.zeros((6, *shape), np.float32)
    tensor[[0, 3, 5]] = 0.15 * ((x - 0.2) ** 2 + y**2 + z**2 < 0.05) - 0.1 * ((x + 0.3) ** 2 + y**2 + z**2 < 0.05)
    tilts = ((0, 0), (25, 0), (-25, 0), (0, 25), (0, -25), (18, 18), (-18, 18))
    directions = [Rotation.from_euler("xy", tilt, degrees=True).inv().apply([0, 0, 1]) for tilt in tilts]
    total = [chi33.tensor_field(tensor, voxel, h) + 0.2 * z for h in directions]
    waves = [np.stack([np.exp(2j * np.pi * 42.577478518 * 3 * t * one - t / 0.04) for t in times]) for one in total]
    given: dict[str, Any] = {
        "phase": [np.angle(one) for one in waves], "magnitude": [100 * np.abs(one) * mask for one in waves],
        "mask": mask, "directions": directions,
    }  # fmt: skip
    exec(compile(block, "README.md", "exec"), given)
    core = x**2 + y**2 + z**2 < 0.4
    assert np.corrcoef(given["label"][core], tensor[0][core])[0, 1] > 0.9
    assert given["delta_b"].shape == shape
