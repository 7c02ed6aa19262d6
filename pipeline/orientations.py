"""Which head orientations determine COSMOS and the susceptibility tensor, in numbers and plain words.

It does not depend on k: it is the rank and condition of the N x 6 matrix of
[h1^2, sqrt2 h1 h2, sqrt2 h1 h3, h2^2, sqrt2 h2 h3, h3^2] over the B0 directions h.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from .errors import InputError
from .frames import check_b0_direction

SINGULAR_CONDITION = 150.0
WEAK_CONDITION = 60.0
COSMOS_MIN_SPREAD = 5.0  # degrees


@dataclass(frozen=True)
class OrientationReport:
    """How well a set of B0 directions determines the two fits.

    spread: largest angle between two directions, degrees; sti_condition: condition number of the N x 6 matrix
    (inf where rank-deficient); sti_noise_gain: mean standard deviation of the six components per unit of field
    noise, against N repeats of an ideal set; cosmos_ratio: max/min over k of sum D^2; cosmos_noise_gain:
    1/sqrt(min sum D^2); messages: what a user should know, in sentences.
    """

    n: int
    spread: float
    sti_rank: int
    sti_condition: float
    sti_noise_gain: float
    cosmos_ratio: float
    cosmos_noise_gain: float
    messages: tuple[str, ...]

    @property
    def sti_determined(self) -> bool:
        """Whether the tensor is determined without a prior."""
        return self.sti_rank == 6

    @property
    def cosmos_determined(self) -> bool:
        """Whether COSMOS is determined."""
        return self.n >= 2 and self.spread >= COSMOS_MIN_SPREAD


def direction_matrix(b0_directions: Sequence[ArrayLike]) -> NDArray[np.float64]:
    """Return the N x 6 matrix of second-order products of unit vectors, its rows of unit length."""
    h = np.array([check_b0_direction(one, f"b0_directions[{i}]") for i, one in enumerate(b0_directions)])
    root2 = np.sqrt(2)
    return np.stack(
        [h[:, 0] ** 2, root2 * h[:, 0] * h[:, 1], root2 * h[:, 0] * h[:, 2],
         h[:, 1] ** 2, root2 * h[:, 1] * h[:, 2], h[:, 2] ** 2], axis=1,
    )  # fmt: skip


def sphere_points(n: int = 4000) -> NDArray[np.float64]:
    """Return n nearly uniform unit vectors (n, 3) on the half sphere (a Fibonacci lattice)."""
    i = np.arange(n) + 0.5
    z = i / n
    azimuth = np.pi * (1 + np.sqrt(5)) * i
    radius = np.sqrt(1 - z**2)
    return np.stack([radius * np.cos(azimuth), radius * np.sin(azimuth), z], axis=1)


def _spread(h: NDArray[np.float64]) -> float:
    cosines = np.clip(np.abs(h @ h.T), 0, 1)
    return float(np.degrees(np.arccos(cosines.min())))


def _messages(n: int, spread: float, rank: int, condition: float, cosmos_ratio: float) -> tuple[str, ...]:
    out = []
    if spread < COSMOS_MIN_SPREAD:
        out.append(
            f"All B0 directions lie within {spread:.1f} degrees of one another: COSMOS and the tensor are not "
            f"determined; add a scan tilted by 20 degrees or more."
        )
    elif cosmos_ratio > 1000:
        out.append(
            f"COSMOS is weakly determined (max/min of the summed squared dipole kernels {cosmos_ratio:.0f}): add a "
            "scan tilted about another axis or farther."
        )
    if n < 6:
        out.append(f"{n} scans cannot determine the six tensor components alone: the prior supplies the rest.")
    elif rank < 6:
        out.append(
            f"These {n} directions leave the tensor singular (rank {rank} of 6: a ring of equal tilts without the "
            "neutral position, or turns about one axis only): the prior supplies the rest; add the neutral position "
            "or a tilt about another axis."
        )
    elif condition > WEAK_CONDITION:
        out.append(f"The tensor is weakly determined (condition number {condition:.0f}): larger tilts would help most.")
    return tuple(out)


def assess_orientations(b0_directions: Sequence[ArrayLike]) -> OrientationReport:
    """Return how well B0 directions (unit vectors (3,), one frame for all) determine COSMOS and STI."""
    h = np.array([check_b0_direction(one, f"b0_directions[{i}]") for i, one in enumerate(b0_directions)])
    if len(h) < 1:
        raise InputError("b0_directions is empty: give one unit vector a scan.")
    matrix = direction_matrix(list(h))
    singular = np.zeros(6)
    values = np.linalg.svd(matrix, compute_uv=False)
    singular[: len(values)] = values
    rank = int((singular > singular[0] / SINGULAR_CONDITION).sum())
    condition = float(singular[0] / singular[5]) if singular[5] > 1e-9 * singular[0] else float("inf")
    gain = float(np.sqrt((1 / singular**2).mean() * len(h) / 6)) if rank == 6 else float("inf")
    points = sphere_points()
    summed = ((1 / 3 - (points @ h.T) ** 2) ** 2).sum(axis=1)
    ratio = float(summed.max() / max(summed.min(), 1e-12))
    spread = _spread(h)
    return OrientationReport(
        n=len(h), spread=spread, sti_rank=rank, sti_condition=condition, sti_noise_gain=gain,
        cosmos_ratio=ratio, cosmos_noise_gain=float(1 / np.sqrt(max(summed.min(), 1e-12))),
        messages=_messages(len(h), spread, rank, condition, ratio),
    )  # fmt: skip


def require_orientations(b0_directions: Sequence[ArrayLike], *, tensor_prior: bool = True) -> OrientationReport:
    """Return the report of assess_orientations, or raise InputError where the fits are not determined.

    Refused: one orientation; all directions within 5 degrees; without a tensor prior also a singular STI set.
    """
    report = assess_orientations(b0_directions)
    if report.n < 2:
        raise InputError(
            "only one orientation was given, but COSMOS and STI need the same head at several: add scans with the "
            "head tilted by 20 degrees or more."
        )
    if not report.cosmos_determined:
        raise InputError(report.messages[0])
    if not tensor_prior and not report.sti_determined:
        raise InputError(report.messages[-1])
    return report
