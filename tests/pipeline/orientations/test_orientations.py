from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
import pytest
from chi33.files.errors import InputError
from chi33.pipeline.fits.closed_form import fit_susceptibility
from chi33.pipeline.orientations.conditioning import (
    assess_orientations,
    direction_matrix,
    require_orientations,
    sphere_points,
    summed_kernel_range,
)
from chi33.pipeline.physics.prior import Prior
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy.optimize import minimize
from scipy.spatial.transform import Rotation

PUBLISHED = Path(__file__).resolve().parents[4] / "shared" / "data" / "b0_directions_7t.csv"


def tilted(tilt: float, azimuth: float) -> NDArray[np.float64]:
    t, a = np.radians([tilt, azimuth])
    return np.array([np.sin(t) * np.cos(a), np.sin(t) * np.sin(a), np.cos(t)])


def ring(n: int, tilt: float) -> list[NDArray[np.float64]]:
    return [tilted(tilt, 360 * i / n) for i in range(n)]


def one_axis(n: int, largest: float) -> list[NDArray[np.float64]]:
    return [tilted(t, 0.0) for t in np.linspace(-largest, largest, n)]


NEUTRAL = tilted(0, 0)
CROSS = [NEUTRAL, *ring(4, 25.0), tilted(12, 0), tilted(12, 90)]


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
    assert perpendicular.cosmos_ratio == perpendicular.cosmos_noise_gain == np.inf
    assert perpendicular.messages[0].startswith("COSMOS is not determined at some points of k-space, where the dipole")
    assert (
        "kernels of all 3 scans vanish: the prior (its regularisation) fills the rest; add" in perpendicular.messages[0]
    )
    better = assess_orientations([NEUTRAL, tilted(60, 0), tilted(60, 120), tilted(60, 240)])
    assert better.cosmos_ratio < 100
    # One degree off perpendicular the kernels no longer all vanish, but nearly.
    nearly = assess_orientations([*np.eye(3)[:2], tilted(1, 200)])
    assert 1000 < nearly.cosmos_ratio < np.inf
    assert "COSMOS is badly determined: errors of the fields grow by up to " in nearly.messages[0]


@pytest.mark.parametrize("n", [4, 6, 12])
def test_the_noise_gain_of_cosmos_does_not_depend_on_the_frame(n: int) -> None:
    h = np.array([NEUTRAL, *ring(n - 1, 30)])
    gains = [
        assess_orientations(h @ Rotation.from_rotvec([seed, 0.7, -0.4 * seed]).as_matrix()).cosmos_noise_gain
        for seed in range(4)
    ]
    np.testing.assert_allclose(gains, gains[0], rtol=1e-6)


@pytest.mark.parametrize("tilt", [8.0, 25.0, 60.0, 90.0])
def test_two_scans_never_determine_cosmos_because_their_magic_cones_cross(tilt: float) -> None:
    for seed in range(3):
        h = np.array([NEUTRAL, tilted(tilt, 40)]) @ Rotation.from_rotvec([seed, 0.7, -0.4 * seed]).as_matrix()
        report = require_orientations(list(h))
        assert report.cosmos_ratio == report.cosmos_noise_gain == np.inf
        assert "where the dipole kernels of both scans vanish: the prior" in report.messages[0]
        repeated = require_orientations([*h, h[0], h[1]])
        assert repeated.cosmos_ratio == np.inf
        assert "kernels of all 4 scans vanish" in repeated.messages[0]
        assert "4 scans of 2 different directions cannot determine the six" in repeated.messages[1]


def test_the_summed_kernels_of_the_six_axes_of_an_icosahedron_are_the_same_everywhere() -> None:
    # They form a spherical 4-design: sum c^2 = 2 and sum c^4 = 6/5, so sum D^2 = 6/9 - 4/3 + 6/5 for every k.
    golden = (1 + np.sqrt(5)) / 2
    axes = np.array([[0, 1, golden], [0, -1, golden], [1, golden, 0], [-1, golden, 0], [golden, 0, 1], [-golden, 0, 1]])
    axes /= np.linalg.norm(axes, axis=1, keepdims=True)
    assert summed_kernel_range(axes) == pytest.approx((8 / 15, 8 / 15), rel=1e-12)
    report = assess_orientations(axes)
    assert report.cosmos_ratio == pytest.approx(1)
    assert report.sti_noise_gain > 1  # six directions on average, but the isotropic part is seen better than the rest


