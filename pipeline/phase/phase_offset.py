"""The phase at echo time 0 (coil phase), taken out before unwrapping, so that echoes can be followed in time."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ...files.errors import InputError
from .echoes import OFFSET_SMOOTHING, smooth_inside
from .unwrap import check_echoes, unwrap_romeo

_CYCLES = (0, 1, -1, 2, -2)


def remove_phase_offset(
    phase: ArrayLike,
    magnitude: ArrayLike,
    echo_times: Sequence[float],
    mask: ArrayLike,
    voxel_size: ArrayLike,
    *,
    smoothing: float = OFFSET_SMOOTHING,
    threads: int = 1,
) -> NDArray[np.float32]:
    """Return wrapped phase (echo, x, y, z) in radians less its smooth offset at echo time 0; one echo as it is.

    phase: wrapped, radians, (echo, x, y, z); magnitude: same shape; echo_times in s; mask: (x, y, z);
    voxel_size: (3,) mm; smoothing: standard deviation in mm of the Gaussian that smooths the offset. The offset is
    the first echo's phase less the unwrapped difference of the first two, extrapolated to time 0; temporal unwrapping
    takes a whole cycle off wherever it is left in. Source: Eckstein 2018 (MCPC-3D-S).
    """
    waves, sizes, times = check_echoes(phase, magnitude, echo_times)
    inside = np.asarray(mask, bool)
    if not smoothing > 0:
        raise InputError(f"smoothing must be a positive width in mm, got {smoothing}.")
    if len(times) == 1:
        return waves
    step = times[1] - times[0]
    product = np.sqrt(sizes[:1] * sizes[1:2])
    turn = np.angle(np.exp(1j * (waves[1:2] - waves[:1]))).astype(np.float32)
    turn = unwrap_romeo(turn, product, [step], inside, threads=threads)[0]
    turn -= np.float32(2 * np.pi) * np.round(np.median(turn[inside]) / (2 * np.pi))
    turn += np.float32(2 * np.pi * _missing_cycles(waves, sizes, times, turn, inside))
    offset = waves[0] - turn * np.float32(times[0] / step)
    weight = np.where(inside, sizes[0] ** 2, np.float32(0))
    real, imaginary = (smooth_inside(part, weight, voxel_size, smoothing) for part in (np.cos(offset), np.sin(offset)))
    smooth = np.arctan2(imaginary, real)
    return np.stack([_wrapped(wave - smooth) for wave in waves])


def _wrapped(phase: NDArray[np.float32]) -> NDArray[np.float32]:
    return (phase - 2 * np.pi * np.round(phase / (2 * np.pi))).astype(np.float32)


def _missing_cycles(
    waves: NDArray[np.float32],
    sizes: NDArray[np.float32],
    times: NDArray[np.float64],
    turn: NDArray[np.float32],
    inside: NDArray[np.bool_],
) -> int:
    """Return the whole cycles that, added to the difference of the first two echoes, foretell the third best."""
    if len(times) < 3:
        return 0
    ratio = (times[2] - times[0]) / (times[1] - times[0])
    weight = sizes[2][inside] ** 2
    ahead = (waves[2] - waves[0])[inside] - ratio * turn[inside]
    agreement = [float((weight * np.cos(ahead - 2 * np.pi * ratio * n)).sum()) for n in _CYCLES]
    best = int(np.argmax(agreement))
    return _CYCLES[best] if agreement[best] > agreement[0] + 0.01 * float(weight.sum()) else 0
