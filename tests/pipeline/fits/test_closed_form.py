from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from chi33.files.errors import InputError
from chi33.pipeline.fits.closed_form import Fit, Prior, fit_susceptibility
from chi33.pipeline.fits.model import grid
from chi33.pipeline.physics.tensor_field import TensorFieldOperator
from chi33.pipeline.physics.tensors import eigenvalues, isotropic, mms, msa, principal_eigenvector, to_matrix
from fit_checks import directions, relative
from numpy.typing import NDArray

SHAPE, SIZE = (18, 20, 15), (1.0, 1.2, 1.5)
Tensors = Callable[..., NDArray[np.float32]]


def tilts(angle: float, azimuths: NDArray) -> list[NDArray[np.float64]]:
    """Directions at one angle (degrees) to z."""
    sine, cosine = np.sin(np.radians(angle)), np.cos(np.radians(angle))
    return [np.array([sine * np.cos(a), sine * np.sin(a), cosine]) for a in azimuths]


RING = tilts(30, np.arange(7))
ONE_AXIS = [np.array([np.sin(a), 0, np.cos(a)]) for a in np.radians(np.arange(-40, 41, 10))]


def circular_fields(tensor: NDArray, h: list[NDArray], noise: float = 0.0, seed: int = 0) -> list[NDArray[np.float32]]:
    rng = np.random.default_rng(seed)
    shape = tensor.shape[1:]
    return [
        TensorFieldOperator(shape, SIZE, one).forward(tensor) + noise * rng.standard_normal(shape).astype(np.float32)
        for one in h
    ]


def brain_map(random_tensor: Tensors, seed: int = 0) -> NDArray[np.float32]:
    """A susceptibility map without mean, of about 0.05 ppm."""
    chi = random_tensor(seed, SHAPE, 1.2)[0]
    chi -= chi.mean()
    return 0.05 * chi / chi.std()


def test_cosmos_recovers_an_isotropic_noiseless_map_within_one_percent(random_tensor: Tensors) -> None:
    chi, h = brain_map(random_tensor), directions(5)
    fit = fit_susceptibility(circular_fields(isotropic(chi), h), SIZE, h, noise=1e-5, padding=0)
    assert relative(fit.cosmos, chi) < 0.01
    assert relative(fit.mms, chi) < 0.05
    assert fit.cosmos.dtype == fit.tensor.dtype == np.float32


def test_sti_recovers_a_tensor_from_many_directions_and_hardly_any_noise(random_tensor: Tensors) -> None:
    tensor = 0.01 * random_tensor(1, SHAPE, 1.0)
    tensor -= tensor.mean(axis=(1, 2, 3), keepdims=True)
    h = directions(14, 80.0)
    fields = circular_fields(tensor, h)
    fit = fit_susceptibility(fields, SIZE, h, noise=1e-8, padding=0, prior=Prior(iso=1, aniso=1))
    for one, field in zip(directions(5, 70.0), circular_fields(tensor, directions(5, 70.0)), strict=True):
        assert relative(TensorFieldOperator(SHAPE, SIZE, one).forward(fit.tensor), field) < 2e-3
    assert relative(fit.tensor, tensor) < 0.02


def test_cosmos_is_the_limit_of_the_tensor_without_anisotropy(random_tensor: Tensors) -> None:
    h = directions(6, 30.0)
    fields = circular_fields(0.02 * random_tensor(2, SHAPE, 1.0), h, noise=1e-3)
    fit = fit_susceptibility(fields, SIZE, h, noise=1e-3, padding=0, prior=Prior(aniso=1e-6))
    assert relative(fit.mms, fit.cosmos) < 1e-3
    assert np.abs(fit.msa).max() < 1e-3 * np.abs(fit.cosmos).max()
    free = fit_susceptibility(fields, SIZE, h, noise=1e-3, padding=0)
    assert relative(free.mms, free.cosmos) > 1e-2


