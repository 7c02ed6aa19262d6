"""The noise of each scan from the spectra of its field: what the tensor model leaves at a sample of k-space points."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..physics.dipole import Complex64Array
from ..physics.prior import Prior
from .model.grid import FitGrid
from .noise import LEAST_FREEDOM, SMALLEST_NOISE, believed, model_rows, scan_levels, typical_noise

_NOISE_POINTS = 20_000  # of k-space
_NOISE_STEPS = 30


def estimate_noises(spectra: Complex64Array, grid: FitGrid, prior: Prior, voxels: Sequence[int]) -> NDArray[np.float64]:
    """Return the standard deviation (n,) in ppm of what the tensor model leaves of each scan's field, at a fixed point.

    It is estimated from a seeded sample of k-space points: residual energy over the share that the fit leaves of it.
    voxels: number of voxels in which the field of each scan is not zero.
    """
    rows, data = _sample_points(spectra[: len(grid.directions)], grid)
    noises, tiny = np.full(len(voxels), 1e-3), 1e-12 * np.eye(6)
    for _ in range(_NOISE_STEPS):
        noise, levels = typical_noise(noises), scan_levels(noises)
        weighted = rows * levels[:, None] ** 2
        transposed = weighted.transpose(0, 2, 1)
        solver = np.linalg.solve(transposed @ rows + noise**2 * prior.precision() + tiny, transposed)
        residual = data - np.matmul(rows, np.matmul(solver, data[..., None]))[..., 0]
        freedom = np.maximum(1 - np.einsum("nic,nci->i", rows, solver) / len(rows), LEAST_FREEDOM)
        energy = (np.abs(residual) ** 2).mean(axis=0) / np.asarray(voxels)
        updated = believed(np.sqrt(energy / freedom), SMALLEST_NOISE)
        converged = (np.abs(updated - noises) < 0.01 * noises).all()
        noises = updated
        if converged:
            break
    return noises


def _sample_points(spectra: Complex64Array, grid: FitGrid) -> tuple[NDArray[Any], NDArray[Any]]:
    """Return the model rows (points, scans, 6) and the data (points, scans) of a seeded sample of k-space points."""
    rng = np.random.default_rng(0)
    points = [np.sort(rng.integers(0, n, _NOISE_POINTS)) if i == 0 else rng.integers(0, n, _NOISE_POINTS)
              for i, n in enumerate(grid.half)]  # fmt: skip
    kx, ox, ky, oy, kz, oz = grid.frequencies()
    k = np.stack([kx[points[0]], ky[points[1]], kz[points[2]]], axis=1).astype(np.float64)
    length = np.linalg.norm(k, axis=1)
    nyquist = (ox[points[0]] != kx[points[0]]) | (oy[points[1]] != ky[points[1]]) | (oz[points[2]] != kz[points[2]])
    used = (length > 0) & ~nyquist
    data = np.stack([one[points[0][used], points[1][used], points[2][used]] for one in spectra], axis=1)
    return model_rows(k[used] / length[used, None], grid.directions), data.astype(np.complex128)