@settings(max_examples=20)
@given(st.integers(0, 10_000), st.integers(3, 9))
def test_the_least_of_the_summed_kernels_is_a_true_minimum(seed: int, n: int) -> None:
    rng = np.random.default_rng(seed)
    h = np.array([tilted(t, a) for t, a in zip(rng.uniform(0, 45, n), rng.uniform(0, 360, n), strict=True)])

    def summed(k: NDArray[np.float64]) -> float:
        return float(((1 / 3 - (h @ k) ** 2 / (k @ k)) ** 2).sum())

    lowest, highest = summed_kernel_range(h)
    starts = rng.standard_normal((12, 3))
    assert lowest <= min(minimize(summed, k, tol=1e-12).fun for k in starts) + 1e-9
    assert highest >= -min(minimize(lambda k: -summed(k), k, tol=1e-12).fun for k in starts) - 1e-9
    lattice = [summed(k) for k in sphere_points(3000)]
    assert min(lattice) - 0.02 * n <= lowest <= min(lattice)
    assert max(lattice) <= highest <= max(lattice) + 0.02 * n


def test_the_directions_that_are_searched_cover_the_half_sphere_evenly() -> None:
    points = sphere_points(2000)
    np.testing.assert_allclose(np.linalg.norm(points, axis=1), 1)
    np.testing.assert_allclose(points.T @ points / 2000, np.eye(3) / 3, atol=2e-3)
    # No direction is farther than 3 degrees from a point of the search.
    probes = np.random.default_rng(0).standard_normal((500, 3))
    probes /= np.linalg.norm(probes, axis=1, keepdims=True)
    assert np.degrees(np.arccos(np.abs(probes @ points.T).max(axis=1).min())) < 3


def noise_of_all_directions(shape: tuple[int, ...], count: int) -> list[NDArray[np.float32]]:
    """White noise below the Nyquist frequency, of standard deviation 1: no corners of k-space, at the magic angle."""
    rng = np.random.default_rng(3)
    k = np.sqrt(sum(axis**2 for axis in np.meshgrid(*(np.fft.fftfreq(n) for n in shape), indexing="ij", sparse=True)))
    spectra = (np.fft.fftn(rng.standard_normal(shape)) * (k < 0.5) for _ in range(count))
    volumes = (np.fft.ifftn(one).real for one in spectra)
    return [(one / one.std()).astype(np.float32) for one in volumes]


@pytest.mark.parametrize("directions", [
    [NEUTRAL, *ring(6, 40.0), *ring(5, 20.0)],
    [NEUTRAL, *ring(4, 25.0), tilted(20, 45), tilted(15, 200)],
], ids=["twelve", "seven"])  # fmt: skip
def test_noise_gains_are_those_of_fits_to_white_noise(directions: list) -> None:
    # Closed-form COSMOS and tensor, without a prior, of white noise of standard deviation 1 in every scan.
    noise = noise_of_all_directions((37, 37, 37), len(directions))
    fit = fit_susceptibility(noise, (1.0, 1.0, 1.0), directions, prior=Prior(np.inf, np.inf), noise=1.0, padding=0)
    report = assess_orientations(directions)
    assert fit.cosmos.std() == pytest.approx(report.cosmos_noise_gain, rel=0.02)
    variances = fit.tensor.var(axis=(1, 2, 3)) @ [1, 2, 2, 1, 2, 1]
    assert np.sqrt(variances / 6) == pytest.approx(report.sti_noise_gain, rel=0.03)


@pytest.mark.parametrize("tilt", [8, 12, 25])
def test_the_noise_gain_of_three_scans_is_that_of_cosmos_of_white_noise(tilt: float) -> None:
    h, prior = [NEUTRAL, tilted(tilt, 0), tilted(tilt, 90)], Prior(np.inf, 0.004)
    gain = assess_orientations(h).cosmos_noise_gain
    fit = fit_susceptibility(noise_of_all_directions((41, 41, 41), 3), (1, 1, 1), h, prior=prior, noise=1.0, padding=0)
    assert fit.cosmos.std() == pytest.approx(gain, rel=0.03)
    rng = np.random.default_rng(4)
    white = [rng.standard_normal((41, 41, 41)).astype(np.float32) for _ in h]
    fit = fit_susceptibility(white, (1, 1, 1), h, prior=prior, noise=1.0, padding=0)
    assert gain < fit.cosmos.std() < 1.2 * gain  # the corners of cubic k-space lie at the magic angle


@pytest.mark.parametrize(("directions", "grade"), [
    ([tilted(60, 180), NEUTRAL, tilted(60, 0)], "good"),
    ([NEUTRAL, *ring(4, 20.0)], "good"),
    ([NEUTRAL, tilted(20, 0), tilted(20, 90)], "fair"),
    ([NEUTRAL, tilted(12, 0), tilted(12, 90)], "poor"),
    ([NEUTRAL, tilted(10, 0), tilted(10, 90)], "poor"),
    ([NEUTRAL, *ring(8, 4.0)], "poor"),  # repeats tame the noise, not what the scans have in common
    ([tilted(20, 180), NEUTRAL, tilted(20, 0)], "bad"),
    ([NEUTRAL, tilted(25, 0)], "bad"),
    ([NEUTRAL, tilted(6, 0)], "bad"),
])  # fmt: skip
def test_cosmos_is_graded_in_words_and_what_is_poor_is_never_silent(directions: list, grade: str) -> None:
    report = assess_orientations(directions)
    assert report.cosmos_grade == grade
    assert any(one.startswith(("COSMOS is", "All B0")) for one in report.messages) == (grade in ("poor", "bad"))


