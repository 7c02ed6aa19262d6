"""How noisy the fields are, from what the tensor model leaves of them."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from ..orientations import sphere_points
from ..tensor_field import tensor_kernel
from .prior import Prior

_DIRECTIONS = 400  # of k, over which the effective number of parameters is averaged
SMALLEST_NOISE = 1e-7  # ppm
MODEL_ERROR = 1e-3  # ppm: what gridding and interpolation leave, below which no noise is believed in iterative fits
_GAUSSIAN_MEDIAN = 0.6744897501960817  # median of |x| of a standard normal x


def model_rows(k: NDArray[np.float64], directions: NDArray[np.floating]) -> NDArray[np.float64]:
    """Return a(k) as (points, scans, 6) for unit vectors k (points, 3) and B0 directions (scans, 3)."""
    rows = []
    for h in np.asarray(directions, np.float64):
        unit = h / np.linalg.norm(h)
        rows.append(tensor_kernel(((k @ unit)[:, None] * k).T.astype(np.float32), unit))
    return np.stack(rows).transpose(2, 0, 1).astype(np.float64)


def effective_parameters(directions: NDArray[np.floating], prior: Prior, noise: float) -> float:
    """Return how many parameters a k point's fit of the scans uses up: the mean trace of its hat matrix."""
    rows = model_rows(sphere_points(_DIRECTIONS), directions)
    normal = rows.transpose(0, 2, 1) @ rows
    tiny = 1e-12 * np.eye(6)
    hat = np.linalg.solve(normal + noise**2 * prior.precision() + tiny, normal)
    return float(np.einsum("nii->n", hat).mean())


def robust_noise(residuals: Sequence[NDArray[np.floating]], freedom: float) -> float:
    """Return the standard deviation of residuals from their median size, for a share of freedom left in them.

    residuals: values in ppm, an array a scan; freedom: (scans - effective parameters) / scans. A few voxels with
    large errors (edges of the mask, wraps, veins) do not count.
    """
    size = np.abs(np.concatenate([np.ravel(one) for one in residuals])) if residuals else np.zeros(1)
    if not size.size:
        return SMALLEST_NOISE
    return float(max(np.median(size) / _GAUSSIAN_MEDIAN / np.sqrt(max(freedom, 0.05)), SMALLEST_NOISE))


def reduced_chi_square(residuals: Sequence[NDArray[np.floating]], noise: float, freedom: float) -> list[float]:
    """Return the reduced chi-square of each scan: the mean of (residual / noise)^2 over the share of freedom.

    residuals: weighted, in ppm, an array of the known voxels a scan; noise: standard deviation of the fields in ppm at
    weight 1; freedom: (scans - effective parameters) / scans. 1 where the model leaves no more than the noise. A noise
    that was estimated from all residuals (robust_noise) is that of the median voxel, so that a scan's number tells how
    far its large residuals and its differences from the other scans reach.
    """
    scale = 1 / (noise**2 * max(freedom, 0.05))
    return [float(f"{scale * np.square(one, dtype=np.float64).mean():.4g}") if np.size(one) else 0.0
            for one in residuals]  # fmt: skip
