"""By how much the prior shrinks delta B': the slope against the truth that a fit's own assumptions let expect."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from ..orientations import sphere_points
from ..tensors import chi33_weights
from .grid import FitGrid
from .noise import model_rows
from .prior import Prior
from .tissue import TissuePrior, coherence

_DIRECTIONS = 120  # of k
_BINS = 16  # of the precision over k
_QUANTILES = (0.1, 0.3, 0.5, 0.7, 0.9)  # of the spread over the brain


def expected_slope(
    grid: FitGrid, prior: Prior, noise: float, support: NDArray[np.bool_], tissue: TissuePrior | None = None
) -> float:
    """Return the expected slope of delta B' against its truth, 0-1, mean over the scans of a grid.

    For a tensor drawn from the prior and white noise (ppm), sum b R C b^T / sum b C b^T over k, with b the row of
    delta B', C the prior's covariance and R = (A^T A + noise^2 C^-1)^-1 A^T A. Masks and filters are left out, so that
    it is an upper bound where they see little; a prior that is too wide or too narrow for a head biases it. 0 where
    nothing can be told.
    """
    if not np.isfinite(prior.aniso):
        return 1.0
    directions = sphere_points(_DIRECTIONS)
    rows = model_rows(directions, grid.directions)
    normal = rows.transpose(0, 2, 1) @ rows
    across = _delta_b_rows(directions, rows, grid.directions)
    iso, aniso = prior.precisions()
    if not np.isfinite(prior.iso):
        iso = 1e-6 * np.eye(6)
    above = below = 0.0
    for share, precision in _precisions(grid, support, tissue):
        covariance = np.linalg.inv(iso + precision * aniso)
        found = np.linalg.solve(normal + noise**2 * (iso + precision * aniso), normal @ covariance)
        above += share * float(np.einsum("ksi,kij,ksj->", across, found, across))
        below += share * float(np.einsum("ksi,ij,ksj->", across, covariance, across))
    return float(np.clip(above / below, 0, 1)) if below > 0 else 0.0


def _delta_b_rows(
    directions: NDArray[np.float64], rows: NDArray[np.float64], b0_directions: NDArray[np.floating]
) -> NDArray[np.float64]:
    """Return the rows (k, scans, 6) that give delta B': the field less that of chi33 along B0."""
    h = np.asarray(b0_directions, np.float64)
    dipole = 1 / 3 - (directions @ h.T) ** 2
    return rows - dipole[..., None] * chi33_weights(h)


def _precisions(grid: FitGrid, support: NDArray[np.bool_], tissue: TissuePrior | None) -> list[tuple[float, float]]:
    """Return shares and relative precisions of the traceless part over |k| and the brain."""
    if tissue is None:
        return [(1.0, 1.0)]
    spread = np.quantile(tissue.spread[support], _QUANTILES)
    spectrum = coherence(grid, tissue.correlation)
    if spectrum.size == 1:
        return [(1.0, float(1 / s**2)) for s in spread]
    counts, edges = np.histogram(np.log(spectrum), _BINS)
    levels = np.exp((edges[1:] + edges[:-1]) / 2)
    return [(float(n), float(q / s**2)) for s in spread for n, q in zip(counts, levels, strict=True) if n]
