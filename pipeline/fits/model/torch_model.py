"""The masked and the single-step fit in torch, for a CUDA GPU: the linear problem with its arrays on a device.

TorchFieldModel is what field_model.FieldModel is, on tensors, so that conjugate_gradients and solve_problem run on
either. Weights and shells of all scans stay on the device; of the spectra, one scan's at a time.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from ...physics.dipole import Float32Array
from ...physics.prior import Prior
from ..tissue.prior import FrequencyMetric, TissueMetric, TissuePrior
from .field_model import TENSOR, Observation, label_energy, radius_shares
from .grid import FitGrid
from .torch_closed_form import COMPONENT_AXES, TorchGrid, add_normal, add_precision, factor, solve, torch_device

Maps = ArrayLike | Tensor


class TorchFieldModel:
    """The linear problem of all scans for a tensor (components = 6) or a scalar map (1), on a device.

    The arguments are FieldModel's. Maps are float32 tensors (components, box) in ppm on the device; NumPy arrays are
    taken too.
    """

    def __init__(
        self,
        grid: FitGrid,
        observations: Sequence[Observation],
        support: NDArray[np.bool_],
        device: str,
        *,
        components: int = 6,
        filters: Float32Array | None = None,
        scans: Sequence[int] | None = None,
        tissue: TissuePrior | None = None,
    ) -> None:
        self.grid, self.components = grid, components
        self.scans = list(range(len(observations)) if scans is None else scans)
        self._at = at = TorchGrid(grid, torch_device(device))
        self.support = at.tensor(support)
        self._voxels = max(int(np.count_nonzero(support)), 1)
        self._weights = {scan: at.tensor(observations[scan].weight) for scan in self.scans}
        self._levels = {scan: observations[scan].level for scan in self.scans}
        self._filters = None if filters is None else at.tensor(filters)
        self._shells = {} if filters is None else self._load_radius_index(observations)
        self._power = self._filter_power([observations[scan] for scan in self.scans])
        given = tissue if components == TENSOR else None
        self.metric = None if given is None else TissueMetric(given, grid, support, at.tensor)
        shared = None if tissue is None else tissue.frequency
        self.frequency = None if shared is None else FrequencyMetric(shared, grid, support, at.tensor)
        self.count = components + (shared is not None)
        self._factored: tuple[tuple[float, Prior] | None, list[Tensor]] = (None, [])

    def _load_radius_index(self, observations: Sequence[Observation]) -> dict[int, Tensor]:
        found = ((scan, observations[scan].radius_index) for scan in self.scans)
        return {
            scan: torch.tensor(radius_index, device=self._at.device)
            for scan, radius_index in found
            if radius_index is not None
        }

    def _filter_power(self, observations: Sequence[Observation]) -> Tensor | None:
        """Return the mean of (weight x filter)^2 at each k (half); None without filters."""
        if self._filters is None:
            return None
        shares = radius_shares(observations, len(self._filters))
        power = torch.zeros(self.grid.half, dtype=torch.float32, device=self._at.device)
        for share, one in zip(shares.tolist(), self._filters, strict=True):
            power.addcmul_(one, one, value=share)
        return power

    # What an iteration asks of its arrays

    def own(self, maps: Maps) -> Tensor:
        """Return a copy of maps on the device."""
        return self._at.tensor(maps).clone()

    def to_numpy(self, maps: Tensor) -> Float32Array:
        """Return maps in main memory."""
        return maps.cpu().numpy()

    def inner(self, one: Tensor, other: Tensor) -> float:
        """Return the inner product of maps, summed in float64."""
        return float((one * other).sum(dtype=torch.float64))

    # Spectra

    def _spectra(self, maps: Maps) -> Tensor:
        return torch.stack([self._at.forward(one) for one in self._at.tensor(maps)])

    def _maps(self, spectra: Tensor) -> Tensor:
        return torch.stack([self._at.inverse(one) * self.support for one in spectra])

    def _zeros(self) -> Tensor:
        return torch.zeros((self.count, *self.grid.half), dtype=torch.complex64, device=self._at.device)

    def _model_spectrum(self, spectra: Tensor, scan: int) -> Tensor:
        """Return the spectrum of a scan's field for the spectra of maps: sum_j q_j (X h)_j."""
        out = torch.empty(self.grid.half, dtype=torch.complex64, device=self._at.device)
        h = self._at.directions[scan]
        for planes in self._at.slabs():
            part = spectra[:, planes]
            if self.components == 1:
                torch.mul(self._at.dipole(scan, planes), part[0], out=out[planes])
                continue
            turned = torch.zeros_like(part[:3])
            for one, (j, m) in zip(part[:TENSOR], COMPONENT_AXES, strict=True):
                turned[j].add_(one, alpha=h[m])
                if j != m:
                    turned[m].add_(one, alpha=h[j])
            torch.sum(turned.mul_(self._at.projections(scan, planes)), 0, out=out[planes])
        return out.add_(spectra[-1]) if len(spectra) > self.components else out

    def _accumulate(self, total: Tensor, spectrum: Tensor, scan: int) -> None:
        """Add the adjoint model of a scan's spectrum to the components, in place."""
        h = self._at.directions[scan]
        if self.frequency is not None:
            total[-1] += spectrum
        for planes in self._at.slabs():
            part = total[:, planes]
            if self.components == 1:
                part[0] += self._at.dipole(scan, planes) * spectrum[planes]
                continue
            turned = self._at.projections(scan, planes) * spectrum[planes]
            for one, (j, m) in zip(part[:TENSOR], COMPONENT_AXES, strict=True):
                one.add_(turned[j], alpha=h[m])
                if j != m:
                    one.add_(turned[m], alpha=h[j])

    def _observe(self, spectrum: Tensor, scan: int) -> Tensor:
        """Return the filtered field (box) of a field's spectrum."""
        if self._filters is None or scan not in self._shells:
            return self._at.inverse(spectrum)
        seen = torch.zeros(self.grid.box_shape, dtype=torch.float32, device=self._at.device)
        for number, one in enumerate(self._filters, 1):
            seen = torch.where(self._shells[scan] == number, self._at.inverse(one * spectrum), seen)
        return seen

    def _observe_adjoint(self, field: Tensor, scan: int) -> Tensor:
        """Return the spectrum of the adjoint of `_observe`, up to the transform's own scale."""
        if self._filters is None or scan not in self._shells:
            return self._at.forward(field)
        spectrum = torch.zeros(self.grid.half, dtype=torch.complex64, device=self._at.device)
        for number, one in enumerate(self._filters, 1):
            spectrum += one * self._at.forward(field * (self._shells[scan] == number))
        return spectrum

    def _seen(self, spectrum: Tensor, scan: int) -> Tensor:
        """Return what counts of a field's spectrum: filtered, or less its constant (noise.without_constant)."""
        field = self._observe(spectrum, scan)
        if self._filters is not None:
            return field
        squares = self._weights[scan] * self._weights[scan]
        total = squares.sum(dtype=torch.float64)
        mean = (squares * field).sum(dtype=torch.float64) / total.clamp(min=1e-30)
        return field - mean.to(torch.float32)

    # The problem

    def right_hand_side(self, fields: Sequence[Maps]) -> Tensor:
        """Return A^T W^2 of the scans' fields (whole list, box each)."""
        total = self._zeros()
        for scan in self.scans:
            self._add_seen(total, self._at.forward(self._at.tensor(fields[scan])), scan)
        return self._maps(total)

    def normal(self, maps: Maps) -> Tensor:
        """Return A^T W^2 A of maps, without the prior."""
        spectra, total = self._spectra(maps), self._zeros()
        for scan in self.scans:
            self._add_seen(total, self._model_spectrum(spectra, scan), scan)
        return self._maps(total)

    def _add_seen(self, total: Tensor, spectrum: Tensor, scan: int) -> None:
        weighted = self._seen(spectrum, scan) * self._weights[scan] * self._weights[scan]
        self._accumulate(total, self._observe_adjoint(weighted, scan), scan)

    def field(self, maps: Maps, scan: int) -> Tensor:
        """Return the weighted, filtered field of a scan for maps: the forward operator W_i B_i F^-1 A_i F."""
        return self._seen(self._model_spectrum(self._spectra(maps), scan), scan) * self._weights[scan]

    def field_adjoint(self, field: Maps, scan: int) -> Tensor:
        """Return the adjoint of `field` of a scan."""
        total = self._zeros()
        weighted = self._at.tensor(field) * self._weights[scan]
        if self._filters is None:
            squares = self._weights[scan] ** 2
            weighted = weighted - squares * (weighted.sum() / squares.sum().clamp(min=1e-30))
        self._accumulate(total, self._observe_adjoint(weighted, scan), scan)
        return self._maps(total)

    def residuals(self, maps: Maps, fields: Sequence[Maps]) -> list[Float32Array]:
        """Return what maps leave of the (filtered) fields, a NumPy array of the known voxels a scan."""
        spectra, left = self._spectra(maps), []
        for scan in self.scans:
            spectrum = self._at.forward(self._at.tensor(fields[scan])) - self._model_spectrum(spectra, scan)
            known = self._weights[scan] > 0
            if scan in self._shells:
                known &= self._shells[scan] > 0
            left.append((self._seen(spectrum, scan) * self._weights[scan])[known].cpu().numpy())
        return left

    def precondition(self, maps: Maps, noise: float, prior: Prior) -> Tensor:
        """Return the closed-form solution for a right side of maps, within the support."""
        spectra = self._spectra(maps)
        for planes, factors in zip(self._at.slabs(), self._factors(noise, prior), strict=True):
            if self.components == TENSOR:
                solve(factors, spectra[:TENSOR, planes])
            else:
                spectra[:1, planes] /= factors
        spectra[: self.components, 0, 0, 0] = 0
        if self.frequency is not None:
            levels = float(np.sum(np.square([self._levels[scan] for scan in self.scans])))
            seen: Tensor | float = 1.0 if self._power is None else self._power
            spectra[-1] /= levels * seen + noise**2 * self._at.tensor(self.frequency.typical)
        return self._maps(spectra)

    def _factors(self, noise: float, prior: Prior) -> list[Tensor]:
        """Return the factors (21, …) or divisors (…) of each slab, kept for the next iteration."""
        if self._factored[0] != (noise, prior):
            self._factored = (None, [])
            made = [self._factor_slab(planes, noise, prior) for planes in self._at.slabs()]
            self._factored = ((noise, prior), made)
        return self._factored[1]

    def _factor_slab(self, planes: slice, noise: float, prior: Prior) -> Tensor:
        power: Tensor | float = 1.0 if self._power is None else self._power[planes]
        points = (planes.stop - planes.start, *self.grid.half[1:])
        if self.components == 1:
            summed = torch.zeros(points, dtype=torch.float32, device=self._at.device)
            for scan in self.scans:
                summed += (self._levels[scan] * self._at.dipole(scan, planes)) ** 2
            return summed.mul_(power).add_(noise**2 / prior.iso**2)
        normal = torch.zeros((21, *points), dtype=torch.float32, device=self._at.device)
        for scan in self.scans:
            add_normal(normal, [self._levels[scan] * one for one in self._at.row(scan, planes)])
        normal *= power
        iso, aniso = (noise**2 * part for part in prior.precisions())
        add_precision(normal, iso)
        add_precision(normal, aniso, self._coherence(planes))
        factor(normal)
        return normal

    def _coherence(self, planes: slice) -> Tensor | float:
        """Return how the precision of the traceless part varies over a slab of k."""
        if self.metric is None:
            return 1.0
        typical = self.metric.typical
        return self._at.tensor(typical if typical.size == 1 else typical[planes])

    def penalise(self, maps: Maps, noise: float, prior: Prior) -> Tensor:
        """Return sigma^2 times the prior's precision times maps."""
        maps = self._at.tensor(maps)
        if self.frequency is not None:
            shared = noise**2 * self.frequency.precision(maps[-1])
            return torch.cat([self._penalise(maps[:-1], noise, prior), shared[None]])
        return self._penalise(maps, noise, prior)

    def _penalise(self, maps: Tensor, noise: float, prior: Prior) -> Tensor:
        if self.components == 1:
            return maps * (noise**2 / prior.iso**2)
        iso, aniso = (noise**2 * part for part in prior.precisions())
        if self.metric is None:
            out, precision = torch.zeros_like(maps), iso + aniso
        else:
            out, precision = self.metric.precision(maps) * (noise**2 / prior.aniso**2), iso
        for i, j in zip(*np.nonzero(precision), strict=True):
            out[i].add_(maps[j], alpha=float(precision[i, j]))
        return out

    def label_size(self, maps: Maps) -> float:
        """Return the root mean square over support and scans of chi33 in ppm (of a scalar map: of itself)."""
        maps = self._at.tensor(maps)
        if self.components == 1:
            return float(np.sqrt(self.inner(maps[:1], maps[:1]) / self._voxels))
        tensor = maps[:TENSOR]
        gram = torch.stack([(one * tensor).sum((1, 2, 3), dtype=torch.float64) for one in tensor])
        return float(np.sqrt(label_energy(gram.cpu().numpy(), self.grid.directions[self.scans]) / self._voxels))
