"""The closed-form fit in torch, for a CUDA GPU: transforms, model rows and 6 x 6 solves on a device.

The same arithmetic as fits.kernels, a slab of kx planes at a time: no model row is stored for all k, sums over scans
run in their order, and a slab's result does not depend on how the planes were cut. The systems of the fit itself are
solved in float64, all else is float32; autocast does not reach the Fourier transforms, and nothing here is a matrix
product that TF32 would coarsen.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from ....files.errors import InputError
from ...physics.dipole import Float32Array
from ...physics.prior import Prior
from ..noise import scan_levels, typical_noise
from ..spectral_noise import estimate_noises
from .grid import FitGrid

_SLAB_POINTS = 1_000_000  # k-space points of one slab
COMPONENT_AXES = ((0, 0), (0, 1), (0, 2), (1, 1), (1, 2), (2, 2))
_LOWER = tuple((i, j) for i in range(6) for j in range(i + 1))  # of a packed lower triangle, in order


def torch_device(device: str) -> torch.device:
    """Return the torch device of "cuda", "cuda:N" or "torch-cpu" ("cpu" too); raises InputError where it is absent."""
    if device in ("torch-cpu", "cpu"):
        return torch.device("cpu")
    kind, _, number = device.partition(":")
    if kind != "cuda" or not (number.isdigit() or device == "cuda"):
        raise InputError(f"device must be 'cpu', 'cuda' or 'cuda:N', got {device!r}.")
    found = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if int(number or 0) >= found:
        raise InputError(
            f"device {device!r} was asked for, but torch finds {found} CUDA GPUs here: use 'cpu', or check the driver "
            "and that torch was installed with CUDA."
        )
    return torch.device(device)


class TorchGrid:
    """The transforms and model rows of a FitGrid on a device; volumes are boxes, spectra are half spectra."""

    def __init__(self, grid: FitGrid, device: torch.device) -> None:
        self.grid, self.device = grid, device
        self.directions: list[list[float]] = grid.directions.tolist()
        self._frequencies = [torch.from_numpy(one).to(device) for one in grid.frequencies()]

    def tensor(self, array: ArrayLike | Tensor) -> Tensor:
        """Return an array as float32 on the device; a tensor that is there already is itself."""
        if isinstance(array, Tensor):
            return array.to(self.device, torch.float32)
        return torch.tensor(np.ascontiguousarray(array, np.float32), device=self.device)

    def forward(self, volume: Tensor) -> Tensor:
        """Return the half spectrum of a volume of the box, zero-padded at its end."""
        with torch.autocast(self.device.type, enabled=False):
            return torch.fft.rfftn(volume, s=self.grid.padded)

    def inverse(self, spectrum: Tensor) -> Tensor:
        """Return the volume of the box of a half spectrum."""
        x, y, z = self.grid.box_shape
        with torch.autocast(self.device.type, enabled=False):
            return torch.fft.irfftn(spectrum, s=self.grid.padded)[:x, :y, :z]

    def slabs(self) -> list[slice]:
        """Return slices over kx, of as many planes as make a slab."""
        planes, rows, columns = self.grid.half
        step = max(1, _SLAB_POINTS // (rows * columns))
        return [slice(start, min(start + step, planes)) for start in range(0, planes, step)]

    def projections(self, scan: int, planes: slice) -> Tensor:
        """Return q = h / 3 - (k.h) k / |k|^2 (3, planes, ny, nz) of a scan, 0 at k = 0."""
        kx, ox, ky, oy, kz, oz = self._frequencies
        axes = [
            (k[planes if axis == 0 else slice(None)].view(-1, *[1] * (2 - axis)),
             o[planes if axis == 0 else slice(None)].view(-1, *[1] * (2 - axis)))
            for axis, (k, o) in enumerate(((kx, ox), (ky, oy), (kz, oz)))
        ]  # fmt: skip
        h, ((x, _), (y, _), (z, _)) = self.directions[scan], axes
        inverse = (x * x + y * y + z * z).reciprocal_()
        along = axes[0][1] * h[0] + axes[1][1] * h[1] + axes[2][1] * h[2]
        out = torch.empty((3, *along.shape), dtype=torch.float32, device=self.device)
        for axis, (k, o) in enumerate(axes):
            torch.mul(o, along, out=out[axis])
            out[axis] += h[axis] * (k * k - o * o)
            out[axis].mul_(inverse).neg_().add_(h[axis] / 3)
        if planes.start == 0:
            out[:, 0, 0, 0] = 0
        return out

    def row(self, scan: int, planes: slice) -> list[Tensor]:
        """Return the six a(k) (planes, ny, nz) of a scan: a_jj = q_j h_j and a_jl = q_j h_l + q_l h_j."""
        q, h = self.projections(scan, planes), self.directions[scan]
        return [q[j] * h[j] if j == m else q[j] * h[m] + q[m] * h[j] for j, m in COMPONENT_AXES]

    def dipole(self, scan: int, planes: slice) -> Tensor:
        """Return D(k) (planes, ny, nz) of a scan."""
        q, h = self.projections(scan, planes), self.directions[scan]
        return q[0] * h[0] + q[1] * h[1] + q[2] * h[2]


def add_normal(normal: Tensor, row: Sequence[Tensor]) -> None:
    """Add a a^T to packed lower triangles (21, …), in place."""
    for entry, (i, j) in zip(normal, _LOWER, strict=True):
        entry += row[i] * row[j]


def add_precision(normal: Tensor, precision: NDArray[np.floating], times: Tensor | float = 1.0) -> None:
    """Add a matrix (6, 6) times a factor (one, or one a point) to packed lower triangles (21, …), in place."""
    for entry, (i, j) in zip(normal, _LOWER, strict=True):
        if precision[i, j]:
            entry += float(precision[i, j]) * times


def factor(normal: Tensor) -> None:
    """Replace packed lower triangles (21, …) by their Cholesky factors, the diagonals inverted."""
    at = {place: normal[number] for number, place in enumerate(_LOWER)}
    for i, j in _LOWER:
        entry = at[i, j]
        for m in range(j):
            entry.addcmul_(at[i, m], at[j, m], value=-1)
        if i == j:
            entry.clamp_(min=1e-30).rsqrt_()
        else:
            entry.mul_(at[j, j])


def solve(factors: Tensor, right: Tensor) -> None:
    """Replace complex right sides (6, …) by the solutions of the systems that `factor` made ready."""
    at = {place: factors[number][..., None] for number, place in enumerate(_LOWER)}
    parts = torch.view_as_real(right)
    for i in range(6):
        for m in range(i):
            parts[i].addcmul_(at[i, m], parts[m], value=-1)
        parts[i].mul_(at[i, i])
    for i in reversed(range(6)):
        for m in range(i + 1, 6):
            parts[i].addcmul_(at[m, i], parts[m], value=-1)
        parts[i].mul_(at[i, i])


def closed_form_maps(
    volumes: Sequence[Float32Array],
    grid: FitGrid,
    prior: Prior,
    noises: NDArray[np.float64] | None,
    voxels: Sequence[int],
    device: str,
) -> tuple[Float32Array, NDArray[np.float64]]:
    """Return the tensor and COSMOS (7, box) in ppm of the scans' fields, and the noise of each (n,).

    noises: estimated where it is None; volumes: one (x, y, z) a scan in ppm, of the grid's fields; voxels: how many are
    not 0, of each scan.
    """
    place = TorchGrid(grid, torch_device(device))
    count = len(volumes)
    spectra = torch.empty((max(7, count), *grid.half), dtype=torch.complex64, device=place.device)
    for scan, volume in enumerate(volumes):
        spectra[scan] = place.forward(place.tensor(grid.crop(volume)))
    if noises is None:
        noises = estimate_noises(spectra[:count].cpu().numpy(), grid, prior, voxels)
    noise, levels = typical_noise(noises), scan_levels(noises)
    for scan, level in enumerate(levels.tolist()):
        spectra[scan] *= level
    weighted = TorchGrid(grid.with_levels(levels), place.device)
    precision, scalar_precision = noise**2 * prior.precision(), noise**2 / prior.iso**2
    for planes in weighted.slabs():
        solved = _solve_slab(spectra[:count, planes], weighted, planes, precision, scalar_precision)
        spectra[:7, planes] = solved
    maps = np.empty((7, *grid.box_shape), np.float32)
    for component in range(7):
        maps[component] = place.inverse(spectra[component]).cpu().numpy()
    return maps, noises


def _solve_slab(
    fields: Tensor, place: TorchGrid, planes: slice, precision: NDArray[np.float64], scalar_precision: float
) -> Tensor:
    """Return the tensor and COSMOS (7, planes, ny, nz) of a slab of the scans' spectra."""
    points = fields.shape[1:]
    normal = torch.zeros((len(_LOWER), *points), dtype=torch.float64, device=place.device)
    right = torch.zeros((7, *points), dtype=torch.complex128, device=place.device)
    below = torch.full(points, scalar_precision, dtype=torch.float64, device=place.device)
    add_precision(normal, precision)
    for scan, spectrum in enumerate(fields):
        row = place.row(scan, planes)
        add_normal(normal, row)
        dipole = row[0] + row[3] + row[5]
        below += dipole * dipole
        for component, one in enumerate([*row, dipole]):
            right[component] += one * spectrum
    factor(normal)
    solve(normal, right[:6])
    right[6] /= below
    if planes.start == 0:
        right[:, 0, 0, 0] = 0
    return right.to(torch.complex64)
