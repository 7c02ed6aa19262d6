"""What each head orientation brings, and which one more would help most: the plan before a scan, the check after it.

Directions are unit vectors along B0 in the head (RAS, the neutral head has B0 along z). Three numbers are followed as
scans come and go, none of which a further scan can worsen: the noise of the tensor and of COSMOS per unit of field
noise, without a prior, and the expected standard deviation of chi33 in ppm with one.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ...files.errors import InputError
from ..frames import check_b0_direction
from ..physics.prior import Prior
from ..physics.tensor_field import tensor_kernel
from .conditioning import (
    SINGULAR_CONDITION,
    Directions,
    OrientationReport,
    assess_orientations,
    check_directions,
    cosmos_noise_gain,
    sphere_points,
    summed_kernel_range,
    tensor_noise_gain,
)

MAX_ANGLE = 35.0  # degrees, what most necks can do in a head coil
FIELD_NOISE = 0.001  # ppm
_K_POINTS = 800
_BATCH = 256  # candidates at a time
_APART = 20.0  # degrees between suggestions
_AS_GOOD = 0.01  # of what a next scan can bring: among positions this near the best, small angles are preferred
_UNKNOWN = 1e4  # standard deviations of chi33 per field noise above which it is not determined

FloatArray = NDArray[np.float64]


@dataclass(frozen=True)
class Quality:
    """How noisy the fits to a set of directions are.

    condition: condition number of the tensor (inf: singular); tensor_noise, cosmos_noise: standard deviation per unit
    of field noise of the tensor's components (root mean square over six) and of COSMOS, root mean square over k,
    without a prior (inf: not determined, of COSMOS: somewhere in k-space); chi33: expected standard deviation of chi33
    in ppm with the prior, root mean square over scans and k.
    """

    condition: float
    tensor_noise: float
    cosmos_noise: float
    chi33: float

    @property
    def singular(self) -> bool:
        """Whether the tensor needs a prior."""
        return self.condition > SINGULAR_CONDITION


@dataclass(frozen=True)
class Change:
    """The quality before and after a scan is added or left out; chi33 of both is over the scans they share."""

    before: Quality
    after: Quality

    def factor(self, name: str) -> float:
        """Return after / before of a noise of Quality; nan where it is infinite in both."""
        before, after = getattr(self.before, name), getattr(self.after, name)
        if np.isinf(before):
            return np.nan if np.isinf(after) else 0.0
        return float(after / before)


@dataclass(frozen=True)
class Loss(Change):
    """What leaving out a scan (counted from 0) costs."""

    scan: int

    @property
    def cost(self) -> tuple[float, float]:
        """What ranks losses: the factor on the tensor's noise where all scans determine it, then that on chi33's."""
        tensor = 1.0 if self.before.singular else np.inf if self.after.singular else self.factor("tensor_noise")
        chi33 = self.factor("chi33")
        return round(tensor, 3), 1.0 if np.isnan(chi33) else round(chi33, 3)


@dataclass(frozen=True)
class Addition(Change):
    """What one more scan brings with the head at a pitch and a roll in degrees."""

    pitch: float
    roll: float

    @property
    def direction(self) -> FloatArray:
        """B0 (3,) in the head."""
        return direction_from_pitch_roll(self.pitch, self.roll)

    @property
    def tilt(self) -> float:
        """Degrees between B0 and that of the neutral head."""
        return tilt_of(self.direction)


@dataclass(frozen=True)
class OrientationPlan:
    """A set of directions judged: as it is, without each of its scans, and with one more.

    directions: (N, 3); chi33_sd: (N,) expected standard deviation of chi33 of every scan in ppm; losses: one a scan,
    empty for one scan; best: one more scan within max_angle degrees of the neutral head, the best first, the others
    elsewhere; standard: one more scan at the usual positions; ranked_by: the noise of Quality that best minimises;
    noise: of the fields, ppm.
    """

    directions: FloatArray
    report: OrientationReport
    quality: Quality
    chi33_sd: FloatArray
    losses: tuple[Loss, ...]
    best: tuple[Addition, ...]
    standard: tuple[Addition, ...]
    ranked_by: str
    max_angle: float
    noise: float
    prior: Prior = field(repr=False)

    @cached_property
    def by_need(self) -> tuple[Loss, ...]:
        """The losses, the one that costs most first."""
        return tuple(sorted(self.losses, key=lambda loss: loss.cost, reverse=True))


def direction_from_pitch_roll(pitch: ArrayLike, roll: ArrayLike) -> FloatArray:
    """Return B0 (..., 3) in a head turned by pitch about x (positive: back), then roll about y (positive: right)."""
    p, r = np.radians(np.asarray(pitch, np.float64)), np.radians(np.asarray(roll, np.float64))
    return np.stack([-np.sin(r), np.cos(r) * np.sin(p), np.cos(r) * np.cos(p)], axis=-1)


def pitch_and_roll(b0_direction: ArrayLike) -> tuple[float, float]:
    """Return the pitch and roll in degrees of the head that has B0 along a unit vector (3,); h and -h are the same."""
    h = check_b0_direction(b0_direction)
    h = -h if h[2] < 0 else h
    pitch, roll = np.degrees([np.arctan2(h[1], h[2]), -np.arcsin(np.clip(h[0], -1, 1))])
    return float(pitch), float(roll)


def tilt_of(b0_direction: ArrayLike) -> float:
    """Return the angle in degrees between B0 (3,) in a head and that of the neutral head; h and -h are the same."""
    h = check_b0_direction(b0_direction)
    return float(np.degrees(np.arctan2(np.hypot(h[0], h[1]), abs(h[2]))))


def expected_chi33_noise(
    b0_directions: Directions,
    *,
    noise: float = FIELD_NOISE,
    prior: Prior | None = None,
    along: Directions | None = None,
    points: int = _K_POINTS,
) -> FloatArray:
    """Return the expected standard deviation of chi33 of every scan in ppm (N,), the root mean square over k.

    It is that of the posterior (A^T A / noise^2 + P)^-1 of the tensor at `points` directions of k, which holds what
    the noise does and what the scans leave to the prior. b0_directions: unit vectors (N, 3); noise: standard deviation
    of the fields in ppm; prior: 0.03 ppm (isotropic) and 0.004 ppm (traceless) by default; along: B0 directions whose
    chi33 is meant, the scans' own by default. inf where nothing determines it. Raises InputError for a noise <= 0.
    """
    h = check_directions(b0_directions)
    asked = h if along is None else check_directions(along)
    return _Posterior(h, _checked_noise(noise), prior or Prior(), points).chi33_sd(asked)


class _Posterior:
    """The covariance of the tensor at many directions of k, for scans with B0 along unit vectors (N, 3)."""

    def __init__(self, h: FloatArray, noise: float, prior: Prior, points: int = _K_POINTS) -> None:
        self.k, self.noise = sphere_points(points), noise
        rows = _model_rows(self.k, h)
        values, vectors = np.linalg.eigh(rows.transpose(0, 2, 1) @ rows + noise**2 * prior.precision())
        floor = np.maximum(values, 1e-13 * values[:, -1:])
        self.covariance = noise**2 * (vectors / floor[:, None, :]) @ vectors.transpose(0, 2, 1)

    def chi33_sd(self, h: FloatArray) -> FloatArray:
        """Return the standard deviation of chi33 (M,) along unit vectors (M, 3)."""
        weights = _chi33_rows(h)
        variance = np.einsum("mi,ij,mj->m", weights, self.covariance.mean(axis=0), weights)
        sd = np.sqrt(variance)
        return np.asarray(np.where(sd < _UNKNOWN * self.noise, sd, np.inf))

    def chi33_with(self, candidates: FloatArray, h: FloatArray) -> FloatArray:
        """Return chi33's standard deviation (C,) over the scans h (N, 3) and k with one more scan at each (C, 3)."""
        weights = _chi33_rows(h)
        metric = weights.T @ weights / len(h)
        before = float(np.sum(self.covariance.mean(axis=0) * metric))
        out = []
        for start in range(0, len(candidates), _BATCH):
            rows = _model_rows(self.k, candidates[start : start + _BATCH])
            moved = rows @ self.covariance
            gained = np.einsum("kci,ij,kcj->kc", moved, metric, moved, optimize=True)
            out.append(before - (gained / (self.noise**2 + (moved * rows).sum(axis=2))).mean(axis=0))
        return np.sqrt(np.concatenate(out))


