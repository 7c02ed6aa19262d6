"""The prior of the traceless part: tissues, correlation, fibres, and what it does for delta B'."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from chi33.files.errors import InputError
from chi33.pipeline.fits.execution import Execution
from chi33.pipeline.fits.methods import FitOptions, fit_fields
from chi33.pipeline.fits.model.field_model import FieldModel, Observation
from chi33.pipeline.fits.model.grid import FitGrid, make_grid
from chi33.pipeline.fits.tissue.prior import FREQUENCY, TissueMetric, TissueOptions, TissuePrior
from chi33.pipeline.fits.tissue.shared_frequency import LEAST_CONTRAST
from chi33.pipeline.fits.tissue.slope import expected_slope
from chi33.pipeline.fits.tissue.white_matter import white_matter_probability
from chi33.pipeline.physics.prior import Prior
from chi33.pipeline.physics.tensor_field import delta_b_prime, tensor_field
from chi33.pipeline.physics.tensors import isotropic
from fit_checks import directions, relative
from numpy.typing import NDArray
from scipy.ndimage import binary_erosion, gaussian_filter

Array = NDArray[np.float32]
SHAPE, SIZE = (24, 26, 22), (2.0, 2.0, 2.0)
DIAGONAL = [0, 3, 5]


def box(shape: tuple[int, int, int] = (12, 14, 10)) -> tuple[FitGrid, NDArray[np.bool_]]:
    grid = make_grid(np.ones(shape, bool), (1.0, 1.2, 1.5), directions(4), 6.0)
    return grid, np.random.default_rng(0).random(grid.box_shape) < 0.9


def everything(grid: FitGrid) -> TissuePrior:
    """A prior with all its parts: two tissues, a correlation, fibres in one half."""
    fibre = np.zeros((3, *grid.box_shape), np.float32)
    fibre[:, :6] = np.array([0.6, 0, 0.8])[:, None, None, None]
    spread = np.random.default_rng(1).uniform(0.4, 1, grid.box_shape).astype(np.float32)
    return TissuePrior(spread, 2.0, fibre, across=0.3)


def traceless(rng: np.random.Generator, shape: tuple[int, ...]) -> Array:
    maps = rng.standard_normal((6, *shape)).astype(np.float32)
    maps[DIAGONAL] -= maps[DIAGONAL].mean(axis=0)
    return maps


def test_the_precision_is_symmetric_and_positive_and_blind_to_the_mean() -> None:
    grid, inside = box()
    metric = TissueMetric(everything(grid), grid, inside, np.ascontiguousarray)
    rng = np.random.default_rng(2)
    x, y = (rng.standard_normal((6, *grid.box_shape)).astype(np.float32) * inside for _ in range(2))
    one, other = np.vdot(x, metric.precision(y)), np.vdot(metric.precision(x), y)
    assert one == pytest.approx(other, rel=1e-4)
    assert np.vdot(x, metric.precision(x)) > 0
    mean = isotropic(inside.astype(np.float32))
    assert np.abs(metric.precision(mean)).max() < 1e-5 * np.abs(metric.precision(x)).max()


def test_independent_voxels_of_one_tissue_have_the_plain_prior() -> None:
    grid, inside = box()
    prior = TissuePrior(np.ones(grid.box_shape, np.float32))
    observations = [Observation(inside.astype(np.float32))] * 4
    with Execution(workers=1) as running:
        plain, other = (FieldModel(grid, observations, inside, running, tissue=tissue) for tissue in (None, prior))
        x = np.random.default_rng(3).standard_normal((6, *grid.box_shape)).astype(np.float32) * inside
        for what in ("penalise", "precondition"):
            assert relative(getattr(other, what)(x, 1e-3, Prior()), getattr(plain, what)(x, 1e-3, Prior())) < 1e-5


def test_a_part_costs_less_the_larger_its_standard_deviation() -> None:
    grid, inside = box()
    inside[:] = True
    fibre = np.zeros((3, *grid.box_shape), np.float32)
    fibre[2] = 1
    x = traceless(np.random.default_rng(4), grid.box_shape)
    along = np.zeros_like(x)
    along[0] = along[3] = -1 / np.sqrt(6)
    along[5] = 2 / np.sqrt(6)  # z z^T - I/3, of norm 1
    flat = np.full(grid.box_shape, 0.5, np.float32)

    def cost(prior: TissuePrior, maps: Array) -> float:
        return float(np.vdot(maps, TissueMetric(prior, grid, inside, np.ascontiguousarray).precision(maps)))

    plain = cost(TissuePrior(np.ones_like(flat)), x)
    assert cost(TissuePrior(flat), x) == pytest.approx(4 * plain, rel=1e-4)
    about = TissuePrior(np.ones_like(flat), fibre=fibre, across=0.25)
    assert cost(about, along) == pytest.approx(along[0].size, rel=1e-4)
    across = np.zeros_like(x)
    across[1] = 1 / np.sqrt(2)
    assert cost(about, across) == pytest.approx(16 * along[0].size, rel=1e-4)


def test_draws_have_the_spread_and_the_correlation_of_the_prior() -> None:
    grid = make_grid(np.ones((40, 40, 40), bool), (1.0, 1.0, 1.0), directions(4), 20.0)
    inside = np.ones(grid.box_shape, bool)
    spread = np.where(np.arange(40)[:, None, None] < 20, 1, 0.5) * np.ones(grid.box_shape)
    metric = TissueMetric(TissuePrior(spread.astype(np.float32), 3.0), grid, inside, np.ascontiguousarray)
    rng = np.random.default_rng(5)
    drawn = metric.sample(traceless(rng, grid.box_shape) + isotropic(rng.standard_normal(grid.box_shape)), grid, rng)
    off = drawn[1]
    assert off[:20].std() == pytest.approx(1, rel=0.15)
    assert off[20:].std() == pytest.approx(0.5, rel=0.15)
    apart = [float(np.mean(off[:20, :, n:] * off[:20, :, : 40 - n]) / off[:20].var()) for n in (3, 9)]
    assert apart[0] == pytest.approx(np.exp(-1), abs=0.15)  # exp(-r / correlation)
    assert abs(apart[1]) < 0.2


def brain_of(rng: np.random.Generator) -> tuple[NDArray[np.bool_], NDArray[np.bool_], Array]:
    """A small brain: support, white matter, mean susceptibility."""
    axes = np.meshgrid(*((np.arange(n) - (n - 1) / 2) / (0.47 * n) for n in SHAPE), indexing="ij")
    inside = sum(axis**2 for axis in axes) < 1
    pattern = gaussian_filter(rng.standard_normal(SHAPE), 2)
    white = inside & (pattern > np.quantile(pattern[inside], 0.6))
    chi = np.where(white, -0.03, 0.02) + 0.005 * rng.standard_normal(SHAPE)
    return inside, white, (chi * inside).astype(np.float32)


@pytest.mark.parametrize(("scale", "shift"), [(1.0, 0.0), (0.4, 0.3)])
def test_white_matter_is_the_most_diamagnetic_tissue_whatever_the_scale_and_the_reference(
    scale: float, shift: float
) -> None:
    inside, white, chi = brain_of(np.random.default_rng(6))
    found = white_matter_probability(scale * chi + shift, inside, np.array(SIZE))
    assert found is not None
    assert found[inside].min() > 0
    assert found.max() < 1
    assert found[white].mean() > 0.8
    assert found[inside & ~white].mean() < 0.2
    np.testing.assert_array_equal(found[~inside], 0)


def test_where_no_tissue_differs_none_is_made_up() -> None:
    inside, _, chi = brain_of(np.random.default_rng(7))
    assert white_matter_probability(0 * chi, inside, np.array(SIZE)) is None


@pytest.fixture(scope="module")
def scans() -> tuple[list[Array], list[Array], list[NDArray[np.float64]], Array, Array]:
    """Local fields of seven scans of a brain whose white matter alone is anisotropic; masks, directions, truth."""
    rng = np.random.default_rng(8)
    inside, white, chi = brain_of(rng)
    fibre = gaussian_filter(rng.standard_normal((3, *SHAPE)), (0, 4, 4, 4))
    fibre /= np.linalg.norm(fibre, axis=0)
    tensor = isotropic(chi).astype(np.float32)
    for number, (j, m) in enumerate(((0, 0), (0, 1), (0, 2), (1, 1), (1, 2), (2, 2))):
        tensor[number] += 0.012 * white * (fibre[j] * fibre[m] - (j == m) / 3)
    h = directions(7, 30)
    fields = [
        ((tensor_field(tensor, SIZE, one, padding=30) + 1e-3 * rng.standard_normal(SHAPE)) * inside).astype(np.float32)
        for one in h
    ]
    return fields, [inside.astype(np.float32)] * 7, h, tensor, (fibre * inside).astype(np.float32)


def delta_b_scores(tensor: Array, scans: tuple) -> tuple[float, float]:
    """Error and slope of delta B' of the tilted scans."""
    inside, errors, slopes = scans[1][0] > 0, [], []
    for h in scans[2][1:]:
        a, b = (delta_b_prime(one, SIZE, h, padding=30)[inside] for one in (tensor, scans[3]))
        errors.append(relative(a, b))
        slopes.append(float((a @ b) / (b @ b)))
    return float(np.mean(errors)), float(np.mean(slopes))


