"""How sure a fit says it is, against errors that are known: coverage, seeds, the jackknife, refusals."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pytest
from chi33.files.errors import InputError
from chi33.pipeline.fits.execution import Execution
from chi33.pipeline.fits.masked import masked_problem
from chi33.pipeline.fits.methods import METHODS, FitOptions, fit_fields
from chi33.pipeline.fits.result import Fit
from chi33.pipeline.fits.uncertainty import LEFT_OUT, Uncertainty, check_counts, label_uncertainty, prior_sample
from chi33.pipeline.physics.prior import Prior
from chi33.pipeline.physics.tensor_field import delta_b_prime, tensor_field
from chi33.pipeline.physics.tensors import chi33, from_matrix, isotropic, mms, to_matrix
from fit_checks import directions
from numpy.typing import NDArray

SHAPE, SIZE = (20, 22, 20), (2.0, 2.0, 2.0)
NOISE = 3e-3  # ppm
Array = NDArray[np.float32]


def sampled_tensor(prior: Prior, seed: int) -> Array:
    """A tensor (6, x, y, z) whose isotropic and traceless (Frobenius) parts have the prior's standard deviations."""
    rng = np.random.default_rng(seed)
    values = rng.standard_normal((*SHAPE, 3, 3))
    matrix = (values + np.swapaxes(values, -1, -2)) / 2  # off-diagonal elements count twice in the Frobenius norm
    matrix -= np.trace(matrix, axis1=-2, axis2=-1)[..., None, None] / 3 * np.eye(3)
    whole = prior.aniso * matrix + prior.iso * rng.standard_normal(SHAPE)[..., None, None] * np.eye(3)
    return np.asarray(from_matrix(whole), np.float32)


@dataclass(frozen=True)
class Scans:
    """A tensor drawn from the default prior in an ellipsoid, and its noisy fields at several orientations."""

    tensor: Array
    brain: NDArray[np.bool_]
    fields: list[Array]
    weights: list[Array]
    directions: list[NDArray[np.float64]]

    def fit(self, method: str = "closed", **options: Any) -> tuple[Fit, Uncertainty]:
        """The fit and its uncertainty, noise known."""
        given: Any = {"noise": NOISE, **options}
        found, uncertainty = fit_fields(
            self.fields, self.weights, SIZE, self.directions, FitOptions(method=method, **given)
        )
        assert uncertainty is not None
        return found, uncertainty


def make_scans(h: Sequence[NDArray], *, weight: Array | None = None, seed: int = 1) -> Scans:
    """Scans whose noise is NOISE / weight (1 everywhere by default) in the brain."""
    axes = np.meshgrid(*((np.arange(n) - (n - 1) / 2) / (0.45 * n) for n in SHAPE), indexing="ij")
    brain = sum(axis**2 for axis in axes) < 1
    tensor = sampled_tensor(Prior(), seed) * brain
    used = brain.astype(np.float32) * (np.float32(1) if weight is None else weight)
    rng = np.random.default_rng(seed + 100)
    fields = []
    for one in h:
        noise = NOISE * rng.standard_normal(SHAPE) / np.where(brain, used, 1)
        fields.append(np.asarray((tensor_field(tensor, SIZE, one, padding=32) + noise) * brain, np.float32))
    return Scans(tensor, brain, fields, [used] * len(fields), list(h))


@pytest.fixture(scope="module")
def six() -> Scans:
    return make_scans(directions(6))


def covered(scans: Scans, fit: Fit, found: Uncertainty, where: NDArray[np.bool_]) -> dict[str, float]:
    """The share of voxels whose error is less than one standard deviation, by label (mean over the scans)."""
    error = (fit.tensor - scans.tensor) * scans.brain
    shares: dict[str, list[float]] = {"chi33": [], "delta_b": [], "cosmos": []}
    for h, of_chi33, of_delta_b in zip(scans.directions, found.chi33, found.delta_b, strict=True):
        shares["chi33"].append((np.abs(chi33(error, h)) < of_chi33)[where].mean())
        across = delta_b_prime(error, SIZE, h, padding=32)
        shares["delta_b"].append((np.abs(across) < of_delta_b)[where].mean())
    shares["cosmos"].append((np.abs(fit.cosmos - mms(scans.tensor)) < found.cosmos)[where].mean())
    return {name: float(np.mean(values)) for name, values in shares.items()}


