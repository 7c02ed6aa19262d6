"""What a field holds on the scale of a few millimetres: its veins, nuclei and cortex, without its background."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.ndimage import gaussian_filter

from .morphology import bounding_box

SCALE = 4.0  # mm, standard deviation of the Gaussian that counts as smooth
_FEWEST_VOXELS = 1.0  # of that Gaussian, on coarse grids
_TRUNCATE = 2.5


def fine_structure(field: ArrayLike, mask: ArrayLike, voxel_size: ArrayLike) -> NDArray[np.float32]:
    """Return a field (x, y, z) less its Gaussian mean inside the mask, 0 outside; voxel_size: (3,) mm.

    The mean is over 4 mm (standard deviation; one voxel at least) of the mask alone, so that its edge brings no step.
    """
    inside = np.asarray(mask, bool)
    result = np.zeros(inside.shape, np.float32)
    box = bounding_box(inside)
    part, within = np.asarray(field, np.float32)[box], inside[box]
    sigma = np.maximum(SCALE / np.asarray(voxel_size, np.float64), _FEWEST_VOXELS)
    weight = gaussian_filter(within.astype(np.float32), sigma, truncate=_TRUNCATE)
    level = np.median(part[within]) if within.any() else np.float32(0)
    values = np.where(within, part - level, np.float32(0))
    smooth = gaussian_filter(values, sigma, truncate=_TRUNCATE) / np.maximum(weight, np.float32(1e-3))
    result[box] = np.where(within, values - smooth, np.float32(0))
    return result
