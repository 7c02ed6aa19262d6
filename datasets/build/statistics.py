"""Figures of the volumes inside their masks: mean and deviation per channel, and what the labels do not explain."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np

from ...pipeline.physics.tensor_field import dipole_field
from ..store.volume import FIELD, MASK, Volume

Moments = Mapping[str, tuple[int, float, float]]


@dataclass(frozen=True)
class ChannelStatistics:
    """Mean and (population) standard deviation of a channel, in its own units, over `count` voxels."""

    mean: float
    std: float
    count: int


def masked_moments(volume: Volume) -> Moments:
    """Return voxel count, mean and sum of squared deviations inside the mask of every channel of a volume."""
    inside = volume.mask
    moments = {}
    for name, channel in volume.channels.items():
        if name == MASK:
            continue
        values = np.asarray(channel)[inside].astype(np.float64)
        mean = float(values.mean())
        moments[name] = (values.size, mean, float(np.square(values - mean).sum()))
    return moments


@dataclass
class MaskedMoments:
    """Collects volumes; memory does not grow with their number (Chan, Golub and LeVeque 1983, eq. 2.1)."""

    _moments: dict[str, tuple[int, float, float]] = field(default_factory=dict)

    def add(self, volume: Volume) -> None:
        """Count the voxels inside the mask of every channel of a volume."""
        self.merge(masked_moments(volume))

    def merge(self, moments: Moments) -> None:
        """Count what masked_moments found in a volume."""
        for name, (count, mean, squares) in moments.items():
            old_count, old_mean, old_squares = self._moments.get(name, (0, 0.0, 0.0))
            total = old_count + count
            step = mean - old_mean
            summed = squares + old_squares + step**2 * old_count * count / total
            self._moments[name] = (total, old_mean + step * count / total, summed)

    def result(self) -> dict[str, ChannelStatistics]:
        """Return the statistics per channel name."""
        return {
            name: ChannelStatistics(mean, float(np.sqrt(squares / count)), count)
            for name, (count, mean, squares) in self._moments.items()
        }


def residual_rms(volume: Volume) -> float | None:
    """Return how much of the field the labels leave unexplained, in ppm: the rms of field - (D * chi33 + deltab).

    Inside the mask, relative to its mean there; D in free space along the volume's B0. None where the volume has no
    chi33 or no deltab.
    """
    if not {"chi33", "deltab"} <= set(volume.channels):
        return None
    geometry, inside = volume.geometry, volume.mask
    explained = dipole_field(volume.channels["chi33"], geometry.voxel_size, geometry.b0_direction)
    explained += volume.channels["deltab"]
    residual = (volume.channels[FIELD] - explained)[inside].astype(np.float64)
    return float(residual.std())
