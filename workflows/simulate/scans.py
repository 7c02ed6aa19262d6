"""A subject of a simulation: its head, coil and maps, prepared once, and the truth and echoes of each of its scans."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...pipeline.phantom.acquisition import Coil, Contrast, Echo, Protocol, contrast, simulate_echoes
from ...pipeline.phantom.anatomy import Head
from ...pipeline.phantom.living.effects import Effects
from ...pipeline.phantom.living.field import head_field
from ...pipeline.phantom.living.maps import LivingMaps, living_maps
from ...pipeline.phantom.living.scan import LivingScan, living_echoes
from ...pipeline.phantom.living.subject import living_head
from ...pipeline.phantom.living.timing import scan_events
from ...pipeline.phantom.poses import HeadPose, ScanGrid
from ...pipeline.phantom.subjects import HeadParameters
from ...pipeline.phantom.truth import ScanTruth, SmoothedHead, sampled_map, scan_truth, smooth_head

_MYELIN = (
    "frequency of water in and about myelinated axons that is no susceptibility (hollow cylinders of three pools): the "
    "slope of its phase over the echo times, weighted by the squared signal; in the phase beside the total field"
)


@dataclass(frozen=True)
class SimulatedScan:
    """A scan: its truth, its echoes (made as they are asked for), more fields by desc (ppm, description), events."""

    truth: ScanTruth
    echoes: Iterator[Echo]
    extra: dict[str, tuple[NDArray[np.float32], str]]
    events: dict[str, Any]


@dataclass(frozen=True)
class Subject:
    """A head with all that its scans share."""

    seed: tuple[int, ...]
    head: Head
    protocol: Protocol
    effects: Effects
    coil: Coil
    _smooth: dict[float, SmoothedHead] = field(default_factory=dict)
    _contrast: dict[float, Contrast] = field(default_factory=dict)
    _living: dict[float, LivingMaps] = field(default_factory=dict)

    def scan(self, number: int, pose: HeadPose, grid: ScanGrid, edge: float) -> SimulatedScan:
        """Return scan `number` (from 0) in a pose; edge: mm that the head is smoothed for."""
        if edge not in self._smooth:
            self._smooth[edge] = smooth_head(self.head, edge)
        smooth = self._smooth[edge]
        noise = np.random.default_rng([*self.seed, 606, number])
        if self.effects.of_the_scan:
            return self._living_scan(number, pose, grid, smooth, noise)
        if edge not in self._contrast:
            self._contrast[edge] = contrast(smooth, self.protocol)
        truth = scan_truth(smooth, pose, grid)
        echoes = simulate_echoes(smooth, self._contrast[edge], truth, self.protocol, self.coil, noise)
        return SimulatedScan(truth, echoes, {}, {})

    def _living_scan(
        self, number: int, pose: HeadPose, grid: ScanGrid, smooth: SmoothedHead, noise: np.random.Generator
    ) -> SimulatedScan:
        if smooth.edge not in self._living:
            self._living[smooth.edge] = living_maps(smooth, self.protocol, self.effects)
        maps = self._living[smooth.edge]
        whole = head_field(self.head, pose)
        truth = scan_truth(smooth, pose, grid, whole)
        middle = np.argwhere(self.head.brain[::4, ::4, ::4] > 0.5).mean(axis=0) * 4 + self.head.affine[:3, 3]
        rng = np.random.default_rng([*self.seed, 707, number])
        events = scan_events(self.effects, pose, middle, self.protocol.b0, number, rng)
        extra = {}
        if self.effects.myelin:
            extra["myelin"] = (sampled_map(smooth, maps.myelin_frequency(pose), pose, grid), _MYELIN)
        scan = LivingScan(maps, whole, truth, self.protocol, self.coil, events)
        return SimulatedScan(truth, living_echoes(scan, noise), extra, events.record())


def prepared_subject(seed: tuple[int, ...], protocol: Protocol, effects: Effects, *, isotropic: bool) -> Subject:
    """Return the subject of a seed; isotropic: without white-matter anisotropy."""
    parameters = HeadParameters.from_seed(seed)
    own = effects.of_subject(np.random.default_rng([*seed, 717]))
    head = living_head(parameters.isotropic() if isotropic else parameters, own)
    return Subject(seed, head, protocol, own, Coil.from_seed(seed))