# Draws


@pytest.mark.parametrize(("method", "options"), [
    ("closed", {"draws": 4}),
    ("masked", {"draws": 3, "iterations": 10}),
    ("single-step", {"draws": 3, "iterations": 8, "radii": (5.0,)}),
])  # fmt: skip
def test_two_thirds_of_the_voxels_lie_within_one_standard_deviation(
    six: Scans, method: str, options: dict[str, Any]
) -> None:
    fit, found = six.fit(method, **options)
    for label, share in covered(six, fit, found, six.brain).items():
        assert 0.6 < share < 0.8, label


def test_where_a_scan_is_noisier_the_draws_are_too() -> None:
    low = np.indices(SHAPE)[0] < SHAPE[0] // 2
    scans = make_scans(directions(5), weight=np.where(low, np.float32(0.15), np.float32(1)))
    fit, found = scans.fit("masked", draws=3, iterations=10)
    for where in (low, ~low):
        for label, share in covered(scans, fit, found, scans.brain & where).items():
            assert 0.63 < share < 0.78, label


def test_what_the_fields_do_not_tell_is_as_unsure_as_the_prior(six: Scans) -> None:
    """In noise without end the fit is 0 and its error the truth itself: var chi33 = iso^2 + 2/3 aniso^2."""
    prior = Prior(0.02, 0.03)
    _, found = six.fit(noise=1e3, draws=4, prior=prior)
    for one in found.chi33:
        mean = float(np.sqrt((one[six.brain] ** 2).mean()))
        assert mean == pytest.approx(np.sqrt(prior.iso**2 + 2 / 3 * prior.aniso**2), rel=0.05)
    assert float(np.sqrt((found.cosmos[six.brain] ** 2).mean())) == pytest.approx(prior.iso, rel=0.05)


def test_the_draws_are_of_the_prior() -> None:
    prior, inside = Prior(0.05, 0.02), np.ones((30, 30, 30), bool)
    inside[:10] = False
    sample = prior_sample(prior, inside, np.random.default_rng(0))
    np.testing.assert_array_equal(sample[:, ~inside], 0)
    flat = sample[:, inside].astype(np.float64)
    iso = mms(flat)
    traceless = to_matrix(flat - isotropic(iso))
    assert float(iso.std()) == pytest.approx(prior.iso, rel=0.03)
    assert float((traceless**2).sum(axis=(-2, -1)).mean()) == pytest.approx(5 * prior.aniso**2, rel=0.03)
    np.testing.assert_allclose(flat @ flat.T / flat.shape[1] @ prior.precision(), np.eye(6), atol=0.15)
    free = prior_sample(Prior(np.inf, np.inf), inside, np.random.default_rng(0))
    np.testing.assert_array_equal(free, prior_sample(Prior(), inside, np.random.default_rng(0)))


@pytest.mark.parametrize(("method", "options"), [("closed", {}), ("masked", {"iterations": 2})])
def test_a_seed_gives_the_same_numbers_and_another_seed_others(
    six: Scans, method: str, options: dict[str, Any]
) -> None:
    (fit, one), (_, same) = (six.fit(method, draws=2, seed=5, **options) for _ in range(2))
    other_fit, other = six.fit(method, draws=2, seed=6, **options)
    np.testing.assert_array_equal(fit.tensor, other_fit.tensor)
    for mine, again, different in (
        (one.cosmos, same.cosmos, other.cosmos),
        (one.chi33[3], same.chi33[3], other.chi33[3]),
        (one.delta_b[3], same.delta_b[3], other.delta_b[3]),
    ):
        np.testing.assert_array_equal(mine, again)
        assert np.abs(mine - different)[six.brain].max() > 0.01 * mine[six.brain].mean()
    assert (one.draws, one.groups, one.seed, other.seed) == (2, 0, 5, 6)


