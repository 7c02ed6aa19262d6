"""Whether the sign of the phase is right, judged deep in the brain, where the edge of the mask does not reach.

Veins and iron-rich nuclei (pallidum, red nucleus, substantia nigra, putamen, caudate) are the strongest sources far
from the surface, and paramagnetic; white matter around them is diamagnetic, but weaker. With a flipped sign it is the
other way round. Near the surface that order does not hold: skull in the mask, air and what background removal leaves
make sources of either sign there.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import ndimage

from ...pipeline.images.morphology import depth_inside
from ...pipeline.phase.echoes import smooth_inside

SIGN_DEPTH = 25.0  # mm inside the mask, which may hold a centimetre of skull
STRONGEST = 2.0  # per cent
_SMOOTH = 8.0  # mm, of what is taken off: a wrong mask's error is smooth so deep, nuclei and veins are not
CLEAR = 0.75  # of the strongest sources, that must have one sign
_LEAST_VOLUME = 20.0  # ml
_LEAST_ASYMMETRY = 0.1

Verdict = Literal["right", "flipped", "unclear"]


@dataclass(frozen=True)
class SignEvidence:
    """What the deep brain tells of the sign.

    share: part of the strongest sources (the largest 2 % of |chi - median|, chi less its smooth part) that is
    paramagnetic; asymmetry: (above - below) / (above + below), the distances of the 99th and the 1st percentile from
    the median; volume: of the deep brain, ml.
    """

    share: float
    asymmetry: float
    volume: float

    @property
    def verdict(self) -> Verdict:
        """`right` or `flipped` where both numbers say so clearly, else `unclear`."""
        if self.share >= CLEAR and self.asymmetry >= _LEAST_ASYMMETRY:
            return "right"
        if self.share <= 1 - CLEAR and self.asymmetry <= -_LEAST_ASYMMETRY:
            return "flipped"
        return "unclear"


def sign_evidence(chi: NDArray[np.float32], mask: NDArray[np.bool_], voxel_size: ArrayLike) -> SignEvidence | None:
    """Return what a susceptibility map (x, y, z) in ppm tells of the sign; None where too little lies deep enough.

    mask: (x, y, z) of the brain, or of where the map is known; voxel_size: (3,) mm.
    """
    size = np.asarray(voxel_size, np.float64)
    filled = ndimage.binary_fill_holes(mask)
    deep = (depth_inside(filled, size) > SIGN_DEPTH) & mask
    values = (chi - smooth_inside(chi, deep, size, _SMOOTH))[deep].astype(np.float64)
    volume = float(values.size * size.prod() / 1000)
    if volume < _LEAST_VOLUME:
        return None
    low, middle, high = np.percentile(values, (1, 50, 99))
    if not high > low:
        return None
    departure = values - middle
    strong = np.abs(departure) >= np.percentile(np.abs(departure), 100 - STRONGEST)
    asymmetry = ((high - middle) - (middle - low)) / (high - low)
    return SignEvidence(float((departure[strong] > 0).mean()), float(asymmetry), volume)
