"""How far a map is from the truth, by the definitions of the 2016 QSM challenge, so that tables compare.

Every function takes maps (x, y, z) in ppm. Outside the mask both maps count as 0. Demeaning is a choice of the caller
(`demean_in_mask`) and named in its table; the definitions below never do it by themselves.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import ndimage

from ...files.errors import InputError
from ...pipeline.images.morphology import bounding_box

Float64Array = NDArray[np.float64]
HFEN_WIDTH, HFEN_SIGMA = 15, 1.5
SSIM_WIDTH, SSIM_SIGMA, SSIM_CONSTANTS = 5, 1.5, (0.01, 0.03)
XSIM_WIDTH, XSIM_SIGMA, XSIM_CONSTANTS = 7, 1.5, (0.01, 0.001)


@dataclass(frozen=True)
class RegionStatistics:
    """Mean and standard deviation in ppm of a map and of the truth in one region of `voxels` voxels."""

    voxels: int
    mean: float
    sd: float
    truth_mean: float
    truth_sd: float


def nrmse(estimate: ArrayLike, truth: ArrayLike) -> float:
    """Return 100 |a - b| / |b|, in per cent; raises InputError where the truth is 0 everywhere."""
    a, b = _pair(estimate, truth)
    norm = np.linalg.norm(b)
    if norm == 0:
        raise InputError("the truth is 0 everywhere, so a relative error has no meaning: check the truth map.")
    return float(100 * np.linalg.norm(a - b) / norm)


def rmse(estimate: ArrayLike, truth: ArrayLike, mask: ArrayLike) -> float:
    """Return the root of the mean squared difference inside the mask, in ppm."""
    a, b = _pair(estimate, truth)
    inside = _inside(mask, a)
    return float(np.sqrt(np.mean((a[inside] - b[inside]) ** 2)))


def log_kernel(width: int = HFEN_WIDTH, sigma: float = HFEN_SIGMA) -> Float64Array:
    """Return the Laplacian of a Gaussian on width^3 voxels, its sum made 0 (sigma in voxels)."""
    axis = np.arange(width) - (width - 1) / 2
    x, y, z = np.meshgrid(axis, axis, axis, indexing="ij")
    squared = x**2 + y**2 + z**2
    gaussian = np.exp(-squared / (2 * sigma**2))
    gaussian /= gaussian.sum()
    kernel = gaussian * (squared / sigma**4 - 3 / sigma**2)
    return kernel - kernel.mean()


def hfen(estimate: ArrayLike, truth: ArrayLike) -> float:
    """Return the high-frequency error norm: NRMSE in per cent after a 15^3 Laplacian of Gaussian, sigma 1.5 voxels."""
    a, b = _pair(estimate, truth)
    kernel = log_kernel()
    # Cut to the maps' support and its surroundings; zeros further out add nothing to either norm.
    box = bounding_box((a != 0) | (b != 0), HFEN_WIDTH)
    pad = HFEN_WIDTH // 2
    a, b = np.pad(a[box], pad), np.pad(b[box], pad)
    return nrmse(_convolve(a, kernel), _convolve(b, kernel))


def psnr(estimate: ArrayLike, truth: ArrayLike) -> float:
    """Return the peak signal-to-noise ratio in dB after the joint rescale to 0-255; infinite for equal maps."""
    a, b = _rescale(*_pair(estimate, truth))
    error = np.mean((a - b) ** 2)
    return float("inf") if error == 0 else float(10 * np.log10(255**2 / error))


def ssim(estimate: ArrayLike, truth: ArrayLike) -> float:
    """Return the structural similarity after the joint rescale to 0-255, mean over the truth's non-zero voxels.

    Window 5^3 Gaussian, sigma 1.5, K = (0.01, 0.03), L = 255 (Wang 2004, eq. 13).
    """
    a, b = _pair(estimate, truth)
    similarity = _similarity(*_rescale(a, b), SSIM_WIDTH, SSIM_SIGMA, SSIM_CONSTANTS, 255.0)
    return float(similarity[b != 0].mean())


def xsim(estimate: ArrayLike, truth: ArrayLike, mask: ArrayLike) -> float:
    """Return the structural similarity made for susceptibility in ppm: no rescale, mean over the mask (Milovic 2024).

    Window 7^3 Gaussian, sigma 1.5, K = (0.01, 0.001), L = 1.
    """
    a, b = _pair(estimate, truth)
    return float(_similarity(a, b, XSIM_WIDTH, XSIM_SIGMA, XSIM_CONSTANTS, 1.0)[_inside(mask, a)].mean())


def regression(estimate: ArrayLike, truth: ArrayLike, mask: ArrayLike) -> tuple[float, float, float]:
    """Return slope, R^2 and Pearson's correlation of the estimate on the truth inside the mask.

    estimate = slope * truth + intercept by least squares; NaN where one of the maps is constant there.
    """
    a, b = _pair(estimate, truth)
    inside = _inside(mask, a)
    x, y = b[inside] - b[inside].mean(), a[inside] - a[inside].mean()
    if not x.any() or not y.any():
        return float("nan"), float("nan"), float("nan")
    correlation = float((x @ y) / np.sqrt((x @ x) * (y @ y)))
    return float((x @ y) / (x @ x)), correlation**2, correlation


def region_means(
    estimate: ArrayLike, truth: ArrayLike, regions: ArrayLike, names: Mapping[int, str]
) -> dict[str, RegionStatistics]:
    """Return mean and standard deviation per region; regions: (x, y, z) whole numbers, 0 is background.

    Regions without a voxel are left out; a number without a name is called by the number.
    """
    a, b = _pair(estimate, truth)
    labels = np.asarray(regions)
    if labels.shape != a.shape:
        raise InputError(f"the regions have shape {labels.shape}, but the maps have {a.shape}.")
    found = [int(number) for number in np.unique(labels) if number != 0]
    statistics = {}
    for number in found:
        inside = labels == number
        statistics[names.get(number, str(number))] = RegionStatistics(
            int(inside.sum()),
            float(a[inside].mean()),
            float(a[inside].std()),
            float(b[inside].mean()),
            float(b[inside].std()),
        )
    return statistics


def demean_in_mask(volume: ArrayLike, mask: ArrayLike) -> Float64Array:
    """Return the map less its mean over the mask, 0 outside."""
    values = np.asarray(volume, np.float64)
    inside = _inside(mask, values)
    return np.where(inside, values - values[inside].mean(), 0)


def _pair(estimate: ArrayLike, truth: ArrayLike) -> tuple[Float64Array, Float64Array]:
    a, b = np.asarray(estimate, np.float64), np.asarray(truth, np.float64)
    if a.shape != b.shape:
        raise InputError(f"the map has shape {a.shape}, but the truth has {b.shape}: compare maps on one grid.")
    if not np.isfinite(a).all() or not np.isfinite(b).all():
        raise InputError("a map holds values that are not finite: repair it before it is compared.")
    return a, b


def _inside(mask: ArrayLike, like: Float64Array) -> NDArray[np.bool_]:
    inside = np.asarray(mask) != 0
    if inside.shape != like.shape:
        raise InputError(f"the mask has shape {inside.shape}, but the maps have {like.shape}.")
    if not inside.any():
        raise InputError("the mask is empty, so there is nothing to compare: check it.")
    return inside


def _rescale(a: Float64Array, b: Float64Array) -> tuple[Float64Array, Float64Array]:
    """Return the challenge's joint rescale of non-zero voxels: the smallest of both becomes 0, the largest 255."""
    low = min(a.min(), b.min())
    span = max(a.max(), b.max()) - low
    if span == 0:
        return np.zeros_like(a), np.zeros_like(b)
    return np.where(a != 0, 255 * (a - low) / span, 0), np.where(b != 0, 255 * (b - low) / span, 0)