def test_noisier_fields_are_less_sure(six: Scans) -> None:
    sure, unsure = (six.fit(noise=noise, draws=2)[1] for noise in (NOISE, 4 * NOISE))
    for one, other in zip([*sure.chi33, sure.cosmos], [*unsure.chi33, unsure.cosmos], strict=True):
        assert other[six.brain].mean() > 1.1 * one[six.brain].mean()


@pytest.mark.parametrize("options", [{"draws": 2}, {"jackknife": 3}])
def test_the_maps_lie_on_the_grid_of_the_fields_and_are_positive_in_the_brain_alone(
    six: Scans, options: dict[str, Any]
) -> None:
    around = ((2, 0), (0, 3), (1, 1))
    padded = replace(
        six,
        fields=[np.pad(one, around) for one in six.fields],
        weights=[np.pad(one, around) for one in six.weights],
        brain=np.pad(six.brain, around),
    )
    _, found = padded.fit(**options)
    _, alone = six.fit(**options)
    box = tuple(slice(before, before + n) for (before, _), n in zip(around, SHAPE, strict=True))
    for volume, same in zip(
        [*found.chi33, *found.delta_b, found.cosmos], [*alone.chi33, *alone.delta_b, alone.cosmos], strict=True
    ):
        assert volume.shape == padded.brain.shape
        assert volume.dtype == np.float32
        assert (volume[padded.brain] > 0).all()
        np.testing.assert_array_equal(volume[~padded.brain], 0)
        np.testing.assert_allclose(volume[box], same, atol=1e-7)


# Jackknife


def test_the_jackknife_of_a_mean_is_its_standard_error() -> None:
    """A solver that averages the scans: the jackknife over single scans is the standard error, and of its labels."""
    h, values = directions(5), np.array([1.0, 4.0, 2.0, 7.0, 3.0], np.float32)
    shape = (9, 8, 7)
    problem = masked_problem([np.ones(shape)] * 5, [np.ones(shape)] * 5, SIZE, h)
    fields = [np.full(shape, value, np.float32) for value in values]

    def average(given: list[Array], scans: list[int]) -> tuple[Array, Array]:
        mean = np.mean([given[scan] for scan in scans], axis=0)
        return np.asarray(isotropic(2 * mean), np.float32), mean

    with Execution(workers=1) as running:
        found = label_uncertainty(
            problem.compiled_model(running), fields, average(fields, list(range(5))), average, prior=Prior(),
            noise=NOISE, execution=running, draws=0, groups=9,
        )  # fmt: skip
    error = values.std(ddof=1) / np.sqrt(5)
    assert found.groups == 5
    np.testing.assert_allclose(found.cosmos, error, rtol=1e-3)
    for one in found.chi33:
        np.testing.assert_allclose(one, 2 * error, rtol=1e-3)
    for one in found.delta_b:  # nothing lies across B0
        np.testing.assert_allclose(one, 0, atol=1e-3)


@pytest.mark.parametrize(("method", "options"), [("closed", {}), ("masked", {"iterations": 4})])
def test_the_jackknife_sees_a_scan_that_does_not_agree(six: Scans, method: str, options: dict[str, Any]) -> None:
    wrong = 5 * NOISE * np.random.default_rng(9).standard_normal(SHAPE)
    fields = [*six.fields[:2], np.asarray(six.fields[2] + wrong * six.brain, np.float32), *six.fields[3:]]
    _, clean = six.fit(method, jackknife=3, **options)
    _, spoilt = replace(six, fields=fields).fit(method, jackknife=3, **options)
    assert clean.groups == spoilt.groups == 3
    pairs = [(clean.cosmos, spoilt.cosmos), *zip(clean.chi33, spoilt.chi33, strict=True)]
    for one, other in (*pairs, *zip(clean.delta_b, spoilt.delta_b, strict=True)):
        assert other[six.brain].mean() > 1.5 * one[six.brain].mean()


