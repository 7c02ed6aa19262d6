"""What happens while a scan lasts: breathing, drift of the field, and a movement; when each line of k-space is read."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.spatial.transform import Rotation

from ..poses import HeadPose, ScanGrid
from .effects import Effects

Float32Array = NDArray[np.float32]
_LONGEST = 420.0  # s: scans with more lines are accelerated
_STATED_AT = 3.0  # T, at which strengths in Hz are stated
_FIRST_MOVEMENT, _LAST_MOVEMENT = 0.55, 0.95  # of the scan: the centre of k-space is read before
_MOVED_SHARE = 1 / 3  # of the scans


@dataclass(frozen=True)
class ScanEvents:
    """What happens in one scan.

    drift: Hz per minute; breathing: Hz, amplitude at the isocentre; rate: breaths a second; start: radians, phase of
    the breath at the start; moved_at: share of the scan after which the head lies in `moved`, None for no movement.
    """

    drift: float = 0.0
    breathing: float = 0.0
    rate: float = 0.25
    start: float = 0.0
    moved_at: float | None = None
    moved: HeadPose | None = None

    def record(self) -> dict[str, Any]:
        """Return what a file of the truth says of it."""
        record: dict[str, Any] = {}
        if self.drift:
            record["DriftHzPerMinute"] = self.drift
        if self.breathing:
            record |= {"BreathingHz": self.breathing, "BreathsPerSecond": self.rate}
        if self.moved_at is not None and self.moved is not None:
            record |= {"MovedAtShareOfScan": self.moved_at, "MovedHeadToWorld": self.moved.matrix.tolist()}
        return record


def scan_events(
    effects: Effects, pose: HeadPose, centre: NDArray[Any], b0: float, number: int, rng: np.random.Generator
) -> ScanEvents:
    """Return the events of scan `number` (from 0) of a subject; centre: head coordinates (3,) about which it turns.

    b0: tesla, which drift and breathing grow with.
    """
    growth = b0 / _STATED_AT
    drift = effects.drift * growth * rng.uniform(0.4, 1.2) * rng.choice([-1, 1])
    breathing = effects.breathing * growth * rng.uniform(0.6, 1.4)
    rate, start = rng.uniform(0.2, 0.32), rng.uniform(0, 2 * np.pi)
    moves = bool(effects.movement) and (number % 3 == 1 or (number > 2 and rng.random() < _MOVED_SHARE / 3))
    if not moves:
        return ScanEvents(float(drift), float(breathing), float(rate), float(start))
    axis = rng.normal(size=3)
    turn = Rotation.from_rotvec(np.radians(effects.movement) * axis / np.linalg.norm(axis)).as_matrix()
    step = rng.normal(size=3)
    step *= effects.movement / np.linalg.norm(step)
    pivot = pose.rotation @ centre + pose.translation
    moved = HeadPose(turn @ pose.rotation, turn @ (pose.translation - pivot) + pivot + step)
    at = rng.uniform(_FIRST_MOVEMENT, _LAST_MOVEMENT)
    return ScanEvents(float(drift), float(breathing), float(rate), float(start), float(at), moved)


def readout_axis(grid: ScanGrid) -> int:
    """Return the array axis that is read out: the one nearest to posterior-anterior."""
    return int(np.argmax(np.abs(grid.frame[1])))


def line_shares(grid: ScanGrid) -> Float32Array:
    """Return when each line of k-space is read as a share (0 to 1) of the scan; length 1 along the readout.

    Lines are in the order of FFT frequencies along the other two axes; the axis nearest to inferior-superior is slow.
    """
    readout = readout_axis(grid)
    fast, slow = sorted((axis for axis in range(3) if axis != readout), key=lambda axis: abs(grid.frame[2, axis]))
    order = [np.argsort(np.fft.fftfreq(n)).argsort() for n in grid.shape]
    shape = [1, 1, 1]
    shape[fast] = grid.shape[fast]
    quick = order[fast].reshape(shape)
    shape[fast], shape[slow] = 1, grid.shape[slow]
    return ((order[slow].reshape(shape) * grid.shape[fast] + quick + 0.5) / (
        grid.shape[fast] * grid.shape[slow]
    )).astype(np.float32)  # fmt: skip


def line_hertz(events: ScanEvents, grid: ScanGrid, repetition_time: float) -> tuple[Float32Array, Float32Array]:
    """Return the offsets in Hz, by drift and by breathing at the isocentre, of each line, shaped as line_shares."""
    lines = grid.shape[0] * grid.shape[1] * grid.shape[2] // grid.shape[readout_axis(grid)]
    seconds = line_shares(grid) * np.float32(min(lines * repetition_time, _LONGEST))
    breath = events.breathing * np.sin(2 * np.pi * events.rate * seconds + events.start)
    return (events.drift / 60 * seconds).astype(np.float32), breath.astype(np.float32)