def test_knowing_tissue_brings_delta_b_prime_nearer_and_the_slope_is_the_expected_one(scans: tuple) -> None:
    fields, weights, h, _, fibre = scans
    options = FitOptions(method="masked", noise=1e-3)
    fits = [
        fit_fields(fields, weights, SIZE, h, replace(options, anatomy=anatomy))[0]
        for anatomy in (None, TissueOptions(), TissueOptions(fibre=fibre))
    ]
    plain, tissue, known = (delta_b_scores(fit.tensor, scans) for fit in fits)
    assert tissue[0] < 0.9 * plain[0]
    assert known[0] < tissue[0]
    assert tissue[1] > plain[1]
    record = fits[1].record
    assert record["ExpectedSlopeDeltaB"] == pytest.approx(tissue[1], abs=0.25)
    assert record["PriorAnisoElsewherePpm"] < record["PriorAnisoWhiteMatterPpm"] == Prior().aniso
    assert 0.2 < record["WhiteMatterShare"] < 0.6
    assert "first fit" in record["WhiteMatter"]


@pytest.mark.parametrize("method", ["masked", "single-step"])
def test_a_frequency_of_white_matter_is_told_from_susceptibility(scans: tuple, method: str) -> None:
    fields, weights, h, truth, _ = scans
    inside, aniso = weights[0] > 0, np.square(truth - isotropic(truth[DIAGONAL].mean(axis=0))).sum(axis=0)
    myelin = -0.006 * gaussian_filter((aniso > 0).astype(np.float32), 0.5) * inside
    shifted = [field + myelin for field in fields]
    options = FitOptions(method=method, noise=1e-3, radii=(8.0, 4.0) if method == "single-step" else None)
    found = [
        fit_fields(shifted, weights, SIZE, h, replace(options, anatomy=TissueOptions(frequency=frequency)))[0]
        for frequency in (0.0, 0.005)
    ]
    core = binary_erosion(inside, iterations=3)
    errors = [relative(fit.cosmos[core], truth[DIAGONAL].mean(axis=0)[core]) for fit in found]
    assert found[0].frequency is None
    assert errors[1] < 0.85 * errors[0]
    assert np.corrcoef(found[1].frequency[core], myelin[core])[0, 1] > 0.7
    assert found[1].record["PriorFrequencyPpm"] == 0.005


