"""What every background removal returns, and the checks that all share."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ...files.errors import InputError
from ..physics.dipole import Float32Array, Shape, check_finite, check_grid
from ..physics.harmonics import harmonic_part


@dataclass(frozen=True)
class LocalField:
    """A local field (x, y, z) in ppm and the mask where it is valid; the field is 0 outside."""

    field: Float32Array
    mask: NDArray[np.bool_]


@dataclass(frozen=True)
class CheckedInput:
    """A total field in ppm, bool mask, their shape, and the voxel size (3,) in mm."""

    field: Float32Array
    inside: NDArray[np.bool_]
    shape: Shape
    size: NDArray[np.float64]

    def less_harmonics(self, believed: NDArray[np.bool_] | None = None) -> CheckedInput:
        """Return the same less the solid harmonics of order 0 to 2 that fit the field best where it is believed.

        A constant and a shim are background by what they are, and no method finds them as exactly as a fit of them.
        """
        where = self.inside if believed is None else believed
        return replace(self, field=self.field - harmonic_part(np.where(where, self.field, 0), where, self.size))


def check_input(total_field: ArrayLike, mask: ArrayLike, voxel_size: ArrayLike) -> CheckedInput:
    """Return a total field (x, y, z), mask and voxel size as arrays, or raise InputError."""
    field = np.asarray(total_field, np.float32)
    inside = np.asarray(mask, bool)
    check_finite(field, "total field")
    shape, size = check_grid(field.shape, voxel_size)
    if inside.shape != shape:
        raise InputError(f"mask has shape {inside.shape}, but the field has {shape}.")
    if not inside.any():
        raise InputError("the mask is empty, so no background can be removed: check the brain mask.")
    return CheckedInput(field, inside, shape, size)


def sphere_centres(
    depth: NDArray[np.float64], inside: NDArray[np.bool_], radius: float, remedy: str
) -> NDArray[np.bool_]:
    """Return where a sphere of `radius` mm fits into a mask (x, y, z) whose voxels lie `depth` mm inside.

    Raises InputError, with a remedy such as "a smaller radius", where it fits nowhere.
    """
    valid = depth > radius
    if not valid.any():
        raise InputError(
            f"no sphere of {radius:g} mm fits the mask ({int(inside.sum())} voxels): use {remedy} or a larger mask."
        )
    return valid


def check_positive(value: float, name: str, unit: str) -> None:
    """Raise InputError unless `value` is a positive finite number."""
    if not 0 < value < np.inf:
        raise InputError(f"{name} must be a positive number{unit and f' of {unit}'}, got {value}.")


def check_not_negative(value: float, name: str, unit: str) -> None:
    """Raise InputError unless `value` is a finite number of at least 0."""
    if not 0 <= value < np.inf:
        raise InputError(f"{name} must be at least 0{unit and f' {unit}'}, got {value}.")


def check_iterations(iterations: int) -> None:
    """Raise InputError unless there is at least one iteration."""
    if iterations < 1:
        raise InputError(f"iterations must be at least 1, got {iterations}.")


def only_inside(field: NDArray[np.floating], valid: NDArray[np.bool_]) -> LocalField:
    """Return a field (x, y, z) in ppm as the local field of where it is valid, 0 outside."""
    return LocalField(np.where(valid, field, 0).astype(np.float32), valid)
