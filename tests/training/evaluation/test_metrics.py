"""The metrics against values worked out by hand or by their definition."""

from __future__ import annotations

import numpy as np
import pytest
from chi33.files.errors import InputError
from chi33.training.evaluation.metrics import (
    demean_in_mask,
    hfen,
    log_kernel,
    nrmse,
    psnr,
    region_means,
    regression,
    rmse,
    ssim,
    xsim,
)

RNG = np.random.default_rng(0)
TRUTH = 0.05 * RNG.standard_normal((18, 17, 19))
MASK = np.zeros(TRUTH.shape, bool)
MASK[3:-3, 3:-3, 3:-3] = True
TRUTH[~MASK] = 0
NOISY = TRUTH + 0.02 * RNG.standard_normal(TRUTH.shape) * MASK


def test_equal_maps() -> None:
    assert nrmse(TRUTH, TRUTH) == 0
    assert hfen(TRUTH, TRUTH) == 0
    assert rmse(TRUTH, TRUTH, MASK) == 0
    assert psnr(TRUTH, TRUTH) == float("inf")
    assert ssim(TRUTH, TRUTH) == pytest.approx(1)
    assert xsim(TRUTH, TRUTH, MASK) == pytest.approx(1)
    assert regression(TRUTH, TRUTH, MASK) == pytest.approx((1, 1, 1))


def test_zero_map_has_100_per_cent() -> None:
    assert nrmse(0 * TRUTH, TRUTH) == pytest.approx(100)
    assert hfen(0 * TRUTH, TRUTH) == pytest.approx(100)
    assert nrmse(2 * TRUTH, TRUTH) == pytest.approx(100)
    assert nrmse([[[3.0, 0.0]]], [[[0.0, 4.0]]]) == pytest.approx(125)


def test_rmse_is_in_ppm_inside_the_mask() -> None:
    shifted = TRUTH + 0.3 * MASK + 7 * ~MASK
    assert rmse(shifted, TRUTH, MASK) == pytest.approx(0.3)


def test_log_kernel_is_zero_sum_and_the_laplacian_of_a_gaussian() -> None:
    kernel = log_kernel()
    assert kernel.shape == (15, 15, 15)
    assert abs(kernel.sum()) < 1e-12
    # Applied to x^2 + y^2 + z^2 it gives the Laplacian, 6; the width of 15 cuts off next to nothing.
    axis = np.arange(-7, 8)
    squares = axis[:, None, None] ** 2 + axis[None, :, None] ** 2 + axis[None, None, :] ** 2
    assert (kernel * squares).sum() == pytest.approx(6, rel=0.02)
    assert kernel[7, 7, 7] == kernel.min() < 0


def test_hfen_is_blind_to_an_offset_and_sees_fine_detail() -> None:
    shape = (40, 40, 40)
    truth, offset = np.zeros(shape), np.zeros(shape)
    truth[18:22, 18:22, 18:22] = 0.1
    offset[10:30, 10:30, 10:30] = 0.001
    assert hfen(truth + offset, truth) < nrmse(truth + offset, truth)
    fine, coarse = np.zeros(shape), np.zeros(shape)
    fine[28:32, 28:32, 28:32] = 0.1 / 64**0.5
    coarse[10:30, 10:30, 10:30] = 0.1 / 8000**0.5  # an error of the same norm
    assert np.linalg.norm(fine) == pytest.approx(np.linalg.norm(coarse))
    assert hfen(truth + fine, truth) > 2 * hfen(truth + coarse, truth)


def test_hfen_by_direct_convolution() -> None:
    from scipy.ndimage import convolve

    a, b = (convolve(np.pad(v, 7), log_kernel(), mode="constant") for v in (NOISY, TRUTH))
    assert hfen(NOISY, TRUTH) == pytest.approx(100 * np.linalg.norm(a - b) / np.linalg.norm(b), rel=1e-6)


def test_psnr_by_hand() -> None:
    truth, estimate = np.zeros((1, 1, 4)), np.zeros((1, 1, 4))
    truth[0, 0] = [0, -0.1, 0.1, 0.4]  # jointly from -0.1 to 0.4: 0, 102 and 255; the 0 stays 0
    estimate[0, 0] = [0, -0.1, 0.2, 0.4]  # 0, 153, 255
    assert psnr(estimate, truth) == pytest.approx(10 * np.log10(255**2 / (51**2 / 4)))


