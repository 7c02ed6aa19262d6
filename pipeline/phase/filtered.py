"""Whether a total field still holds its background: a high-pass filter of the phase (homodyne, SWI) takes it out."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike

# ppm. Brains shimmed by a scanner have 0.07-0.13 (simulated; in vivo 10-30 Hz at 3 T), after a homodyne filter of 4 mm
# 0.007-0.011, of 8 mm 0.02-0.04: what a filter took is certain only below.
LEAST_SPREAD = 0.015


def field_spread(field: ArrayLike, mask: ArrayLike) -> float:
    """Return half the width of the middle 68 % of a field (x, y, z) in its mask, in the field's unit: a robust std."""
    inside = np.asarray(field)[np.asarray(mask, bool)]
    if inside.size == 0:
        return 0.0
    low, high = np.percentile(inside, (16, 84))
    return float(high - low) / 2


def filter_warnings(spread: float, stated: str = "") -> list[str]:
    """Return a sentence where a total field has lost its background, or its image type says so; nothing otherwise.

    spread: `field_spread` of the total field in ppm; stated: the words of the image type that tell of a filter.
    """
    if spread >= LEAST_SPREAD and not stated:
        return []
    why = f"its ImageType says {stated}" if stated else f"its total field spreads over {spread:.4f} ppm only"
    return [
        f"its phase looks filtered ({why}): a high-pass filter (homodyne, SWI) takes tissue's field out with the "
        "background, and susceptibility comes out too small. Export the unfiltered phase; a local field made elsewhere "
        "belongs into `chi33 fit`."
    ]
