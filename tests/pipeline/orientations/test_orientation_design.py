"""What each head orientation brings and which to scan next: numbers against plain algebra, and what never changes."""

from __future__ import annotations

import re

import numpy as np
import pytest
from chi33.cli.plan import directions_from_angles
from chi33.files.errors import InputError
from chi33.pipeline.orientations.conditioning import assess_orientations, sphere_points
from chi33.pipeline.orientations.design import (
    assess_quality,
    direction_from_pitch_roll,
    expected_chi33_noise,
    noise_with_one_more,
    pitch_and_roll,
    plan_orientations,
    standard_positions,
    tilt_of,
)
from chi33.pipeline.orientations.words import effect, plan_sentences, tilt_in_words
from chi33.pipeline.physics.prior import Prior
from chi33.pipeline.physics.tensors import chi33, isotropic
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy.spatial.transform import Rotation

NOISES = ("tensor_noise", "cosmos_noise", "chi33")
FULL = "0,0;25,0;-25,0;0,25;0,-25;18,18;-18,18"
RING = "25,0;-25,0;0,25;0,-25;18,18;-18,18;18,-18"
ONE_AXIS = "-30,0;-20,0;-10,0;0,0;10,0;20,0;30,0"
CROSS = "0,0;25,0;-25,0;0,25;0,-25;12,0;0,12"


def angles(text: str) -> NDArray[np.float64]:
    return np.array(directions_from_angles(text))


def drawn(seed: int, n: int, largest: float = 40.0) -> NDArray[np.float64]:
    rng = np.random.default_rng(seed)
    tilt, azimuth = np.radians(rng.uniform(0, largest, n)), rng.uniform(0, 2 * np.pi, n)
    return np.stack([np.sin(tilt) * np.cos(azimuth), np.sin(tilt) * np.sin(azimuth), np.cos(tilt)], axis=1)


def model_row(k: NDArray[np.float64], h: NDArray[np.float64]) -> NDArray[np.float64]:
    """a(k) of xx, xy, xz, yy, yz, zz, from delta B = (1/3) h^T chi h - (k.h) k^T chi h / |k|^2 one tensor at a time."""
    row = []
    for j, m in ((0, 0), (0, 1), (0, 2), (1, 1), (1, 2), (2, 2)):
        chi = np.zeros((3, 3))
        chi[j, m] = chi[m, j] = 1
        row.append(h @ chi @ h / 3 - (k @ h) * (k @ chi @ h) / (k @ k))
    return np.array(row)


@given(st.floats(-60, 60), st.floats(-60, 60))
def test_pitch_and_roll_are_those_of_the_command_and_turn_back(pitch: float, roll: float) -> None:
    h = direction_from_pitch_roll(pitch, roll)
    np.testing.assert_allclose(h, angles(f"{pitch},{roll}")[0], atol=1e-12)
    np.testing.assert_allclose(pitch_and_roll(h), (pitch, roll), atol=1e-6)
    np.testing.assert_allclose(pitch_and_roll(-h), (pitch, roll), atol=1e-6)
    assert tilt_of(h) == pytest.approx(np.degrees(np.arccos(h[2])), abs=1e-5)


@pytest.mark.parametrize(("pitch", "roll", "words"), [
    (0, 0, "neutral"), (1, -2, "neutral"), (25, 0, "25 degrees back"), (-20, 0, "20 degrees forward"),
    (0, 30, "30 degrees to the right"), (0, -10, "10 degrees to the left"),
    (-20, 20, "28 degrees forward and to the right"), (20, -20, "28 degrees back and to the left"),
])  # fmt: skip
def test_tilts_in_words_say_where_the_head_leans(pitch: float, roll: float, words: str) -> None:
    h = direction_from_pitch_roll(pitch, roll)
    assert tilt_in_words(h) == tilt_in_words(-h) == words
    # The head is turned about x, then y: its crown (z) leans to the right (x) or the front (y) as the words say.
    crown = Rotation.from_euler("xyz", [pitch, roll, 0], degrees=True).apply([0, 0, 1])
    if "neutral" not in words:
        assert ("right" in words, "left" in words) == (crown[0] > 0.01, crown[0] < -0.01)
        assert ("forward" in words, "back" in words) == (crown[1] > 0.01, crown[1] < -0.01)