@pytest.mark.skipif(not PUBLISHED.is_file(), reason=f"{PUBLISHED.name} is not in ../shared/data")
def test_published_directions_are_accepted() -> None:
    rows = list(csv.DictReader(PUBLISHED.open()))
    subjects = {row["subject"] for row in rows}
    for subject in subjects:
        h = [[float(row[axis]) for axis in ("hx", "hy", "hz")] for row in rows if row["subject"] == subject]
        assert require_orientations(h).cosmos_grade in ("good", "fair", "poor")
    assert len(subjects) == 8


@pytest.mark.parametrize(("directions", "message"), [
    ([NEUTRAL], "only one orientation was given, .* add scans with the head tilted by 20 degrees or more"),
    ([tilted(2, a) for a in (0, 90, 200, 270, 300, 10)], "All B0 directions lie within 4.0 degrees of one another"),
    ([NEUTRAL, NEUTRAL], "All B0 directions lie within 0.0 degrees"),
    ([NEUTRAL, -tilted(3, 0)], "All B0 directions lie within 3.0 degrees"),
    ([NEUTRAL, tilted(6, 0)], "All B0 directions lie within 6.0 degrees of one another: COSMOS and the tensor are not"),
    ([NEUTRAL, *ring(9, 3.5)], "All B0 directions lie within [67].. degrees"),
    ([], "b0_directions is empty: give one unit vector a scan"),
    ([NEUTRAL, (0, 1, 1)], r"b0_directions\[1\] must be a unit vector, got \|h\| = 1.414"),
])  # fmt: skip
def test_directions_that_determine_nothing_are_refused_in_plain_words(directions: list, message: str) -> None:
    for prior in (True, False):
        with pytest.raises(InputError, match=message):
            require_orientations(directions, tensor_prior=prior)


@pytest.mark.parametrize(("directions", "message"), [
    (ring(8, 30.0), "These 8 directions leave the tensor singular .rank 5 of 6: a ring of equal tilts without the "
     "neutral position.: add the neutral position"),
    (one_axis(8, 40.0), "These 8 directions leave the tensor singular .rank 3 of 6: turns about one axis only.: "
     "add three or more tilts about another axis"),
    (CROSS, "leave the tensor singular .rank 5 of 6: turns about two axes, never about both at once.: add a diagonal"),
    ([NEUTRAL, *ring(6, 7.0), *ring(5, 4.0)], "tilts too small to tell its components apart.: add tilts of 20 degrees"),
    ([NEUTRAL, *ring(4, 30.0)], "5 scans cannot determine the six tensor components alone: add at least 1 scan"),
    ([NEUTRAL, tilted(25, 10), tilted(30, 140), tilted(20, 250)], "4 scans cannot .* alone: add at least 2 scans"),
    (ring(5, 30.0), "5 scans cannot .* alone, and these are a ring of equal tilts .*: add the neutral position, the "
     "middle of the ring, or fit"),
    (ring(4, 30.0), "4 scans .* these are a ring of equal tilts .*: add the neutral position, .*, and at least 1 more"),
    (one_axis(4, 30.0), "4 scans .* these are turns about one axis only: add three or more tilts about another axis"),
    ([NEUTRAL] * 4 + [tilted(25, 0)] * 3 + [tilted(25, 90)], "8 scans of 3 different directions cannot determine"),
])  # fmt: skip
def test_a_singular_tensor_is_refused_by_name_only_without_a_prior_and_never_silent(
    directions: list, message: str
) -> None:
    with pytest.raises(InputError, match=message) as refused:
        require_orientations(directions, tensor_prior=False)
    assert str(refused.value).endswith(", or fit with a prior on the tensor's anisotropy.")
    assert str(refused.value).count(". ") == 0  # one sentence
    report = require_orientations(directions)
    assert "the prior supplies the rest" in report.messages[-1]
    assert report.messages[-1].partition(":")[0] in str(refused.value)