def _model_rows(k: FloatArray, h: FloatArray) -> FloatArray:
    """Return the rows a(k) (K, N, 6) of tensor_kernel for directions of k (K, 3) and of B0 (N, 3)."""
    rows = [tensor_kernel(((k @ one)[:, None] * k).T.astype(np.float32), one).T for one in h]
    return np.stack(rows, axis=1).astype(np.float64)


def _chi33_rows(h: FloatArray) -> FloatArray:
    """Return the rows (N, 6) that take xx, xy, xz, yy, yz, zz to h^T chi h."""
    x, y, z = h.T
    return np.stack([x * x, 2 * x * y, 2 * x * z, y * y, 2 * y * z, z * z], axis=1)


def assess_quality(
    b0_directions: Directions,
    *,
    noise: float = FIELD_NOISE,
    prior: Prior | None = None,
    along: Directions | None = None,
) -> Quality:
    """Return how noisy fits to B0 directions (N, 3) are; arguments as of expected_chi33_noise."""
    h = check_directions(b0_directions)
    tensor, condition = tensor_noise_gain(h)
    lowest, _ = summed_kernel_range(h)
    chi33 = expected_chi33_noise(h, noise=noise, prior=prior, along=along)
    return Quality(
        condition=float(condition), tensor_noise=float(tensor),
        cosmos_noise=cosmos_noise_gain(h, lowest), chi33=_root_mean_square(chi33),
    )  # fmt: skip


