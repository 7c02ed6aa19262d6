"""The masked and the single-step fit: preconditioned conjugate gradients on what was really measured.

Minimised is sum_i |W_i (B_i(F^-1 A_i F chi) - B_i dB_i)|^2 / sigma^2 + |chi_iso|^2 / sigma_iso^2 + |chi_aniso|_F^2 /
sigma_aniso^2 over chi within a support. For the masked fit B_i is the identity less the field's mean, weighted as the
scan is: a constant of each scan is an unknown too, solved for beforehand; dB_i is a local field. For the single-step
fit dB_i is a total field and B_i the spherical-mean-value filter of the largest radius that fits the mask
at each voxel, B_i = sum_r M_ir (delta - S_r) *, which no source outside the mask passes (Schweser 2011, Wu 2012).
The closed form of the same filter is the preconditioner.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...physics.conjugate_gradients import inner_product, inner_products
from ...physics.dipole import Complex64Array, Float32Array
from ...physics.prior import Prior
from ...physics.tensors import DIAGONAL, chi33_weights
from ..execution import Execution
from ..noise import without_constant
from ..tissue.prior import FrequencyMetric, TissueMetric, TissuePrior
from . import kernels
from .grid import FitGrid

TENSOR = 6  # components
_NO_FILTER = np.ones((1, 1, 1), np.float32)


@dataclass(frozen=True)
class Observation:
    """What of one scan's field enters the fit, on the box of the grid.

    weight: (x, y, z) float32, 0 where the field is unknown; radius_index: (x, y, z) uint8, which filter is used where
    (1: the first; 0: none, and no data), or None for the field itself; level: the scan's own factor within weight.
    """

    weight: Float32Array
    radius_index: NDArray[np.uint8] | None = None
    level: float = 1.0

    @property
    def known(self) -> NDArray[np.bool_]:
        """Where the field enters (x, y, z), the voxels of its residual."""
        return self.weight > 0 if self.radius_index is None else (self.weight > 0) & (self.radius_index > 0)

    def with_level(self, level: float) -> Observation:
        """Return the same with another factor of the scan in its weight."""
        if level == self.level:
            return self
        return replace(self, weight=self.weight * np.float32(level / self.level), level=level)

    def forward(self, spectrum: Complex64Array, grid: FitGrid, filters: Float32Array | None) -> Float32Array:
        """Return the filtered field (box) of a field's spectrum."""
        if self.radius_index is None or filters is None:
            return grid.inverse(spectrum)
        seen = np.zeros(grid.box_shape, np.float32)
        for number in range(len(filters)):
            part = grid.inverse(filters[number] * spectrum)
            np.copyto(seen, part, where=self.radius_index == number + 1)
        return seen

    def adjoint(self, field: Float32Array, grid: FitGrid, filters: Float32Array | None) -> Complex64Array:
        """Return the spectrum of the adjoint of `forward`, up to the transform's own scale."""
        if self.radius_index is None or filters is None:
            return grid.forward(field)
        spectrum = np.zeros(grid.half, np.complex64)
        for number in range(len(filters)):
            part = grid.forward(np.where(self.radius_index == number + 1, field, np.float32(0)))
            part *= filters[number]
            spectrum += part
        return spectrum


def _seen(
    spectrum: Complex64Array, grid: FitGrid, observation: Observation, filters: Float32Array | None
) -> Float32Array:
    """Return what counts of a field's spectrum: filtered, or less its constant, which the filters hold nothing of."""
    field = observation.forward(spectrum, grid, filters)
    return without_constant(field, observation.weight) if filters is None else field


def model_spectrum(components: Complex64Array, grid: FitGrid, scan: int) -> Complex64Array:
    """Return the spectrum of a scan's field for the spectra of a tensor (6, …) or of a scalar map (1, …).

    One map more is that of a frequency that all scans share.
    """
    out = np.empty(grid.half, np.complex64)
    h = grid.directions[scan]
    if len(components) >= TENSOR:
        kernels.model_forward(out, components[:TENSOR], h, *grid.frequencies())
    else:
        kernels.scalar_forward(out, components[0], h, *grid.frequencies())
    if len(components) not in (1, TENSOR):
        out += components[-1]
    return out


