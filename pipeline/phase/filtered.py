"""Whether a total field still holds its background: a high-pass filter of the phase (homodyne, SWI) takes it out."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike

from ..echoes import smooth_inside

SMOOTHING = 10.0  # mm, standard deviation: sources outside the brain vary this slowly, tissue does not
LEAST_SMOOTH_SHARE = 0.2


def smooth_share(field: ArrayLike, mask: ArrayLike, voxel_size: ArrayLike) -> float:
    """Return the part of a field's standard deviation in the mask that is smooth over 10 mm, 0-1; 0 for no field.

    field: (x, y, z), any unit; mask: (x, y, z); voxel_size: (3,) mm.
    """
    inside = np.asarray(mask, bool)
    values = np.where(inside, np.asarray(field, np.float32), 0).astype(np.float32)
    if not inside.any() or not values.any():
        return 0.0
    values[inside] -= values[inside].mean(dtype=np.float64)
    smooth = smooth_inside(values, inside, voxel_size, SMOOTHING)[inside]
    total = float(values[inside].std(dtype=np.float64))
    return min(1.0, float(smooth.std(dtype=np.float64)) / total) if total > 0 else 0.0
