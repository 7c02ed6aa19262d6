"""magnetisation_fields in torch, for heads with B0 along z: transforms and kernels on a device, slab by slab."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from numpy.typing import ArrayLike
from torch import Tensor

from ...files.errors import InputError
from .dipole import Shape, check_grid, frequency_pairs, padded_shape
from .tensor_field import PADDING

_SLAB_POINTS = 1_000_000  # k-space points of one slab


def fields_along_z(
    magnetisation: Tensor, voxel_size: ArrayLike, *, padding: float = PADDING
) -> tuple[Tensor, Tensor | None]:
    """Return the field D * M_z and delta B' of M_x and M_y (x, y, z) in ppm, B0 along z.

    magnetisation: M = chi z (3, x, y, z) float32 in ppm, or M_z alone (1, x, y, z), which has no delta B' (None);
    voxel_size (3,) and padding (zeros appended to every axis) in mm. k = 0 maps to 0; autocast does not reach the
    transforms. Raises InputError on another shape.
    """
    if magnetisation.ndim != 4 or len(magnetisation) not in (1, 3):
        raise InputError(
            f"magnetisation must have the shape (3, x, y, z) or (1, x, y, z), got {tuple(magnetisation.shape)}."
        )
    shape, size = check_grid(magnetisation.shape[1:], voxel_size)
    grid = padded_shape(shape, size, padding)
    device = magnetisation.device
    pairs = [tuple(torch.from_numpy(k).to(device) for k in pair) for pair in frequency_pairs(grid, size)]
    with torch.autocast(device.type, enabled=False):
        along = torch.fft.rfftn(magnetisation[-1], s=grid)
        kz = pairs[2][0]
        for slab, inverse in _slabs(pairs, grid):
            along[slab].mul_(1 / 3 - kz * kz * inverse)
        along[0, 0, 0] = 0
        dipolar = _inverse(along, grid, shape)
        if len(magnetisation) == 1:
            return dipolar, None
        return dipolar, _across(magnetisation[:2], pairs, grid, shape)


def _across(magnetisation: Tensor, pairs: list[tuple[Tensor, ...]], grid: Shape, shape: Shape) -> Tensor:
    """Return -F^-1 (k.z) (k.M) / |k|^2 of M_x and M_y."""
    spectra = [torch.fft.rfftn(one, s=grid) for one in magnetisation]
    odd_x, odd_y, odd_z = (odd for _, odd in pairs)
    for slab, inverse in _slabs(pairs, grid):
        factor = inverse.mul_(odd_z).neg_()
        spectra[0][slab].mul_(factor * odd_x[slab, None, None])
        spectra[0][slab].add_(spectra[1][slab] * (factor * odd_y[:, None]))
    return _inverse(spectra[0], grid, shape)


def _slabs(pairs: list[tuple[Tensor, ...]], grid: Sequence[int]) -> Iterator[tuple[slice, Tensor]]:
    """Yield slabs of kx planes, each with 1 / |k|^2 there (0 at k = 0)."""
    kx, ky, kz = (k for k, _ in pairs)
    planes = max(1, _SLAB_POINTS // (grid[1] * (grid[2] // 2 + 1)))
    for start in range(0, grid[0], planes):
        slab = slice(start, start + planes)
        squared = kx[slab, None, None] ** 2 + ky[:, None] ** 2 + kz**2
        if start == 0:
            squared[0, 0, 0] = torch.inf
        yield slab, squared.reciprocal_()


def _inverse(spectrum: Tensor, grid: Shape, shape: Shape) -> Tensor:
    x, y, z = shape
    return torch.fft.irfftn(spectrum, s=grid)[:x, :y, :z].contiguous()
