"""The prior of the tensor's traceless part where tissues differ: strong in white matter, weak elsewhere, coherent.

The traceless part is T = S z. S is the standard deviation at each voxel (and along a fibre another than across it), and
z a field of unit variance that is correlated over a few mm, so that the anisotropy of neighbours is alike within a
tissue and may jump where S does. Its precision is S^-T Q S^-1 with Q = c (k^2 - Laplacian)^2, the Matern field whose
correlation falls as exp(-k r) (Whittle 1954, Lindgren 2011), the Laplacian within the support alone.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from scipy import fft

from ....files.errors import InputError
from ...physics.dipole import Float32Array
from ...physics.prior import Prior
from ...physics.tensors import COMPONENTS, DIAGONAL
from ..model.grid import FitGrid
from .white_matter import soft, white_matter_probability

_COUNTED = np.array([1, 2, 2, 1, 2, 1], np.float32)  # how often a component stands in the matrix


ELSEWHERE = 0.5  # standard deviation outside white matter, relative to that within
CORRELATION = 3.0  # mm
FREQUENCY = 0.005  # ppm, prior standard deviation of the isotropic frequency in white matter, where the data show one
FREQUENCY_ELSEWHERE = 0.1  # standard deviation of the isotropic frequency outside white matter, relative to within
ACROSS = 0.5  # standard deviation of what is not symmetric about a fibre, relative to what is


@dataclass(frozen=True)
class TissueOptions:
    """What the prior of the traceless part knows of tissue, on the grid of the fields.

    white_matter: "auto" (from the data), "none" (the same prior everywhere) or a probability (x, y, z) 0-1;
    elsewhere: standard deviation outside white matter relative to Prior.aniso, which holds within; correlation: mm over
    which neighbours are alike, 0 for independent voxels; fibre: (3, x, y, z) unit vectors along the array axes, 0 where
    none is known; across: standard deviation of what is not symmetric about it, relative to what is; frequency: prior
    standard deviation in ppm, in white matter, of a frequency that all scans share and no susceptibility makes (0: none
    is fitted; "auto": FREQUENCY where the data show one, see shared_frequency).
    """

    white_matter: Literal["auto", "none"] | Float32Array = "auto"
    elsewhere: float = ELSEWHERE
    correlation: float = CORRELATION
    fibre: Float32Array | None = None
    across: float = ACROSS
    frequency: float | Literal["auto"] = 0.0

    def __post_init__(self) -> None:
        if isinstance(self.white_matter, str) and self.white_matter not in ("auto", "none"):
            raise InputError(f"white_matter must be 'auto', 'none' or a map, got {self.white_matter!r}.")
        if not 0 <= self.correlation < np.inf:
            raise InputError(f"the correlation of the prior must be 0 mm or more, got {self.correlation}.")
        if self.frequency != "auto" and (isinstance(self.frequency, str) or not 0 <= self.frequency < np.inf):
            raise InputError(
                f"the isotropic frequency's prior must be 'auto', or 0 ppm (none) or more, got {self.frequency!r}."
            )
        for name in ("elsewhere", "across"):
            if not 0 < getattr(self, name) <= 1:
                raise InputError(f"{name} must lie above 0 and be 1 at most, got {getattr(self, name)}.")


@dataclass(frozen=True)
class FrequencyPrior:
    """The prior of a frequency that all scans share.

    spread: (x, y, z) standard deviation in ppm, positive; correlation: mm; white: its standard deviation in white
    matter, ppm; doubtful: the data are to show whether there is any.
    """

    spread: Float32Array
    correlation: float = 0.0
    white: float = FREQUENCY
    doubtful: bool = False


@dataclass(frozen=True)
class TissuePrior:
    """How the prior of the traceless part varies over the box of a grid.

    spread: (x, y, z) standard deviation relative to Prior.aniso, positive; correlation: mm over which neighbours are
    alike, 0 for independent voxels; fibre: (3, x, y, z) unit vectors along the array axes, 0 where none is known, or
    None; along, across: standard deviations of the part that is symmetric about the fibre, and of the rest, relative to
    `spread`; frequency: the prior of an isotropic frequency beside the tensor, or None.
    """

    spread: Float32Array
    correlation: float = 0.0
    fibre: Float32Array | None = None
    along: float = 1.0
    across: float = 1.0
    frequency: FrequencyPrior | None = None

    def symmetric_part(self) -> Float32Array | None:
        """Return v v^T - I/3 (6, x, y, z) of the fibre's direction, of Frobenius norm 1; 0 where none is known."""
        if self.fibre is None:
            return None
        unit = np.empty((6, *self.spread.shape), np.float32)
        known = (np.square(self.fibre).sum(axis=0) > 0).astype(np.float32)
        for number, name in enumerate(COMPONENTS):
            j, m = ("xyz".index(axis) for axis in name)
            unit[number] = self.fibre[j] * self.fibre[m] - (known / 3 if j == m else 0)
        return unit * np.float32(np.sqrt(1.5))