def plan_orientations(
    b0_directions: Directions,
    *,
    max_angle: float = MAX_ANGLE,
    noise: float = FIELD_NOISE,
    prior: Prior | None = None,
) -> OrientationPlan:
    """Return what B0 directions (unit vectors (3,) in the head) determine, what each brings, and the best next scans.

    max_angle: largest tilt in degrees of a next scan from the neutral head, 0 to 90; noise: standard deviation of the
    fields in ppm; prior: as of the fit. The next scan is ranked by the noise of the tensor without a prior where one
    more scan can determine it, else by chi33 with the prior. Raises InputError for a value outside its range.
    """
    h = check_directions(b0_directions)
    used = prior or Prior()
    if not 0 < max_angle <= 90:
        raise InputError(f"max_angle must be above 0 and at most 90 degrees, got {max_angle:g}.")
    quality = assess_quality(h, noise=_checked_noise(noise), prior=used)
    positions = _whole_degrees(max_angle)
    candidates = direction_from_pitch_roll(positions[:, 0], positions[:, 1])
    best_condition = tensor_noise_gain(_with_each(h, candidates))[1].min()
    ranked_by = "tensor_noise" if best_condition < SINGULAR_CONDITION else "chi33"
    values = noise_with_one_more(h, candidates, ranked_by, noise=noise, prior=used)
    chi33_sd = expected_chi33_noise(h, noise=noise, prior=used)
    best = [positions[i] for i in _best_apart(candidates, values, np.abs(positions).sum(axis=1))]
    return OrientationPlan(
        directions=h, report=assess_orientations(h), quality=quality,
        chi33_sd=chi33_sd, losses=_losses(h, quality, chi33_sd, noise, used),
        best=_additions(h, best, quality, noise, used),
        standard=_additions(h, standard_positions(max_angle), quality, noise, used),
        ranked_by=ranked_by, max_angle=max_angle, noise=noise, prior=used,
    )  # fmt: skip


def noise_with_one_more(
    b0_directions: Directions,
    candidates: FloatArray,
    name: str,
    *,
    noise: float = FIELD_NOISE,
    prior: Prior | None = None,
) -> FloatArray:
    """Return the tensor_noise or chi33 of Quality (C,) with one more scan at each of unit vectors (C, 3).

    chi33 is ranked with the default prior where the one given is infinite on a part.
    """
    h = check_directions(b0_directions)
    if name == "tensor_noise":
        return tensor_noise_gain(_with_each(h, candidates))[0]
    used = prior or Prior()
    finite = used if np.isfinite([used.iso, used.aniso]).all() else Prior()
    return _Posterior(h, noise, finite).chi33_with(candidates, h)


