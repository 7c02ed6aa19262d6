"""Mean and standard deviation of every channel inside the mask, one volume at a time."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from .volume import MASK, Volume


@dataclass(frozen=True)
class ChannelStatistics:
    """Mean and (population) standard deviation of a channel, in its own units, over `count` voxels."""

    mean: float
    std: float
    count: int


@dataclass
class MaskedMoments:
    """Collects volumes; memory does not grow with their number (Chan, Golub and LeVeque 1983, eq. 2.1)."""

    _moments: dict[str, tuple[int, float, float]] = field(default_factory=dict)

    def add(self, volume: Volume) -> None:
        """Count the voxels inside the mask of every channel of a volume."""
        inside = volume.mask
        for name, channel in volume.channels.items():
            if name == MASK:
                continue
            values = np.asarray(channel)[inside].astype(np.float64)
            mean = float(values.mean())
            self._merge(name, values.size, mean, float(np.square(values - mean).sum()))

    def _merge(self, name: str, count: int, mean: float, squares: float) -> None:
        old_count, old_mean, old_squares = self._moments.get(name, (0, 0.0, 0.0))
        total = old_count + count
        step = mean - old_mean
        squares += old_squares + step**2 * old_count * count / total
        self._moments[name] = (total, old_mean + step * count / total, squares)

    def result(self) -> dict[str, ChannelStatistics]:
        """Return the statistics per channel name."""
        return {
            name: ChannelStatistics(mean, float(np.sqrt(squares / count)), count)
            for name, (count, mean, squares) in self._moments.items()
        }
