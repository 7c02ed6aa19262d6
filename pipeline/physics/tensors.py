"""Algebra of symmetric susceptibility tensors stored as six volumes: xx, xy, xz, yy, yz, zz, first axis."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ...files.errors import InputError
from ..frames import check_b0_direction

COMPONENTS = ("xx", "xy", "xz", "yy", "yz", "zz")
_ROWS = np.array([0, 0, 0, 1, 1, 2])
_COLUMNS = np.array([0, 1, 2, 1, 2, 2])
_INDEX = np.array([[0, 1, 2], [1, 3, 4], [2, 4, 5]])
DIAGONAL = (0, 3, 5)


def check_tensor(tensor: ArrayLike) -> NDArray[np.floating]:
    """Return the tensor as an array (6, ...) or raise InputError."""
    array = np.asarray(tensor)
    if array.ndim < 1 or array.shape[0] != 6:
        raise InputError(f"a tensor has six components ({', '.join(COMPONENTS)}) on its first axis, got {array.shape}.")
    return array


def to_matrix(tensor: ArrayLike) -> NDArray[np.floating]:
    """Return the matrices (..., 3, 3) of a tensor (6, ...)."""
    return np.moveaxis(check_tensor(tensor)[_INDEX], (0, 1), (-2, -1))


def from_matrix(matrix: ArrayLike) -> NDArray[np.floating]:
    """Return the six components (6, ...) of symmetric matrices (..., 3, 3)."""
    array = np.asarray(matrix)
    return np.moveaxis(array[..., _ROWS, _COLUMNS], -1, 0)


def rotation_of_components(rotation: ArrayLike) -> NDArray[np.float64]:
    """Return the (6, 6) matrix that maps the components of chi to those of R chi R^T, for R (3, 3)."""
    r = np.asarray(rotation, dtype=np.float64)
    units = to_matrix(np.eye(6))
    return np.asarray(from_matrix(np.einsum("ij,cjk,lk->cil", r, units, r)), np.float64)


def magnetisation_of_components(frame: ArrayLike, b0_direction: ArrayLike) -> NDArray[np.float64]:
    """Return the (3, 6) matrix that maps the components of chi to Q chi h, for Q (3, 3) and a unit vector h (3,)."""
    units = to_matrix(np.eye(6))
    return np.einsum("ij,cjk,k->ic", np.asarray(frame, np.float64), units, check_b0_direction(b0_direction))


def rotate_components(tensor: ArrayLike, rotation: ArrayLike) -> NDArray[np.floating]:
    """Return R chi R^T (6, ...): the components of a tensor (6, ...) along axes turned by R (3, 3).

    Only the components turn, not the voxels. The type of the tensor is kept.
    """
    array = check_tensor(tensor)
    return np.tensordot(rotation_of_components(rotation).astype(array.dtype), array, axes=1)


def chi33(tensor: ArrayLike, b0_direction: ArrayLike) -> NDArray[np.floating]:
    """Compute the apparent susceptibility along B0, h^T chi h.

    Parameters
    ----------
    tensor
        (6, ...) in any unit, components xx, xy, xz, yy, yz, zz.
    b0_direction
        Unit vector h (3,) along the axes of the components.

    Returns
    -------
        (...) in the unit of the tensor.

    Raises
    ------
    InputError
        Where the tensor has no six components or h is no unit vector.

    References
    ----------
    MoDL-QSM (Feng 2021), eq. 3.
    """
    array = check_tensor(tensor)
    weights = chi33_weights(check_b0_direction(b0_direction))
    return np.tensordot(weights.astype(array.dtype), array, axes=1)


def chi33_weights(b0_directions: NDArray[np.floating]) -> NDArray[np.floating]:
    """Return the weights (..., 6) of the components in h^T chi h, for unit vectors (..., 3)."""
    return b0_directions[..., _ROWS] * b0_directions[..., _COLUMNS] * np.where(_ROWS == _COLUMNS, 1, 2)


def transverse(tensor: ArrayLike, b0_direction: ArrayLike) -> NDArray[np.floating]:
    """Return M_perp = chi h - (h^T chi h) h as (3, ...), of a tensor (6, ...) and a unit vector along its axes."""
    array = check_tensor(tensor)
    h = check_b0_direction(b0_direction).astype(array.dtype)
    magnetisation = np.stack([np.tensordot(h, array[_INDEX[row]], axes=1) for row in range(3)])
    along = np.tensordot(h, magnetisation, axes=1)
    return magnetisation - h.reshape(3, *([1] * (array.ndim - 1))) * along


def isotropic(chi: ArrayLike) -> NDArray[np.floating]:
    """Return the tensor (6, ...) chi I of a scalar map (...)."""
    scalar = np.asarray(chi)
    tensor = np.zeros((6, *scalar.shape), scalar.dtype)
    tensor[list(DIAGONAL)] = scalar
    return tensor


def eigenvalues(tensor: ArrayLike) -> NDArray[np.floating]:
    """Return the eigenvalues (3, ...) in descending order of a tensor (6, ...)."""
    values = np.linalg.eigvalsh(to_matrix(tensor))
    return np.moveaxis(values[..., ::-1], -1, 0)


def mms(tensor: ArrayLike) -> NDArray[np.floating]:
    """Return the mean magnetic susceptibility (...), a third of the trace of a tensor (6, ...)."""
    array = check_tensor(tensor)
    return array[list(DIAGONAL)].mean(axis=0)


def msa(tensor: ArrayLike) -> NDArray[np.floating]:
    """Return the magnetic susceptibility anisotropy lambda1 - (lambda2 + lambda3) / 2 (...) of a tensor (6, ...)."""
    values = eigenvalues(tensor)
    return values[0] - (values[1] + values[2]) / 2


def principal_eigenvector(tensor: ArrayLike) -> NDArray[np.floating]:
    """Return the unit eigenvector (3, ...) of the largest eigenvalue, with a component of largest size >= 0."""
    _, vectors = np.linalg.eigh(to_matrix(tensor))
    principal = np.moveaxis(vectors[..., :, -1], -1, 0)
    largest = np.take_along_axis(principal, np.abs(principal).argmax(axis=0)[None], axis=0)
    return np.where(largest < 0, -principal, principal)
