"""`chi33 plan`: how well head orientations determine COSMOS and the tensor, from angles and from a folder."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from chi33.cli.plan import directions_from_angles, directions_from_transforms
from chi33.pipeline.orientations import assess_orientations

FULL = "0,0;25,0;-25,0;0,25;0,-25;18,18;-18,18"


def _numbers(text: str) -> dict[str, float]:
    patterns = {
        "spread": r"largest angle between two: ([\d.]+) degrees",
        "ratio": r"summed squared kernels ([\d.]+)",
        "rank": r"rank (\d) of 6",
        "condition": r"condition number ([\d.]+|inf)",
    }
    return {key: float(re.search(pattern, text)[1]) for key, pattern in patterns.items()}  # type: ignore[index]


def test_a_full_set_determines_everything(command: Callable[..., Any]) -> None:
    ended = command("plan", "--angles", FULL)
    assert ended.code == 0
    assert ended.out.count("  scan ") == 7
    numbers = _numbers(ended.out)
    assert numbers["rank"] == 6
    report = assess_orientations(directions_from_angles(FULL))
    assert numbers["condition"] == pytest.approx(report.sti_condition, abs=0.06)
    assert numbers["ratio"] == pytest.approx(report.cosmos_ratio, abs=0.06)
    assert numbers["spread"] == pytest.approx(report.spread, abs=0.06)


def test_a_ring_and_one_axis_are_called_singular(command: Callable[..., Any]) -> None:
    ring = ";".join(f"{25 * np.cos(a):.6f},{25 * np.sin(a):.6f}" for a in np.arange(6) * np.pi / 3)
    axis = ";".join(f"{angle},0" for angle in (-30, -20, -10, 0, 10, 20, 30))
    for angles, rank in ((ring, 5), (axis, 3)):
        ended = command("plan", "--angles", angles)
        assert ended.code == 0
        assert _numbers(ended.out)["rank"] <= rank
        assert "the prior supplies the rest" in ended.out


def test_near_directions_determine_nothing(command: Callable[..., Any]) -> None:
    ended = command("plan", "--angles", "0,0;2,0;0,3;0,0,90")
    assert "All B0 directions lie within 3.6 degrees of one another" in ended.out
    assert _numbers(ended.out)["spread"] == 3.6


def test_angles_turn_about_x_then_y_then_z() -> None:
    """Pitch tips B0 in the head's y-z plane, roll in its x-z plane; yaw alone leaves it along z."""
    plain, pitched, rolled, yawed = directions_from_angles("0,0;90,0;0,30;0,0,40")
    np.testing.assert_allclose(plain, [0, 0, 1], atol=1e-12)
    np.testing.assert_allclose(np.abs(pitched), [0, 1, 0], atol=1e-12)
    np.testing.assert_allclose(np.abs(rolled), [0.5, 0, np.sqrt(3) / 2], atol=1e-12)
    np.testing.assert_allclose(yawed, [0, 0, 1], atol=1e-12)


def test_transforms_in_a_folder(command: Callable[..., Any], turning_head: Any) -> None:
    for folder in (turning_head.folder, turning_head.folder / "derivatives" / "truth"):
        (found,) = directions_from_transforms(folder).values()
        np.testing.assert_allclose(found, [m[:3, :3] @ [0, 0, 1] for m in turning_head.transforms], atol=1e-9)
    ended = command("plan", turning_head.folder)
    assert ended.code == 0
    assert ended.out.startswith("sub-01\n")
    assert "tilt 25.0 degrees" in ended.out


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "give either --angles"),
        (["somewhere", "--angles", "0,0;25,0"], "give either --angles"),
        (["--angles", "0,0;25"], "each position must be .*, got '25'"),
        (["--angles", "0,0;up,down"], "got 'up,down'"),
        (["--angles", "0,0;nan,0"], "got 'nan,0'"),
        (["."], "holds no transforms .*: run `chi33 run` first, or give --angles"),
    ],
)
def test_bad_input(
    command: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, words: list[str], message: str
) -> None:
    monkeypatch.chdir(tmp_path)
    ended = command("plan", *words)
    assert ended.code == 2
    assert re.search(message, ended.err)
    assert ended.err.count("\n") == 1
