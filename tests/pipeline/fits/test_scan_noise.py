"""The noise of each scan: found in its residuals, carried by the weights, by all fits; scans that stand out."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
from chi33.files.errors import InputError
from chi33.pipeline.fits.closed_form import fit_susceptibility
from chi33.pipeline.fits.methods import FitOptions, fit_fields
from chi33.pipeline.fits.noise import (
    given_noise,
    noise_shares,
    outstanding_scans,
    reduced_chi_square,
    residual_size,
    scan_levels,
    scan_noises,
    typical_noise,
)
from chi33.pipeline.fits.result import Fit
from chi33.pipeline.physics.prior import Prior
from chi33.pipeline.physics.tensor_field import tensor_field
from chi33.pipeline.physics.tensors import chi33, isotropic
from fit_checks import directions, relative
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter

SIZE, BAD = (2.0, 2.0, 2.0), 3
H = directions(6, 35.0)
Array = NDArray[np.float32]


@dataclass(frozen=True)
class Scene:
    """A ball of smooth susceptibility, its tensor (6, x, y, z), fields without noise and mask."""

    tensor: Array
    fields: list[Array]
    inside: NDArray[np.bool_]

    def noisy(self, noises: list[float], seed: int = 0) -> list[Array]:
        """The fields with noise of their own, in ppm."""
        rng = np.random.default_rng(seed)
        return [
            (field + noise * rng.standard_normal(field.shape)).astype(np.float32) * self.inside
            for field, noise in zip(self.fields, noises, strict=True)
        ]

    def fit(self, fields: list[Array], method: str, **options: Any) -> Fit:
        weights = [self.inside.astype(np.float32)] * len(fields)
        device = options.pop("device", "cpu")
        used = FitOptions(method=method, radii=(6.0, 4.0), **options)
        return fit_fields(fields, weights, SIZE, H, used, device=device)[0]

    def error(self, fit: Fit) -> float:
        """Of chi33, mean over scans, two voxels inside the mask."""
        deep = gaussian_filter(self.inside.astype(float), 2) > 0.9
        return float(np.mean([relative(chi33(fit.tensor, h)[deep], chi33(self.tensor, h)[deep]) for h in H]))


@pytest.fixture(scope="module")
def scene() -> Scene:
    shape = (34, 36, 32)
    grid = np.indices(shape) - (np.array(shape)[:, None, None, None] - 1) / 2
    inside = (grid**2).sum(axis=0) < 13**2
    chi = gaussian_filter(np.random.default_rng(1).standard_normal(shape), 1.2) * inside
    tensor = isotropic((0.03 * chi / chi[inside].std()).astype(np.float32))
    fields = [tensor_field(tensor, SIZE, h, padding=16.0) * inside for h in H]
    return Scene(tensor, fields, inside)


# The figures


def test_the_size_of_a_residual_is_its_spread_whatever_a_few_voxels_say() -> None:
    left = 2e-3 * np.random.default_rng(15).standard_normal(30_000)
    assert residual_size(left) == pytest.approx(2e-3, rel=0.02)
    left[:300] = 5.0
    assert residual_size(left) == pytest.approx(2e-3, rel=0.03)
    assert residual_size(np.zeros(0)) == 0


def test_noises_are_found_behind_a_fit_that_spread_them_over_all_residuals() -> None:
    """The residuals of a least-squares fit, of noise alone, in the 400 directions of k that noise_shares sees."""
    true, prior = np.array([2.0, 2, 2, 10, 2, 3]) * 1e-3, Prior()
    shares = noise_shares(np.array(H), prior, np.full(6, 2e-3))
    sizes = np.sqrt(shares @ true**2)
    assert sizes.max() / np.median(sizes) < 4  # the residuals alone say less
    np.testing.assert_allclose(scan_noises(sizes, shares), true, rtol=0.12)


def test_no_scan_is_believed_to_be_much_better_than_the_others() -> None:
    shares = noise_shares(np.array(H), Prior(), np.full(6, 2e-3))
    found = scan_noises([2e-3, 2e-3, 0.0, 2e-3, 2e-3, 2e-3], shares, least=1e-3)
    assert found[2] == pytest.approx(np.median(found) / 2, rel=0.1)
    small = scan_noises(np.sqrt(shares @ np.array([1, 1, 1, 1, 1, 64])) * 1e-5, shares, least=1e-3)
    assert np.median(small) == pytest.approx(1e-3)
    assert set(outstanding_scans(small)) == {5}


def test_levels_are_the_median_noise_over_each() -> None:
    noises = np.array([2e-3, 2e-3, 8e-3])
    assert typical_noise(noises) == 2e-3
    np.testing.assert_allclose(scan_levels(noises), [1, 1, 0.25])
    assert outstanding_scans(noises) == {2: pytest.approx(4)}
    assert outstanding_scans(np.array([2e-3, 3e-3, 3.5e-3])) == {}


def test_reduced_chi_square_is_one_where_the_noise_alone_is_left() -> None:
    rng = np.random.default_rng(16)
    expected = [1.6e-6, 4e-6]
    left = [np.sqrt(one) * rng.standard_normal(40_000) for one in expected]
    left[1] *= 3
    assert reduced_chi_square(left, expected) == pytest.approx([1, 9], rel=0.03)
    assert reduced_chi_square([np.zeros(0)], [1.0]) == [0.0]


def test_a_given_noise_is_one_number_or_one_a_scan() -> None:
    assert given_noise(None, 3) is None
    np.testing.assert_array_equal(given_noise(2e-3, 3), [2e-3] * 3)
    np.testing.assert_array_equal(given_noise([1e-3, 2e-3], 2), [1e-3, 2e-3])
    with pytest.raises(InputError, match="one number or one for each of 3 scans, got 2"):
        given_noise([1e-3, 2e-3], 3)
    with pytest.raises(InputError, match=r"positive standard deviation in ppm, got -1\.0"):
        given_noise([1e-3, -1.0], 2)


# The fits


@pytest.mark.parametrize("method", ["closed", "masked", "single-step"])
def test_a_scan_with_five_times_the_noise_hardly_harms_the_others(scene: Scene, method: str) -> None:
    noises = [2e-3] * 6
    noises[BAD] = 1e-2
    alike = scene.fit(scene.noisy([2e-3] * 6), method)
    found = scene.fit(scene.noisy(noises), method)
    assert set(outstanding_scans(np.array(found.scan_noises))) == {BAD}
    assert not outstanding_scans(np.array(alike.scan_noises))
    assert scene.error(found) < 1.15 * scene.error(alike)
    pooled = scene.fit(scene.noisy(noises), method, noise=2e-3)
    assert scene.error(pooled) > 1.15 * scene.error(alike)


def test_the_noise_of_each_scan_is_found(scene: Scene) -> None:
    noises = [2e-3, 3e-3, 2e-3, 1e-2, 2e-3, 4e-3]
    found = scene.fit(scene.noisy(noises), "masked")
    np.testing.assert_allclose(found.scan_noises, noises, rtol=0.2)
    assert found.noise == pytest.approx(np.median(found.scan_noises))


@pytest.mark.parametrize("method", ["closed", "masked", "single-step"])
def test_torch_finds_the_same_noises_and_maps(scene: Scene, method: str) -> None:
    noises = [2e-3] * 6
    noises[BAD] = 1e-2
    fields = scene.noisy(noises)
    options = {} if method == "closed" else {"iterations": 6}
    found, truth = (scene.fit(fields, method, device=device, **options) for device in ("torch-cpu", "cpu"))
    np.testing.assert_allclose(found.scan_noises, truth.scan_noises, rtol=1e-3)
    assert relative(found.tensor, truth.tensor) < 1e-3
    assert relative(found.cosmos, truth.cosmos) < 1e-3


def test_a_scan_of_endless_noise_is_as_good_as_left_out(scene: Scene) -> None:
    fields = scene.noisy([2e-3] * 6)
    without = fit_susceptibility(fields[:5], SIZE, H[:5], noise=2e-3)
    found = fit_susceptibility(fields, SIZE, H, noise=[2e-3] * 5 + [1e3])
    assert relative(found.tensor, without.tensor) < 1e-3


@pytest.mark.parametrize("method", ["closed", "masked", "single-step"])
def test_a_constant_of_a_scan_changes_nothing(scene: Scene, method: str) -> None:
    fields = scene.noisy([2e-3] * 6)
    offset = [field + np.float32(0.05 * (scan - 2)) * scene.inside for scan, field in enumerate(fields)]
    options = {"noise": 2e-3} if method == "closed" else {"noise": 2e-3, "iterations": 5}
    plain, shifted = (scene.fit(one, method, **options) for one in (fields, offset))
    assert relative(shifted.tensor, plain.tensor) < 2e-3
    assert relative(shifted.cosmos, plain.cosmos) < 2e-3