@pytest.mark.parametrize("text", ["0,0;25,0;10,30", FULL, ONE_AXIS])
def test_expected_noise_is_that_of_the_posterior_solved_one_k_at_a_time(text: str) -> None:
    h, prior, noise = angles(text), Prior(0.02, 0.006), 0.003
    variance = np.zeros(len(h))
    points = sphere_points(60)
    for k in points:
        rows = np.array([model_row(3.7 * k, one) for one in h])
        covariance = np.linalg.inv(rows.T @ rows / noise**2 + prior.precision())
        for index, one in enumerate(h):
            weights = np.array([chi33(unit, one) for unit in np.eye(6)])
            variance[index] += weights @ covariance @ weights / len(points)
    found = expected_chi33_noise(h, noise=noise, prior=prior, points=60)
    np.testing.assert_allclose(found, np.sqrt(variance), rtol=1e-5)
    other = expected_chi33_noise(h, noise=noise, prior=prior, points=60, along=h[::-1])
    np.testing.assert_allclose(other, found[::-1], rtol=1e-12)


def test_expected_noise_of_an_isotropic_head_is_that_of_cosmos() -> None:
    h, noise = angles(FULL), 0.002
    summed = ((1 / 3 - (sphere_points(500) @ h.T) ** 2) ** 2).sum(axis=1)
    expected = np.sqrt((1 / (summed / noise**2 + 1 / 0.03**2)).mean())
    found = expected_chi33_noise(h, noise=noise, prior=Prior(0.03, 1e-7), points=500)
    np.testing.assert_allclose(found, expected, rtol=1e-4)
    assert chi33(isotropic(1.0), h[3]) == pytest.approx(1)


def test_expected_noise_of_useless_data_is_the_prior_and_without_a_prior_follows_the_data() -> None:
    h = angles(FULL)
    weights = np.array([chi33(unit, h[2]) for unit in np.eye(6)])
    of_prior = np.sqrt(weights @ np.linalg.inv(Prior().precision()) @ weights)
    assert expected_chi33_noise(h, noise=1e3)[2] == pytest.approx(of_prior, rel=1e-6)
    free = Prior(np.inf, np.inf)
    one, three = (expected_chi33_noise(h, noise=noise, prior=free) for noise in (0.001, 0.003))
    np.testing.assert_allclose(three, 3 * one, rtol=1e-6)
    assert (one > expected_chi33_noise(h, noise=0.001)).all()
    assert np.isinf(expected_chi33_noise(angles(ONE_AXIS), prior=free)).all()


def test_its_mean_over_k_is_settled() -> None:
    for text in ("0,0", "0,0;25,0", FULL):
        fine = expected_chi33_noise(angles(text), points=20_000)
        np.testing.assert_allclose(expected_chi33_noise(angles(text)), fine, rtol=0.01)


@settings(max_examples=40)
@given(st.integers(0, 10_000), st.integers(1, 10))
def test_one_more_scan_never_makes_anything_noisier(seed: int, n: int) -> None:
    h = drawn(seed, n + 1)
    before, after = assess_quality(h[:n], along=h[:n]), assess_quality(h, along=h[:n])
    for name in NOISES:
        assert getattr(after, name) <= getattr(before, name) * (1 + 1e-6)
    assert after.chi33 < before.chi33
    if n < 5:
        assert after.tensor_noise == np.inf
    assert (before.cosmos_noise == np.inf) == (n <= 2)


@settings(max_examples=30)
@given(st.integers(0, 10_000), st.integers(2, 9), st.floats(0, 360))
def test_turning_all_directions_about_the_axis_of_the_neutral_head_changes_nothing(
    seed: int, n: int, turn: float
) -> None:
    h = drawn(seed, n)
    turned = h @ Rotation.from_euler("z", turn, degrees=True).as_matrix().T
    one, other = assess_quality(h), assess_quality(turned)
    of_lattice = 0.02 if n < 4 else 0.003  # few scans leave narrow dips in k, which the directions of k just resolve
    assert other.chi33 == pytest.approx(one.chi33, rel=of_lattice)
    assert other.tensor_noise == pytest.approx(one.tensor_noise, rel=1e-4)
    if assess_orientations(h).cosmos_worst_gain < 30:  # narrower dips in k are not resolved
        assert other.cosmos_noise == pytest.approx(one.cosmos_noise, rel=3e-3)
    found, moved = expected_chi33_noise(h), expected_chi33_noise(turned)
    np.testing.assert_allclose(moved, found, rtol=of_lattice)


@pytest.mark.parametrize("text", [FULL, "0,0;25,0;-10,20", RING, ONE_AXIS])
@pytest.mark.parametrize("turn", [37.0, 180.0])
def test_the_plan_of_a_turned_set_is_as_good(text: str, turn: float) -> None:
    one = plan_orientations(angles(text))
    other = plan_orientations(angles(text) @ Rotation.from_euler("z", turn, degrees=True).as_matrix().T)
    assert other.ranked_by == one.ranked_by
    assert getattr(other.best[0].after, one.ranked_by) == pytest.approx(getattr(one.best[0].after, one.ranked_by), 0.02)
    for mine, theirs in zip(one.losses, other.losses, strict=True):
        for name in NOISES:
            assert theirs.factor(name) == pytest.approx(mine.factor(name), rel=0.01, nan_ok=True)


