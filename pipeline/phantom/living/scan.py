"""The gradient-echo scan of a living head: the complex signal of its parts, read line by line while things change."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from ...frames import GYROMAGNETIC_RATIO, radians_per_ppm
from ..acquisition import Coil, Echo, Protocol, coil_maps, dephase, echo_of, field_steps
from ..background import background_field, field_of_shim, polynomial_coordinates
from ..poses import HeadPose
from ..sampling import THREADS, spline_coefficients
from ..truth import ScanTruth
from .coils import bipolar_phase, noise_map, phase_poles
from .effects import Effects
from .field import HeadField, head_grid
from .kspace import breathed, image_of, point_spread, voxel_spectrum
from .maps import LivingMaps
from .timing import ScanEvents, line_hertz, line_shares, readout_axis

Float32Array = NDArray[np.float32]
Complex64Array = NDArray[np.complex64]
_CELLS = 2  # a voxel edge, where the signal is summed over parts
_FINE = 2  # field values a millimetre of the head
_MARGIN = 4  # mm of fine field around the brain
_CELL_BYTES = 1.2e9  # of the cells of the echoes that are summed at a time
_GRADIENT_SHAPE = np.array([0.8, 0.7, -1.0])  # of the cubic displacement along world x, y, z
_BREATHING_SLOPE = -0.5  # more breathing per 100 mm upwards


@dataclass(frozen=True)
class LivingScan:
    """What a scan of a living head is made of: maps, field and truth of the head in its pose, and what happens."""

    maps: LivingMaps
    field: HeadField
    truth: ScanTruth
    protocol: Protocol
    coil: Coil
    events: ScanEvents

    @property
    def effects(self) -> Effects:
        """Strengths of the effects."""
        return self.maps.effects


def living_echoes(scan: LivingScan, rng: np.random.Generator) -> Iterator[Echo]:
    """Yield the echoes of a scan; rng: of coil and noise."""
    truth, protocol, effects = scan.truth, scan.protocol, scan.effects
    grid = truth.grid
    receive, spread_of_noise = _receive(scan, rng)
    alternating = bipolar_phase(effects.bipolar, rng, grid, readout_axis(grid)) if effects.bipolar else None
    steps = [] if effects.subvoxel else field_steps(truth.total_field)
    mean = noise = 0.0
    for index, image in enumerate(_images(scan)):
        image *= receive
        if alternating is not None:
            image *= np.exp(np.complex64(1j) * (alternating if index % 2 else -alternating))
        if steps:
            weakened = np.ones(grid.shape, np.float32)
            dephase(weakened, steps, protocol.b0, protocol.echo_times[index])
            image *= weakened
        if index == 0:
            mean = float(np.abs(image[truth.brain_mask]).mean(dtype=np.float64))
            noise = mean / protocol.snr
        real, imaginary = image.real.copy(), image.imag * np.float32(protocol.phase_sign)
        if noise > 0:
            for part in (real, imaginary):
                part += np.float32(noise) * spread_of_noise * rng.standard_normal(grid.shape, dtype=np.float32)
        yield echo_of(index + 1, protocol.echo_times[index], real, imaginary, mean)


def _receive(scan: LivingScan, rng: np.random.Generator) -> tuple[Complex64Array, Float32Array]:
    grid, effects = scan.truth.grid, scan.effects
    shading, offset = coil_maps(scan.coil, grid)
    receive = (shading * np.exp(1j * offset)).astype(np.complex64)
    if effects.poles:
        receive *= phase_poles(int(effects.poles), grid, rng)
    if not effects.noise_map:
        return receive, np.ones(grid.shape, np.float32)
    return receive, noise_map(effects.noise_map, grid, scan.truth.brain_mask, rng)


def _images(scan: LivingScan) -> Iterator[Complex64Array]:
    """Yield the complex image of each echo before the coil and the noise."""
    grid, effects, events = scan.truth.grid, scan.effects, scan.events
    times = scan.protocol.echo_times
    window = point_spread(grid.shape, effects.gibbs) if effects.subvoxel else None
    drift, breath = line_hertz(events, grid, scan.protocol.repetition_time)
    lower = np.float32(_BREATHING_SLOPE) * polynomial_coordinates(grid)[2]
    poses = [scan.truth.pose] if events.moved is None else [scan.truth.pose, events.moved]
    parts = [_PartSum(scan, pose) for pose in poses]
    batch = max(1, int(_CELL_BYTES / (8 * np.prod(parts[0].cell_shape) * len(poses))))
    for first in range(0, len(times), batch):
        chosen = range(first, min(first + batch, len(times)))
        cells = [part.cells(chosen) for part in parts]
        for place, index in enumerate(chosen):
            spectra = [voxel_spectrum(one[place], grid.shape) for one in cells]
            if events.moved_at is not None:
                spectra[0] = np.where(line_shares(grid) < events.moved_at, spectra[0], spectra[1])
            spectrum = spectra[0]
            if window is not None:
                spectrum *= window
            if effects.drift or effects.breathing:
                turns = np.float32(2 * np.pi * times[index])
                spectrum = breathed(spectrum, turns * (drift + breath), turns * breath, lower)
            yield image_of(spectrum)


def doubled(coefficients: Float32Array) -> Float32Array:
    """Return the values (2 n - 1 an axis) of a cubic spline at its knots and half-way between, from its coefficients.

    Near the ends the spline is taken as mirrored there.
    """
    values = coefficients
    for axis in range(3):
        first = np.moveaxis(values, axis, 0)
        c = np.concatenate([first[1:2], first, first[-2:-1]])
        between = np.empty((2 * len(first) - 1, *first.shape[1:]), np.float32)
        between[::2] = (c[:-2] + c[2:]) / 6 + c[1:-1] * np.float32(2 / 3)
        between[1::2] = (c[:-3] + c[3:] + 23 * (c[1:-2] + c[2:-1])) / 48
        values = np.moveaxis(between, 0, axis)
    return np.ascontiguousarray(values)


class _PartSum:
    """The sum over parts for one pose: its maps and fields, and the geometry of the cells."""

    def __init__(self, scan: LivingScan, pose: HeadPose) -> None:
        self.scan, self.grid = scan, scan.truth.grid
        self.readout = readout_axis(self.grid)
        self.axes = [axis for axis in range(3) if axis != self.readout] + [self.readout]
        effects = scan.effects
        self.per_edge = _CELLS if effects.subvoxel else 1
        size = self.grid.voxel_size
        if effects.subvoxel:
            parts = np.maximum(1, np.ceil(size / self.per_edge / effects.subvoxel - 1e-6))
        else:
            parts = np.asarray(scan.maps.smooth.subsamples(self.grid))
        self.counts = parts.astype(np.int64)[self.axes]
        self.cell_shape = [self.per_edge * n for n in self.grid.shape]
        self.stack = scan.maps.of_pose(pose, self.grid.frame[:, self.readout])
        signal = (self.stack[..., 0] + self.stack[..., 1] > 1e-4).astype(np.uint8)
        self.occupied = ndimage.maximum_filter(signal, 2, origin=-1)
        self.field, self.start, self.coarse = self._fields(pose)
        self.to_head = np.linalg.solve(pose.matrix @ scan.maps.smooth.head.affine, np.eye(4))[:3]

    def _fields(self, pose: HeadPose) -> tuple[Float32Array, NDArray[np.float64], Float32Array]:
        """Return the field on a fine grid about the brain, where that begins, and the field on the head's maps.

        After a movement within the scan the field keeps its form in the head: the direction of B0 hardly changed.
        """
        scan, head = self.scan, self.scan.maps.smooth.head
        whole = head_grid(head, pose)
        total = scan.maps.prepared(scan.field.local) + background_field(head, pose, whole, scan.field.background)
        total -= field_of_shim(scan.truth.shim, whole)
        if not scan.effects.subvoxel:
            return np.zeros((1, 1, 1), np.float32), np.zeros(3), total
        start = np.rint(head.tensor_affine[:3, 3] - head.affine[:3, 3]).astype(int) - _MARGIN
        stop = start + 2 * _MARGIN + np.array(head.tensor.shape[1:])
        start, stop = np.maximum(start, 0), np.minimum(stop, np.array(total.shape) - 1)
        box = tuple(slice(a, b + 1) for a, b in zip(start, stop, strict=True))
        return doubled(spline_coefficients(total, 3)[box]), start.astype(np.float64), total

    def cells(self, echoes: range) -> Complex64Array:
        """Return the signal on the cells (echo, x, y, z) of some echoes, by their number from 0."""
        from .signal_kernel import sum_parts  # numba is loaded only where it is needed

        scan, protocol, effects, affine = self.scan, self.scan.protocol, self.scan.effects, self.grid.affine
        steps = affine[:3, :3].T[self.axes] / self.per_edge
        corner = np.full(3, (1 - self.per_edge) / (2 * self.per_edge))  # of the first cell in voxels
        origin = affine[:3, :3] @ corner + affine[:3, 3]
        times = np.array([protocol.echo_times[e] for e in echoes])
        hertz = GYROMAGNETIC_RATIO * protocol.b0  # of a ppm
        shift = np.zeros(len(times))
        if effects.distortion:
            backwards = np.array([bool(effects.bipolar) and e % 2 == 1 for e in echoes])
            shift = hertz / effects.distortion * self.per_edge * np.where(backwards, -1.0, 1.0)
        shape = [self.cell_shape[axis] for axis in self.axes]
        result = np.zeros((len(times), *shape), np.complex64)
        arguments = (
            self.counts, origin, np.ascontiguousarray(steps), np.ascontiguousarray(self.to_head),
            effects.gradients * _GRADIENT_SHAPE, self.occupied, self.stack,
            self.field, self.start, float(_FINE), self.coarse,
            np.ascontiguousarray(scan.maps.table.factor[list(echoes)]),
            radians_per_ppm(protocol.b0, 1.0), times, echoes[0] + 1, shift, effects.fat_shift,
        )  # fmt: skip
        bounds = np.linspace(0, shape[0], 8 * THREADS + 1).astype(np.int64)
        with ThreadPoolExecutor(THREADS) as pool:
            rows = [bounds[i : i + 2] for i in range(len(bounds) - 1)]
            list(pool.map(lambda pair: sum_parts(result, pair, *arguments), rows))
        order = np.argsort(self.axes)
        return np.ascontiguousarray(result.transpose(0, *(order + 1)))