def gaussian_window(width: int) -> np.ndarray:
    axis = np.arange(width) - width // 2
    squared = axis[:, None, None] ** 2 + axis[None, :, None] ** 2 + axis[None, None, :] ** 2
    window = np.exp(-squared / (2 * 1.5**2))
    return window / window.sum()


def similarity_at(a: np.ndarray, b: np.ndarray, centre: tuple[int, ...], width: int, c1: float, c2: float) -> float:
    box = tuple(slice(c - width // 2, c + width // 2 + 1) for c in centre)
    w = gaussian_window(width)
    mean_a, mean_b = (w * a[box]).sum(), (w * b[box]).sum()
    var_a, var_b = (w * (a[box] - mean_a) ** 2).sum(), (w * (b[box] - mean_b) ** 2).sum()
    cov = (w * (a[box] - mean_a) * (b[box] - mean_b)).sum()
    return (2 * mean_a * mean_b + c1) * (2 * cov + c2) / ((mean_a**2 + mean_b**2 + c1) * (var_a + var_b + c2))


def test_xsim_voxel_by_voxel() -> None:
    expected = np.mean([similarity_at(NOISY, TRUTH, tuple(v), 7, 0.01**2, 0.001**2) for v in np.argwhere(MASK)])
    assert xsim(NOISY, TRUTH, MASK) == pytest.approx(expected, rel=1e-9)


def test_ssim_voxel_by_voxel() -> None:
    low, high = min(NOISY.min(), TRUTH.min()), max(NOISY.max(), TRUTH.max())
    a, b = (np.where(v != 0, (v - low) * 255 / (high - low), 0) for v in (NOISY, TRUTH))
    c1, c2 = (0.01 * 255) ** 2, (0.03 * 255) ** 2
    expected = np.mean([similarity_at(a, b, tuple(v), 5, c1, c2) for v in np.argwhere(TRUTH != 0)])
    assert ssim(NOISY, TRUTH) == pytest.approx(expected, rel=1e-9)


def test_worse_maps_score_worse() -> None:
    worse = TRUTH + 3 * (NOISY - TRUTH)
    assert nrmse(worse, TRUTH) == pytest.approx(3 * nrmse(NOISY, TRUTH))
    assert ssim(worse, TRUTH) < ssim(NOISY, TRUTH)
    assert xsim(worse, TRUTH, MASK) < xsim(NOISY, TRUTH, MASK)
    assert psnr(worse, TRUTH) < psnr(NOISY, TRUTH)


def test_regression_of_a_line() -> None:
    slope, r2, correlation = regression(0.6 * TRUTH + 0.02, TRUTH, MASK)
    assert (slope, r2, correlation) == pytest.approx((0.6, 1, 1))
    assert regression(-2 * TRUTH, TRUTH, MASK)[::2] == pytest.approx((-2, -1))
    assert np.isnan(regression(0 * TRUTH, TRUTH, MASK)[0])


def test_region_means() -> None:
    regions = np.zeros(TRUTH.shape, int)
    regions[5, 5, 4:6] = 3
    regions[6, 6, 6] = 9
    a, b = TRUTH.copy(), TRUTH.copy()
    a[5, 5, 4:6] = [0.1, 0.3]
    b[5, 5, 4:6] = [0.2, 0.2]
    found = region_means(a, b, regions, {3: "GP"})
    assert list(found) == ["GP", "9"]
    gp = found["GP"]
    assert (gp.voxels, gp.mean, gp.sd, gp.truth_mean, gp.truth_sd) == pytest.approx((2, 0.2, 0.1, 0.2, 0))


def test_demeaning() -> None:
    values = demean_in_mask(TRUTH + 5, MASK)
    assert values[MASK].mean() == pytest.approx(0)
    assert not values[~MASK].any()


def test_bad_input_is_named() -> None:
    with pytest.raises(InputError, match=r"the map has shape \(1, 17, 19\), but the truth has"):
        nrmse(TRUTH[:1], TRUTH)
    with pytest.raises(InputError, match="the truth is 0 everywhere"):
        nrmse(TRUTH, 0 * TRUTH)
    with pytest.raises(InputError, match="the mask is empty"):
        rmse(TRUTH, TRUTH, 0 * MASK)
    with pytest.raises(InputError, match="the mask has shape"):
        xsim(TRUTH, TRUTH, MASK[1:])
    with pytest.raises(InputError, match="not finite"):
        psnr(TRUTH * np.nan, TRUTH)
    with pytest.raises(InputError, match="the regions have shape"):
        region_means(TRUTH, TRUTH, MASK[1:], {})
