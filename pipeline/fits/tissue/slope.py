"""By how much the prior shrinks delta B': the slope against the truth that a fit's own assumptions let expect."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ...orientations.conditioning import sphere_points
from ...physics.prior import Prior
from ...physics.tensors import chi33_weights
from ..model.field_model import Observation, radius_shares
from ..model.grid import FitGrid
from ..noise import model_rows
from .prior import CORRELATION, TissuePrior, coherence

_DIRECTIONS = 120  # of k
_BINS = 16  # of the precision over k
_FILTER_BINS = 6
_QUANTILES = (0.1, 0.3, 0.5, 0.7, 0.9)  # of the spread over the brain


@dataclass(frozen=True)
class _Cell:
    """A part of k space and brain: how many points, precision of head and fit relative to Prior.aniso, filter power."""

    count: float
    head: float
    fit: float
    power: float


def expected_slope(
    grid: FitGrid,
    prior: Prior,
    noise: float,
    support: NDArray[np.bool_],
    tissue: TissuePrior | None = None,
    power: NDArray[np.floating] | None = None,
) -> float:
    """Return the expected slope of delta B' against its truth, 0-1, mean over the scans of a grid.

    For a head whose anisotropy is as large as the prior says and correlated over a few mm, and white noise (ppm):
    sum b R C b^T / sum b C b^T over k, with b the row of delta B', C the covariance of that head and
    R = (f A^T A + noise^2 P)^-1 f A^T A of the fit with its prior's precision P; tissue: the prior's variation (None:
    independent voxels of one tissue); power f: (half) of the filters that the fields pass. Masks are left out. A head
    that is less or more anisotropic than the prior is shrunk alike; errors of the model beyond the noise add to both.
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
    for cell in _cells(grid, support, tissue, power):
        covariance = np.linalg.inv(iso + cell.head * aniso)
        seen = cell.power * normal
        found = np.linalg.solve(seen + noise**2 * (iso + cell.fit * aniso), seen @ covariance)
        above += cell.count * float(np.einsum("ksi,kij,ksj->", across, found, across))
        below += cell.count * float(np.einsum("ksi,ij,ksj->", across, covariance, across))
    return float(np.clip(above / below, 0, 1)) if below > 0 else 0.0


def filter_power(
    observations: Sequence[Observation], filters: NDArray[np.float32] | None
) -> NDArray[np.float64] | None:
    """Return the mean of (weight x filter)^2 over the voxels seen, at each k (half); None without filters."""
    if filters is None:
        return None
    shares = radius_shares(observations, len(filters))
    return np.asarray(sum(share * one.astype(np.float64) ** 2 for share, one in zip(shares, filters, strict=True)))


def _delta_b_rows(
    directions: NDArray[np.float64], rows: NDArray[np.float64], b0_directions: NDArray[np.floating]
) -> NDArray[np.float64]:
    """Return the rows (k, scans, 6) that give delta B': the field less that of chi33 along B0."""
    h = np.asarray(b0_directions, np.float64)
    dipole = 1 / 3 - (directions @ h.T) ** 2
    return rows - dipole[..., None] * chi33_weights(h)


def _cells(
    grid: FitGrid, support: NDArray[np.bool_], tissue: TissuePrior | None, power: NDArray[np.floating] | None
) -> Iterator[_Cell]:
    """Yield the parts of k space and of the brain that share precisions and filters."""
    spread = np.ones(1) if tissue is None else np.quantile(tissue.spread[support], _QUANTILES)
    fitted = coherence(grid, 0 if tissue is None else tissue.correlation)
    head = coherence(grid, CORRELATION if tissue is None or tissue.correlation <= 0 else tissue.correlation)
    seen = np.broadcast_to(1.0 if power is None else power, head.shape)
    counts, levels, filters = np.histogram2d(np.log(head).ravel(), seen.ravel(), (_BINS, _FILTER_BINS))
    for i, j in zip(*np.nonzero(counts), strict=True):
        level = float(np.exp((levels[i] + levels[i + 1]) / 2))
        for s in spread:
            yield _Cell(
                float(counts[i, j]), level / s**2, (level if fitted.size > 1 else 1.0) / s**2,
                max(float(filters[j] + filters[j + 1]) / 2, 0.0),
            )  # fmt: skip