@pytest.mark.parametrize("method", ["masked", "single-step"])
def test_a_frequency_is_fitted_where_the_data_show_one_alone(scans: tuple, method: str) -> None:
    fields, weights, h, truth, _ = scans
    inside, aniso = weights[0] > 0, np.square(truth - isotropic(truth[DIAGONAL].mean(axis=0))).sum(axis=0)
    myelin = -0.006 * gaussian_filter((aniso > 0).astype(np.float32), 0.5) * inside
    options = FitOptions(
        method=method, noise=1e-3, anatomy=TissueOptions(frequency="auto"),
        radii=(8.0, 4.0) if method == "single-step" else None,
    )  # fmt: skip
    plain, shifted = (
        fit_fields([field + part for field in fields], weights, SIZE, h, options)[0] for part in (0 * myelin, myelin)
    )
    assert abs(plain.record["IsotropicFrequencyContrastPpm"]) < LEAST_CONTRAST / 2
    assert shifted.record["IsotropicFrequencyContrastPpm"] < -2 * LEAST_CONTRAST
    assert (plain.frequency, plain.record.get("PriorFrequencyPpm")) == (None, None)
    assert shifted.frequency is not None
    assert shifted.record["PriorFrequencyPpm"] == FREQUENCY
    none = replace(options, anatomy=TissueOptions())
    np.testing.assert_array_equal(plain.tensor, fit_fields(fields, weights, SIZE, h, none)[0].tensor)


