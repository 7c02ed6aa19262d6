"""A smooth white-matter fibre field shaped like a head's: callosal, corticospinal, association directions."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..physics.tensors import from_matrix
from .sampling import smooth_noise

Float32Array = NDArray[np.float32]
STEP = 4  # voxels (mm) between the knots of the fibre field


def fibre_dyad(rng: np.random.Generator, points: Sequence[NDArray[Any]]) -> Float32Array:
    """Return v v^T (6, x, y, z) of the unit fibre direction v along head axes.

    points: MNI152 coordinates x, y, z in mm on the knots of a regular grid; rng: the subject's perturbation.
    """
    x, y, z = (np.asarray(p, np.float64) for p in points)
    side = np.where(x < 0, -1.0, 1.0)
    lateral = np.abs(x)
    fibres = np.zeros((*x.shape, 3, 3))
    # corpus callosum and its radiation: left-right at the midline, turning upwards (or to the poles) laterally
    rise = np.clip((lateral - 8) / 22, 0, 1.3)
    pole = np.clip(y / 55, -1, 1) * np.clip((np.abs(y) - 15) / 25, 0, 1)
    callosal = np.stack([side, 0.9 * pole * rise, 1.1 * rise * np.clip(z / 25, -0.5, 1)], axis=-1)
    _add(fibres, callosal, 1.6 * np.exp(-((lateral / 26) ** 2)) * np.exp(-(((z - 18) / 22) ** 2)))
    # corticospinal tract: vertical from the stem, fanning out to the convexity
    fan = np.clip((z - 10) / 45, 0, 1)
    spinal = np.stack(
        [side * (0.25 + 0.7 * fan) * np.clip(lateral / 20, 0, 1), 0.25 * (y + 20) / 40, np.ones_like(x)], -1
    )
    _add(fibres, spinal, 1.2 * np.exp(-(((lateral - 22 - 6 * fan) / 13) ** 2)) * np.exp(-(((y + 18) / 30) ** 2)))
    # association bundles: front to back laterally, bending round the insula
    association = np.stack([-side * 0.35 * y / 45, np.ones_like(x), -0.012 * (y + 10) * np.sign(z + 1)], axis=-1)
    _add(fibres, association, 1.1 / (1 + np.exp(-(lateral - 33) / 5)))
    # cingulum and cerebellar peduncles
    _add(fibres, np.stack([0 * x, np.ones_like(x), -0.02 * (y + 5)], -1),
         0.8 * np.exp(-(((lateral - 9) / 5) ** 2)) * np.exp(-(((z - 33) / 8) ** 2)))  # fmt: skip
    _add(fibres, np.stack([side * 0.8, -0.7 + 0 * x, -0.3 + 0 * x], -1), 1.0 / (1 + np.exp((z + 22) / 5)))
    wander = np.stack([smooth_noise(rng, x.shape, 4.0) for _ in range(3)], axis=-1)
    _add(fibres, wander, 0.18)
    principal = np.linalg.eigh(fibres)[1][..., -1]
    return from_matrix(principal[..., :, None] * principal[..., None, :]).astype(np.float32)


def _add(fibres: NDArray[np.float64], direction: NDArray[Any], weight: NDArray[Any] | float) -> None:
    unit = direction / np.maximum(np.linalg.norm(direction, axis=-1, keepdims=True), 1e-6)
    fibres += np.asarray(weight)[..., None, None] * unit[..., :, None] * unit[..., None, :]
