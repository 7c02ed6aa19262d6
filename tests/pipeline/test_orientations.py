from __future__ import annotations

import numpy as np
import pytest
from chi33.pipeline.errors import InputError
from chi33.pipeline.orientations import assess_orientations, direction_matrix, require_orientations, sphere_points
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy.spatial.transform import Rotation


def tilted(tilt: float, azimuth: float) -> NDArray[np.float64]:
    t, a = np.radians([tilt, azimuth])
    return np.array([np.sin(t) * np.cos(a), np.sin(t) * np.sin(a), np.cos(t)])


def ring(n: int, tilt: float) -> list[NDArray[np.float64]]:
    return [tilted(tilt, 360 * i / n) for i in range(n)]


def one_axis(n: int, largest: float) -> list[NDArray[np.float64]]:
    return [tilted(t, 0.0) for t in np.linspace(-largest, largest, n)]


NEUTRAL = tilted(0, 0)


@pytest.mark.parametrize("n", [6, 7, 12, 30])
@pytest.mark.parametrize("tilt", [15.0, 25.0, 45.0])
def test_a_ring_of_equal_tilts_never_determines_the_tensor_but_with_the_neutral_position_it_does(
    n: int, tilt: float
) -> None:
    alone = assess_orientations(ring(n, tilt))
    assert alone.sti_rank == 5
    assert not alone.sti_determined
    assert alone.sti_noise_gain == np.inf
    assert f"These {n} directions leave the tensor singular (rank 5 of 6: a ring" in alone.messages[-1]
    # Two rings and the neutral one are the ordinary protocol.
    full = assess_orientations([NEUTRAL, *ring(n, tilt)])
    assert full.sti_condition < alone.sti_condition
    if tilt > 20:
        assert full.sti_determined


@pytest.mark.parametrize("n", [6, 17])
def test_turns_about_one_axis_never_determine_the_tensor(n: int) -> None:
    report = assess_orientations(one_axis(n, 45.0))
    assert report.sti_rank == 3
    assert report.sti_condition == np.inf
    assert "turns about one axis only" in report.messages[-1]
    assert report.cosmos_determined


def test_a_tilted_set_about_two_axes_is_fine_and_says_nothing() -> None:
    h = [NEUTRAL, *ring(6, 35.0), *ring(5, 20.0)]
    report = require_orientations(h, tensor_prior=False)
    assert report.n == 12
    assert report.sti_determined
    assert report.cosmos_determined
    assert report.messages == ()
    assert report.spread == pytest.approx(70.0, abs=1e-6)
    assert np.isfinite([report.sti_condition, report.sti_noise_gain, report.cosmos_ratio]).all()


@given(st.integers(0, 10_000), st.integers(2, 14))
def test_the_numbers_do_not_depend_on_how_the_frame_is_turned_or_the_scans_are_ordered(seed: int, n: int) -> None:
    rng = np.random.default_rng(seed)
    h = np.array([tilted(t, a) for t, a in zip(rng.uniform(0, 40, n), rng.uniform(0, 360, n), strict=True)])
    turned = h[rng.permutation(n)] @ Rotation.from_quat(rng.standard_normal(4)).as_matrix().T
    one, other = assess_orientations(h), assess_orientations(turned)
    assert other.spread == pytest.approx(one.spread, abs=1e-4)
    assert other.sti_rank == one.sti_rank
    if n >= 6 and one.sti_condition < 1e4:
        assert other.sti_condition == pytest.approx(one.sti_condition, rel=1e-5)


def test_the_matrix_has_rows_of_unit_length_whose_products_are_squared_cosines() -> None:
    # <row_i, row_j> = (h_i . h_j)^2: the reason why rank and condition do not care about the frame.
    h = np.array([NEUTRAL, *ring(5, 33.0)])
    matrix = direction_matrix(list(h))
    np.testing.assert_allclose(matrix @ matrix.T, (h @ h.T) ** 2, atol=1e-12)


def test_three_perpendicular_directions_leave_cosmos_undetermined_on_the_diagonal() -> None:
    # sum (1/3 - c_i^2)^2 over the three squared cosines of a unit vector: 0 where they are all 1/3, 2/3 on an axis.
    perpendicular = assess_orientations(np.eye(3))
    assert perpendicular.cosmos_ratio > 1000
    assert "COSMOS is weakly determined" in perpendicular.messages[0]
    better = assess_orientations([NEUTRAL, tilted(60, 0), tilted(60, 120), tilted(60, 240)])
    assert better.cosmos_ratio < 100


