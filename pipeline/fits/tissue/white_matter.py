"""White matter from the data of a subject: the susceptibility of a first fit.

White matter is the most diamagnetic of the brain's tissues, whatever the sequence, the coil and the vendor; whether it
is bright or dark in a magnitude is not (beside the susceptibility, R2* and the signal told hardly more on one simulated
head and misled on another). Nothing is compared with an absolute value: a mixture of Gaussians finds the classes.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from ...images.morphology import depth_inside
from ...physics.dipole import Float32Array

_CLASSES = 3
_ROUNDS = 40
_SAMPLES = 40_000
_FEWEST = 1000  # voxels
_LARGEST = 3.0  # robust standard deviations
_RIM = 4.0  # mm at the edge of the mask that teach nothing: fields and masks err there
_SMOOTHING = 0.5  # mm
_PLAUSIBLE = (0.12, 0.75)  # share of the brain
_CERTAIN = 0.02  # no voxel is held for more certain than this


def white_matter_probability(
    chi: Float32Array, support: NDArray[np.bool_], voxel_size: NDArray[np.float64]
) -> Float32Array | None:
    """Return the probability of white matter (x, y, z), 0.02-0.98 within the support, 0 outside; None: not told apart.

    chi: mean susceptibility of a first fit in ppm; support: the brain; voxel_size: (3,) mm.
    """
    inside = depth_inside(support, voxel_size) > _RIM
    if np.count_nonzero(inside) < _FEWEST:
        return None
    low, middle, high = np.percentile(chi[inside], (25, 50, 75))
    if not high > low:
        return None
    values = np.clip((chi - middle) / ((high - low) / 1.349), -_LARGEST, _LARGEST)
    taught = values[inside]
    if len(taught) > _SAMPLES:
        taught = np.random.default_rng(0).choice(taught, _SAMPLES, replace=False)
    mixture = _mixture(taught)
    found = np.zeros(support.shape, np.float32)
    found[support] = _shares(values[support], *mixture)[:, int(np.argmin(mixture[1]))]
    if not _PLAUSIBLE[0] <= float(found[inside].mean()) <= _PLAUSIBLE[1]:
        return None
    width = _SMOOTHING / np.asarray(voxel_size)
    known = ndimage.gaussian_filter(support.astype(np.float32), width)
    smooth = ndimage.gaussian_filter(found, width) / np.maximum(known, 1e-3)
    return soft(smooth, support)


def soft(probability: Float32Array, support: NDArray[np.bool_]) -> Float32Array:
    """Return a probability (x, y, z) that is never 0 or 1 within the support, and 0 outside."""
    return np.where(support, np.clip(probability, _CERTAIN, 1 - _CERTAIN), 0).astype(np.float32)


def _mixture(values: NDArray[np.floating]) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
    """Return weights, means and variances (k,) of a mixture of Gaussians, by expectation and maximisation."""
    values = np.asarray(values, np.float64)
    edges = np.quantile(values, np.linspace(0, 1, _CLASSES + 1)[1:-1])
    shares = np.eye(_CLASSES)[np.digitize(values, edges)]
    for _ in range(_ROUNDS):
        counts = shares.sum(axis=0) + 1e-9
        means = shares.T @ values / counts
        variances = np.einsum("nk,nk->k", shares, (values[:, None] - means) ** 2) / counts + 0.02
        shares = _shares(values, counts / counts.sum(), means, variances)
    return counts / counts.sum(), means, variances


def _shares(
    values: NDArray[np.floating],
    weights: NDArray[np.float64],
    means: NDArray[np.float64],
    variances: NDArray[np.float64],
) -> NDArray[np.float64]:
    """Return the posterior (n, k) of the classes."""
    logs = np.log(weights / np.sqrt(variances)) - 0.5 * (np.asarray(values)[:, None] - means) ** 2 / variances
    odds = np.exp(logs - logs.max(axis=1, keepdims=True))
    return odds / odds.sum(axis=1, keepdims=True)