def test_a_frequency_is_there_whatever_ends_the_fit_or_refused(scans: tuple) -> None:
    fields, weights, h, _, _ = scans
    anatomy = TissueOptions(frequency=0.005)
    short = fit_fields(fields, weights, SIZE, h, FitOptions(method="masked", iterations=2, anatomy=anatomy))[0]
    assert short.frequency is not None
    with pytest.raises(InputError, match=r"isotropic frequency \(0.005 ppm\) needs a prior of the traceless part, got"):
        FitOptions(method="masked", prior=Prior(aniso=np.inf), anatomy=anatomy)


def test_white_matter_that_is_given_is_used_and_none_is_the_same_prior_everywhere(scans: tuple) -> None:
    fields, weights, h, _, _ = scans
    options = FitOptions(method="masked", noise=1e-3, iterations=8)
    found = {}
    for name, given in (("map", np.full(SHAPE, 0.5, np.float32)), ("none", "none")):
        anatomy = TissueOptions(white_matter=given, correlation=0.0)
        found[name] = fit_fields(fields, weights, SIZE, h, replace(options, anatomy=anatomy))[0]
    plain = fit_fields(fields, weights, SIZE, h, options)[0]
    assert relative(found["none"].tensor, plain.tensor) < 0.03  # voxels count by what a first solution leaves of them
    assert relative(found["map"].tensor, found["none"].tensor) > 0.02
    assert found["map"].record["WhiteMatter"] == "given"
    assert found["none"].record["WhiteMatter"] == "none"
    assert "PriorAnisoElsewherePpm" not in found["none"].record


def test_the_expected_slope_falls_with_noise_and_rises_with_the_prior() -> None:
    grid, inside = box()
    slopes = [expected_slope(grid, Prior(0.03, aniso), noise, inside) for aniso, noise in
              ((0.004, 1e-4), (0.004, 1e-3), (0.004, 4e-3), (0.016, 4e-3))]  # fmt: skip
    assert 1 > slopes[0] > slopes[1] > slopes[2] > 0
    assert slopes[3] > slopes[2]
    together = TissuePrior(np.ones(grid.box_shape, np.float32), 3.0)
    assert expected_slope(grid, Prior(), 1e-3, inside, together) > slopes[1]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"white_matter": "some"}, "white_matter must be 'auto', 'none' or a map, got 'some'"),
        ({"correlation": -1.0}, "the correlation of the prior must be 0 mm or more, got -1"),
        ({"elsewhere": 0.0}, "elsewhere must lie above 0 and be 1 at most, got 0"),
        ({"frequency": -0.001}, "frequency's prior must be 'auto', or 0 ppm .none. or more, got -0.001"),
        ({"frequency": "none"}, "frequency's prior must be 'auto', or 0 ppm .none. or more, got 'none'"),
        ({"across": 1.5}, "across must lie above 0 and be 1 at most, got 1.5"),
    ],
)
def test_what_cannot_be_is_refused(options: dict, message: str) -> None:
    with pytest.raises(InputError, match=message):
        TissueOptions(**options)


def test_filters_that_hide_what_is_smooth_lower_the_expected_slope() -> None:
    grid, inside = box()
    seen = np.full(grid.half, 0.1)
    assert expected_slope(grid, Prior(), 1e-3, inside, None, seen) < expected_slope(grid, Prior(), 1e-3, inside)