@pytest.mark.parametrize("jitter", [0.0, 0.05, 0.3])
@pytest.mark.parametrize(("directions", "name", "remedy"), [
    (ring(6, 30.0), "a ring of equal tilts without the neutral position", [NEUTRAL]),
    (ring(17, 20.0), "a ring of equal tilts without the neutral position", [NEUTRAL]),
    (one_axis(7, 40.0), "turns about one axis only", [tilted(25, 90), tilted(25, 270), tilted(25, 45)]),
    (one_axis(17, 25.0), "turns about one axis only", [tilted(25, 90), tilted(25, 270), tilted(25, 45)]),
])  # fmt: skip
def test_singular_shapes_are_named_in_any_frame_with_jitter_and_their_remedy_mends_them(
    directions: list, name: str, remedy: list, jitter: float
) -> None:
    for seed in range(5):
        rng = np.random.default_rng(seed)
        frame = Rotation.random(random_state=seed).as_matrix()
        noisy = np.array(directions) + np.radians(jitter) * rng.uniform(-1, 1, (len(directions), 3)) / np.sqrt(3)
        noisy /= np.linalg.norm(noisy, axis=1, keepdims=True)
        flipped = noisy * rng.choice([-1, 1], (len(noisy), 1))  # B0 and -B0 are the same to the kernels
        report = assess_orientations(flipped @ frame.T)
        assert report.sti_rank < 6
        assert f"of 6: {name})" in report.messages[-1]
        mended = assess_orientations(np.vstack([flipped, remedy]) @ frame.T)
        assert not any(name in message for message in mended.messages)
        assert mended.sti_determined


def test_a_cross_with_a_diagonal_is_no_cross() -> None:
    assert "turns about two axes, never about both at once" in assess_orientations(CROSS).messages[-1]
    assert assess_orientations([*CROSS, tilted(25, 45)]).messages == ()


@pytest.mark.parametrize("seed", range(5))
def test_a_singular_set_of_no_special_shape_is_called_too_alike(seed: int) -> None:
    # Six directions on an elliptical cone leave one quadratic form undetermined, but are no ring and no cross.
    angles = np.linspace(0, 2 * np.pi, 9)[:-1] + seed
    cone = np.stack([0.7 * np.cos(angles), 0.4 * np.sin(angles), np.ones(8)], axis=1)
    cone /= np.linalg.norm(cone, axis=1, keepdims=True)
    report = assess_orientations(cone)
    assert report.sti_rank == 5
    assert "(rank 5 of 6: too little variety): the prior supplies the rest; add tilts of other" in report.messages[-1]


def test_small_tilts_are_called_weak() -> None:
    report = assess_orientations([NEUTRAL, *ring(6, 12.0), *ring(5, 8.0)])
    assert report.sti_determined
    assert report.messages[-1].startswith("The tensor is weakly determined (condition number ")
    assert report.messages[-1].endswith(": larger tilts help most.")


def test_a_weak_set_that_is_nearly_a_ring_is_told_so() -> None:
    (message,) = assess_orientations([*ring(7, 30.0), tilted(33, 50)]).messages
    assert message.startswith("The tensor is weakly determined (condition number ")
    assert message.endswith("nearly a ring of equal tilts without the neutral position; add the neutral position, the "
                            "middle of the ring.")  # fmt: skip


@pytest.mark.parametrize("lean", [10.0, 20.0, 30.0])
def test_turns_about_one_axis_with_the_head_leaning_aside_are_no_ring(lean: float) -> None:
    # B0 keeps its angle to the axis of the turns, as in a ring, but an axis that no head can be brought to.
    pitch, roll = np.radians(np.linspace(-40, 40, 9)), np.radians(lean)
    h = np.stack([np.full(9, -np.sin(roll)), np.cos(roll) * np.sin(pitch), np.cos(roll) * np.cos(pitch)], axis=1)
    assert "turns about one axis only" in assess_orientations(h).messages[-1]


def test_two_scans_are_infinitely_bad_and_not_just_nearly() -> None:
    rng = np.random.default_rng(3)
    for _ in range(60):
        one, other = rng.standard_normal((2, 3))
        pair = np.array([one / np.linalg.norm(one), other / np.linalg.norm(other)])
        assert summed_kernel_range(pair)[0] == 0.0


@pytest.mark.parametrize("tilts", [
    ((0, 0), (25, 0), (-25, 0), (0, 25)), ((0, 0), (20, 0), (0, 20), (15, 15)), ((0, 0), (30, 0), (0, 30), (-20, -20)),
])  # fmt: skip
def test_four_scans_that_turn_about_two_axes_are_not_said_to_turn_about_one(tilts: tuple) -> None:
    turned = [Rotation.from_euler("xy", pair, degrees=True).inv().apply([0.0, 0, 1]) for pair in tilts]
    (message,) = [one for one in assess_orientations(turned).messages if "tensor" in one and "COSMOS" not in one]
    assert message.startswith("4 scans cannot determine the six tensor components alone: the prior")
