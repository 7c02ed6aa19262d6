"""The local field of a fit: what is left of a total field when the fit's own field helps to tell the background.

A background removal has to tell a local field of sources all over the brain from a background. With the fit's field
taken off, hardly any local field is left, so that hardly any is lost.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike

from .local_field import LocalField
from .vsharp import vsharp


def field_of_fit(total_field: ArrayLike, fitted: ArrayLike, mask: ArrayLike, voxel_size: ArrayLike) -> LocalField:
    """Return the fitted field plus what V-SHARP leaves of the total field less the fitted one.

    total_field, fitted: (x, y, z) ppm of B0, fitted without a background; mask: where the total field is known;
    voxel_size: (3,) mm. Valid where V-SHARP's smallest sphere fits the mask. Raises InputError.
    """
    field = np.asarray(fitted, np.float32)
    known = np.asarray(mask, bool)
    left = vsharp(np.where(known, np.asarray(total_field, np.float32) - field, np.float32(0)), known, voxel_size)
    return LocalField(np.where(left.mask, field + left.field, np.float32(0)), left.mask)
