"""The field of a susceptibility tensor: delta B^ = (1/3) h^T chi^ h - u^T chi^ h (MoDL-QSM eq. 1)."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike

from ...files.errors import InputError
from ..frames import check_b0_direction
from .dipole import (
    Float32Array,
    check_grid,
    crop,
    dipole_kernel,
    forward_fft,
    inverse_fft,
    padded_shape,
    projection_on_k,
)
from .tensors import transverse

PADDING = 64.0  # mm of zeros that keep a head's periodic images away


def tensor_kernel(projection: Float32Array, b0_direction: ArrayLike) -> Float32Array:
    """Return the row a(k) of the six components (6, ...) for u(k) (3, ...) and the unit vector h (3,).

    a_jj = h_j^2 / 3 - u_j h_j and a_jl = 2 h_j h_l / 3 - (u_j h_l + u_l h_j); the caller sets k = 0.
    """
    h = check_b0_direction(b0_direction).astype(np.float32)
    row = np.empty((6, *projection.shape[1:]), np.float32)
    for index, (j, m) in enumerate(((0, 0), (0, 1), (0, 2), (1, 1), (1, 2), (2, 2))):
        if j == m:
            row[index] = h[j] * h[j] / 3 - projection[j] * h[j]
        else:
            row[index] = 2 * h[j] * h[m] / 3 - (projection[j] * h[m] + projection[m] * h[j])
    return row


class TensorFieldOperator:
    """The linear map from the six components (6, x, y, z) in ppm to the field (x, y, z) in ppm of B0.

    shape: grid in voxels; voxel_size: (3,) mm; b0_direction: unit vector in the voxel frame, the frame of the
    components; padding: mm of zeros appended to every axis (0: circular). k = 0 maps to 0.
    """

    def __init__(
        self, shape: Sequence[int], voxel_size: ArrayLike, b0_direction: ArrayLike, *, padding: float = 0.0
    ) -> None:
        self.shape, size = check_grid(shape, voxel_size)
        self.grid = padded_shape(self.shape, size, padding)
        self.row = tensor_kernel(projection_on_k(self.grid, size, b0_direction), b0_direction)
        self.row[:, 0, 0, 0] = 0

    def forward(self, tensor: ArrayLike) -> Float32Array:
        """Return the field (x, y, z) of a tensor (6, x, y, z)."""
        volumes = np.asarray(tensor, np.float32)
        if volumes.shape != (6, *self.shape):
            raise InputError(f"tensor has shape {volumes.shape}, but the operator was made for {(6, *self.shape)}.")
        spectrum = self.row[0] * forward_fft(volumes[0], self.grid)
        for component in range(1, 6):
            spectrum += self.row[component] * forward_fft(volumes[component], self.grid)
        return np.ascontiguousarray(crop(inverse_fft(spectrum, self.grid), self.shape))

    def adjoint(self, field: ArrayLike) -> Float32Array:
        """Return the adjoint (6, x, y, z) of a field (x, y, z)."""
        volume = np.asarray(field, np.float32)
        if volume.shape != self.shape:
            raise InputError(f"field has shape {volume.shape}, but the operator was made for {self.shape}.")
        spectrum = forward_fft(volume, self.grid)
        result = np.empty((6, *self.shape), np.float32)
        for component in range(6):
            result[component] = crop(inverse_fft(self.row[component] * spectrum, self.grid), self.shape)
        return result


def tensor_field(
    tensor: ArrayLike, voxel_size: ArrayLike, b0_direction: ArrayLike, *, padding: float = PADDING
) -> Float32Array:
    """Compute the field of a susceptibility tensor in free space.

    Parameters
    ----------
    tensor
        (6, x, y, z) in ppm, components xx, xy, xz, yy, yz, zz along the axes of the grid.
    voxel_size
        (3,) in mm.
    b0_direction
        Unit vector (3,) along the axes of the grid.
    padding
        mm of zeros appended to every axis (0: the field of a periodic object).

    Returns
    -------
        (x, y, z) in ppm of B0.

    Raises
    ------
    InputError
        Where shapes, voxel size or direction are no such.

    References
    ----------
    Liu 2010, Magn Reson Med 63:1471.
    """
    volumes = np.asarray(tensor, np.float32)
    return TensorFieldOperator(volumes.shape[1:], voxel_size, b0_direction, padding=padding).forward(volumes)


def delta_b_prime(
    tensor: ArrayLike, voxel_size: ArrayLike, b0_direction: ArrayLike, *, padding: float = PADDING
) -> Float32Array:
    """Compute delta B', the field of the components of chi h across B0.

    Parameters
    ----------
    tensor
        (6, x, y, z) in ppm, components xx, xy, xz, yy, yz, zz along the axes of the grid.
    voxel_size
        (3,) in mm.
    b0_direction
        Unit vector (3,) along the axes of the grid.
    padding
        mm of zeros appended to every axis (0: the field of a periodic object).

    Returns
    -------
        (x, y, z) in ppm of B0; with the dipole field of chi33 it makes the tensor's field, at the same padding.

    Raises
    ------
    InputError
        Where shapes, voxel size or direction are no such.

    References
    ----------
    MoDL-QSM (Feng 2021), eq. 4.
    """
    volumes = np.asarray(tensor, np.float32)
    shape, size = check_grid(volumes.shape[1:], voxel_size)
    grid = padded_shape(shape, size, padding)
    projection = projection_on_k(grid, size, b0_direction)
    across = transverse(volumes, b0_direction)
    spectrum = -projection[0] * forward_fft(across[0], grid)
    for axis in (1, 2):
        spectrum -= projection[axis] * forward_fft(across[axis], grid)
    return np.ascontiguousarray(crop(inverse_fft(spectrum, grid), shape))


def dipole_field(
    chi: ArrayLike, voxel_size: ArrayLike, b0_direction: ArrayLike, *, padding: float = PADDING
) -> Float32Array:
    """Compute the field of a scalar susceptibility map in free space.

    Parameters
    ----------
    chi
        (x, y, z) in ppm.
    voxel_size
        (3,) in mm.
    b0_direction
        Unit vector (3,) along the axes of the grid.
    padding
        mm of zeros appended to every axis (0: the field of a periodic object).

    Returns
    -------
        (x, y, z) in ppm of B0.

    Raises
    ------
    InputError
        Where shapes, voxel size or direction are no such.

    References
    ----------
    Marques and Bowtell 2005, Concepts Magn Reson 25B:65.
    """
    volume = np.asarray(chi, np.float32)
    shape, size = check_grid(volume.shape, voxel_size)
    grid = padded_shape(shape, size, padding)
    spectrum = dipole_kernel(grid, size, b0_direction) * forward_fft(volume, grid)
    return np.ascontiguousarray(crop(inverse_fft(spectrum, grid), shape))