def _window(width: int, sigma: float) -> Float64Array:
    axis = np.arange(width) - (width - 1) / 2
    weights = np.exp(-(axis**2) / (2 * sigma**2))
    return weights / weights.sum()


def _smooth(volume: Float64Array, weights: Float64Array) -> Float64Array:
    for axis in range(3):
        volume = ndimage.correlate1d(volume, weights, axis=axis, mode="constant")
    return volume


def _similarity(
    a: Float64Array, b: Float64Array, width: int, sigma: float, constants: tuple[float, float], peak: float
) -> Float64Array:
    weights = _window(width, sigma)
    c1, c2 = ((k * peak) ** 2 for k in constants)
    mean_a, mean_b = _smooth(a, weights), _smooth(b, weights)
    var_a = _smooth(a * a, weights) - mean_a**2
    var_b = _smooth(b * b, weights) - mean_b**2
    covariance = _smooth(a * b, weights) - mean_a * mean_b
    return ((2 * mean_a * mean_b + c1) * (2 * covariance + c2)) / ((mean_a**2 + mean_b**2 + c1) * (var_a + var_b + c2))


def _convolve(volume: Float64Array, kernel: Float64Array) -> Float64Array:
    from scipy.signal import fftconvolve

    return fftconvolve(volume, kernel, mode="same")
