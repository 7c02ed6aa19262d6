"""Magnitudes made ready for registration: the echoes' decay and the coil's shading taken away."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import ndimage

from ...files.errors import InputError
from ..phase.echoes import smooth_inside

_SHADING_WIDTH = 15.0  # mm
_DECAY_WIDTH = 1.5  # voxels


def without_decay(magnitude: ArrayLike, echo_times: Sequence[float]) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
    """Return the magnitude (x, y, z) extrapolated to echo time 0, and where it decays no faster than tissue.

    magnitude: (echo, x, y, z); echo_times in s. Signal lost to strong field gradients depends on the position of the
    head and pulls a registration; the extrapolation restores the weak loss, the mask (False near air, in veins and
    iron) leaves the strong one out. A single echo comes back as it is, with a mask that is True everywhere.
    """
    echoes = np.asarray(magnitude, np.float32)
    times = np.asarray(echo_times, np.float64)
    if echoes.ndim != 4 or times.shape != (len(echoes),) or (np.diff(times) <= 0).any() or times[0] <= 0:
        raise InputError(
            f"magnitude {echoes.shape} must be (echo, x, y, z) with one ascending echo time each, got {times}."
        )
    if len(times) == 1:
        return echoes[0], np.ones(echoes.shape[1:], bool)
    later = int(np.argmin(np.abs(times - 2.3 * times[0])[1:])) + 1
    smooth = [ndimage.gaussian_filter(echoes[index], 0.7) for index in (0, later)]
    head = smooth[0] > 0.1 * np.percentile(smooth[0], 99)
    rate = np.zeros(head.shape, np.float32)
    rate[head] = np.log(smooth[0][head] / np.maximum(smooth[1][head], 1e-3 * smooth[0][head])) / (
        times[later] - times[0]
    )
    usual = float(np.median(rate[head])) if head.any() else 0.0
    fast = ndimage.binary_dilation(ndimage.binary_opening(rate > usual + max(0.5 * usual, 5.0)), iterations=2)
    first, second = (ndimage.gaussian_filter(echoes[index], _DECAY_WIDTH) for index in (0, 1))
    gain = (first / np.maximum(second, 0.3 * first + 1e-30)) ** (times[0] / (times[1] - times[0]))
    return (echoes[0] * np.clip(gain, 1, 3)).astype(np.float32), ~fast


def without_shading(volume: NDArray[np.float32], size: NDArray[np.float64]) -> NDArray[np.float32]:
    """Return a magnitude (x, y, z) divided by its local mean over the head, which leaves the coil's shading behind.

    size: of a voxel in mm. Values are 0 to 1, and 0 outside the head.
    """
    bright = max(float(np.percentile(volume, 99)), 1e-30)
    head = volume > 0.1 * bright
    local = smooth_inside(volume, head, size, _SHADING_WIDTH)
    flat = volume / np.maximum(local, 0.05 * bright)
    flat[local == 0] = 0
    return np.clip(flat / np.percentile(flat, 99.5), 0, 1).astype(np.float32)
