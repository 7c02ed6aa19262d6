"""B0 in an image's array: what is given wins over what its sidecar states, and that over its affine."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ..pipeline.frames import b0_direction_from_affine, check_b0_direction
from .errors import InputError
from .nifti import NiftiVolume
from .sidecars import sidecar_path

_SAME = 0.5  # degrees


def stated_b0_direction(sidecar: Mapping[str, Any], name: object) -> NDArray[np.float64] | None:
    """Return a sidecar's B0_dir, a unit vector (3,) in the voxel frame, or None; InputError where it is no such."""
    direction = sidecar.get("B0_dir")
    if direction is None:
        return None
    try:
        return np.asarray(check_b0_direction(direction, f"B0_dir of {name}"), np.float64)
    except (TypeError, ValueError) as error:
        if isinstance(error, InputError):
            raise
        raise InputError(
            f"{name} states B0_dir {direction!r}: give three numbers, a unit vector in the voxel frame."
        ) from error


def b0_direction_of(
    image: NiftiVolume, sidecar: Mapping[str, Any], given: ArrayLike | None = None, option: str = "--b0-dir"
) -> tuple[NDArray[np.float64], str]:
    """Return the unit vector (3,) of B0 along an image's array axes, and a warning, empty where there is none.

    given: by `option`; it wins, with a warning that names the angle, where the sidecar says otherwise. Raises
    InputError where nothing tells the direction.
    """
    stated = stated_b0_direction(sidecar, sidecar_path(image.path))
    if given is not None:
        h = np.asarray(check_b0_direction(given, option), np.float64)
        angle = 0.0 if stated is None else float(np.degrees(np.arccos(np.clip(h @ stated, -1, 1))))
        if angle < _SAME:
            return h, ""
        return h, (
            f"{option} is {angle:.1f} degrees from the B0_dir that the sidecar of {image.path} states: {option} is "
            "used."
        )
    if stated is not None:
        return stated, ""
    if not image.oriented:
        raise InputError(
            f"{image.path} has no orientation (sform and qform codes are 0): set its sform, or B0_dir in its sidecar."
        )
    if image.direction_problem:
        raise InputError(f"{image.path} {image.direction_problem}.")
    return np.asarray(b0_direction_from_affine(image.affine), np.float64), ""