def test_both_fits_minimise_what_the_module_says(random_tensor: Tensors) -> None:
    # No small change of the result may lower the penalised misfit.
    h, prior, noise = directions(7, 35.0), Prior(iso=0.05, aniso=0.01), 2e-3
    fields = circular_fields(0.02 * random_tensor(3, SHAPE, 1.0), h, noise=noise)
    fit = fit_susceptibility(fields, SIZE, h, noise=noise, padding=0, prior=prior)
    models = [TensorFieldOperator(SHAPE, SIZE, one) for one in h]

    def cost(tensor: NDArray, aniso: float) -> float:
        misfit = sum(
            float(((m.forward(tensor) - f + f.mean()) ** 2).sum()) for m, f in zip(models, fields, strict=True)
        )
        iso = mms(tensor)
        matrix = to_matrix(tensor) - iso[..., None, None] * np.eye(3)
        return misfit / noise**2 + float((iso**2).sum()) / prior.iso**2 + float((matrix**2).sum()) / aniso**2

    rng = np.random.default_rng(5)
    for _ in range(4):
        change = 3e-3 * rng.standard_normal((6, *SHAPE))
        change -= change.mean(axis=(1, 2, 3), keepdims=True)
        assert cost(fit.tensor + change, prior.aniso) > cost(fit.tensor, prior.aniso)
        assert cost(isotropic(fit.cosmos + change[0]), 1.0) > cost(isotropic(fit.cosmos), 1.0)


def test_the_prior_is_the_split_penalty_of_isotropic_and_traceless_parts(random_tensor: Tensors) -> None:
    prior = Prior(iso=0.07, aniso=0.013)
    for chi in random_tensor(6, (5, 4, 3)).reshape(6, -1).T.astype(np.float64):
        matrix = to_matrix(chi)
        iso = np.trace(matrix) / 3
        expected = iso**2 / 0.07**2 + ((matrix - iso * np.eye(3)) ** 2).sum() / 0.013**2
        assert chi @ prior.precision() @ chi == pytest.approx(expected, rel=1e-9)
    np.testing.assert_array_equal(prior.precision(), prior.precision().T)
    assert np.linalg.eigvalsh(prior.precision()).min() > 0


@pytest.mark.parametrize("noise", [3e-4, 3e-3])
@pytest.mark.parametrize("padding", [0.0, 10.0])
def test_the_noise_is_estimated_from_the_fields(random_tensor: Tensors, noise: float, padding: float) -> None:
    h = directions(10, 35.0)
    truth = isotropic(brain_map(random_tensor)) + 0.002 * random_tensor(7, SHAPE, 1.0)
    estimate = fit_susceptibility(circular_fields(truth, h, noise), SIZE, h, padding=0).noise
    assert estimate == pytest.approx(noise, rel=0.3)
    only_noise = [noise * np.random.default_rng(i).standard_normal(SHAPE) for i in range(10)]
    assert fit_susceptibility(only_noise, SIZE, h, padding=padding).noise == pytest.approx(noise, rel=0.3)


def test_the_noise_inside_a_mask_is_that_of_its_voxels() -> None:
    mask = np.indices(SHAPE).sum(axis=0) % 2 == 0
    fields = [0.002 * np.random.default_rng(i).standard_normal(SHAPE) * mask for i in range(10)]
    assert fit_susceptibility(fields, SIZE, directions(10)).noise == pytest.approx(0.002, rel=0.3)


def test_the_result_does_not_depend_on_the_slabs(random_tensor: Tensors, monkeypatch: pytest.MonkeyPatch) -> None:
    h = directions(6)
    fields = circular_fields(0.02 * random_tensor(8, SHAPE, 1.0), h, 1e-3)
    whole = fit_susceptibility(fields, SIZE, h)
    for points in (1, 1000, 5000):
        monkeypatch.setattr(grid, "_SLAB_POINTS", points)
        parts = fit_susceptibility(fields, SIZE, h)
        np.testing.assert_array_equal(parts.tensor, whole.tensor)
        np.testing.assert_array_equal(parts.cosmos, whole.cosmos)
        assert parts.noise == whole.noise


