"""A multigrid preconditioner for Laplace's equation in a mask, 0 outside of it (Dirichlet).

One symmetric V-cycle: damped Jacobi on every level, trilinear interpolation and its adjoint between them. Only axes
whose voxels are about as short as the shortest are coarsened, until all are alike; so anisotropic voxels converge as
isotropic ones do. Source: Trottenberg, Oosterlee & Schueller, Multigrid (2001).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ...files.errors import InputError
from ..physics.dipole import check_grid

_DAMPING = 0.86  # 6/7 smooths best in three dimensions
_SWEEPS = 2
_COARSEST_SWEEPS = 30
_FEWEST_UNKNOWNS = 60
_LIKE = 1.5  # edges up to this multiple of the shortest are coarsened


class MaskedLaplacian:
    """Minus the seven-point Laplacian in 1/mm^2 of volumes (x, y, z) that are 0 outside a mask. Self-adjoint.

    free: bool (x, y, z), where the volume is unknown; voxel_size: (3,) mm; dtype: of the results.
    """

    def __init__(self, free: NDArray[np.bool_], voxel_size: ArrayLike, dtype: type[np.floating] = np.float32) -> None:
        self.shape, size = check_grid(free.shape, voxel_size)
        self.free = free.astype(dtype)
        self.weights = [self.free.dtype.type(1 / d**2) for d in size]
        self.diagonal = self.free.dtype.type(2 * (1 / size**2).sum())

    def forward(self, volume: ArrayLike) -> NDArray[Any]:
        """Return the map applied to a volume (x, y, z), of which only the values in the mask count."""
        x = np.asarray(volume, self.free.dtype)
        if x.shape != self.shape:
            raise InputError(f"volume has shape {x.shape}, but the operator was made for {self.shape}.")
        return self.of_supported(x * self.free)

    def adjoint(self, volume: ArrayLike) -> NDArray[Any]:
        """Return the adjoint applied to a volume (x, y, z); it equals forward."""
        return self.forward(volume)

    def of_supported(self, x: NDArray[Any]) -> NDArray[Any]:
        """Return the map of a volume that is 0 outside the mask, or holds boundary values there."""
        result = self.diagonal * x
        for axis, weight in enumerate(self.weights):
            low, high = _along(axis, slice(None, -1)), _along(axis, slice(1, None))
            part = weight * x
            result[low] -= part[high]
            result[high] -= part[low]
        result *= self.free
        return result


@dataclass(frozen=True)
class _Level:
    laplacian: MaskedLaplacian
    axes: tuple[int, ...]  # coarsened on the way to the next level


def v_cycle(
    free: NDArray[np.bool_], voxel_size: ArrayLike, dtype: type[np.floating] = np.float32
) -> Callable[[NDArray[Any]], NDArray[Any]]:
    """Return the preconditioner of MaskedLaplacian: one V-cycle from a guess of 0, symmetric positive definite."""
    levels = _levels(free, np.asarray(voxel_size, np.float64), dtype)
    return lambda right: _cycle(levels, 0, right)


def _levels(free: NDArray[np.bool_], size: NDArray[np.float64], dtype: type[np.floating]) -> list[_Level]:
    levels = []
    while True:
        axes = tuple(int(a) for a in np.flatnonzero(size <= _LIKE * size.min()))
        coarse = free[tuple(slice(None, None, 2 if a in axes else 1) for a in range(3))]
        last = int(coarse.sum()) < _FEWEST_UNKNOWNS
        levels.append(_Level(MaskedLaplacian(free, size, dtype), () if last else axes))
        if last:
            return levels
        free, size = coarse, np.array([d * (2 if a in axes else 1) for a, d in enumerate(size)])


def _cycle(levels: list[_Level], depth: int, right: NDArray[Any]) -> NDArray[Any]:
    level = levels[depth]
    last = depth + 1 == len(levels)
    x = _smoothed(level.laplacian, None, right, _COARSEST_SWEEPS if last else _SWEEPS)
    if last:
        return x
    coarse = right - level.laplacian.of_supported(x)
    for axis in level.axes:
        coarse = _restricted(coarse, axis)
    correction = _cycle(levels, depth + 1, coarse * levels[depth + 1].laplacian.free)
    for axis in level.axes:
        correction = _interpolated(correction, axis, level.laplacian.shape[axis])
    return _smoothed(level.laplacian, x + correction * level.laplacian.free, right, _SWEEPS)


def _smoothed(laplacian: MaskedLaplacian, x: NDArray[Any] | None, right: NDArray[Any], sweeps: int) -> NDArray[Any]:
    """Return x after sweeps of damped Jacobi towards A x = right, which is 0 outside the mask."""
    factor = right.dtype.type(_DAMPING) / laplacian.diagonal
    if x is None:
        x, sweeps = factor * right, sweeps - 1
    for _ in range(sweeps):
        x = x + factor * (right - laplacian.of_supported(x))
    return x


def _along(axis: int, part: slice) -> tuple[slice, ...]:
    return tuple(part if a == axis else slice(None) for a in range(3))


def _interpolated(coarse: NDArray[Any], axis: int, count: int) -> NDArray[Any]:
    """Return linear interpolation to `count` points along an axis, of which every second is a coarse one."""
    shape = list(coarse.shape)
    shape[axis] = count
    fine = np.zeros(shape, coarse.dtype)
    fine[_along(axis, slice(None, None, 2))] = coarse
    half = coarse * coarse.dtype.type(0.5)
    odd = count // 2
    fine[_along(axis, slice(1, None, 2))] = half[_along(axis, slice(None, odd))]
    after = coarse.shape[axis] - 1
    fine[_along(axis, slice(1, 2 * after, 2))] += half[_along(axis, slice(1, None))]
    return fine


def _restricted(fine: NDArray[Any], axis: int) -> NDArray[Any]:
    """Return half the adjoint of `_interpolated`: weights 1/4, 1/2, 1/4."""
    coarse = fine[_along(axis, slice(None, None, 2))] * fine.dtype.type(0.5)
    quarter = fine[_along(axis, slice(1, None, 2))] * fine.dtype.type(0.25)
    coarse[_along(axis, slice(None, quarter.shape[axis]))] += quarter
    count = coarse.shape[axis] - 1
    coarse[_along(axis, slice(1, None))] += quarter[_along(axis, slice(None, count))]
    return coarse