def test_losses_are_those_of_the_set_without_each_scan() -> None:
    h = angles(FULL)
    plan = plan_orientations(h, noise=0.002)
    for scan, loss in enumerate(plan.losses):
        others = np.delete(h, scan, axis=0)
        report = assess_orientations(others)
        assert loss.scan == scan
        assert loss.after.condition == pytest.approx(report.sti_condition)
        assert loss.after.cosmos_noise == pytest.approx(report.cosmos_noise_gain)
        if report.sti_determined:
            assert loss.after.tensor_noise == pytest.approx(report.sti_noise_gain)
        with_it = expected_chi33_noise(h, noise=0.002, along=others)
        without = expected_chi33_noise(others, noise=0.002)
        assert loss.factor("chi33") == pytest.approx(np.sqrt((without**2).mean() / (with_it**2).mean()))
        assert loss.factor("tensor_noise") > 1
    # The neutral position holds this set together; three scans lean to the right, so one of them is needed least.
    assert plan.by_need[0].scan == 0
    assert plan.by_need[-1].scan == 3
    assert [loss.cost for loss in plan.by_need] == sorted((loss.cost for loss in plan.losses), reverse=True)


def test_a_repeated_scan_is_needed_least() -> None:
    plan = plan_orientations(angles("0,0;30,0;-30,0;0,30;0,-30;22,22;-22,22;22,22"))
    assert {loss.scan for loss in plan.by_need[-2:]} == {5, 7}
    assert any(re.match("Scans 6 and 8 add least: without any one", sentence) for sentence in plan_sentences(plan))


@settings(max_examples=8)
@given(st.integers(0, 10_000), st.integers(1, 9), st.sampled_from([15.0, 35.0, 50.0]))
def test_no_position_within_reach_beats_the_best_next_scan(seed: int, n: int, largest: float) -> None:
    h = drawn(seed, n, 30)
    plan = plan_orientations(h, max_angle=largest)
    best = getattr(plan.best[0].after, plan.ranked_by)
    others = noise_with_one_more(h, drawn(seed + 1, 200, largest), plan.ranked_by)
    before = getattr(plan.quality, plan.ranked_by)
    assert best <= others.min() + 0.1 * (min(before, 2 * others.min()) - others.min()) + 1e-9
    for one in plan.best:
        assert (one.pitch, one.roll) == (round(one.pitch), round(one.roll))
        assert one.tilt <= largest + 1e-6
    directions = np.array([one.direction for one in plan.best])
    cosines = np.abs(directions @ directions.T) - 2 * np.eye(len(directions))
    assert np.degrees(np.arccos(np.clip(cosines.max(), -1, 1))) >= 20 - 1e-6


@pytest.mark.parametrize("name", ["tensor_noise", "chi33"])
def test_the_map_of_next_scans_is_that_of_the_sets_one_by_one(name: str) -> None:
    h, candidates, prior = angles(FULL), drawn(5, 7, 45), Prior(0.05, 0.002)
    found = noise_with_one_more(h, candidates, name, noise=0.002, prior=prior)
    for value, candidate in zip(found, candidates, strict=True):
        quality = assess_quality(np.vstack([h, candidate]), noise=0.002, prior=prior, along=h)
        assert value == pytest.approx(getattr(quality, name), rel=1e-6)


def test_the_next_scan_mends_what_is_singular() -> None:
    ring = plan_orientations(angles(RING))
    assert ring.quality.singular
    assert (ring.best[0].pitch, ring.best[0].roll) == (0, 0)
    assert not ring.best[0].after.singular
    axis = plan_orientations(angles(ONE_AXIS))
    assert axis.ranked_by == "chi33"
    assert abs(axis.best[0].pitch) < 5
    assert abs(axis.best[0].roll) > 25
    cross = plan_orientations(angles(CROSS))
    assert min(abs(cross.best[0].pitch), abs(cross.best[0].roll)) > 15
    assert not cross.best[0].after.singular


