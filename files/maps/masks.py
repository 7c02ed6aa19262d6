"""Masks as they come in files: zeros and ones, 0 and 255, labels, probabilities; all become true and false."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from ..errors import InputError

_OVERSHOOT = 0.3  # beyond 0 and 1 that cubic interpolation leaves
_MOST_LABELS = 64
_HOLE_SHARE = 0.05  # of the grid, outside the mask, that an inverted mask leaves out at least
_BORDER_SHARE = 0.7  # of the grid's border, inside an inverted mask


def inside_of(values: NDArray[np.floating], name: str) -> tuple[NDArray[np.bool_], str]:
    """Return where a mask (x, y, z) is true, and a sentence on what was made of it, empty for zeros and one value.

    Probabilities (0 to 1, with what interpolation adds) count from 0.5, whole numbers above 0 as labels of what is
    inside. Raises InputError where values are negative, not finite or those of an image, where nothing is inside, and
    where the mask covers everything but a part in the middle.
    """
    if bad := int(values.size - np.isfinite(values).sum()):
        raise InputError(f"{name} holds {bad} values that are not finite: give a mask of zeros and ones.")
    lowest, highest = float(values.min()), float(values.max())
    if highest <= 0:
        negative = f" (its values go from {lowest:g} to {highest + 0.0:g})" if lowest < 0 else ""
        raise InputError(f"{name} is empty{negative}: give a mask of ones in the brain.")
    levels = np.unique(values[values != 0])
    if levels.size == 1:
        inside, said = values > 0, ""
    elif lowest >= -_OVERSHOOT and highest <= 1 + _OVERSHOOT:
        inside, said = values >= 0.5, f"{name} holds values from {lowest:.3g} to {highest:.3g}: taken from 0.5 on."
    elif lowest == 0 and levels.size <= _MOST_LABELS and (levels == np.round(levels)).all():
        inside, said = values > 0, f"{name} holds {levels.size} labels up to {highest:g}: all are taken as inside."
    else:
        raise InputError(
            f"{name} holds {levels.size} different values from {lowest:.4g} to {highest:.4g}, so it is no mask: give "
            "one of zeros and ones."
        )
    if not inside.any():
        raise InputError(f"{name} is empty (no value reaches 0.5): give a mask of ones in the brain.")
    _check_not_inverted(inside, name)
    return inside, said


def _check_not_inverted(inside: NDArray[np.bool_], name: str) -> None:
    border = np.ones(inside.shape, bool)
    border[1:-1, 1:-1, 1:-1] = False
    left_out = 1 - float(inside.mean())
    if left_out > _HOLE_SHARE and inside[border].mean() > max(_BORDER_SHARE, 1 - left_out):
        raise InputError(
            f"{name} covers the border of its grid and leaves out {left_out:.0%} in the middle, so it looks inverted: "
            "give a mask of ones in the brain and zeros outside."
        )