def _normal_of_scan(
    components: Complex64Array, grid: FitGrid, scan: int, observation: Observation, filters: Float32Array | None
) -> Complex64Array:
    seen = _seen(model_spectrum(components, grid, scan), grid, observation, filters)
    return observation.adjoint(seen * observation.weight**2, grid, filters)


def _right_hand_side_of_scan(
    field: Float32Array, grid: FitGrid, observation: Observation, filters: Float32Array | None
) -> Complex64Array:
    seen = _seen(grid.forward(field), grid, observation, filters)
    return observation.adjoint(seen * observation.weight**2, grid, filters)


def _residual_of_scan(
    components: Complex64Array,
    field: Float32Array,
    grid: FitGrid,
    scan: int,
    observation: Observation,
    filters: Float32Array | None,
) -> Float32Array:
    left = grid.forward(field) - model_spectrum(components, grid, scan)
    return _seen(left, grid, observation, filters)


def radius_shares(observations: Sequence[Observation], filters: int) -> NDArray[np.float64]:
    """Return for each filter the sum of squared weights of its voxels over the number of all voxels that are seen.

    Levels of the scans are left out of the weights.
    """
    squares, count = np.zeros(filters), 0
    for one in observations:
        radius_index = np.ravel(one.radius_index)  # type: ignore[arg-type]
        squares += np.bincount(radius_index, (np.ravel(one.weight) / one.level) ** 2, minlength=filters + 1)[1:]
        count += int(np.count_nonzero(radius_index))
    return squares / max(count, 1)


