"""The inversions of benchmarks/comparators.py: COSMOS and STI in closed form, and penalised least squares by LSQR."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from chi33.pipeline.fits.model.grid import FitGrid
from numpy.typing import NDArray
from scipy.sparse.linalg import LinearOperator, lsqr

RIDGE = 1e-3  # of the normal matrix, whose diagonal is of the order of the number of scans
KERNEL_LIMIT = 0.1  # COSMOS leaves out where the root mean square of the kernels is smaller
SYMMETRIC = ((0, 1, 2), (1, 3, 4), (2, 4, 5))  # where the components of a tensor are
ASYMMETRIC = ((0, 1, 2), (3, 4, 5), (6, 7, 8))
_SLAB = 4096  # points of k-space solved at a time


@dataclass(frozen=True)
class Penalty:
    """Combinations (p, c) of the components that are to be small, or to vary little between neighbours, in a region."""

    weight: float
    combinations: NDArray[np.float64]
    region: NDArray[np.bool_]
    smooth: bool = False

    def pairs(self) -> list[tuple[tuple[slice, ...], tuple[slice, ...], NDArray[np.bool_]]]:
        """Return the two ends of neighbours along each axis, and which pairs lie in the region."""
        found = []
        for axis in range(3):
            ahead, behind = [slice(None)] * 3, [slice(None)] * 3
            ahead[axis], behind[axis] = slice(1, None), slice(None, -1)
            both = self.region[tuple(ahead)] & self.region[tuple(behind)]
            found.append(((slice(None), *ahead), (slice(None), *behind), both))
        return found

    def forward(self, maps: NDArray) -> NDArray:
        """Return the penalised values of maps (c, x, y, z)."""
        mixed = self.weight * np.tensordot(self.combinations, maps, axes=1)
        if not self.smooth:
            return mixed[:, self.region].ravel()
        return np.concatenate([(mixed[a] - mixed[b])[:, both].ravel() for a, b, both in self.pairs()])

    def adjoint(self, values: NDArray) -> NDArray:
        """Return the adjoint (c, x, y, z)."""
        mixed = np.zeros((len(self.combinations), *self.region.shape))
        if not self.smooth:
            mixed[:, self.region] = values.reshape(len(mixed), -1)
        else:
            start = 0
            for a, b, both in self.pairs():
                count = len(mixed) * int(both.sum())
                step = np.zeros((len(mixed), *both.shape))
                step[:, both] = values[start : start + count].reshape(len(mixed), -1)
                mixed[a] += step
                mixed[b] -= step
                start += count
        return self.weight * np.tensordot(self.combinations.T, mixed, axes=1)


@dataclass
class Problem:
    """The fields of all scans on the box of a grid, the masks where each counts, and where chi is sought."""

    grid: FitGrid
    fields: list[NDArray[np.float32]]
    masks: list[NDArray[np.bool_]]
    support: NDArray[np.bool_]
    filtering: NDArray[np.float32] | None = None
    penalties: Sequence[Penalty] = ()
    rows: list[NDArray[np.float32]] = field(init=False)

    def __post_init__(self) -> None:
        kx, ky, kz = (self.grid.frequencies()[i] for i in (0, 2, 4))
        k = np.stack(np.broadcast_arrays(kx.reshape(-1, 1, 1), ky.reshape(1, -1, 1), kz.reshape(1, 1, -1)))
        length = np.sqrt((k**2).sum(axis=0))
        unit = np.divide(k, length, out=np.zeros_like(k), where=length > 0).astype(np.float32)
        self.rows = []  # of M = chi h: the field is sum_j (h_j / 3 - (u h) u_j) M_j
        for h in self.grid.directions:
            row = h.reshape(3, 1, 1, 1) / 3 - np.tensordot(h, unit, axes=1) * unit
            row[:, 0, 0, 0] = 0
            self.rows.append((row if self.filtering is None else row * self.filtering).astype(np.float32))

    def kernel(self, scan: int) -> NDArray[np.float32]:
        """Return the dipole kernel of a scan."""
        return np.tensordot(self.grid.directions[scan], self.rows[scan], axes=1)

    def forward(self, maps: NDArray, layout: tuple[tuple[int, ...], ...] | None) -> NDArray:
        """Return the fields in the masks, joined, of maps (c, x, y, z) of the box; layout: None for a scalar map."""
        spectra = [self.grid.forward(one) for one in maps]
        values = []
        for scan, (h, row, mask) in enumerate(zip(self.grid.directions, self.rows, self.masks, strict=True)):
            if layout is None:
                spectrum = self.kernel(scan) * spectra[0]
            else:
                moments = (sum(h[m] * spectra[layout[j][m]] for m in range(3)) for j in range(3))
                spectrum = sum(row[j] * moment for j, moment in enumerate(moments))
            values.append(self.grid.inverse(np.ascontiguousarray(spectrum, np.complex64))[mask])
        return np.concatenate(values)

    def adjoint(self, values: NDArray, layout: tuple[tuple[int, ...], ...] | None) -> NDArray:
        """Return the adjoint (c, x, y, z) of joined fields."""
        count = 1 if layout is None else max(max(one) for one in layout) + 1
        spectra = np.zeros((count, *self.grid.half), np.complex64)
        start = 0
        for scan, (h, row, mask) in enumerate(zip(self.grid.directions, self.rows, self.masks, strict=True)):
            volume = np.zeros(mask.shape, np.float32)
            volume[mask] = values[start : start + int(mask.sum())]
            start += int(mask.sum())
            spectrum = self.grid.forward(volume)
            if layout is None:
                spectra[0] += self.kernel(scan) * spectrum
                continue
            for j in range(3):
                along = row[j] * spectrum
                for m in range(3):
                    spectra[layout[j][m]] += h[m] * along
        return np.stack([self.grid.inverse(one) for one in spectra])

    def solve(self, layout: tuple[tuple[int, ...], ...] | None, iterations: int) -> NDArray[np.float32]:
        """Return the maps (c, x, y, z) of the box after some iterations of LSQR."""
        count = 1 if layout is None else max(max(one) for one in layout) + 1
        inside, data = self.support, np.concatenate([f[m] for f, m in zip(self.fields, self.masks, strict=True)])
        voxels = int(inside.sum())
        sizes = [data.size, *(p.forward(np.zeros((count, *inside.shape))).size for p in self.penalties)]
        parts = np.cumsum(sizes)[:-1]

        def unpacked(x: NDArray) -> NDArray:
            maps = np.zeros((count, *inside.shape), np.float32)
            maps[:, inside] = x.reshape(count, voxels)
            return maps

        def there(x: NDArray) -> NDArray:
            maps = unpacked(x)
            return np.concatenate([self.forward(maps, layout), *(p.forward(maps) for p in self.penalties)])

        def back(y: NDArray) -> NDArray:
            own, *others = np.split(np.ravel(y), parts)
            maps = self.adjoint(own, layout)
            for penalty, part in zip(self.penalties, others, strict=True):
                maps = maps + penalty.adjoint(part)
            return maps[:, inside].ravel()

        operator = LinearOperator((sum(sizes), count * voxels), matvec=there, rmatvec=back, dtype=np.float64)
        target = np.concatenate([data, np.zeros(sum(sizes[1:]))])
        return unpacked(lsqr(operator, target, iter_lim=iterations, atol=1e-6, btol=1e-6)[0])


def cosmos(problem: Problem) -> NDArray[np.float32]:
    """Return COSMOS (1, x, y, z) by division in k-space (Liu 2009)."""
    above, below = np.zeros(problem.grid.half, np.complex64), np.zeros(problem.grid.half, np.float32)
    for scan, values in enumerate(problem.fields):
        above += problem.kernel(scan) * problem.grid.forward(values)
        below += problem.kernel(scan) ** 2
    kept = below > KERNEL_LIMIT**2 * len(problem.fields)
    return (problem.grid.inverse(np.where(kept, above / np.where(kept, below, 1), 0)) * problem.support)[None]


def closed_form(problem: Problem) -> NDArray[np.float32]:
    """Return the tensor (6, x, y, z) of a ridge regression at every k."""
    spectra = np.stack([problem.grid.forward(one) for one in problem.fields]).reshape(len(problem.fields), -1)
    found = np.zeros((6, spectra.shape[1]), np.complex64)
    rows = [one.reshape(3, -1) for one in problem.rows]
    for start in range(0, spectra.shape[1], _SLAB):
        part = slice(start, start + _SLAB)
        design = np.zeros((len(rows), 6, min(_SLAB, spectra.shape[1] - start)))
        for scan, (h, row) in enumerate(zip(problem.grid.directions, rows, strict=True)):
            for j in range(3):
                for m in range(3):
                    design[scan, SYMMETRIC[j][m]] += h[m] * row[j, part]
        normal = np.einsum("naq,nbq->qab", design, design) + RIDGE * np.eye(6)
        right = np.einsum("naq,nq->qa", design, spectra[:, part])
        both = np.linalg.solve(normal, np.stack([right.real, right.imag], axis=-1))
        found[:, part] = (both[..., 0] + 1j * both[..., 1]).T
    volumes = found.reshape(6, *problem.grid.half)
    return np.stack([problem.grid.inverse(one) for one in volumes]) * problem.support


def traceless(layout: tuple[tuple[int, ...], ...]) -> NDArray[np.float64]:
    """Return the combinations of components that are 0 where a tensor is isotropic."""
    count = max(max(one) for one in layout) + 1
    diagonal = [layout[j][j] for j in range(3)]
    combinations = np.eye(count)
    combinations[np.ix_(diagonal, diagonal)] -= 1 / 3
    return combinations
