"""Which head orientations determine COSMOS and the susceptibility tensor, in numbers and plain words.

For the tensor it does not depend on k: it is the rank and condition of the N x 6 matrix of
[h1^2, sqrt2 h1 h2, sqrt2 h1 h3, h2^2, sqrt2 h2 h3, h3^2] over the B0 directions h. For COSMOS it is the sum over the
scans of the squared dipole kernel, where it is smallest.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ...files.errors import InputError
from ..frames import check_b0_direction

SINGULAR_CONDITION = 150.0
WEAK_CONDITION = 60.0
# Two or more scans within 7.5 degrees leave 3/4 of the directions of k unknown that a single scan leaves (where the
# mean of D^2 is below 0.005), however many they are.
COSMOS_MIN_SPREAD = 7.5  # degrees
# A field is right to some 10 ppb, tissues differ by 30 to 50 ppb: what errors grow by at the worst k, and how far the
# best and the worst k differ.
COSMOS_GRADES = (("good", 5.0, 30.0), ("fair", 8.0, 100.0), ("poor", 20.0, 1000.0))  # gain, ratio, at most
TENSOR_GRADES = (("good", 30.0), ("fair", WEAK_CONDITION), ("poor", SINGULAR_CONDITION))  # condition number, at most
_K_NODES = 96  # of Gauss and Legendre along z, and of azimuths over half a turn
_VANISHES = 1e-9  # a sum of squared kernels below this part of its largest is 0
_SAME_DIRECTION = 1.0  # degrees
_SMALL_SPREAD = 30.0  # degrees between two directions, below which larger tilts help most
_WIDE_RING = 50.0  # degrees from the axis of a ring, above which no head is brought to its middle

FloatArray = NDArray[np.float64]
Directions = Sequence[ArrayLike] | FloatArray  # unit vectors (N, 3)


@dataclass(frozen=True)
class OrientationReport:
    """How well a set of B0 directions determines the two fits.

    spread: largest angle between two directions, degrees; sti_condition: condition number of the N x 6 matrix
    (inf where rank-deficient); sti_noise_gain, cosmos_noise_gain: standard deviation of the fit without a prior per
    unit of white noise in every field, root mean square over k (and the tensor's xx, sqrt2 xy, ...); cosmos_worst_gain:
    that of COSMOS at its worst k, 1/sqrt(min sum D^2); cosmos_ratio: max/min over k of sum D^2. The three of COSMOS
    are inf where every kernel vanishes at some k, as always with two scans. messages: what a user should know, in
    sentences.
    """

    n: int
    spread: float
    sti_rank: int
    sti_condition: float
    sti_noise_gain: float
    cosmos_ratio: float
    cosmos_noise_gain: float
    cosmos_worst_gain: float
    messages: tuple[str, ...]

    @property
    def sti_determined(self) -> bool:
        """Whether the tensor is determined without a prior."""
        return self.sti_rank == 6

    @property
    def cosmos_determined(self) -> bool:
        """Whether COSMOS is determined but for single directions of k, which the regularisation then fills."""
        return self.n >= 2 and self.spread >= COSMOS_MIN_SPREAD

    @property
    def cosmos_grade(self) -> str:
        """How well COSMOS is determined: good, fair, poor or bad."""
        if not self.cosmos_determined:
            return "bad"
        return cosmos_grade(self.cosmos_worst_gain, self.cosmos_ratio)

    @property
    def sti_grade(self) -> str:
        """How well the tensor is determined without a prior: good, fair, poor or bad (singular)."""
        found = (name for name, condition in TENSOR_GRADES if self.sti_condition <= condition)
        return next(found, "bad") if self.sti_determined else "bad"


def cosmos_grade(worst_gain: float, ratio: float) -> str:
    """Return how well COSMOS is determined, from its noise gain at the worst k and max/min of the summed kernels."""
    return next((name for name, gain, range_ in COSMOS_GRADES if worst_gain <= gain and ratio <= range_), "bad")


@dataclass(frozen=True)
class _Shape:
    """What makes a set of directions singular or weak: its name, and what to add."""

    name: str
    remedy: str


_ONE_AXIS = _Shape("turns about one axis only", "add three or more tilts about another axis")
_RING = _Shape("a ring of equal tilts without the neutral position", "add the neutral position, the middle of the ring")
_CROSS = _Shape("turns about two axes, never about both at once", "add a diagonal tilt, about both axes at once")
_SMALL = _Shape("tilts too small to tell its components apart", "add tilts of 20 degrees or more")
_ALIKE = _Shape("too little variety", "add tilts of other sizes towards other sides")


def direction_matrix(b0_directions: Directions) -> FloatArray:
    """Return the N x 6 matrix of second-order products of unit vectors, its rows of unit length."""
    return second_order_products(check_directions(b0_directions))


def check_directions(b0_directions: Directions) -> FloatArray:
    """Return B0 directions as unit vectors (N, 3), or raise InputError where there are none or one is none."""
    if len(b0_directions) < 1:
        raise InputError("b0_directions is empty: give one unit vector a scan.")
    return np.array([check_b0_direction(one, f"b0_directions[{i}]") for i, one in enumerate(b0_directions)])


def second_order_products(h: FloatArray) -> FloatArray:
    """Return [h1^2, sqrt2 h1 h2, sqrt2 h1 h3, h2^2, sqrt2 h2 h3, h3^2] as (..., 6) for unit vectors (..., 3)."""
    x, y, z = h[..., 0], h[..., 1], h[..., 2]
    root2 = np.sqrt(2)
    return np.stack([x * x, root2 * x * y, root2 * x * z, y * y, root2 * y * z, z * z], axis=-1)


def sphere_points(n: int = 4000) -> FloatArray:
    """Return n nearly uniform unit vectors (n, 3) on the half sphere (a Fibonacci lattice)."""
    i = np.arange(n) + 0.5
    z = i / n
    azimuth = np.pi * (1 + np.sqrt(5)) * i
    radius = np.sqrt(1 - z**2)
    return np.stack([radius * np.cos(azimuth), radius * np.sin(azimuth), z], axis=1)


def summed_kernel_range(h: FloatArray) -> tuple[float, float]:
    """Return the smallest and the largest sum of squared dipole kernels over k, for unit vectors (N, 3).

    Both are polished from many points of a lattice, as the least is often a narrow dip; exactly 0 where all vanish.
    """
    lattice = sphere_points()
    summed = _summed(lattice, h)
    spaced = sphere_points(100)
    lowest = _polished(np.concatenate([lattice[np.argsort(summed)[:20]], spaced]), h, 1.0).min()
    highest = -_polished(lattice[np.argsort(summed)[-20:]], h, -1.0).min()
    return (float(lowest) if lowest > _VANISHES * highest else 0.0), float(highest)


def cosmos_noise_gain(h: FloatArray, lowest: float) -> float:
    """Return sqrt(mean over k of 1 / sum D^2) for unit vectors (N, 3), inf where lowest, the least of the sum, is 0.

    It is the standard deviation of COSMOS without a prior per unit of white noise in every field, all directions of k
    counted alike; the corners of cubic voxels' k-space, at the magic angle, add some per cent.
    """
    if not lowest > 0:
        return np.inf
    k, weights = _sphere_rule()
    return float(np.sqrt((weights / np.maximum(_summed(k, h), lowest)).sum()))


@cache
def _sphere_rule() -> tuple[FloatArray, FloatArray]:
    """Return unit vectors (K, 3) over half the sphere and their weights (K,), whose sum is 1 (product Gauss rule)."""
    nodes, weights = np.polynomial.legendre.leggauss(_K_NODES)
    azimuth = np.pi * (np.arange(_K_NODES) + 0.5) / _K_NODES
    radius = np.sqrt(1 - nodes**2)
    k = np.stack(
        [np.outer(radius, np.cos(azimuth)), np.outer(radius, np.sin(azimuth)),
         np.repeat(nodes[:, None], _K_NODES, axis=1)], axis=-1,
    )  # fmt: skip
    return k.reshape(-1, 3), np.repeat(weights / 2 / _K_NODES, _K_NODES)


def tensor_noise_gain(h: FloatArray) -> tuple[FloatArray, FloatArray]:
    """Return the noise gain (...) of the tensor and its condition number (...) for sets of unit vectors (..., N, 3).

    The gain is the standard deviation of a component (xx, sqrt2 xy, ...) without a prior per unit of white noise in
    every field, root mean square over the six and k; both are inf where six components are not determined.
    """
    # The field at k is H L(k) chi, H the second-order products and L(k) chi = chi / 3 - sym(k k^T chi), whose
    # eigenvalues are -2/3 (along kk), -1/6 (twice, across) and 1/3 (three times). Over all k the mean of L^-2 is
    # therefore 18.9 on traceless tensors and 6.75 on isotropic ones, and the variance that of trace((H^T H)^-1 L^-2).
    matrix = second_order_products(h)
    if matrix.shape[-2] < 6:
        nothing = np.full(matrix.shape[:-2], np.inf)
        return nothing, nothing
    _, values, vectors = np.linalg.svd(matrix, full_matrices=False)
    determined = values[..., 5] > 1e-9 * values[..., 0]
    safe = np.where(determined[..., None], values, 1.0)
    isotropic = vectors[..., [0, 3, 5]].sum(axis=-1) ** 2 / 3
    gain = np.sqrt(((18.9 - 12.15 * isotropic) / safe**2).mean(axis=-1))
    return np.where(determined, gain, np.inf), np.where(determined, safe[..., 0] / safe[..., 5], np.inf)


def _summed(k: FloatArray, h: FloatArray) -> FloatArray:
    return np.asarray(((1 / 3 - (k @ h.T) ** 2) ** 2).sum(axis=1))


def _polished(k: FloatArray, h: FloatArray, sign: float) -> FloatArray:
    """Return the local minima (M,) of sign * sum D^2 downhill from unit vectors (M, 3): damped Newton steps."""
    value, damping = sign * _summed(k, h), np.full(len(k), 0.01)
    for _ in range(40):
        slope, curvature, tangents = _slope_and_curvature(k, h, sign)
        shift = np.maximum(-np.linalg.eigvalsh(curvature)[:, 0], 0) + damping
        step = -np.linalg.solve(curvature + shift[:, None, None] * np.eye(2), slope[..., None])[..., 0]
        trial = k + np.einsum("mj,mjc->mc", step, tangents)
        trial /= np.linalg.norm(trial, axis=1, keepdims=True)
        tried = sign * _summed(trial, h)
        better = tried < value
        k, value = np.where(better[:, None], trial, k), np.where(better, tried, value)
        damping = np.clip(np.where(better, damping / 10, damping * 10), 1e-12, 1e6)
    return value


def _slope_and_curvature(k: FloatArray, h: FloatArray, sign: float) -> tuple[FloatArray, FloatArray, FloatArray]:
    """Return gradient (M, 2), Hessian (M, 2, 2) of sign * sum D^2 and the tangents (M, 2, 3) they are along, at k."""
    first = np.cross(k, np.eye(3)[np.abs(k).argmin(axis=1)])
    first /= np.linalg.norm(first, axis=1, keepdims=True)
    tangents = np.stack([first, np.cross(k, first)], axis=1)
    cosine, across = k @ h.T, tangents @ h.T
    kernel = 1 / 3 - cosine**2
    slope = -4 * np.einsum("mn,mjn->mj", kernel * cosine, across)
    curvature = np.einsum("mn,min,mjn->mij", 8 * cosine**2 - 4 * kernel, across, across)
    curvature += 4 * (kernel * cosine**2).sum(axis=1)[:, None, None] * np.eye(2)
    return sign * slope, sign * curvature, tangents


def _spread(h: FloatArray) -> float:
    cosines = np.clip(np.abs(h @ h.T), 0, 1)
    return float(np.degrees(np.arccos(cosines.min())))


def _different(h: FloatArray) -> int:
    """How many directions there are, those within a degree of one another counted once."""
    kept: list[FloatArray] = []
    for one in h:
        if all(abs(one @ other) < np.cos(np.radians(_SAME_DIRECTION)) for other in kept):
            kept.append(one)
    return len(kept)


def _shape(h: FloatArray, spread: float) -> _Shape | None:
    """Return the singular shape that directions have to 2.5 degrees (or 8 % of their spread), if there is one."""
    tolerance = min(2.5, 0.08 * spread)
    different = _different(h)
    axes = np.linalg.svd(h)[2]
    if different >= 3 and np.degrees(np.arcsin(np.clip(np.abs(h @ axes[2]).max(), 0, 1))) <= tolerance:
        return _ONE_AXIS
    departure, angle = _departure_from_ring(h, axes[0])
    if different >= 4 and departure <= tolerance:
        return _RING if angle < _WIDE_RING else _ONE_AXIS
    if different >= 5 and _departure_from_cross(h) <= tolerance:
        return _CROSS
    return _SMALL if spread < _SMALL_SPREAD else None


def _departure_from_ring(h: FloatArray, towards: FloatArray) -> tuple[float, float]:
    """Largest departure in degrees from equal angles to one axis, and that angle; all flipped to one side."""
    flipped = np.where((h @ towards < 0)[:, None], -h, h)
    axis = np.linalg.svd(flipped - flipped.mean(axis=0))[2][2]
    angles = np.degrees(np.arccos(np.clip(flipped @ axis, -1, 1)))
    middle = float(angles.mean())
    return float(np.ptp(angles) / 2), min(middle, 180 - middle)


def _departure_from_cross(h: FloatArray) -> float:
    """Largest angle in degrees to the nearer of two planes, from the quadratic form that is least over the set."""
    v = np.linalg.svd(second_order_products(h))[2][5]
    root2 = np.sqrt(2)
    form = np.array([[v[0], v[1] / root2, v[2] / root2], [v[1] / root2, v[3], v[4] / root2],
                     [v[2] / root2, v[4] / root2, v[5]]])  # fmt: skip
    values, vectors = np.linalg.eigh(form)
    if not values[0] < 0 < values[2]:
        return np.inf
    one, other = np.sqrt(values[2]) * vectors[:, 2], np.sqrt(-values[0]) * vectors[:, 0]
    normals = np.stack([one + other, one - other]) / np.linalg.norm(one + other)
    return float(np.degrees(np.arcsin(np.clip(np.abs(h @ normals.T).min(axis=1).max(), 0, 1))))


def _cosmos_message(n: int, spread: float, ratio: float, gains: tuple[float, float]) -> str | None:
    if spread < COSMOS_MIN_SPREAD:
        return (
            f"All B0 directions lie within {spread:.1f} degrees of one another: COSMOS and the tensor are not "
            "determined; add a scan tilted by 20 degrees or more."
        )
    if np.isinf(ratio):
        scans = "both scans" if n == 2 else f"all {n} scans"
        return (
            f"COSMOS is not determined at some points of k-space, where the dipole kernels of {scans} vanish: the "
            "prior (its regularisation) fills the rest; add a scan tilted about another axis."
        )
    usual, worst = gains
    grade = cosmos_grade(worst, ratio)
    if grade in ("poor", "bad"):
        return (
            f"COSMOS is {'weakly' if grade == 'poor' else 'badly'} determined: errors of the fields grow by up to "
            f"{worst:.1f} at the worst points of k-space and white noise by {usual:.1f} (max/min of the summed squared "
            f"dipole kernels {ratio:.0f}); add a scan tilted about another axis or farther."
        )
    return None


def _undetermined(h: FloatArray, spread: float, rank: int) -> tuple[str, str] | None:
    """Return why directions leave the tensor singular and what to add, in words; None where they do not."""
    n, different = len(h), _different(h)
    if rank == 6:
        return None
    shape = _shape(h, spread)
    if different < 6:
        counted = "1 scan" if n == 1 else f"{n} scans"
        if different < n:
            counted += f" of {different} different direction{'s' if different > 1 else ''}"
        why = f"{counted} cannot determine the six tensor components alone"
        if shape in (_ONE_AXIS, _RING):
            why += f", and these are {shape.name}"
        return why, _what_is_missing(6 - different, shape)
    shape = shape or _ALIKE
    return f"These {n} directions leave the tensor singular (rank {rank} of 6: {shape.name})", shape.remedy


def _what_is_missing(scans: int, shape: _Shape | None) -> str:
    if shape is _ONE_AXIS:
        return shape.remedy
    if shape is _RING:
        return shape.remedy if scans == 1 else f"{shape.remedy}, and at least {scans - 1} more"
    return f"add at least {scans} scan{'s' if scans > 1 else ''} tilted towards other sides"


def _tensor_message(h: FloatArray, spread: float, rank: int, condition: float) -> str | None:
    found = _undetermined(h, spread, rank)
    if found:
        why, remedy = found
        return f"{why}: the prior supplies the rest" + (f"; {remedy}." if len(h) >= 6 else ".")
    if condition > WEAK_CONDITION:
        shape = _shape(h, spread)
        remedy = f"nearly {shape.name}; {shape.remedy}" if shape and shape is not _SMALL else "larger tilts help most"
        return f"The tensor is weakly determined (condition number {condition:.0f}): {remedy}."
    return None


def assess_orientations(b0_directions: Directions) -> OrientationReport:
    """Return how well B0 directions (unit vectors (3,), one frame for all) determine COSMOS and STI."""
    h = check_directions(b0_directions)
    singular = np.zeros(6)
    values = np.linalg.svd(second_order_products(h), compute_uv=False)
    singular[: len(values)] = values
    rank = int((singular > singular[0] / SINGULAR_CONDITION).sum())
    condition = float(singular[0] / singular[5]) if singular[5] > 1e-9 * singular[0] else float("inf")
    gain = float(tensor_noise_gain(h)[0]) if rank == 6 else float("inf")
    lowest, highest = summed_kernel_range(h)
    ratio, worst = (highest / lowest, 1 / np.sqrt(lowest)) if lowest > 0 else (np.inf, np.inf)
    usual = cosmos_noise_gain(h, lowest)
    spread = _spread(h)
    messages = (_cosmos_message(len(h), spread, ratio, (usual, worst)), _tensor_message(h, spread, rank, condition))
    return OrientationReport(
        n=len(h), spread=spread, sti_rank=rank, sti_condition=condition, sti_noise_gain=gain,
        cosmos_ratio=float(ratio), cosmos_noise_gain=usual, cosmos_worst_gain=float(worst),
        messages=tuple(message for message in messages if message),
    )  # fmt: skip


def require_orientations(b0_directions: Directions, *, tensor_prior: bool = True) -> OrientationReport:
    """Return the report of assess_orientations, or raise InputError where the fits are not determined.

    Refused: one orientation; all directions within COSMOS_MIN_SPREAD; without a tensor prior also a singular STI set.
    With one, the report's messages say what makes a set singular.
    """
    report = assess_orientations(b0_directions)
    if report.n < 2:
        raise InputError(
            "only one orientation was given, but COSMOS and STI need the same head at several: add scans with the "
            "head tilted by 20 degrees or more."
        )
    if not report.cosmos_determined:
        raise InputError(report.messages[0])
    found = _undetermined(check_directions(b0_directions), report.spread, report.sti_rank)
    if found and not tensor_prior:
        why, remedy = found
        raise InputError(f"{why}: {remedy}, or fit with a prior on the tensor's anisotropy.")
    return report