@pytest.mark.parametrize("n", [4, 6, 12])
def test_the_noise_gain_of_cosmos_does_not_depend_on_the_frame(n: int) -> None:
    h = np.array([NEUTRAL, *ring(n - 1, 30)])
    gains = [
        assess_orientations(h @ Rotation.from_rotvec([seed, 0.7, -0.4 * seed]).as_matrix()).cosmos_noise_gain
        for seed in range(4)
    ]
    np.testing.assert_allclose(gains, np.mean(gains), rtol=0.01)


@pytest.mark.parametrize("tilt", [8.0, 25.0, 60.0, 90.0])
def test_two_scans_always_leave_cosmos_weak_because_their_magic_cones_cross(tilt: float) -> None:
    for seed in range(3):
        h = np.array([NEUTRAL, tilted(tilt, 40)]) @ Rotation.from_rotvec([seed, 0.7, -0.4 * seed]).as_matrix()
        report = require_orientations(list(h))
        assert report.cosmos_ratio > 1000
        assert "COSMOS is weakly determined" in report.messages[0]


def test_the_directions_that_are_searched_cover_the_half_sphere_evenly() -> None:
    points = sphere_points(2000)
    np.testing.assert_allclose(np.linalg.norm(points, axis=1), 1)
    np.testing.assert_allclose(points.T @ points / 2000, np.eye(3) / 3, atol=2e-3)
    # No direction is farther than 3 degrees from a point of the search.
    probes = np.random.default_rng(0).standard_normal((500, 3))
    probes /= np.linalg.norm(probes, axis=1, keepdims=True)
    assert np.degrees(np.arccos(np.abs(probes @ points.T).max(axis=1).min())) < 3


def test_noise_gain_is_that_of_the_least_squares_components() -> None:
    # Components are h^T chi h at isolated k: the covariance of the six, in the basis of the matrix, is (M^T M)^-1.
    h = [NEUTRAL, *ring(6, 40.0), *ring(5, 20.0)]
    matrix = direction_matrix(h)
    covariance = np.linalg.inv(matrix.T @ matrix)
    expected = np.sqrt(np.trace(covariance) / 6 * len(h) / 6)
    assert assess_orientations(h).sti_noise_gain == pytest.approx(expected)


@pytest.mark.parametrize(("directions", "message"), [
    ([NEUTRAL], "only one orientation was given, .* add scans with the head tilted by 20 degrees or more"),
    ([tilted(2, a) for a in (0, 90, 200, 270, 300, 10)], "All B0 directions lie within 4.0 degrees of one another"),
    ([NEUTRAL, NEUTRAL], "All B0 directions lie within 0.0 degrees"),
    ([NEUTRAL, -tilted(3, 0)], "All B0 directions lie within 3.0 degrees"),
    ([], "b0_directions is empty: give one unit vector a scan"),
    ([NEUTRAL, (0, 1, 1)], r"b0_directions\[1\] must be a unit vector, got \|h\| = 1.414"),
])  # fmt: skip
def test_directions_that_determine_nothing_are_refused_in_plain_words(directions: list, message: str) -> None:
    for prior in (True, False):
        with pytest.raises(InputError, match=message):
            require_orientations(directions, tensor_prior=prior)


@pytest.mark.parametrize(("directions", "message"), [
    (ring(8, 30.0), "These 8 directions leave the tensor singular .rank 5 of 6"),
    (one_axis(8, 40.0), "These 8 directions leave the tensor singular .rank 3 of 6"),
    ([NEUTRAL, *ring(4, 30.0)], "5 scans cannot determine the six tensor components alone"),
])  # fmt: skip
def test_a_singular_tensor_is_refused_only_without_a_prior_and_never_silent(directions: list, message: str) -> None:
    with pytest.raises(InputError, match=message):
        require_orientations(directions, tensor_prior=False)
    report = require_orientations(directions)
    assert "the prior supplies the rest" in report.messages[-1]


def test_small_tilts_are_called_weak() -> None:
    report = assess_orientations([NEUTRAL, *ring(6, 12.0), *ring(5, 8.0)])
    assert report.sti_determined
    assert report.messages[-1].startswith("The tensor is weakly determined (condition number ")
