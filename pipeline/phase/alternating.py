"""Signs that alternate from slice to slice: a reconstruction without the shift of its Fourier transform leaves them so.

GE's 3-D reconstruction is known for it. It is half a turn a slice at every echo time, whereas a gradient of the field
grows with the echo time: a second echo tells the two apart, and one echo alone only where the step is close to half a
turn.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import pi

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ...files.errors import InputError

_OPPOSITE = -0.5  # mean cosine of the steps: beyond, neighbouring slices have opposite signs
_OFF_HALF_A_TURN = 0.5  # rad, of the mean step of an echo alone
_ALIKE = 0.1  # difference of mean cosines within which a second echo tells nothing


def alternating_axes(
    signal: ArrayLike, later: ArrayLike | None = None, echo_times: Sequence[float] | None = None
) -> tuple[int, ...]:
    """Return the array axes along which a complex image (x, y, z) changes its sign from slice to slice.

    signal: an early echo, magnitude times exp(i phase), since later ones are less coherent; later: a later echo of the
    same scan, with echo_times, the two times in s, to tell a field that rises by nearly half a turn a slice. Every axis
    is looked at: a scan's slices may have been reoriented since. Voxels whose phase is exactly 0 are left out. Raises
    InputError where shapes or times do not fit.
    """
    first, second, times = _checked(signal, later, echo_times)
    return tuple(axis for axis in range(3) if _alternates(first, second, times, axis))


def restore_signs(phase: NDArray[np.float32], axes: Sequence[int]) -> NDArray[np.float32]:
    """Return phase (x, y, z), rad, with half a turn taken off every second slice along each axis, within -pi...pi."""
    restored = phase.copy()
    for axis in axes:
        odd = np.moveaxis(restored, axis, 0)[1::2]
        odd -= np.copysign(np.float32(pi), odd)
    return restored


def _checked(
    signal: ArrayLike, later: ArrayLike | None, echo_times: Sequence[float] | None
) -> tuple[NDArray[np.complex64], NDArray[np.complex64] | None, tuple[float, float]]:
    first = np.asarray(signal, np.complex64)
    if first.ndim != 3:
        raise InputError(f"signal must be a complex image (x, y, z), got shape {first.shape}.")
    if later is None:
        return first, None, (0.0, 0.0)
    second = np.asarray(later, np.complex64)
    if second.shape != first.shape:
        raise InputError(f"later must have the shape of signal, {first.shape}, got {second.shape}.")
    if echo_times is None or len(echo_times) != 2 or not 0 < echo_times[0] < echo_times[1]:
        raise InputError(f"echo_times must be the two rising times of signal and later in s, got {echo_times}.")
    return first, second, (float(echo_times[0]), float(echo_times[1]))


def _alternates(
    first: NDArray[np.complex64], second: NDArray[np.complex64] | None, times: tuple[float, float], axis: int
) -> bool:
    step = _steps(first, axis)
    weight = np.abs(step)
    size = float(weight.sum(dtype=np.float64))
    if not size > 0:
        return False
    mean = complex(step.sum(dtype=np.complex128)) / size
    if mean.real > _OPPOSITE:
        return False
    # Each cause foretells a later echo's step: that of a field grows with time, that of the reconstruction does not.
    if second is not None:
        found, growth = np.angle(_steps(second, axis)), times[1] / times[0]
        by_field = np.cos(found - growth * np.angle(step))
        by_sign = np.cos(found - growth * np.angle(-step) - pi)
        likelier = float(np.vdot(weight, by_sign - by_field)) / size
        if abs(likelier) > _ALIKE:
            return likelier > 0
    return abs(float(np.angle(-mean))) < _OFF_HALF_A_TURN


def _steps(signal: NDArray[np.complex64], axis: int) -> NDArray[np.complex64]:
    slices = np.moveaxis(signal, axis, 0)
    told = (slices.imag != 0) | (slices.real < 0)
    step: NDArray[np.complex64] = np.conj(slices[:-1]) * slices[1:] * (told[:-1] & told[1:])
    return step
