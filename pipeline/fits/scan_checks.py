"""What the fits ask of the scans they are given: fields, weights and the support on one grid."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ...files.errors import InputError
from .closed_form import check_fields, check_support


def check_weights(
    weights: Sequence[ArrayLike], shape: tuple[int, ...], names: Sequence[str] | None = None
) -> list[NDArray[np.float32]]:
    """Return the weights as float32 volumes; raises InputError on shapes, values and scans that touch no other.

    names: what the scans are called in messages.
    """
    volumes = []
    for index, one in enumerate(weights):
        name = names[index] if names else f"weights[{index}]"
        volume = np.asarray(one, np.float32)
        if volume.shape != tuple(shape):
            raise InputError(f"{name} has weights of shape {volume.shape}, but the fields have {tuple(shape)}.")
        if not np.isfinite(volume).all() or volume.min() < 0:
            raise InputError(f"{name} has weights that are negative or not finite: weights are 0 or larger.")
        if not volume.any():
            raise InputError(f"{name} has weights that are all zero: give its mask, or leave the scan out.")
        volumes.append(volume)
    covered = np.zeros(shape, np.int16)
    for volume in volumes:
        covered += volume > 0
    for index, volume in enumerate(volumes):
        if len(volumes) > 1 and not (covered[volume > 0] > 1).any():
            name = names[index] if names else f"weights[{index}]"
            raise InputError(f"the mask of {name} touches no other scan's mask: check its transform and mask.")
    return volumes


def check_scans(
    fields: Sequence[ArrayLike],
    weights: Sequence[ArrayLike],
    b0_directions: Sequence[ArrayLike],
    support: ArrayLike | None = None,
    names: Sequence[str] | None = None,
) -> tuple[list[NDArray[np.float32]], list[NDArray[np.float32]], NDArray[np.bool_]]:
    """Return fields and weights as float32 volumes and the support; raises InputError where they do not fit."""
    volumes = check_fields(fields, b0_directions)
    if len(weights) != len(volumes):
        raise InputError(f"{len(volumes)} fields but {len(weights)} weights were given: give one of each a scan.")
    used = check_weights(weights, volumes[0].shape, names)
    return volumes, used, check_support(support, used)
