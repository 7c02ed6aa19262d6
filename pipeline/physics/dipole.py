"""The dipole kernel of the scalar susceptibility model, on half (real-FFT) spectra of any grid.

Everything is built from u(k) = (k.h) k / |k|^2, the projection of the B0 direction h onto k, so that the scalar
and the tensor model agree to the last bit: D = 1/3 - h.u (MoDL-QSM eq. 5). On even axes the products of a
Nyquist frequency with another axis are zero, which keeps every kernel even and its image real.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import fft

from ...files.errors import InputError
from ..computing.threads import fft_workers
from ..frames import check_b0_direction

Float32Array = NDArray[np.float32]
Complex64Array = NDArray[np.complex64]
Shape = tuple[int, int, int]


def check_grid(shape: Sequence[int], voxel_size: ArrayLike) -> tuple[Shape, NDArray[np.float64]]:
    """Return shape (3 positive ints) and voxel size (3,) in mm after checking them; raises InputError."""
    grid = tuple(int(n) for n in shape)
    size = np.asarray(voxel_size, dtype=np.float64)
    if len(grid) != 3 or min(grid) < 1:
        raise InputError(f"shape must be three positive numbers of voxels, got {tuple(shape)}.")
    if size.shape != (3,) or not np.isfinite(size).all() or size.min() <= 0:
        raise InputError(f"voxel_size must be three positive lengths in mm, got {np.asarray(voxel_size).tolist()}.")
    return (grid[0], grid[1], grid[2]), size


def check_finite(volume: NDArray[np.floating], name: str) -> None:
    """Raise InputError where a volume of any shape holds NaN or infinity."""
    if bad := int(volume.size - np.isfinite(volume).sum()):
        raise InputError(f"the {name} holds {bad} NaN or infinite values of {volume.size}: replace them by 0.")


def frequency_grid(shape: Sequence[int], voxel_size: ArrayLike) -> tuple[NDArray[Any], NDArray[Any], NDArray[Any]]:
    """Return kx, ky, kz in cycles/mm, broadcastable to the half spectrum (nx, ny, nz // 2 + 1) of a grid."""
    grid, size = check_grid(shape, voxel_size)
    kx = np.fft.fftfreq(grid[0], size[0])[:, None, None]
    ky = np.fft.fftfreq(grid[1], size[1])[None, :, None]
    kz = np.fft.rfftfreq(grid[2], size[2])[None, None, :]
    return kx, ky, kz


def _without_nyquist(k: NDArray[Any], n: int, axis: int) -> NDArray[Any]:
    odd_part = k.copy()
    if n % 2 == 0:
        index = [0, 0, 0]
        index[axis] = n // 2
        odd_part[tuple(index)] = 0
    return odd_part


def frequency_pairs(
    shape: Sequence[int], voxel_size: ArrayLike
) -> list[tuple[NDArray[np.float32], NDArray[np.float32]]]:
    """Return, for x, y and z, the frequencies (n,) in cycles/mm and the same with an even axis's Nyquist one as 0.

    z has the n // 2 + 1 frequencies of a half spectrum. The second of each pair stands in products of two axes.
    """
    pairs = []
    for axis, k in enumerate(frequency_grid(shape, voxel_size)):
        odd = _without_nyquist(k, int(shape[axis]), axis)
        pairs.append((k.ravel().astype(np.float32), odd.ravel().astype(np.float32)))
    return pairs


def projection_on_k(
    shape: Sequence[int], voxel_size: ArrayLike, b0_direction: ArrayLike, planes: slice = slice(None)
) -> Float32Array:
    """Return u(k) = (k.h) k / |k|^2 as float32 (3, nx, ny, nz // 2 + 1); u = 0 at k = 0.

    shape: grid in voxels; voxel_size: (3,) mm; b0_direction: unit vector (3,) h in the voxel frame;
    planes: the kx planes wanted (all by default).
    """
    h = check_b0_direction(b0_direction)
    k = list(frequency_grid(shape, voxel_size))
    odd = [_without_nyquist(k[axis], int(shape[axis]), axis) for axis in range(3)]
    k[0], odd[0] = k[0][planes], odd[0][planes]
    squared = k[0] ** 2 + k[1] ** 2 + k[2] ** 2
    squared[squared == 0] = 1
    u = np.empty((3, *squared.shape), np.float32)
    for i in range(3):
        numerator = h[i] * k[i] ** 2
        for j in range(3):
            if j != i:
                numerator = numerator + h[j] * odd[i] * odd[j]
        u[i] = numerator / squared
    return u


def dipole_kernel(
    shape: Sequence[int], voxel_size: ArrayLike, b0_direction: ArrayLike = (0.0, 0.0, 1.0), *, k0: float = 0.0
) -> Float32Array:
    """Return D(k) = 1/3 - (k.h)^2 / |k|^2 as float32 (nx, ny, nz // 2 + 1), and k0 at k = 0.

    shape: grid in voxels; voxel_size: (3,) mm; b0_direction: unit vector (3,) in the voxel frame. Real and even.
    """
    h = check_b0_direction(b0_direction).astype(np.float32)
    u = projection_on_k(shape, voxel_size, b0_direction)
    kernel = np.float32(1 / 3) - (h[0] * u[0] + h[1] * u[1] + h[2] * u[2])
    kernel[0, 0, 0] = k0
    return kernel


def padded_shape(shape: Sequence[int], voxel_size: ArrayLike, padding: float) -> Shape:
    """Return the fast FFT grid that holds `shape` and at least `padding` mm of zeros along every axis."""
    grid, size = check_grid(shape, voxel_size)
    if not 0 <= padding < np.inf:
        raise InputError(f"padding must be at least 0 mm, got {padding}.")
    if padding == 0:
        return grid
    x, y, z = (fft.next_fast_len(int(n + np.ceil(padding / d)), real=True) for n, d in zip(grid, size, strict=True))
    return x, y, z


def crop(volume: NDArray[Any], shape: Sequence[int]) -> NDArray[Any]:
    """Return the corner of the last three axes of `volume` that has the given shape."""
    return volume[..., : shape[0], : shape[1], : shape[2]]


def forward_fft(volume: NDArray[Any], grid: Shape) -> Complex64Array:
    """Return the half spectrum (..., nx, ny, nz // 2 + 1) of a real volume, zero-padded at its end to `grid`."""
    return fft.rfftn(np.asarray(volume, np.float32), s=grid, axes=(-3, -2, -1), workers=fft_workers())


def inverse_fft(spectrum: NDArray[Any], grid: Shape) -> Float32Array:
    """Return the real volume (..., *grid) of a half spectrum (overwritten)."""
    return fft.irfftn(spectrum, s=grid, axes=(-3, -2, -1), workers=fft_workers(), overwrite_x=True)


class DipoleOperator:
    """The field of a scalar susceptibility map, F^-1 D F, in ppm of B0 per ppm (MoDL-QSM eq. 5).

    shape: grid in voxels; voxel_size: (3,) mm; b0_direction: unit vector in the voxel frame; k0: D at k = 0;
    padding: mm of zeros appended to every axis against wrap-around (0: circular). Self-adjoint.
    """

    def __init__(
        self,
        shape: Sequence[int],
        voxel_size: ArrayLike,
        b0_direction: ArrayLike = (0.0, 0.0, 1.0),
        *,
        k0: float = 0.0,
        padding: float = 0.0,
    ) -> None:
        self.shape, size = check_grid(shape, voxel_size)
        self.grid = padded_shape(self.shape, size, padding)
        self.kernel = dipole_kernel(self.grid, size, b0_direction, k0=k0)

    def forward(self, chi: ArrayLike) -> Float32Array:
        """Return the field (x, y, z) in ppm of a susceptibility map (x, y, z) in ppm."""
        volume = np.asarray(chi, np.float32)
        if volume.shape != self.shape:
            raise InputError(f"chi has shape {volume.shape}, but the operator was made for {self.shape}.")
        return np.ascontiguousarray(
            crop(inverse_fft(self.kernel * forward_fft(volume, self.grid), self.grid), self.shape)
        )

    def adjoint(self, field: ArrayLike) -> Float32Array:
        """Return the adjoint applied to a field (x, y, z); the kernel is real and even, so it equals forward."""
        return self.forward(field)
