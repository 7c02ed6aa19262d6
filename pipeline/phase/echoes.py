"""From unwrapped echoes to one total field in ppm of B0."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import ndimage

from ...files.errors import InputError
from ..frames import radians_per_ppm
from ..physics.dipole import check_grid
from .unwrap import check_echoes

Combination = Literal["fit", "average"]
OFFSET_SMOOTHING = 4.0  # mm, standard deviation
RESIDUAL_LIMIT = 0.3  # rad


@dataclass(frozen=True)
class FieldMap:
    """A total field on a scan's grid (x, y, z).

    field: ppm of B0, paramagnetic positive; offset: phase at echo time 0, radians; residual: weighted rms of what
    the linear fit leaves, radians; weight: inverse standard deviation of the field (1/ppm, for a noise of 1 in the
    units of the magnitude).
    """

    field: NDArray[np.float32]
    offset: NDArray[np.float32]
    residual: NDArray[np.float32]
    weight: NDArray[np.float32]


def smooth_inside(
    values: NDArray[Any], weight: NDArray[Any], voxel_size: ArrayLike, sigma: float
) -> NDArray[np.float32]:
    """Return values (x, y, z) smoothed by a Gaussian of sigma mm, each voxel counting by its weight."""
    widths = sigma / np.asarray(voxel_size, np.float64)
    total = ndimage.gaussian_filter(np.asarray(weight, np.float32), widths, mode="constant")
    smooth = ndimage.gaussian_filter(np.asarray(values * weight, np.float32), widths, mode="constant")
    return np.divide(smooth, total, out=np.zeros_like(smooth), where=total > 1e-6 * max(float(total.max()), 1e-30))


def _line(
    phase: NDArray[Any], weight: NDArray[Any], x: NDArray[Any], sums: tuple[NDArray[Any], ...]
) -> tuple[NDArray[Any], NDArray[Any]]:
    """Return slope and intercept of a weighted line through (echo, ...) phase at x (echo,)."""
    total, first, second = sums
    y0 = np.einsum("e...,e...->...", weight, phase)
    y1 = np.einsum("e,e...,e...->...", x, weight, phase)
    determinant = total * second - first**2
    safe = np.where(determinant > 0, determinant, 1)
    slope = np.where(determinant > 0, (total * y1 - first * y0) / safe, 0)
    return slope, np.where(total > 0, (y0 - slope * first) / np.where(total > 0, total, 1), 0)


def _same_cycle(phase: NDArray[Any], x: NDArray[Any]) -> NDArray[Any]:
    """Take from each echo (echo, voxel) the whole cycles that the median voxel is off the line of the first two."""
    steps, gains = np.diff(phase, axis=0), np.diff(x)
    off = np.round(np.median(steps - steps[0] * (gains / gains[0])[:, None], axis=1) / (2 * np.pi))
    return phase - 2 * np.pi * np.concatenate([[0], np.cumsum(off)])[:, None]


def mend_cycles(
    phase: NDArray[Any], weight: NDArray[Any], x: NDArray[Any], *, through_zero: bool = False
) -> NDArray[Any]:
    """Return phase (echo, voxel) in radians with single echoes moved by a cycle where they then lie on a line over x.

    weight: (echo, voxel); x: (echo,); through_zero: the line has no intercept. Greedy: the echo whose cycle lowers
    the weighted misfit most is moved as long as that halves it, so that noise alone moves hardly any.
    """
    mended, active = phase.copy(), np.arange(phase.shape[1])
    for _ in range(2 * len(x)):
        steps = _best_step(mended[:, active], weight[:, active], x, through_zero)
        mended[:, active] += 2 * np.pi * steps
        active = active[steps.any(axis=0)]
        if active.size == 0:
            break
    return mended


def _best_step(phase: NDArray[Any], weight: NDArray[Any], x: NDArray[Any], through_zero: bool) -> NDArray[np.int8]:
    """Return the cycle (echo, voxel; at most one a voxel, -1 or 1) that at least halves the misfit of a line."""
    total = weight.sum(axis=0)
    lever = x[:, None] - (0 if through_zero else x @ weight / total)
    residual = phase - (0 if through_zero else (weight * phase).sum(axis=0) / total)
    leverage = (weight * lever**2).sum(axis=0)
    residual = residual - (weight * lever * residual).sum(axis=0) / leverage * lever
    # One radian on echo e adds weight (1 - hat_e) to the misfit and 2 weight residual_e to its slope.
    hat = weight * lever**2 / leverage + (0 if through_zero else weight / total)
    change = 4 * np.pi * weight * (np.pi * (1 - hat) - np.abs(residual))
    best = change.argmin(axis=0)
    voxels = np.arange(phase.shape[1])
    halves = change[best, voxels] < -0.5 * (weight * residual**2).sum(axis=0) - 1e-9 * total
    steps = np.zeros(phase.shape, np.int8)
    steps[best, voxels] = np.where(halves, -np.sign(residual[best, voxels]), 0)
    return steps


def total_field(
    phase: ArrayLike,
    mask: ArrayLike,
    voxel_size: ArrayLike,
    *,
    magnitude: ArrayLike,
    echo_times: Sequence[float],
    b0: float,
    method: Combination = "fit",
) -> FieldMap:
    """Combine the unwrapped echoes of a scan into one total field, by a line through each voxel's phase.

    Parameters
    ----------
    phase
        Unwrapped, in radians, (echo, x, y, z); whole cycles by which an echo is off are mended.
    mask
        (x, y, z), non-zero where it is known.
    voxel_size
        (3,) in mm.
    magnitude
        (echo, x, y, z); an echo counts by its square.
    echo_times
        In s, rising.
    b0
        Field strength in T.
    method
        "fit" (a weighted line with an intercept) or "average" (plain mean of the echoes' fields).

    Returns
    -------
        A `FieldMap`: `.field` (x, y, z) in ppm of B0, `.residual` in rad, `.weight` (1 / standard deviation).

    Raises
    ------
    InputError
        Where shapes and echo times do not fit, or the mask is empty.
    """
    return combine_echoes(phase, magnitude, echo_times, b0, mask, voxel_size, method=method)


def combine_echoes(
    phase: ArrayLike,
    magnitude: ArrayLike,
    echo_times: Sequence[float],
    b0: float,
    mask: ArrayLike,
    voxel_size: ArrayLike,
    *,
    offset_smoothing: float | None = OFFSET_SMOOTHING,
    method: Combination = "fit",
) -> FieldMap:
    """Fit phase = offset + 2 pi gamma B0 TE field per voxel, each echo weighted by its magnitude squared.

    method "average": the plain mean over echoes of phase / (2 pi gamma B0 TE) instead (MoDL-QSM section 3.3), which
    takes the phase to be 0 at echo time 0; what it leaves is still measured against the fitted line.

    phase: unwrapped (echo, x, y, z) radians, whole-cycle errors of single echoes are mended; magnitude: same shape;
    echo_times in s; b0 in T; mask (x, y, z); voxel_size (3,) mm; offset_smoothing: the offset (coil phase) is
    smoothed by a Gaussian of this many mm and held fixed in a second fit, None keeps it free in every voxel. One
    echo has no offset. Returns a FieldMap, 0 outside the mask.
    """
    waves, sizes, times = check_echoes(phase, magnitude, echo_times)
    shape, size = check_grid(waves.shape[1:], voxel_size)
    inside = np.asarray(mask, bool)
    if inside.shape != shape:
        raise InputError(f"mask has shape {inside.shape}, but the phase has {shape}.")
    if not inside.any():
        raise InputError("the mask is empty, so no field can be fitted: check the brain mask.")
    if method not in get_args(Combination):
        raise InputError(
            f"the combination of echoes must be one of {', '.join(get_args(Combination))}, got {method!r}."
        )
    if not b0 > 0:
        raise InputError(f"b0 must be a positive field strength in tesla, got {b0}.")
    if offset_smoothing is not None and not offset_smoothing > 0:
        raise InputError(f"offset_smoothing must be a positive width in mm, or None, got {offset_smoothing}.")
    x = np.array([radians_per_ppm(b0, float(t)) for t in times])
    y, w = waves[:, inside].astype(np.float64), sizes[:, inside].astype(np.float64) ** 2
    w = np.maximum(w, 1e-12 * max(float(w.max()), 1e-30))
    sums = (w.sum(axis=0), np.einsum("e,ev->v", x, w), np.einsum("e,ev->v", x**2, w))
    if len(times) == 1:
        slope, offset = y[0] / x[0], np.zeros(y.shape[1])
    else:
        y = mend_cycles(_same_cycle(y, x), w, x)
        slope, offset = _line(y, w, x, sums)
        if method == "fit" and offset_smoothing is not None:
            offset = _smooth_offset(offset, sums[0], inside, size, offset_smoothing)
            y = mend_cycles(y - offset, w, x, through_zero=True) + offset
            slope = np.einsum("e,ev,ev->v", x, w, y - offset) / sums[2]
    misfit = np.einsum("ev,ev->v", w, (y - offset - slope * x[:, None]) ** 2) / sums[0]
    weight = np.sqrt(sums[2])
    if method == "average":
        cycles = 2 * np.pi * np.round(np.median(offset) / (2 * np.pi))
        slope = ((y - cycles) / x[:, None]).mean(axis=0)
        weight = len(x) / np.sqrt((1 / (w * x[:, None] ** 2)).sum(axis=0))
    volumes = [_fill(part, inside) for part in (slope, offset, np.sqrt(misfit), weight)]
    return FieldMap(*volumes)


def _fill(values: NDArray[Any], inside: NDArray[np.bool_]) -> NDArray[np.float32]:
    volume = np.zeros(inside.shape, np.float32)
    volume[inside] = values
    return volume


def _smooth_offset(
    offset: NDArray[Any], weight: NDArray[Any], inside: NDArray[np.bool_], size: NDArray[np.float64], sigma: float
) -> NDArray[Any]:
    """Smooth the offset on the circle, after taking out its mean gradient, and return it nearest its own cycle."""
    position = np.stack(np.nonzero(inside)) * size[:, None]
    volume = _fill(np.ones(offset.size), inside) * np.exp(1j * _fill(offset, inside))
    ramp = np.zeros(offset.size)
    for axis in range(3):
        ahead = [slice(None)] * 3
        ahead[axis] = slice(1, None)
        behind = [slice(None)] * 3
        behind[axis] = slice(None, -1)
        step = (volume[tuple(ahead)] * np.conj(volume[tuple(behind)])).sum()
        ramp += np.angle(step) / size[axis] * position[axis]
    wave = np.exp(1j * (offset - ramp))
    weights = _fill(weight, inside)
    smooth = [smooth_inside(_fill(part, inside), weights, size, sigma)[inside] for part in (wave.real, wave.imag)]
    found = np.angle(smooth[0] + 1j * smooth[1]) + ramp
    return found + 2 * np.pi * np.round((offset - found) / (2 * np.pi))
