"""Whether scans hold a frequency of white matter that is the same in all of them and that no susceptibility makes.

That of myelin's water is such a one (Wharton and Bowtell 2012, He and Yablonskiy 2009). A map of it beside the tensor
takes part of the susceptibility where there is none, so that it is fitted only where a scalar fit with such a map, of
a few iterations, finds white matter to differ from the rest by more than heads without it do.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...physics.dipole import Float32Array
from ...physics.prior import Prior
from ..solver import LinearModel, conjugate_gradients
from .prior import FrequencyPrior, TissuePrior

LEAST_CONTRAST = 0.001  # ppm of B0
_ITERATIONS = 15  # with fewer, what is not yet solved looks like a frequency
_WHITE, _OTHER = 0.8, 0.2  # probabilities of white matter


def decided(
    tissue: TissuePrior, scalar: LinearModel, fields: Sequence[Float32Array], support: NDArray[np.bool_], prior: Prior,
    noise: float,
) -> tuple[TissuePrior, Mapping[str, Any]]:  # fmt: skip
    """Return a prior without its doubtful frequency unless the data show one, and what a sidecar says of it.

    scalar: the problem of a scalar map and a frequency; the other arguments as frequency_contrast's.
    """
    assert tissue.frequency is not None
    contrast = frequency_contrast(tissue.frequency, scalar, fields, support, prior, noise)
    record = {"IsotropicFrequencyContrastPpm": round(contrast, 5)}
    if abs(contrast) >= LEAST_CONTRAST:
        return tissue, {**record, "PriorFrequencyPpm": tissue.frequency.white}
    return replace(tissue, frequency=None), record


def frequency_contrast(
    frequency: FrequencyPrior, scalar: LinearModel, fields: Sequence[Float32Array], support: NDArray[np.bool_],
    prior: Prior, noise: float,
) -> float:  # fmt: skip
    """Return by how much, in ppm of B0, the frequency of white matter differs from the rest's in a scalar fit.

    scalar: its problem, of a scalar map and the frequency; fields: of all scans (box each) in ppm; support: (x, y, z);
    noise: in ppm at weight 1.
    """
    found = conjugate_gradients(
        scalar, scalar.right_hand_side(fields), noise=noise, prior=prior, iterations=_ITERATIONS, tolerance=0.0,
    )  # fmt: skip
    white = frequency.spread / np.float32(frequency.white)
    parts = [support & (white > _WHITE), support & (white < _OTHER)]
    if not all(part.any() for part in parts):
        return 0.0
    inside, outside = (float(found.maps[1][part].mean(dtype=np.float64)) for part in parts)
    return inside - outside


def extended(maps: Float32Array, tissue: TissuePrior | None) -> Float32Array:
    """Return maps (6, box) of a first solution with one of no frequency beside them, where the prior has that."""
    return maps if tissue is None or tissue.frequency is None else np.concatenate([maps, 0 * maps[:1]])