def test_a_common_constant_in_a_field_changes_nothing(random_tensor: Tensors) -> None:
    h = directions(6)
    fields = circular_fields(0.02 * random_tensor(9, SHAPE, 1.0), h, 1e-3)
    one = fit_susceptibility(fields, SIZE, h, noise=1e-3, padding=0)
    shifted = fit_susceptibility([f + 0.3 for f in fields], SIZE, h, noise=1e-3, padding=0)
    np.testing.assert_allclose(shifted.tensor, one.tensor, atol=1e-6)
    np.testing.assert_allclose(one.tensor.mean(axis=(1, 2, 3)), 0, atol=1e-8)


def test_a_ring_of_tilts_is_solved_by_the_prior_and_the_report_says_so(random_tensor: Tensors) -> None:
    chi = brain_map(random_tensor)
    fit = fit_susceptibility(circular_fields(isotropic(chi), RING, 1e-4), SIZE, RING, padding=0)
    assert any("the prior supplies the rest" in message for message in fit.orientations.messages)
    assert np.isfinite(fit.tensor).all()
    assert np.abs(fit.msa).max() < np.abs(chi).max()


@pytest.mark.parametrize(("h", "message"), [
    (RING, "These 7 directions leave the tensor singular .*, or fit with a prior on the tensor's anisotropy"),
    (ONE_AXIS, "These 9 directions leave the tensor singular .*, or fit with a prior on the tensor's anisotropy"),
    (directions(5), "5 scans cannot determine the six tensor components alone"),
])  # fmt: skip
def test_without_a_prior_on_anisotropy_singular_sets_are_refused_and_with_it_solved(
    random_tensor: Tensors, h: list[NDArray], message: str
) -> None:
    fields = circular_fields(isotropic(brain_map(random_tensor)), h, 1e-4)
    with pytest.raises(InputError, match=message):
        fit_susceptibility(fields, SIZE, h, prior=Prior(aniso=np.inf), noise=1e-4)
    fit = fit_susceptibility(fields, SIZE, h, noise=1e-4, padding=0)
    assert any("the prior supplies the rest" in one for one in fit.orientations.messages)
    assert relative(fit.mms, brain_map(random_tensor)) < 0.2


def test_an_infinite_prior_is_no_prior(random_tensor: Tensors) -> None:
    h = directions(8, 60.0)
    fields = circular_fields(0.02 * random_tensor(2, SHAPE, 1.0), h, noise=1e-3)
    free = fit_susceptibility(fields, SIZE, h, noise=1e-3, padding=0, prior=Prior(iso=np.inf, aniso=np.inf))
    weak = fit_susceptibility(fields, SIZE, h, noise=1e-3, padding=0, prior=Prior(iso=1e3, aniso=1e3))
    held = fit_susceptibility(fields, SIZE, h, noise=1e-3, padding=0)
    assert relative(free.tensor, weak.tensor) < 1e-4
    assert relative(free.cosmos, weak.cosmos) < 1e-4
    assert relative(held.tensor, free.tensor) > 0.1
    np.testing.assert_array_equal(Prior(np.inf, np.inf).precision(), 0)
    assert not Prior(aniso=np.inf).determines_tensor
    assert Prior(iso=np.inf).determines_tensor


def test_an_infinite_prior_is_refused_where_no_scan_sees_anything() -> None:
    # At k along (1, 1, 1) the kernels of B0 along z and along x vanish exactly.
    h = [np.array([0.0, 0, 1]), np.array([1.0, 0, 0])]
    fields = [1e-3 * np.random.default_rng(i).standard_normal((12, 12, 12)) for i in range(2)]
    with pytest.raises(InputError, match="only a finite prior"):
        fit_susceptibility(fields, (1, 1, 1), h, prior=Prior(iso=np.inf), noise=1e-3, padding=0)


def test_where_the_head_lies_in_the_grid_changes_nothing(random_tensor: Tensors) -> None:
    h = directions(6)
    fields = circular_fields(0.02 * random_tensor(8, SHAPE, 1.0), h, 1e-3)
    alone = fit_susceptibility(fields, SIZE, h, noise=1e-3)
    around = ((3, 5), (0, 7), (4, 0))
    fit = fit_susceptibility([np.pad(one, around) for one in fields], SIZE, h, noise=1e-3)
    box = tuple(slice(before, before + n) for (before, _), n in zip(around, SHAPE, strict=True))
    np.testing.assert_array_equal(fit.tensor[(slice(None), *box)], alone.tensor)
    np.testing.assert_array_equal(fit.cosmos[box], alone.cosmos)
    assert fit.tensor.shape == (6, 26, 27, 19)
    for volume in (*fit.tensor, fit.cosmos):
        assert np.count_nonzero(volume) <= np.prod(SHAPE)


