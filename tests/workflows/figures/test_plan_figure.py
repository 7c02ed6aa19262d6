"""The picture of a plan: what it shows lies where it should, and its file appears whole or not at all."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from chi33.cli.plan import directions_from_angles
from chi33.files.errors import InputError
from chi33.pipeline.orientations.design import OrientationPlan, plan_orientations, tilt_of
from chi33.pipeline.orientations.words import plan_sentences
from chi33.workflows.figures.plan import background, check_figure_path, draw_plan, save_plan_figure
from matplotlib.figure import Figure
from PIL import Image

FULL = "0,0;25,0;-25,0;0,25;0,-25;18,18;-18,18"
RING = "25,0;-25,0;0,25;0,-25;18,18;-18,18;18,-18"


def plan_of(angles: str, **options: float) -> OrientationPlan:
    return plan_orientations(directions_from_angles(angles), **options)  # type: ignore[arg-type]


def markers(figure: Figure, marker: str) -> list[tuple[float, float]]:
    """Places (right, front) in degrees of the lines drawn with a marker."""
    lines = [line for line in figure.axes[0].lines if line.get_marker() == marker]
    polar = [(float(line.get_xdata()[0]), float(line.get_ydata()[0])) for line in lines]  # type: ignore[index]
    return [(tilt * np.cos(azimuth), tilt * np.sin(azimuth)) for azimuth, tilt in polar]


def texts(figure: Figure) -> list[str]:
    legend = [text.get_text() for one in figure.legends for text in one.get_texts()]
    return [text.get_text() for text in (*figure.axes[0].texts, *figure.texts)] + legend


def test_scans_lie_where_b0_points_in_the_head_with_the_front_up() -> None:
    figure = draw_plan(plan_of(FULL))
    expected = [(0, 0), (0, 25), (0, -25), (-25, 0), (25, 0)]
    np.testing.assert_allclose(markers(figure, "o")[:5], expected, atol=1e-6)
    assert markers(figure, "o")[5][0] < -15  # pitch 18 and roll 18: B0 towards the front and the left
    assert markers(figure, "o")[5][1] > 15
    shown = texts(figure)
    assert {"1", "2", "3", "4", "5", "6", "7", "10°", "20°", "30°", "40°"} <= set(shown)
    places = {text.get_text(): text.get_position() for text in figure.axes[0].texts}
    assert places["head tilted back (pitch +)"][0] == pytest.approx(np.pi / 2)
    assert places["head tilted forward (pitch −)"][0] == pytest.approx(3 * np.pi / 2)
    assert places["head tilted to\nthe left (roll −)"][0] == 0
    assert places["head tilted to\nthe right (roll +)"][0] == pytest.approx(np.pi)


def test_stars_are_the_best_next_scans_and_the_limit_is_drawn() -> None:
    plan = plan_of(FULL, max_angle=32.0)
    figure = draw_plan(plan, title="sub-07")
    stars = markers(figure, "*")
    assert len(stars) == len(plan.best) == 3
    for (right, front), one in zip(stars, plan.best, strict=True):
        assert np.hypot(right, front) == pytest.approx(one.tilt)
        assert np.arctan2(front, right) == pytest.approx(np.arctan2(one.direction[1], one.direction[0]))
    first = plan.best[0]
    shown = texts(figure)
    assert f"best next scan: pitch {first.pitch:+.0f}°, roll {first.roll:+.0f}°".replace("-", "−") in shown
    assert "limit, 32°" in shown
    assert "B0 directions in the head, seen from above: sub-07" in shown
    rings = {float(np.mean(line.get_ydata())) for line in figure.axes[0].lines if len(line.get_xdata()) == 361}
    assert rings == {10.0, 20.0, 30.0, 32.0, 40.0}


def test_scans_in_one_place_share_a_mark_and_far_ones_widen_the_picture() -> None:
    figure = draw_plan(plan_of("0,0;25,0;0,0,60;-25,0;70,0"))
    assert len(markers(figure, "o")) == 4
    assert "1,3" in texts(figure)
    assert figure.axes[0].get_ylim()[1] == 75
    assert draw_plan(plan_of(FULL)).axes[0].get_ylim()[1] == 45


@pytest.mark.parametrize("angles", [FULL, "0,0", "0,0;25,0", "-30,0;-20,0;-10,0;0,0;10,0;20,0;30,0"])
def test_the_background_is_the_change_that_one_more_scan_brings(angles: str) -> None:
    plan = plan_of(angles)
    ground = background(plan, 45)
    assert ground.label.endswith("with one more scan (%)")
    assert ground.values.max() <= 1e-6
    inside = ground.values[ground.tilts <= plan.max_angle]
    best = 100 * (plan.best[0].factor(plan.ranked_by) - 1)
    assert inside.min() == pytest.approx(best, abs=0.06 * abs(best))
    first = plan.best[0].direction
    row = np.abs(ground.tilts - tilt_of(first)).argmin()
    column = np.abs(np.angle(np.exp(1j * (ground.azimuths - np.arctan2(first[1], first[0]))))).argmin()
    assert ground.values[row, column] == pytest.approx(best, abs=0.1 * abs(best))


def test_the_background_of_a_singular_set_is_the_noise_gain_it_would_have() -> None:
    plan = plan_of(RING)
    ground = background(plan, 45)
    assert ground.label == "Noise gain of the tensor with one more scan"
    from chi33.pipeline.orientations.conditioning import assess_orientations

    middle = assess_orientations([*plan.directions, [0, 0, 1]]).sti_noise_gain
    np.testing.assert_allclose(ground.values[0], middle, rtol=1e-9)
    assert ground.norm.vmin == pytest.approx(middle, rel=0.02)
    on_ring = ground.values[np.abs(ground.tilts - 25).argmin()]
    assert on_ring.min() > 5 * middle
    shown = texts(draw_plan(plan))
    assert "best next scan: neutral" in shown
    assert any(text.startswith("Condition number of the tensor: singular now, 17.") for text in shown)


def test_that_the_best_next_scan_is_not_enough_is_said_without_contradiction() -> None:
    plan = plan_of("0,0;25,0;0,25")
    shown = texts(draw_plan(plan))
    words = "Condition number of the tensor: singular now, and still with the best next scan: it takes more than one."
    assert words in shown
    assert any(text.startswith("best next scan: ") for text in shown)
    (best,) = [one for one in plan_sentences(plan) if one.startswith("Best next scan")]
    assert best.endswith("in χ33, but the tensor stays singular (the prior supplies the rest).")
    enough = plan_of(RING)
    assert "stays singular" not in " ".join(plan_sentences(enough))


def test_the_picture_is_in_colour_with_a_red_star_below_right(tmp_path: Path) -> None:
    plan = plan_of("0,0;25,0;-25,0;0,25;0,-25;18,18;-18,18;18,-18")  # all four sides and three diagonals
    path = save_plan_figure(plan, tmp_path / "plan.png")
    picture = np.asarray(Image.open(path).convert("RGB")).astype(int)
    assert picture.shape == (1110, 1260, 3)
    first = plan.best[0]
    assert (first.pitch < 0, first.roll < 0) == (True, True)
    azimuth = np.arctan2(first.direction[1], first.direction[0])
    across, up = first.tilt / 45 * np.array([np.cos(azimuth), np.sin(azimuth)])
    row, column = round(1110 * (0.5 - 0.35 * up)), round(1260 * (0.41 + 0.31 * across))
    assert row > 600
    assert column > 600
    np.testing.assert_allclose(picture[row, column], [209, 41, 28], atol=3)
    blue = picture[..., 2] - picture[..., 0]
    assert (blue > 60).mean() > 0.05


def test_the_file_appears_whole_or_not_at_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plan, path = plan_of("0,0;25,0"), tmp_path / "plan.png"
    path.write_bytes(b"old")
    with pytest.raises(InputError, match=r"plan\.png exists already: pass --overwrite to replace it"):
        save_plan_figure(plan, path)

    def broken(self: Figure, name: Path, **options: object) -> None:
        Path(name).write_bytes(b"half")
        raise RuntimeError("interrupted")

    with monkeypatch.context() as patched:
        patched.setattr(Figure, "savefig", broken)
        with pytest.raises(RuntimeError, match="interrupted"):
            save_plan_figure(plan, path, overwrite=True)
    assert [(one.name, one.read_bytes()) for one in tmp_path.iterdir()] == [("plan.png", b"old")]
    save_plan_figure(plan, path, overwrite=True)
    assert Image.open(path).format == "PNG"


@pytest.mark.parametrize(("name", "message"), [
    ("plan.svg", r"plan\.svg does not end in \.png: rename it"),
    ("plan", r"plan does not end in \.png: rename it"),
    ("folder.png", r"folder\.png is a folder: give the name of a file for the figure"),
])  # fmt: skip
def test_names_that_cannot_be_written_are_refused(tmp_path: Path, name: str, message: str) -> None:
    (tmp_path / "folder.png").mkdir()
    with pytest.raises(InputError, match=message):
        check_figure_path(tmp_path / name, overwrite=True)