class FieldModel:
    """The linear problem of all scans for a tensor (components = 6) or a scalar map (1), on the box of a grid.

    observations: one a scan; support: (x, y, z) bool, chi is 0 outside; filters: (r, half) float32 real spectra of the
    shells' filters. Maps are (components, x, y, z) float32 in ppm. scans: which scans count (all by default); tissue:
    how the prior of a tensor's traceless part varies (None: not at all). Where it has a prior of a frequency that the
    scans share, that is one map more, the last, in ppm.
    """

    def __init__(
        self,
        grid: FitGrid,
        observations: Sequence[Observation],
        support: NDArray[np.bool_],
        execution: Execution,
        *,
        components: int = 6,
        filters: Float32Array | None = None,
        scans: Sequence[int] | None = None,
        tissue: TissuePrior | None = None,
    ) -> None:
        self.grid, self.execution, self.components = grid, execution, components
        self.scans = list(range(len(observations)) if scans is None else scans)
        self.support = support
        self._inside = support.astype(np.float32)
        self._observations = list(observations)
        self._filters = filters
        self._shared_filters = None if filters is None else execution.share(filters)
        self._power = self._filter_power()
        given = tissue if components == TENSOR else None
        self.metric = None if given is None else TissueMetric(given, grid, support, np.ascontiguousarray)
        shared = None if tissue is None else tissue.frequency
        self.frequency = None if shared is None else FrequencyMetric(shared, grid, support, np.ascontiguousarray)

    @property
    def weights(self) -> list[Float32Array]:
        """The weights of all scans (box each)."""
        return [one.weight for one in self._observations]

    def known(self, scan: int) -> NDArray[np.bool_]:
        """Return where a scan's field enters (box), the voxels of its residual."""
        return self._observations[scan].known

    def _filter_power(self) -> Float32Array:
        """Return the mean of (weight x filter)^2 at each k (half): what the closed form of the problem holds."""
        if self._filters is None:
            return _NO_FILTER
        shares = radius_shares([self._observations[scan] for scan in self.scans], len(self._filters))
        return np.einsum("r,rxyz->xyz", shares, self._filters**2).astype(np.float32)

    @property
    def count(self) -> int:
        """The number of maps: the components, and the frequency where there is one."""
        return self.components + (self.frequency is not None)

    def spectra(self, maps: Float32Array) -> Complex64Array:
        """Return the half spectra of maps."""
        out = np.empty((len(maps), *self.grid.half), np.complex64)
        self.execution.fill(out, self.grid.forward, list(maps), self.grid.forward_into)
        return out

    def maps(self, spectra: Complex64Array) -> Float32Array:
        """Return the maps of half spectra (overwritten), 0 outside the support."""
        out = np.empty((len(spectra), *self.grid.box_shape), np.float32)
        self.execution.fill(out, self.grid.inverse, list(spectra))
        out *= self._inside
        return out

    def _accumulate(self, total: Complex64Array, fields: Complex64Array, scans: Sequence[int]) -> None:
        """Add the adjoint model of some scans' spectra to the components, in the scans' order, in place."""
        chosen = np.ascontiguousarray(self.grid.directions[list(scans)])

        def one(planes: slice) -> None:
            frequencies = self.grid.frequencies(planes)
            if self.frequency is not None:
                total[-1, planes] += fields[:, planes].sum(axis=0)
            if self.components == TENSOR:
                kernels.model_adjoint(total[:TENSOR, planes], fields[:, planes], chosen, *frequencies)
            else:
                kernels.scalar_adjoint(total[0, planes], fields[:, planes], chosen, *frequencies)

        self.execution.map_here(one, self.grid.slabs())

    def _sum_over_scans(self, function: Callable[..., Complex64Array], *arguments: Sequence[Any]) -> Complex64Array:
        total = np.zeros((self.count, *self.grid.half), np.complex64)
        for batch, parts in self.execution.map_batches(function, *arguments):
            self._accumulate(total, np.stack(parts), self.scans[batch])
        return total

    def _per_scan(self) -> tuple[list[Observation], list[Any]]:
        chosen = [self._observations[scan] for scan in self.scans]
        return chosen, [self._shared_filters] * len(self.scans)

    def right_hand_side(self, fields: Sequence[Float32Array]) -> Float32Array:
        """Return A^T W^2 of the scans' fields (whole list, box each)."""
        observations, filters = self._per_scan()
        grids = [self.grid] * len(self.scans)
        chosen = [np.asarray(fields[scan], np.float32) for scan in self.scans]
        return self.maps(self._sum_over_scans(_right_hand_side_of_scan, chosen, grids, observations, filters))

    def normal(self, maps: Float32Array) -> Float32Array:
        """Return A^T W^2 A of maps, without the prior."""
        observations, filters = self._per_scan()
        shared = self.execution.share(self.spectra(maps))
        n = len(self.scans)
        return self.maps(
            self._sum_over_scans(_normal_of_scan, [shared] * n, [self.grid] * n, self.scans, observations, filters)
        )

    def field(self, maps: Float32Array, scan: int) -> Float32Array:
        """Return the weighted, filtered field of a scan for maps: the forward operator W_i B_i F^-1 A_i F."""
        one = self._observations[scan]
        seen = _seen(model_spectrum(self.spectra(maps), self.grid, scan), self.grid, one, self._filters)
        return seen * one.weight

    def field_adjoint(self, field: Float32Array, scan: int) -> Float32Array:
        """Return the adjoint of `field` of a scan."""
        one = self._observations[scan]
        weighted = np.asarray(field, np.float32) * one.weight
        if self._filters is None:
            squares = one.weight**2
            weighted = weighted - squares * (weighted.sum() / max(float(squares.sum()), 1e-30))
        spectrum = one.adjoint(weighted, self.grid, self._filters)
        total = np.zeros((self.count, *self.grid.half), np.complex64)
        self._accumulate(total, spectrum[None], [scan])
        return self.maps(total)

    def residuals(self, maps: Float32Array, fields: Sequence[Float32Array]) -> list[Float32Array]:
        """Return what maps leave of the (filtered) fields, an array of the known voxels a scan."""
        observations, filters = self._per_scan()
        shared, n = self.execution.share(self.spectra(maps)), len(self.scans)
        chosen = [np.asarray(fields[scan], np.float32) for scan in self.scans]
        left = []
        for batch, parts in self.execution.map_batches(
            _residual_of_scan, [shared] * n, chosen, [self.grid] * n, self.scans, observations, filters
        ):
            for index, part in zip(range(batch.start, batch.stop), parts, strict=True):
                left.append((part * observations[index].weight)[self.known(self.scans[index])])
        return left

    def precondition(self, maps: Float32Array, noise: float, prior: Prior) -> Float32Array:
        """Return the closed-form solution for a right side of maps, within the support."""
        spectra, directions = self.spectra(maps), np.ascontiguousarray(self.grid.directions[self.scans])
        weights = np.array([self._observations[scan].level ** 2 for scan in self.scans], np.float32)
        iso, aniso = (noise**2 * part for part in prior.precisions())
        coherence = _NO_FILTER if self.metric is None else self.metric.typical
        scalar = np.float32(noise**2 / prior.iso**2)

        def one(planes: slice) -> None:
            power, tied = (one if one.size == 1 else one[planes] for one in (self._power, coherence))
            frequencies = self.grid.frequencies(planes)
            if self.frequency is not None:
                known = self.frequency.typical if self.frequency.typical.size == 1 else self.frequency.typical[planes]
                spectra[-1, planes] /= power * weights.sum() + np.float32(noise**2) * known
            if self.components == TENSOR:
                kernels.solve_normal(
                    spectra[:TENSOR, planes], directions, weights, power, iso, aniso, tied, *frequencies
                )
            else:
                kernels.scalar_solve(spectra[0, planes], directions, weights, power, scalar, *frequencies)

        self.execution.map_here(one, self.grid.slabs())
        return self.maps(spectra)

    def penalise(self, maps: Float32Array, noise: float, prior: Prior) -> Float32Array:
        """Return sigma^2 times the prior's precision times maps, its parts split so that none drowns the other."""
        iso, aniso = np.float32(noise**2 / prior.iso**2), np.float32(noise**2 / prior.aniso**2)
        if self.frequency is not None:
            shared = np.float32(noise**2) * self.frequency.precision(maps[-1])
            return np.concatenate([self._penalise(maps[:-1], iso, aniso), shared[None]])
        return self._penalise(maps, iso, aniso)

    def _penalise(self, maps: Float32Array, iso: np.float32, aniso: np.float32) -> Float32Array:
        if self.components == 1:
            return iso * maps
        mean = maps[list(DIAGONAL)].mean(axis=0)
        if self.metric is not None:
            out = aniso * self.metric.precision(maps)
            for component in DIAGONAL:
                out[component] += iso / 3 * mean
            return out
        out = 2 * aniso * maps
        for component in DIAGONAL:
            out[component] = aniso * (maps[component] - mean) + iso / 3 * mean
        return out

    def label_size(self, maps: Float32Array) -> float:
        """Return the root mean square over support and scans of chi33 in ppm (of a scalar map: of itself)."""
        count = max(int(self.support.sum()), 1)
        if self.components == 1:
            return float(np.sqrt(inner_product(maps[:1], maps[:1]) / count))
        return float(np.sqrt(label_energy(inner_products(maps[:TENSOR]), self.grid.directions[self.scans]) / count))

    def own(self, maps: Float32Array) -> Float32Array:
        """Return a copy of maps that an iteration may change, where the model keeps its arrays."""
        return maps.copy()

    def to_numpy(self, maps: Float32Array) -> Float32Array:
        """Return maps as a NumPy array."""
        return maps

    def inner(self, one: Float32Array, other: Float32Array) -> float:
        """Return the inner product of maps."""
        return inner_product(one, other)


def label_energy(gram: NDArray[np.float64], directions: NDArray[np.floating]) -> float:
    """Return the sum of squares of chi33, mean over B0 directions (n, 3), from a tensor's inner products (6, 6)."""
    rows = chi33_weights(directions.astype(np.float64))
    return float(max(np.einsum("ni,ij,nj->n", rows, gram, rows).mean(), 0))
