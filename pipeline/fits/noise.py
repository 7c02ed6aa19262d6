"""How noisy the fields of each scan are, from what the tensor model leaves of them, and which scans stand out."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ...files.errors import InputError
from ..orientations.conditioning import sphere_points
from ..physics.dipole import Float32Array
from ..physics.prior import Prior
from ..physics.tensor_field import tensor_kernel

_DIRECTIONS = 400  # of k, over which shares of the data are averaged
SMALLEST_NOISE = 1e-7  # ppm
MODEL_ERROR = 1e-3  # ppm: what gridding and interpolation leave, below which no noise is believed in iterative fits
OUTSTANDING = 2.0  # times the other scans' noise, from which a scan is named
_GAUSSIAN_MEDIAN = 0.6744897501960817  # median of |x| of a standard normal x
LEAST_FREEDOM = 0.05  # share of a scan's residual that is believed to be left by the fit
_BEST_SCAN = 0.5  # of the median scan's noise: no scan counts more than this makes it
_UNMIXING = 30  # steps


def given_noise(noise: float | ArrayLike | None, scans: int) -> NDArray[np.float64] | None:
    """Return the noise of each scan (n,) in ppm from one number for all or one a scan; None where none is given.

    Raises InputError on numbers that are not positive, or not as many as scans.
    """
    if noise is None:
        return None
    values = np.atleast_1d(np.asarray(noise, np.float64))
    if values.ndim > 1 or len(values) not in (1, scans):
        raise InputError(f"noise must be one number or one for each of {scans} scans, got {len(values)}.")
    wrong = values[~((values > 0) & np.isfinite(values))]
    if wrong.size:
        raise InputError(f"noise must be a positive standard deviation in ppm, got {wrong[0]}.")
    return np.full(scans, values[0]) if len(values) == 1 else values


def typical_noise(noises: NDArray[np.float64]) -> float:
    """Return the noise in ppm of the median scan: what weights of 1 stand for."""
    return float(noises[0] if (noises == noises[0]).all() else np.median(noises))


def scan_levels(noises: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return by how much each scan's weights are multiplied (n,): typical_noise / its own noise."""
    return typical_noise(noises) / noises


def model_rows(k: NDArray[np.float64], directions: NDArray[np.floating]) -> NDArray[np.float64]:
    """Return a(k) as (points, scans, 6) for unit vectors k (points, 3) and B0 directions (scans, 3)."""
    rows = []
    for h in np.asarray(directions, np.float64):
        unit = h / np.linalg.norm(h)
        rows.append(tensor_kernel(((k @ unit)[:, None] * k).T.astype(np.float32), unit))
    return np.stack(rows).transpose(2, 0, 1).astype(np.float64)


def hat_matrices(directions: NDArray[np.floating], prior: Prior, noises: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return at 400 directions of k the matrix (400, n, n) from the scans' fields to their fit, for noises (n,)."""
    rows = model_rows(sphere_points(_DIRECTIONS), directions)
    weighted = rows / noises[:, None] ** 2
    normal = weighted.transpose(0, 2, 1) @ rows
    tiny = 1e-12 * np.eye(6) / noises.max() ** 2
    return rows @ np.linalg.solve(normal + prior.precision() + tiny, weighted.transpose(0, 2, 1))


def effective_parameters(directions: NDArray[np.floating], prior: Prior, noise: float) -> float:
    """Return how many parameters a k point's fit of the scans uses up: the mean trace of its hat matrix."""
    hat = hat_matrices(directions, prior, np.full(len(directions), noise))
    return float(np.einsum("nii->n", hat).mean())


def noise_shares(directions: NDArray[np.floating], prior: Prior, noises: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return which share of scan j's noise variance a fit with `noises` leaves in scan i's residual, (n, n).

    What the prior keeps out of the fit is left too. It is counted as a part of the noise: where noises and prior are
    right, the mean square of residual i is (1 - h_ii) noise_i^2, h the hat matrix.
    """
    left = np.eye(len(directions)) - hat_matrices(directions, prior, noises)
    shares = (left**2).mean(axis=0)
    np.fill_diagonal(shares, np.maximum(np.diag(shares), LEAST_FREEDOM))
    freedom = np.maximum(np.einsum("nii->i", left) / len(left), LEAST_FREEDOM)
    return shares * (freedom * noises**2 / (shares @ noises**2))[:, None]


def residual_size(residual: NDArray[np.floating]) -> float:
    """Return the standard deviation of a residual from its median size.

    A few voxels with large errors (edges of the mask, wraps, veins) do not count.
    """
    return float(np.median(np.abs(residual)) / _GAUSSIAN_MEDIAN) if np.size(residual) else 0.0


def scan_noises(sizes: ArrayLike, shares: NDArray[np.float64], least: float = SMALLEST_NOISE) -> NDArray[np.float64]:
    """Return the noise of each scan (n,) in ppm from the sizes of the residuals that a fit left.

    sizes: standard deviation of each scan's residual (n,), unweighted, in ppm; shares: noise_shares of that fit. The
    fit of a noisy scan's field spreads over the others' residuals; the variances that explain all sizes are found by
    multiplicative steps, which keep them positive. least: of the result, see `believed`.
    """
    seen = np.maximum(np.asarray(sizes, np.float64), SMALLEST_NOISE) ** 2
    variances = seen / np.diag(shares)
    for _ in range(_UNMIXING):
        expected = shares @ variances
        variances = variances * (shares.T @ (seen / expected)) / shares.sum(axis=0)
    return believed(np.sqrt(variances), least)


def believed(noises: NDArray[np.float64], least: float) -> NDArray[np.float64]:
    """Return noises of which none is below half the median, so that no scan counts for all.

    Where their median is below `least`, all are raised alike, so that it is that.
    """
    typical = float(np.median(noises))
    bounded = np.maximum(noises, max(_BEST_SCAN * typical, SMALLEST_NOISE))
    return bounded * max(1.0, least / max(typical, SMALLEST_NOISE))


def reduced_chi_square(residuals: Sequence[NDArray[np.floating]], expected: ArrayLike) -> list[float]:
    """Return the reduced chi-square of each scan: the mean square of its residual over what the noise alone leaves.

    residuals: unweighted by the scan's own level, in ppm, an array of the known voxels a scan; expected: mean square
    of each that the noises leave, noise_shares @ noises^2. 1 where the model leaves no more than the noise. A noise
    that was estimated from the residuals is that of the median voxel, so that a scan's number tells how far its large
    residuals reach.
    """
    return [float(f"{np.square(one, dtype=np.float64).mean() / share:.4g}") if np.size(one) else 0.0
            for one, share in zip(residuals, np.asarray(expected), strict=True)]  # fmt: skip


def outstanding_scans(noises: NDArray[np.float64]) -> dict[int, float]:
    """Return the scans whose noise is far above that of the others: their numbers, and times the median scan's."""
    times = noises / np.median(noises)
    return {int(scan): float(times[scan]) for scan in np.flatnonzero(times > OUTSTANDING)}


def without_constant(field: Float32Array, weight: Float32Array) -> Float32Array:
    """Return a field (x, y, z) less the constant that fits it best, voxels counted by weight^2."""
    squares = weight * weight
    total = float(squares.sum(dtype=np.float64))
    return field - np.float32(float((squares * field).sum(dtype=np.float64)) / total) if total > 0 else field
