"""The gradient-echo scan of a simulated head: magnitude, wrapped phase and noise of every echo."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ...files.errors import InputError
from ..frames import GYROMAGNETIC_RATIO, radians_per_ppm
from .anatomy import TISSUES, Head
from .background import polynomial_coordinates
from .poses import HeadPose, ScanGrid
from .sampling import sample_grid
from .truth import ScanTruth, SmoothedHead, head_mapping

Float32Array = NDArray[np.float32]
# proton density and T1 in s at 3 T (Stanisz 2005; Rooney 2007 for the growth with B0)
_PROTONS = {"grey": 0.82, "white": 0.70, "csf": 1.0, "vein": 0.80, "bone": 0.05, "muscle": 0.75, "fat": 0.80}
_T1 = {"grey": 1.40, "white": 0.85, "csf": 4.0, "vein": 1.60, "bone": 0.40, "muscle": 1.20, "fat": 0.38}
_T1_GROWTH, _R2STAR_GROWTH = 0.35, 0.7  # exponents of B0 / 3 T
_RECEIVE = 0.12  # size of the B1 shading's polynomial terms
_COIL_PHASE = 0.6  # radians, of the coil phase's polynomial terms


@dataclass(frozen=True)
class Protocol:
    """A multi-echo spoiled gradient-echo sequence.

    b0: tesla; echo_times, repetition_time: seconds; flip_angle: degrees; snr: mean brain magnitude of the first echo
    over the noise's standard deviation per channel (infinite: no noise); phase_sign: 1 where a paramagnetic source's
    phase is positive at its pole, -1 for the other vendors. Raises InputError on values that no scanner runs.
    """

    b0: float = 3.0
    echo_times: tuple[float, ...] = (0.0077, 0.0127, 0.0177, 0.0227, 0.0277, 0.0327)
    repetition_time: float = 0.045
    flip_angle: float = 16.0
    snr: float = 60.0
    phase_sign: int = 1

    def __post_init__(self) -> None:
        times = np.asarray(self.echo_times, dtype=np.float64)
        rising = times.ndim == 1 and len(times) > 0 and np.isfinite(times).all() and times[0] > 0
        if not rising or (np.diff(times) <= 0).any() or times[-1] > 0.2:
            raise InputError(f"echo times must rise from above 0 to at most 0.2 s, got {times.tolist()} s.")
        if times[-1] >= self.repetition_time:
            raise InputError(
                f"the last echo time, {times[-1]:g} s, must come before the repetition time, "
                f"{self.repetition_time:g} s."
            )
        if not 0.5 <= self.b0 <= 14:
            raise InputError(f"the field strength must lie between 0.5 and 14 T, got {self.b0:g}.")
        if not self.snr > 0:
            raise InputError(f"snr must be above 0 (inf for no noise), got {self.snr:g}.")
        if self.phase_sign not in (-1, 1):
            raise InputError(f"phase_sign must be 1 or -1, got {self.phase_sign}.")


@dataclass(frozen=True)
class Coil:
    """Smooth receive sensitivity and echo-independent phase, fixed to the scanner: weights of polynomial terms."""

    shading: NDArray[np.float64]
    phase: NDArray[np.float64]

    @classmethod
    def from_seed(cls, seed: int | Sequence[int]) -> Coil:
        """Return the coil of a seed."""
        rng = np.random.default_rng([*np.atleast_1d(seed).tolist(), 404])
        return cls(rng.normal(0, _RECEIVE, 9), rng.normal(0, _COIL_PHASE, 13))


@dataclass(frozen=True)
class Contrast:
    """Head maps (1 mm, smoothed for the voxel) of the steady-state signal at TE = 0 and of R2* in 1/s at this B0."""

    signal: Float32Array
    r2star: Float32Array


@dataclass(frozen=True)
class Echo:
    """One echo: magnitude (x, y, z) in arbitrary units (brain mean 1 at the first echo), wrapped phase in [-pi, pi)."""

    number: int
    echo_time: float
    magnitude: Float32Array
    phase: Float32Array


def tissue_signals(protocol: Protocol) -> dict[str, float]:
    """Return the steady-state signal of each of TISSUES at TE = 0 (Ernst)."""
    angle, growth = np.radians(protocol.flip_angle), protocol.b0 / 3
    signals = {}
    for name in TISSUES:
        e1 = np.exp(-protocol.repetition_time / (_T1[name] * growth**_T1_GROWTH))
        signals[name] = _PROTONS[name] * np.sin(angle) * (1 - e1) / (1 - np.cos(angle) * e1)
    return signals


def r2star_growth(b0: float) -> float:
    """Return R2* at a field strength in tesla over that at 3 T."""
    return (b0 / 3) ** _R2STAR_GROWTH


def contrast(smooth: SmoothedHead, protocol: Protocol) -> Contrast:
    """Return the maps that a protocol weights a head with: Ernst's steady state per tissue, and R2*."""
    signal = np.zeros(smooth.head.brain.shape, np.float32)
    for index, steady in enumerate(tissue_signals(protocol).values()):
        signal += smooth.head.fractions[index] * np.float32(steady / 255)
    r2star = smooth.head.r2star * np.float32(r2star_growth(protocol.b0))
    return Contrast(smooth.map_of(signal), smooth.map_of(r2star))


