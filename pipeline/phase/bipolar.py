"""Echoes read with alternating gradients (bipolar): the phase that every second echo has more, found and taken out.

With a readout of alternating polarity, delays and eddy currents add +theta to the odd echoes and -theta to the even
ones, theta nearly linear in space. Of three echoes of equal spacing, 2 phi_2 - phi_1 - phi_3 is 0 for any field and
offset, and -4 theta where polarity alternates. theta is known but for multiples of pi/2, which change the field by a
constant and so no local field.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ..frames import FloatArray

SMALLEST_DEPARTURE = 0.15  # rad, rms of theta: beyond what noise, flow and myelin leave in a monopolar scan
_EQUAL_SPACING = 0.02
_LEAST_COHERENCE = 0.5  # of the fitted plane: below, the departure is no plane


@dataclass(frozen=True)
class BipolarPhase:
    """theta = constant + gradient . index in radians (index in voxels, (3,)).

    rms: of theta over the mask; fits: whether it is such a plane.
    """

    constant: float
    gradient: FloatArray
    rms: float
    fits: bool

    def volume(self, shape: tuple[int, ...]) -> NDArray[np.float32]:
        """Return theta (x, y, z) in radians."""
        axes = np.ogrid[tuple(slice(size) for size in shape)]
        return np.asarray(self.constant + sum(g * x for g, x in zip(self.gradient, axes, strict=True)), np.float32)

    def removed_from(self, phase: NDArray[np.floating]) -> NDArray[np.float32]:
        """Return the phase (echo, x, y, z) in radians as alternating gradients would not have left it, wrapped."""
        theta = self.volume(phase.shape[1:])
        signs = np.array([(-1.0) ** echo for echo in range(len(phase))])[:, None, None, None]
        return np.angle(np.exp(1j * (phase - signs * theta))).astype(np.float32)


def bipolar_phase(
    phase: ArrayLike, magnitude: ArrayLike, echo_times: Sequence[float], mask: ArrayLike
) -> BipolarPhase | None:
    """Return the alternating phase of a scan's echoes, None where there is none, or where it cannot be told.

    phase, magnitude: (echo, x, y, z), phase wrapped, in radians; echo_times: s; mask: (x, y, z), the brain. At least
    three echoes of equal spacing tell it.
    """
    first = _equal_triple(echo_times)
    inside = np.asarray(mask, bool)
    if first is None or not inside.any():
        return None
    sizes, angles = (np.asarray(one, np.float32)[first : first + 3] for one in (magnitude, phase))
    waves = [size * np.exp(1j * angle) for size, angle in zip(sizes, angles, strict=True)]
    largest = max(float(np.abs(wave[inside]).max()) for wave in waves) or 1.0
    product = np.where(inside, waves[1] ** 2 * np.conj(waves[0] * waves[2]) / largest**4, 0).astype(np.complex64)
    gradient = np.array([_mean_step(product, axis) for axis in range(3)])
    axes = np.ogrid[tuple(slice(size) for size in product.shape)]
    plane = sum(g * x for g, x in zip(gradient, axes, strict=True))
    flat = product * np.exp(-1j * plane)
    total, weight = complex(flat.sum()), np.abs(product[inside])
    if not weight.any():
        return None
    fits = abs(total) >= _LEAST_COHERENCE * float(weight.sum())
    sign = 1.0 if first % 2 else -1.0  # an odd echo in the middle has -4 theta
    slope = sign * gradient / 4
    centre = float(slope @ [index.mean() for index in np.nonzero(inside)])
    constant = sign * float(np.angle(total)) / 4
    constant -= np.pi / 2 * np.round((constant + centre) / (np.pi / 2))  # nearest 0 in the middle of the brain
    found = BipolarPhase(float(constant), slope, 0.0, fits)
    theta = found.volume(product.shape)[inside]
    rms = float(np.sqrt((weight * theta**2).sum() / weight.sum()))
    if not fits:  # how far the echoes depart from a line, whatever the reason
        rms = float(np.sqrt((weight * np.angle(product[inside]) ** 2).sum() / weight.sum())) / 4
    return None if rms < SMALLEST_DEPARTURE else BipolarPhase(found.constant, found.gradient, rms, fits)


def _equal_triple(echo_times: Sequence[float]) -> int | None:
    """Return the first of three successive echoes of equal spacing, None where there are none."""
    gaps = np.diff(np.asarray(echo_times, np.float64))
    for first in range(len(gaps) - 1):
        if abs(gaps[first + 1] - gaps[first]) <= _EQUAL_SPACING * gaps[first]:
            return first
    return None


def _mean_step(product: NDArray[np.complex64], axis: int) -> float:
    """Return the mean phase step of a complex volume along an axis, rad a voxel."""
    along = np.moveaxis(product, axis, 0)
    return float(np.angle(np.vdot(along[:-1], along[1:])))
