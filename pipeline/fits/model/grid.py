"""The padded grid that a fit works on: the box around the brain, its frequencies and its Fourier transforms."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import fft

from ....files.errors import InputError
from ...frames import check_b0_direction
from ...images.morphology import bounding_box
from ...physics.dipole import Complex64Array, Float32Array, Shape, check_grid, frequency_pairs, padded_shape

FIT_PADDING = 32.0  # mm
_SLAB_POINTS = 200_000  # k-space points of one slab


@dataclass(frozen=True)
class FitGrid:
    """A box (x, y, z slices) of the grid of the fields, padded for Fourier transforms, and the scans' directions.

    shape: of the fields; voxel_size: (3,) mm; box: what is kept of it; padded: shape of the Fourier grid;
    directions: (n, 3) float32 unit vectors along the array axes.
    """

    shape: Shape
    voxel_size: NDArray[np.float64]
    box: tuple[slice, slice, slice]
    padded: Shape
    directions: NDArray[np.float32]

    @property
    def box_shape(self) -> Shape:
        """The shape of the box."""
        x, y, z = (part.stop - part.start for part in self.box)
        return x, y, z

    @property
    def half(self) -> Shape:
        """The shape of a half spectrum."""
        return self.padded[0], self.padded[1], self.padded[2] // 2 + 1

    def frequencies(self, planes: slice = slice(None)) -> tuple[NDArray[np.float32], ...]:
        """Return kx, ox, ky, oy, kz, oz in cycles/mm as the kernels take them, for a slab of kx planes."""
        pairs = frequency_pairs(self.padded, self.voxel_size)
        (kx, ox), rest = pairs[0], pairs[1:]
        return kx[planes], ox[planes], *(one for pair in rest for one in pair)

    def slabs(self) -> list[slice]:
        """Return slices over kx of about equal size."""
        step = max(1, _SLAB_POINTS // (self.half[1] * self.half[2]))
        return [slice(start, min(start + step, self.half[0])) for start in range(0, self.half[0], step)]

    def forward(self, volume: NDArray[Any]) -> Complex64Array:
        """Return the half spectrum of a volume of the box, zero-padded at its end."""
        spectrum = np.zeros(self.half, np.complex64)
        self.forward_into(spectrum, volume)
        return spectrum

    def forward_into(self, spectrum: Complex64Array, volume: NDArray[Any]) -> None:
        """Set a half spectrum, which must be C-contiguous, to that of a volume of the box.

        Rows of padding are not transformed.
        """
        x, y, _ = self.box_shape
        spectrum[x:], spectrum[:x, y:] = 0, 0
        spectrum[:x, :y] = fft.rfft(np.asarray(volume, np.float32), n=self.padded[2], axis=2, workers=1)
        _in_place(fft.fft, spectrum[:x], 1)
        _in_place(fft.fft, spectrum, 0)

    def inverse(self, spectrum: Complex64Array) -> Float32Array:
        """Return the volume of the box of a half spectrum (overwritten)."""
        x, y, z = self.box_shape
        spectrum = fft.ifft(spectrum, axis=0, workers=1, overwrite_x=True)[:x]
        spectrum = fft.ifft(spectrum, axis=1, workers=1, overwrite_x=True)[:, :y]
        return fft.irfft(spectrum, n=self.padded[2], axis=2, workers=1, overwrite_x=True)[..., :z]

    def with_levels(self, levels: ArrayLike) -> FitGrid:
        """Return the same with directions so long that each scan's model rows are multiplied by its level (n,).

        A row is of second order in the direction.
        """
        lengths = np.sqrt(np.asarray(levels, np.float32))
        return replace(self, directions=np.ascontiguousarray(self.directions * lengths[:, None]))

    def crop(self, volume: ArrayLike) -> NDArray[Any]:
        """Return the box of a volume (..., x, y, z) of the fields' shape, as a view."""
        return np.asarray(volume)[(..., *self.box)]

    def embed(self, volume: NDArray[Any]) -> NDArray[Any]:
        """Return a volume (..., box) within zeros of the fields' shape."""
        if volume.shape[-3:] == self.shape:
            return volume
        whole = np.zeros((*volume.shape[:-3], *self.shape), volume.dtype)
        whole[(..., *self.box)] = volume
        return whole


def _in_place(transform: Callable[..., NDArray[Any]], spectrum: Complex64Array, axis: int) -> None:
    """Transform an axis of a spectrum in place, which SciPy allows itself but does not promise."""
    found = transform(spectrum, axis=axis, workers=1, overwrite_x=True)
    if not np.may_share_memory(found, spectrum):
        spectrum[...] = found


def _odd_shape(shape: Sequence[int], voxel_size: NDArray[Any], padding: float) -> Shape:
    """Return the fast odd lengths that hold a shape and `padding` mm of zeros; the shape itself without padding.

    Odd lengths have no Nyquist frequency. At one, the products of two axes vanish, so that the closed form of a plane
    differs from that of its neighbours; a mask mixes them, and conjugate gradients then need twice the iterations.
    """
    if padding == 0:
        return padded_shape(shape, voxel_size, 0.0)
    x, y, z = (_fast_odd(int(n + np.ceil(padding / d))) for n, d in zip(shape, voxel_size, strict=True))
    return x, y, z


def _fast_odd(least: int) -> int:
    length = fft.next_fast_len(least)
    while length % 2 == 0:
        length = fft.next_fast_len(length + 1)
    return length


def make_grid(
    inside: NDArray[np.bool_], voxel_size: ArrayLike, b0_directions: Sequence[ArrayLike], padding: float
) -> FitGrid:
    """Return the grid for fields known in `inside` (x, y, z); padding in mm, 0: the whole grid, circular.

    b0_directions: unit vectors (3,) along the array axes. Raises InputError on values that give no grid.
    """
    shape, size = check_grid(inside.shape, voxel_size)
    if not 0 <= padding < np.inf:
        raise InputError(f"padding must be at least 0 mm, got {padding}.")
    box = bounding_box(inside if padding > 0 else np.zeros(shape, bool))
    padded = _odd_shape([part.stop - part.start for part in box], size, padding)
    directions = np.array([check_b0_direction(h, f"b0_directions[{i}]") for i, h in enumerate(b0_directions)])
    return FitGrid(shape, size, box, padded, np.ascontiguousarray(directions, np.float32))