def standard_positions(max_angle: float) -> list[tuple[float, float]]:
    """Return the usual head positions within max_angle degrees as (pitch, roll): neutral, four sides, diagonals."""
    sides = [(s * a, 0.0) for s in (-1, 1) for a in (10.0, 20.0, 30.0)]
    sides += [(0.0, s * a) for s in (-1, 1) for a in (10.0, 20.0, 30.0)]
    diagonals = [(p * 20.0, r * 20.0) for p in (-1, 1) for r in (-1, 1)]
    every = [(0.0, 0.0), *sides, *diagonals]
    return [one for one in every if tilt_of(direction_from_pitch_roll(*one)) <= max_angle + 1e-6]


def _with_each(h: FloatArray, candidates: FloatArray) -> FloatArray:
    """Return the sets (C, N + 1, 3) of h (N, 3) and one of the candidates (C, 3)."""
    repeated = np.broadcast_to(h, (len(candidates), *h.shape))
    return np.concatenate([repeated, candidates[:, None, :]], axis=1)


def _whole_degrees(max_angle: float) -> FloatArray:
    """Head positions (C, 2) of whole degrees of pitch and roll, near a grid of 2.5 degrees of tilt and 7.5 around."""
    tilts = np.linspace(0, max_angle, max(2, round(max_angle / 2.5) + 1))
    tilt, around = (np.radians(one).ravel() for one in np.meshgrid(tilts, np.arange(0, 360, 7.5)))
    h = np.stack([np.sin(tilt) * np.cos(around), np.sin(tilt) * np.sin(around), np.cos(tilt)], axis=1)
    exact = np.stack([np.degrees(np.arctan2(h[:, 1], h[:, 2])), -np.degrees(np.arcsin(h[:, 0]))], axis=1)
    rounded = np.round(exact)
    within = direction_from_pitch_roll(rounded[:, 0], rounded[:, 1])[:, 2] >= np.cos(np.radians(max_angle)) - 1e-9
    whole = np.where(within[:, None], rounded, np.trunc(exact)) + 0.0
    return np.unique(whole, axis=0)


def _best_apart(candidates: FloatArray, values: FloatArray, effort: FloatArray, count: int = 3) -> list[int]:
    """Return the candidates (C, 3) of least value, at least 20 degrees apart; of equals, the one of least effort."""
    chosen: list[int] = []
    left = np.ones(len(values), bool)
    slack = _AS_GOOD * (min(values.max(), 1.5 * values.min()) - values.min())
    while left.any() and len(chosen) < count:
        good = np.flatnonzero(left & (values <= values[left].min() + slack))
        chosen.append(int(good[np.lexsort((values[good].round(9), effort[good]))[0]]))
        left &= np.abs(candidates @ candidates[chosen[-1]]) < np.cos(np.radians(_APART))
    return chosen


def _losses(h: FloatArray, before: Quality, chi33_sd: FloatArray, noise: float, prior: Prior) -> tuple[Loss, ...]:
    if len(h) < 2:
        return ()
    out = []
    for scan in range(len(h)):
        shared = replace(before, chi33=_root_mean_square(np.delete(chi33_sd, scan)))
        after = assess_quality(np.delete(h, scan, axis=0), noise=noise, prior=prior)
        out.append(Loss(shared, after, scan))
    return tuple(out)


def _additions(
    h: FloatArray, positions: Sequence[ArrayLike], before: Quality, noise: float, prior: Prior
) -> tuple[Addition, ...]:
    out = []
    for pitch, roll in (np.asarray(one, np.float64).tolist() for one in positions):
        extended = np.vstack([h, direction_from_pitch_roll(pitch, roll)])
        after = assess_quality(extended, noise=noise, prior=prior, along=h)
        out.append(Addition(before, after, pitch, roll))
    return tuple(out)


def _root_mean_square(values: FloatArray) -> float:
    return float(np.sqrt((values**2).mean()))


def _checked_noise(noise: float) -> float:
    if not (noise > 0 and np.isfinite(noise)):
        raise InputError(f"noise must be a positive standard deviation of the fields in ppm, got {noise:g}.")
    return float(noise)