def test_the_larger_of_draws_and_jackknife_counts(six: Scans) -> None:
    fields = [*six.fields[:5], np.zeros_like(six.fields[5])]
    scans = replace(six, fields=fields)
    (_, draws), (_, jackknife), (_, both) = (
        scans.fit(**options) for options in ({"draws": 2}, {"jackknife": 3}, {"draws": 2, "jackknife": 3})
    )
    assert (both.draws, both.groups) == (2, 3)
    for one, other, larger in zip(draws.chi33, jackknife.chi33, both.chi33, strict=True):
        assert (larger >= np.maximum(one, other) - 1e-7).all()
        assert (larger <= np.hypot(one, other) + 1e-7).all()


@pytest.mark.parametrize(("groups", "scans", "used"), [
    (0, 12, 0), (4, 12, 4), (12, 12, 12), (20, 12, 12),  # never more groups than scans
    (2, 4, 2), (4, 3, 3), (3, 3, 3),
    (4, 2, 0), (2, 3, 0), (1, 12, 0),  # at least two scans must be left each time, and two groups be compared
])  # fmt: skip
def test_how_many_groups_so_many_scans_give(groups: int, scans: int, used: int) -> None:
    assert check_counts(0, groups, scans) == used


@pytest.mark.parametrize(("draws", "groups"), [(-1, 0), (0, -2)])
def test_negative_counts_are_refused(draws: int, groups: int) -> None:
    message = f"draws and jackknife groups must not be negative, got {draws} and {groups}"
    with pytest.raises(InputError, match=message):
        check_counts(draws, groups, 6)
    with pytest.raises(InputError, match=message):
        FitOptions(draws=draws, jackknife=groups)


def test_one_draw_is_refused() -> None:
    with pytest.raises(InputError, match="one draw gives no standard deviation: ask for at least 2, or 0 for none"):
        FitOptions(draws=1)


def test_three_scans_are_left_out_one_at_a_time() -> None:
    scans = make_scans(directions(3))
    _, found = scans.fit(jackknife=4)
    assert found.groups == 3
    assert (found.cosmos[scans.brain] > 0).all()


def test_two_scans_have_no_jackknife_but_draws() -> None:
    scans = make_scans(directions(2))
    _, found = scans.fit(draws=2, jackknife=4)
    _, draws = scans.fit(draws=2)
    assert (found.draws, found.groups) == (2, 0)
    for one, other in zip([*found.chi33, found.cosmos], [*draws.chi33, draws.cosmos], strict=True):
        np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize(("scans", "groups"), [(2, 4), (3, 2), (6, 1)])
def test_a_jackknife_that_cannot_be_made_is_refused(scans: int, groups: int) -> None:
    with pytest.raises(InputError, match="jackknife"):
        make_scans(directions(scans)).fit(jackknife=groups)


@pytest.mark.parametrize(("method", "h", "prior"), [
    pytest.param("closed", [(0, 0, 1), (0, 0.6, 0.8), (0, 0.599, 0.80075)], Prior(), id="two alike, closed"),
    pytest.param("closed", directions(6), Prior(aniso=np.inf), id="six without prior, closed"),
    pytest.param("masked", directions(6), Prior(aniso=np.inf), id="six without prior, masked"),
])  # fmt: skip
def test_a_group_without_which_no_fit_is_determined_is_refused(method: str, h: list[Any], prior: Prior) -> None:
    scans = make_scans([np.array(one) / np.linalg.norm(one) for one in h])
    with pytest.raises(InputError, match=r"the jackknife cannot leave out scan \d of \d, .*ask for other"):
        scans.fit(method, jackknife=6, prior=prior, iterations=4)


def test_every_method_says_what_it_leaves_out() -> None:
    assert set(LEFT_OUT) == set(METHODS)


def test_draws_and_groups_are_said(six: Scans) -> None:
    lines: list[str] = []
    options = FitOptions("closed", noise=NOISE, draws=2, jackknife=2)
    fit_fields(six.fields, six.weights, SIZE, six.directions, options, progress=lines.append)
    assert lines == ["draw 1 of 2", "draw 2 of 2", "jackknife group 1 of 2", "jackknife group 2 of 2"]