def test_the_fit_says_how_it_was_made(random_tensor: Tensors) -> None:
    h = directions(6)
    fields = circular_fields(0.02 * random_tensor(8, SHAPE, 1.0), h, 1e-3)
    fit = fit_susceptibility(fields, SIZE, h, noise=2e-3, padding=7, prior=Prior(0.05, 0.01))
    assert (fit.method, fit.noise, fit.prior, fit.record) == ("closed", 2e-3, Prior(0.05, 0.01), {"PaddingMm": 7})
    assert fit.orientations.n == 6


def test_invariants_are_those_of_the_tensor_and_computed_once(random_tensor: Tensors) -> None:
    h = directions(6)
    fit = fit_susceptibility(circular_fields(0.02 * random_tensor(9, SHAPE, 1.0), h, 1e-3), SIZE, h)
    assert isinstance(fit, Fit)
    for name, compute in (("eigenvalues", eigenvalues), ("mms", mms), ("msa", msa)):
        np.testing.assert_array_equal(getattr(fit, name), compute(fit.tensor))
        assert getattr(fit, name) is getattr(fit, name)
    np.testing.assert_array_equal(fit.principal_eigenvector, principal_eigenvector(fit.tensor))
    assert fit.prior == Prior(0.03, 0.004)


def test_zero_fields_give_zero_maps() -> None:
    fit = fit_susceptibility([np.zeros(SHAPE)] * 3, SIZE, directions(3))
    np.testing.assert_array_equal(fit.tensor, 0)
    np.testing.assert_array_equal(fit.cosmos, 0)


FIELDS = [np.zeros(SHAPE, np.float32) for _ in range(3)]
BROKEN = np.full(SHAPE, np.nan, np.float32)


@pytest.mark.parametrize(("call", "message"), [
    (lambda: fit_susceptibility(FIELDS[:2], SIZE, directions(3)), "2 fields but 3 B0 directions were given"),
    (lambda: fit_susceptibility([*FIELDS[:2], BROKEN], SIZE, directions(3)), r"fields\[2\] holds NaN or infinity"),
    (lambda: fit_susceptibility([*FIELDS[:2], BROKEN[:9]], SIZE, directions(3)), r"fields\[2\] has shape \(9, 20"),
    (lambda: fit_susceptibility(FIELDS[:1], SIZE, directions(3)[:1]), "only one orientation was given"),
    (lambda: fit_susceptibility(FIELDS, SIZE, directions(3, 2.0)), "All B0 directions lie within"),
    (lambda: fit_susceptibility(FIELDS, SIZE, [(0, 0, 1), (0, 1, 1), (1, 0, 0)]), r"b0_directions\[1\] must be a unit"),
    (lambda: fit_susceptibility(FIELDS, SIZE, directions(3), noise=0.0), "noise must be a positive .* got 0.0"),
    (lambda: fit_susceptibility(FIELDS, SIZE, directions(3), noise=np.nan), "noise must be a positive"),
    (lambda: fit_susceptibility(FIELDS, (1, 1), directions(3)), "voxel_size must be three positive"),
    (lambda: fit_susceptibility(FIELDS, SIZE, directions(3), padding=-1), "padding must be at least 0 mm, got -1"),
    (lambda: Prior(iso=0), r"prior.iso must be a positive .* \(inf: no prior\), got 0"),
    (lambda: Prior(aniso=-1.0), "prior.aniso must be a positive .* got -1"),
    (lambda: Prior(aniso=float("nan")), "prior.aniso must be a positive"),
])  # fmt: skip
def test_fields_that_cannot_be_fitted_are_refused(call: Callable[[], object], message: str) -> None:
    with pytest.raises(InputError, match=message):
        call()