def test_standard_positions_stay_within_reach() -> None:
    every = standard_positions(35)
    assert len(every) == len(set(every)) == 17
    assert (0.0, 0.0) in every
    assert len(standard_positions(15)) == 5
    plan = plan_orientations(angles(FULL), max_angle=20)
    assert [(one.pitch, one.roll) for one in plan.standard] == standard_positions(20)
    assert all(one.factor("chi33") < 1 for one in plan.standard)
    pitched = next(one for one in plan.standard if (one.pitch, one.roll) == (20, 0))
    extended = assess_orientations([*angles(FULL), *angles("20,0")])
    assert pitched.after.condition == pytest.approx(extended.sti_condition)
    assert pitched.after.cosmos_noise == pytest.approx(extended.cosmos_noise_gain)


def test_a_plan_in_sentences() -> None:
    said = plan_sentences(plan_orientations(angles(FULL), noise=0.002, prior=Prior(0.05, 0.01)))
    assert said[0] == "These orientations determine COSMOS and the tensor."
    assert "field noise of 0.002 ppm and the prior (0.05 ppm isotropic, 0.01 ppm anisotropic)" in said[1]
    assert said[2].startswith(
        "Scan 1 counts most: without it the tensor is singular (the prior supplies the rest) and "
    )
    assert re.fullmatch(
        r"Scan 4 adds least: without it the noise rises by 5 % in the tensor \(condition number 16.8 to 15.7\), 8 % "
        r"in COSMOS and \d+ % in χ33\.", said[3],
    )  # fmt: skip
    assert re.fullmatch(
        r"Best next scan: pitch [+-]\d+, roll -\d+ \(the head tilted 35 degrees (forward|back) and to the left\); with "
        r"it the noise falls by 1\d % in the tensor \(.*\), 8 % in COSMOS and \d+ % in χ33\.", said[4],
    )  # fmt: skip
    assert said[5].startswith("Within 5 % of it: pitch ")


@pytest.mark.parametrize(("text", "message"), [
    ("0,0", "1 scan cannot determine the six tensor components alone"),
    ("0,0;25,0", "Both scans are needed: one orientation alone determines nothing."),
    ("0,0;25,0", "with it COSMOS is determined everywhere in k-space and the noise falls by"),
    ("0,0;25,0;0,25", "Scan 1 adds least: without it COSMOS is no longer determined everywhere in k-space and the"),
    (RING, "a ring of equal tilts without the neutral position"),
    (RING, "Best next scan: pitch +0, roll +0 (the neutral head); with it the tensor is determined without the"),
    (ONE_AXIS, "turns about one axis only"),
    (ONE_AXIS, "Scans 1 and 7 count most: without any one of them the noise rises by"),
    ("0,0;30,0;15,25.66;-15,25.66;-30,0;-15,-25.66;15,-25.66", "without it the tensor is singular (the prior"),
])  # fmt: skip
def test_sentences_of_sets_that_leave_something_open(text: str, message: str) -> None:
    assert any(message in sentence for sentence in plan_sentences(plan_orientations(angles(text))))


def test_scans_that_count_alike_are_told_so() -> None:
    directions = [[np.sin(0.5) * np.cos(a), np.sin(0.5) * np.sin(a), np.cos(0.5)] for a in 2 * np.pi * np.arange(5) / 5]
    (said,) = (one for one in plan_sentences(plan_orientations(directions)) if "alike" in one)
    assert said.startswith("All scans count alike: without any one of them the noise rises by ")


def test_an_infinite_prior_is_said_not_to_determine_chi33() -> None:
    plan = plan_orientations(angles(ONE_AXIS), prior=Prior(0.03, np.inf))
    assert np.isinf(plan.chi33_sd).all()
    assert "Without a finite prior these scans do not determine χ33." in plan_sentences(plan)
    assert np.isfinite(plan.best[0].pitch)
    assert "χ33" not in effect(plan.losses[0])


@pytest.mark.parametrize(("change", "message"), [
    ({"max_angle": 0.0}, "max_angle must be above 0 and at most 90 degrees, got 0"),
    ({"max_angle": 91.0}, "got 91"),
    ({"max_angle": np.nan}, "got nan"),
    ({"noise": 0.0}, "noise must be a positive standard deviation of the fields in ppm, got 0"),
    ({"noise": np.inf}, "got inf"),
])  # fmt: skip
def test_values_out_of_range_are_refused(change: dict[str, float], message: str) -> None:
    with pytest.raises(InputError, match=message):
        plan_orientations(angles(FULL), **change)


def test_directions_are_checked() -> None:
    with pytest.raises(InputError, match="b0_directions is empty"):
        plan_orientations([])
    with pytest.raises(InputError, match=r"b0_directions\[1\] must be a unit vector"):
        expected_chi33_noise([[0, 0, 1], [0, 1, 1]])
    with pytest.raises(InputError, match="noise must be"):
        expected_chi33_noise([[0, 0, 1]], noise=-1)