def tissue_prior(
    options: TissueOptions, prior: Prior, grid: FitGrid, support: NDArray[np.bool_], maps: Float32Array
) -> tuple[TissuePrior | None, Mapping[str, Any]]:
    """Return the prior of the traceless part for a first solution (6, box) in ppm, and what a sidecar says of it.

    support: where chi may differ from 0 (box). None where the prior leaves the traceless part free.
    """
    if not np.isfinite(prior.aniso):
        return None, {}
    white, source = _white_matter(options, grid, support, maps)
    record: dict[str, Any] = {"WhiteMatter": source, "PriorCorrelationMm": options.correlation}
    spread = np.ones(grid.box_shape, np.float32)
    if white is not None:
        spread = np.sqrt(white + (1 - white) * np.float32(options.elsewhere**2))
        record["WhiteMatterShare"] = round(float(white[support].mean()), 3)
        record["PriorAnisoWhiteMatterPpm"] = prior.aniso
        record["PriorAnisoElsewherePpm"] = prior.aniso * options.elsewhere
    frequency = _frequency_prior(options, white, spread)
    if frequency is not None and not frequency.doubtful:
        record["PriorFrequencyPpm"] = frequency.white
    if options.fibre is None:
        return TissuePrior(spread, options.correlation, frequency=frequency), record
    record["PriorAnisoAcrossFibrePpm"] = prior.aniso * options.across
    fibre = np.ascontiguousarray(grid.crop(options.fibre), np.float32)
    return TissuePrior(spread, options.correlation, fibre, across=options.across, frequency=frequency), record


def _frequency_prior(options: TissueOptions, white: Float32Array | None, spread: Float32Array) -> FrequencyPrior | None:
    """Return the prior of an isotropic frequency for a probability of white matter (box, None: not known)."""
    auto = options.frequency == "auto"
    level = FREQUENCY if auto else float(options.frequency)
    if level <= 0 or (auto and white is None):
        return None
    within = np.ones_like(spread) if white is None else np.maximum(white, np.float32(FREQUENCY_ELSEWHERE))
    return FrequencyPrior(within * np.float32(level), options.correlation, level, doubtful=auto)


def _white_matter(
    options: TissueOptions, grid: FitGrid, support: NDArray[np.bool_], maps: Float32Array
) -> tuple[Float32Array | None, str]:
    """Return the probability of white matter (box) and what it comes from."""
    if not isinstance(options.white_matter, str):
        return soft(grid.crop(options.white_matter), support), "given"
    if options.white_matter == "none":
        return None, "none"
    found = white_matter_probability(_mean(maps), support, grid.voxel_size)
    return (None, "not told apart") if found is None else (found, "from the susceptibility of a first fit")


def coherence(grid: FitGrid, correlation: float) -> Float32Array:
    """Return the spectrum (half) of Q: the precision of a unit field correlated over mm; (1, 1, 1) ones for 0 mm."""
    if correlation <= 0:
        return np.ones((1, 1, 1), np.float32)
    lengths = zip(grid.padded, grid.voxel_size, strict=True)
    axes = [(2 - 2 * np.cos(2 * np.pi * np.fft.fftfreq(n))) / d**2 for n, d in lengths]
    axes[2] = axes[2][: grid.half[2]]
    power = axes[0][:, None, None] + axes[1][:, None] + axes[2] + correlation**-2
    return (power**2 * _scale(grid, correlation)).astype(np.float32)


def _scale(grid: FitGrid, correlation: float) -> float:
    """Return the c that gives Q a marginal variance of 1 on the lattice."""
    axes = [(2 - 2 * np.cos(2 * np.pi * (np.arange(48) + 0.5) / 48)) / d**2 for d in grid.voxel_size]
    power = axes[0][:, None, None] + axes[1][:, None] + axes[2] + correlation**-2
    return float(np.mean(power**-2.0))