def simulate_echoes(
    smooth: SmoothedHead, maps: Contrast, truth: ScanTruth, protocol: Protocol, coil: Coil, rng: np.random.Generator
) -> Iterator[Echo]:
    """Yield the echoes of a scan whose truth is known: decay, dephasing, coil, B1 shading and complex noise.

    smooth, maps: the head and its contrast, prepared for the voxel size; rng: of the noise.
    """
    density, decay = _sampled_maps(smooth.head, maps, smooth, truth.pose, truth.grid)
    shading, offset = coil_maps(coil, truth.grid)
    density *= shading
    spread = field_steps(truth.total_field)
    noise = 0.0
    mean = 1.0
    for number, echo_time in enumerate(protocol.echo_times, start=1):
        magnitude = density * np.exp(-np.float32(echo_time) * decay)
        dephase(magnitude, spread, protocol.b0, echo_time)
        if number == 1:
            mean = float(magnitude[truth.brain_mask].mean(dtype=np.float64))
            noise = mean / protocol.snr
        angle = offset + np.float32(radians_per_ppm(protocol.b0, echo_time)) * truth.total_field
        angle *= np.float32(protocol.phase_sign)
        real, imaginary = magnitude * np.cos(angle), magnitude * np.sin(angle)
        if noise > 0:
            real += np.float32(noise) * rng.standard_normal(real.shape, dtype=np.float32)
            imaginary += np.float32(noise) * rng.standard_normal(real.shape, dtype=np.float32)
        yield echo_of(number, echo_time, real, imaginary, mean)


def echo_of(number: int, echo_time: float, real: Float32Array, imaginary: Float32Array, mean: float) -> Echo:
    """Return an echo of its complex signal (x, y, z); mean: the brain's mean magnitude in the first echo."""
    phase = np.arctan2(imaginary, real)
    phase[phase >= np.float32(np.pi)] = -np.float32(np.pi)
    magnitude = np.hypot(real, imaginary)
    magnitude /= np.float32(mean)
    return Echo(number, echo_time, magnitude, phase)


def field_steps(field: Float32Array) -> list[Float32Array]:
    """Return how much a field in ppm changes from voxel to voxel along each axis."""
    return [np.abs(np.gradient(field, axis=axis)) for axis in range(3)]


def dephase(magnitude: Float32Array, steps: Sequence[Float32Array], b0: float, echo_time: float) -> None:
    """Weaken, in place, a magnitude (x, y, z) where the field changes by field_steps ppm within a voxel."""
    cycles = np.float32(GYROMAGNETIC_RATIO * b0 * echo_time)
    for step in steps:
        magnitude *= np.abs(np.sinc(np.minimum(cycles * step, 1)))


def _sampled_maps(
    head: Head, maps: Contrast, smooth: SmoothedHead, pose: HeadPose, grid: ScanGrid
) -> tuple[Float32Array, Float32Array]:
    mapping = head_mapping(head.affine, pose, grid)
    counts = smooth.subsamples(grid)
    density, decay = (
        sample_grid(volume, mapping, grid.shape, order=1, subsamples=counts) for volume in (maps.signal, maps.r2star)
    )
    return density, decay


def coil_maps(coil: Coil, grid: ScanGrid) -> tuple[Float32Array, Float32Array]:
    """Return the receive sensitivity (x, y, z) and the phase in radians (x, y, z) of a coil on a grid."""
    x, y, z = polynomial_coordinates(grid)
    second = [x, y, z, x * y, x * z, y * z, x * x, y * y, z * z]
    third = [*second, x * x * y, y * y * z, z * z * x]
    shading = 0.9 + 0.15 * (second[6] + second[7] + second[8])
    for weight, term in zip(coil.shading, second, strict=True):
        shading += np.float32(weight) * term
    phase = np.full_like(x, np.float32(coil.phase[0] * 2))
    for weight, term in zip(coil.phase[1:], third, strict=True):
        phase += np.float32(weight) * term
    return np.clip(shading, 0.3, 2.5), phase
