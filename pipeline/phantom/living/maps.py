"""The maps of a head that its living signal is summed from, for one protocol."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ..acquisition import Protocol, r2star_growth, tissue_signals
from ..anatomy import TISSUES
from ..poses import HeadPose
from ..truth import SmoothedHead
from .effects import Effects
from .flow import RADIANS_AT_10_CM_PER_S, VenousFlow, venous_flow
from .layers import DURA_R2STAR, DURA_SIGNAL, FAINT_BONE_R2STAR, faint_layers
from .myelin import MyelinTable, myelin_table
from .tracts import sine_squared_to

Float32Array = NDArray[np.float32]
_BONE_R2STAR, _CSF_R2STAR = 400.0, 2.5  # 1/s at 3 T, of the ideal head


@dataclass(frozen=True)
class LivingMaps:
    """Maps on the head's 1 mm grid, smoothed for the voxel where the signal is not summed over its parts.

    water, fat: signal at TE = 0; r2star: 1/s at this B0; white: fraction that myelin's frequency acts on; flow: of the
    veins, None without; table: of white matter.
    """

    smooth: SmoothedHead
    effects: Effects
    water: Float32Array
    fat: Float32Array
    r2star: Float32Array
    white: Float32Array
    flow: VenousFlow | None
    table: MyelinTable

    def prepared(self, values: Float32Array) -> Float32Array:
        """Return a map of the head as the sum takes it."""
        return values if self.effects.subvoxel else self.smooth.map_of(values)

    def of_pose(self, pose: HeadPose, readout: NDArray[np.float64]) -> Float32Array:
        """Return the stack (x, y, z, 6) that sum_parts reads; readout: world direction (3,) in which it is read."""
        head = self.smooth.head
        stack = np.zeros((*self.water.shape, 6), np.float32)
        for index, values in enumerate((self.water, self.fat, self.r2star, self.white)):
            stack[..., index] = values
        if self.effects.myelin:
            stack[..., 4] = self.prepared(self.white_sine_squared(pose))
        if self.flow is not None:
            direction = (pose.rotation.T @ readout).astype(np.float32)
            phase = np.zeros(self.water.shape, np.float32)
            phase[self.flow.index] = direction @ self.flow.velocity * np.float32(RADIANS_AT_10_CM_PER_S / 10)
            stack[..., 5] = self.prepared(phase)
        assert stack.shape[:3] == head.brain.shape
        return stack

    def white_sine_squared(self, pose: HeadPose) -> Float32Array:
        """Return white matter's fraction times sin^2 of the angle between its fibres and B0, on the head's grid."""
        head = self.smooth.head
        start = np.rint(head.tensor_affine[:3, 3] - head.affine[:3, 3]).astype(int)
        box = tuple(slice(a, a + n) for a, n in zip(start, head.tensor.shape[1:], strict=True))
        result = np.zeros(self.water.shape, np.float32)
        result[box] = _white(self.smooth)[box] * sine_squared_to(head.tensor, pose.b0_direction_in_head)
        return result

    def myelin_frequency(self, pose: HeadPose) -> Float32Array:
        """Return the frequency of myelin in ppm on the head's grid: the table's slope over the echoes, by fraction."""
        white = _white(self.smooth)
        share = np.divide(self.white_sine_squared(pose), white, out=np.zeros_like(white), where=white > 0.02)
        steps = np.linspace(0, 1, len(self.table.frequency))
        return (white * np.interp(share, steps, self.table.frequency)).astype(np.float32)


def _white(smooth: SmoothedHead) -> Float32Array:
    return smooth.head.fractions[TISSUES.index("white")] * np.float32(1 / 255)


def living_maps(smooth: SmoothedHead, protocol: Protocol, effects: Effects) -> LivingMaps:
    """Return the maps of a head for a protocol and effects."""
    head = smooth.head
    signals = tissue_signals(protocol)
    part = {name: head.fractions[index] * np.float32(1 / 255) for index, name in enumerate(TISSUES)}
    water = np.zeros(head.brain.shape, np.float32)
    for name, signal in signals.items():
        if name != "fat":
            water += np.float32(signal) * part[name]
    fat, r2star = np.float32(signals["fat"]) * part["fat"], head.r2star.copy()
    mean = np.float32(water[head.brain > 0.5].mean(dtype=np.float64))
    if effects.skull or effects.dura:
        layers = faint_layers(head, effects.dura)
        if effects.skull:
            water += np.float32(effects.skull) * mean * layers.bone - np.float32(signals["bone"]) * part["bone"]
            r2star -= np.float32(_BONE_R2STAR - FAINT_BONE_R2STAR) * part["bone"]
        water += (np.float32(DURA_SIGNAL) * mean - np.float32(signals["csf"])) * layers.dura
        r2star += np.float32(DURA_R2STAR - _CSF_R2STAR) * layers.dura
    if not effects.fat_shift:
        water, fat = water + fat, np.zeros_like(fat)
    r2star = np.maximum(r2star, 0.5) * np.float32(r2star_growth(protocol.b0))
    white = part["white"] if effects.myelin else np.zeros_like(water)
    flow = venous_flow(head, effects.flow) if effects.flow else None
    table = myelin_table(protocol.b0, protocol.echo_times, effects.myelin)
    maps = (np.maximum(water, 0), fat, r2star, white)
    if not effects.subvoxel:
        maps = tuple(smooth.map_of(values) for values in maps)  # type: ignore[assignment]
    return LivingMaps(smooth, effects, *maps, flow, table)