class TissueMetric:
    """The precision S^-T Q S^-1 of a TissuePrior on arrays of one kind, NumPy or torch.

    typical: its spectrum (half) or (1, 1, 1), for the mean of S^-2; own: turns a NumPy array into the model's kind;
    inside: the support (x, y, z). Maps are (6, x, y, z).
    """

    def __init__(self, prior: TissuePrior, grid: FitGrid, inside: NDArray[np.bool_], own: Any) -> None:
        self._spectrum = coherence(grid, prior.correlation)
        spread = prior.spread[inside]
        # what the closed form of the problem holds: one precision for the whole brain
        self.typical = self._spectrum * np.float32(np.mean(spread**-2.0) if spread.size else 1)
        self._across, self._along = prior.across, prior.along
        self._spread = own(np.where(inside, prior.spread, np.float32(1)))
        unit = prior.symmetric_part()
        self._unit = None if unit is None else own(unit)
        self._likeness = _Likeness(prior.correlation, grid, inside, own)

    def precision(self, maps: Any) -> Any:
        """Return S^-T Q S^-1 of the traceless part of maps, as a gradient (components off the diagonal count twice)."""
        mean = _mean(maps)
        inverse = 1 / self._spread
        white = self._apply(maps, 1 / self._across, 1 / self._along, False, inverse)
        for component in DIAGONAL:
            white[component] -= mean
        for one in white:
            one[...] = self._likeness.precision(one)
        for component in (1, 2, 4):
            white[component] *= 2
        out = self._apply(white, 1 / self._across, 1 / self._along, True, inverse)
        mean = _mean(out)
        for component in DIAGONAL:
            out[component] -= mean
        return out

    def sample(self, maps: Float32Array, grid: FitGrid, rng: np.random.Generator) -> Float32Array:
        """Return maps (6, x, y, z) drawn from the prior of independent voxels as ones drawn from this prior (NumPy)."""
        inside = np.asarray(maps[0] != 0, np.float32)
        mean = _mean(maps)
        traceless = maps.copy()
        for component in DIAGONAL:
            traceless[component] -= mean
        if self._likeness.correlated:
            # a field over the whole padded grid, so that its variance is the same up to the edge of the box
            level = [float(np.sqrt(np.square(one[inside > 0]).mean())) for one in traceless]
            for number, size in enumerate(level):
                noise = fft.rfftn(rng.standard_normal(grid.padded, dtype=np.float32), workers=1)
                traceless[number] = np.float32(size) * inside * grid.inverse(noise / np.sqrt(self._spectrum))
            trace = _mean(traceless)
            for component in DIAGONAL:
                traceless[component] = np.sqrt(1.5) * (traceless[component] - trace)
        out = self._apply(traceless, self._across, self._along, False, self._spread)
        for component in DIAGONAL:
            out[component] += mean
        return np.asarray(out, np.float32)

    def _apply(self, maps: Any, across: float, along: float, transposed: bool, spread: Any) -> Any:
        """Return mean * I + spread (across T + (along - across) u <u, T>) of maps with the traceless part T."""
        mean = _mean(maps)
        out = maps * (spread * across)
        if self._unit is not None:
            counted = [1.0] * 6 if transposed else _COUNTED.tolist()
            share = sum(c * u * one for c, u, one in zip(counted, self._unit, maps, strict=True))
            share = share * (spread * (along - across))
            for number, count in enumerate(_COUNTED.tolist() if transposed else [1.0] * 6):
                out[number] += count * self._unit[number] * share
        for component in DIAGONAL:
            out[component] += mean * (1 - spread * across)
        return out


class FrequencyMetric:
    """The precision S^-1 Q S^-1 of a FrequencyPrior on arrays of one kind; arguments as TissueMetric's.

    typical: its spectrum (half) or (1, 1, 1) in ppm^-2, for the mean of S^-2 over the support.
    """

    def __init__(self, prior: FrequencyPrior, grid: FitGrid, inside: NDArray[np.bool_], own: Any) -> None:
        spread = prior.spread[inside]
        self.spectrum = coherence(grid, prior.correlation)
        self.typical = self.spectrum * np.float32(np.mean(spread**-2.0) if spread.size else 1)
        self._likeness = _Likeness(prior.correlation, grid, inside, own)
        self._inverse = own(np.where(inside, 1 / prior.spread, np.float32(1)))
        self._prior, self._inside = prior, inside

    def precision(self, frequency: Any) -> Any:
        """Return the precision times a map (x, y, z)."""
        return self._inverse * self._likeness.precision(frequency * self._inverse)

    def sample(self, grid: FitGrid, rng: np.random.Generator) -> Float32Array:
        """Return a map (x, y, z) in ppm drawn from the prior (NumPy)."""
        noise = fft.rfftn(rng.standard_normal(grid.padded, dtype=np.float32), workers=1)
        drawn = grid.inverse(noise / np.sqrt(self.spectrum))
        return np.asarray(self._prior.spread * self._inside * drawn, np.float32)


class _Likeness:
    """Q = c (k^2 - Laplacian)^2 within a support, on arrays of one kind; the identity for a correlation of 0 mm."""

    def __init__(self, correlation: float, grid: FitGrid, inside: NDArray[np.bool_], own: Any) -> None:
        self.correlated = correlation > 0
        self._offset = correlation**-2 if self.correlated else 0.0
        self._scale = _scale(grid, correlation) if self.correlated else 1.0
        faces = [inside[1:] & inside[:-1], inside[:, 1:] & inside[:, :-1], inside[..., 1:] & inside[..., :-1]]
        self._faces = [
            own(f.astype(np.float32) / np.float32(d**2)) for f, d in zip(faces, grid.voxel_size, strict=True)
        ]

    def precision(self, one: Any) -> Any:
        """Return Q times a volume (x, y, z)."""
        return self._half(self._half(one)) * self._scale if self.correlated else one

    def _half(self, one: Any) -> Any:
        """Return (k^2 - Laplacian) of a volume within the support."""
        out = one * self._offset
        for axis, face in enumerate(self._faces):
            ahead = [slice(None)] * 3
            behind = [slice(None)] * 3
            ahead[axis], behind[axis] = slice(1, None), slice(None, -1)
            flow = (one[tuple(ahead)] - one[tuple(behind)]) * face
            out[tuple(ahead)] += flow
            out[tuple(behind)] -= flow
        return out


def _mean(maps: Any) -> Any:
    return (maps[0] + maps[3] + maps[5]) / 3
