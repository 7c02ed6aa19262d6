"""spline_maps in torch: cubic B-splines held on a device and evaluated on turned grids there, a slab at a time.

The same definition as spline_maps.evaluate. Positions are found in float64, so that the mask is the same voxel for
voxel and the values differ by the rounding of float32 alone; every sum of 64 taps runs in a fixed order.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import ArrayLike
from torch import Tensor
from torch.nn import functional

from ..frames import FloatArray, voxel_mapping
from .spline_maps import TIE, SplineMaps, box_samples

_POINTS = {"cpu": 1 << 15, "cuda": 1 << 18}  # whose 64 taps are held at once, 900 bytes each
_PLANES = 1 << 21  # voxels of the target whose positions are held at once, 100 bytes each
_OUTSIDE, _INSIDE, _EDGE = 0, 1, 2  # what the eight corners of a cell say


@dataclass(frozen=True)
class TorchSplineMaps:
    """SplineMaps on a device.

    coefficients: (x * y * z, c), channels last, as the taps of all maps are fetched together; level: (x * y * z);
    cells: (x * y * z) uint8, whether the eight voxels from one on lie outside, inside, or both; shape: of the box;
    affine: of the box, voxel to world (4, 4). The first two float32.
    """

    coefficients: Tensor
    level: Tensor
    cells: Tensor
    shape: tuple[int, int, int]
    affine: FloatArray

    @classmethod
    def of(cls, maps: SplineMaps, device: torch.device | str) -> TorchSplineMaps:
        """Return maps on a device."""
        level = torch.from_numpy(maps.level).to(device)
        inside = (level > 0).to(torch.uint8)
        count = torch.zeros_like(inside)
        x, y, z = level.shape
        corner = count[: x - 1, : y - 1, : z - 1]
        for i, j, k in np.ndindex(2, 2, 2):
            corner += inside[i : x - 1 + i, j : y - 1 + j, k : z - 1 + k]
        cells = torch.where(count == 8, _INSIDE, torch.where(count == 0, _OUTSIDE, _EDGE)).to(torch.uint8)
        coefficients = torch.from_numpy(maps.coefficients).to(device).flatten(1).T.contiguous()
        return cls(coefficients, level.flatten(), cells.flatten(), (x, y, z), maps.affine)

    def mixed(self, weights: ArrayLike) -> Tensor:
        """Return the coefficients (x * y * z, n) of linear combinations of the maps: weights (n, c)."""
        rows = np.asarray(weights, np.float32).tolist()
        out = torch.zeros((len(self.level), len(rows)), dtype=torch.float32, device=self.level.device)
        for column, row in zip(out.unbind(1), rows, strict=True):
            for part, weight in zip(self.coefficients.unbind(1), row, strict=True):
                column.add_(part, alpha=weight)  # no matrix product, which TF32 would coarsen
        return out

    def evaluate(
        self,
        coefficients: Tensor,
        target_affine: ArrayLike,
        target_shape: Sequence[int],
        transform: ArrayLike | None = None,
    ) -> tuple[Tensor, Tensor]:
        """Return the maps (n, x, y, z) of coefficients (from `mixed`, or the own ones) and the mask (x, y, z).

        The other arguments and results are those of spline_maps.evaluate, on the device.
        """
        mapping = voxel_mapping(self.affine, target_affine, transform)
        samples = box_samples(self.affine, target_affine, transform)
        shape = tuple(int(n) for n in target_shape)
        inside = self._mask_on(mapping, samples, shape)
        voxels = torch.nonzero(inside.flatten()).squeeze(1)
        values = torch.zeros((coefficients.shape[1], inside.numel()), dtype=torch.float32, device=self.level.device)
        for part in voxels.split(_POINTS[self.level.device.type]):
            positions = self._positions(mapping, part, shape)
            total = self._values_at(coefficients, _shifted(positions, samples[0]))
            for sample in samples[1:]:
                total += self._values_at(coefficients, _shifted(positions, sample))
            values[:, part] = total.T / len(samples)
        return values.view(-1, *shape), inside

    def _positions(self, mapping: FloatArray, flat: Tensor, shape: tuple[int, ...]) -> list[Tensor]:
        """Return the positions in the box, an axis each (n,) float64, of voxels of a grid by their flat index."""
        columns = flat // (shape[1] * shape[2]), flat // shape[2] % shape[1], flat % shape[2]
        axes = [axis.double() for axis in columns]
        return [
            (axes[0] * row[0]).add_(axes[1], alpha=row[1]).add_(axes[2], alpha=row[2]).add_(row[3])
            for row in mapping[:3].tolist()
        ]

    def _values_at(self, coefficients: Tensor, positions: list[Tensor]) -> Tensor:
        """Return the maps (n, maps) at positions, continued beyond the box."""
        _, y, z = self.shape
        positions = [at.clamp(1, n - 2) for at, n in zip(positions, self.shape, strict=True)]
        steps = torch.arange(4, device=self.level.device)
        taps = (steps.view(4, 1, 1) * y + steps.view(4, 1)) * z + steps
        base = [at.floor().clamp_(max=n - 3) for at, n in zip(positions, self.shape, strict=True)]
        x_of, y_of, z_of = (_bspline((at - low).float()) for at, low in zip(positions, base, strict=True))
        first = ((base[0].long() - 1) * y + base[1].long() - 1) * z + base[2].long() - 1
        weights = (x_of[:, :, None, None] * y_of[:, None, :, None] * z_of[:, None, None, :]).flatten(1)
        return functional.embedding_bag(
            first[:, None] + taps.flatten(), coefficients, mode="sum", per_sample_weights=weights
        )

    def _mask_on(self, mapping: FloatArray, samples: FloatArray, shape: tuple[int, ...]) -> Tensor:
        """Return the mask on a grid (x, y, z), a slab of planes at a time."""
        device = self.level.device
        inside = torch.zeros(shape, dtype=torch.bool, device=device)
        planes = max(1, _PLANES // (shape[1] * shape[2]))
        axes = [torch.arange(n, dtype=torch.float64, device=device) for n in shape]
        for start in range(0, shape[0], planes):
            x = axes[0][start : start + planes, None, None]
            positions = [
                (x * row[0] + axes[1][:, None] * row[1]) + (axes[2] * row[2] + row[3]) for row in mapping[:3].tolist()
            ]
            inside[start : start + planes] = self._mask_at(positions, samples)
        return inside

    def _mask_at(self, positions: list[Tensor], samples: FloatArray) -> Tensor:
        """Return where the mean of the level, interpolated linearly, is above 0; few cells are across the surface."""
        shape = positions[0].shape
        flat = [at.flatten() for at in positions]
        if len(samples) > 1:
            total = torch.zeros_like(flat[0])
            for sample in samples:
                total += self._level_at(*self._cells_at(_shifted(flat, sample)))
            return (total >= TIE * len(samples)).view(shape)
        first, near = self._cells_at(flat)
        cells = self.cells[first]
        edge = torch.nonzero(cells == _EDGE).squeeze(1)
        inside = cells == _INSIDE
        inside[edge] = self._level_at(first[edge], [at[edge] for at in near]) >= TIE
        return inside.view(shape)

    def _cells_at(self, positions: list[Tensor]) -> tuple[Tensor, list[Tensor]]:
        """Return the first voxel (flat index) of the cells that hold positions, and how far along the cells' axes."""
        _, y, z = self.shape
        clipped = [at.clamp(0, n - 1) for at, n in zip(positions, self.shape, strict=True)]
        base = [at.floor().clamp_(max=n - 2) for at, n in zip(clipped, self.shape, strict=True)]
        first = ((base[0] * y + base[1]) * z + base[2]).long()
        return first, [at - low for at, low in zip(clipped, base, strict=True)]

    def _level_at(self, first: Tensor, near: list[Tensor]) -> Tensor:
        """Return the level, interpolated linearly in cells."""
        _, y, z = self.shape
        level = torch.zeros_like(near[0])
        for i, j, k in np.ndindex(2, 2, 2):
            weight = torch.ones_like(level)
            for part, upper in zip(near, (i, j, k), strict=True):
                weight *= part if upper else 1 - part
            level += weight * self.level[first + int((i * y + j) * z + k)]
        return level


def _shifted(positions: list[Tensor], sample: FloatArray) -> list[Tensor]:
    return [at + shift for at, shift in zip(positions, sample.tolist(), strict=True)]


def _bspline(t: Tensor) -> Tensor:
    """Return the weights (n, 4) of the four taps around positions t (n,) from 0 to 1 between the middle two."""
    s = 1 - t
    return torch.stack([s**3 / 6, 2 / 3 - t**2 * (1 - t / 2), 2 / 3 - s**2 * (1 - s / 2), t**3 / 6], dim=1)
