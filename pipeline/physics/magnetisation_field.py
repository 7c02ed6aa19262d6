"""The two parts of the field of a magnetisation M = chi h: of its part along B0 and of that across (MoDL-QSM eq. 2)."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ...files.errors import InputError
from ..frames import check_b0_direction
from .dipole import (
    Complex64Array,
    Float32Array,
    check_grid,
    crop,
    forward_fft,
    inverse_fft,
    padded_shape,
    projection_on_k,
)
from .tensor_field import PADDING

_SLAB_POINTS = 1_000_000  # k-space points of one slab


def magnetisation_fields(
    magnetisation: ArrayLike, voxel_size: ArrayLike, b0_direction: ArrayLike, *, padding: float = PADDING
) -> tuple[Float32Array, Float32Array, Float32Array]:
    """Return chi33 = h.M, the field of it D * chi33, and delta B' of M - chi33 h, each (x, y, z) in ppm.

    magnetisation: M = chi h (3, x, y, z) in ppm along the voxel frame, as b0_direction, the unit vector h; voxel_size
    (3,) and padding (zeros appended to every axis) in mm. The field is the sum of the last two, that of
    tensor_field(chi). k = 0 maps to 0. Raises InputError on another shape.
    """
    volumes = np.asarray(magnetisation, np.float32)
    if volumes.ndim != 4 or len(volumes) != 3:
        raise InputError(f"magnetisation must have the shape (3, x, y, z), got {volumes.shape}: give chi h.")
    h = check_b0_direction(b0_direction).astype(np.float32)
    shape, size = check_grid(volumes.shape[1:], voxel_size)
    grid = padded_shape(shape, size, padding)
    along = np.tensordot(h, volumes, axes=1)
    spectra = [forward_fft(along, grid)]
    axes = [axis for axis in range(3) if np.any(volumes[axis] != h[axis] * along)]
    spectra += [forward_fft(volumes[axis] - h[axis] * along, grid) for axis in axes]
    across = _apply(spectra, axes, grid, size, h)
    fields = [np.ascontiguousarray(crop(inverse_fft(one, grid), shape)) for one in (spectra[0], across)]
    return along, fields[0], fields[1]


def _apply(
    spectra: list[Complex64Array], axes: list[int], grid: tuple[int, int, int], size: NDArray[Any], h: Float32Array
) -> Complex64Array:
    """Multiply the first spectrum with D, in place, and return that of delta B' from the others (along `axes`)."""
    across = np.zeros_like(spectra[0])
    planes = max(1, _SLAB_POINTS // (grid[1] * (grid[2] // 2 + 1)))
    for start in range(0, grid[0], planes):
        slab = slice(start, start + planes)
        u = projection_on_k(grid, size, h, slab)
        dipole = np.float32(1 / 3) - np.tensordot(h, u, axes=1)
        if start == 0:
            dipole[0, 0, 0] = 0
        spectra[0][slab] *= dipole
        for axis, spectrum in zip(axes, spectra[1:], strict=True):
            across[slab] -= u[axis] * spectrum[slab]
    return across
