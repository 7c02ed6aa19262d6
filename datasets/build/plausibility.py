"""Whether a field and its label belong together: in unit and sign, and by what the label explains of the field."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ...pipeline.physics.dipole import Float32Array
from ...pipeline.physics.tensor_field import dipole_field
from ..store.volume import Geometry

_EXPLAINED = 0.5  # correlation from which on the slope tells something
_SLOPES = (0.4, 2.5)


@dataclass(frozen=True)
class Agreement:
    """How a field compares with the field of its label, both in ppm inside the mask: correlation and slope on it."""

    correlation: float
    slope: float


def label_field(
    chi: Float32Array, deltab: Float32Array | None, geometry: Geometry, mask: NDArray[np.bool_]
) -> Float32Array:
    """Return the field (x, y, z) in ppm of a label: D * chi, plus delta_b_prime where there is one, inside the mask."""
    field = dipole_field(np.where(mask, chi, 0), geometry.voxel_size, geometry.b0_direction)
    return np.where(mask, field if deltab is None else field + deltab, 0).astype(np.float32)


def agreement(field: NDArray[np.floating], model: NDArray[np.floating], mask: NDArray[np.bool_]) -> Agreement:
    """Return correlation and slope of a field on the field of its label inside the mask, both without their means."""
    found = field[mask].astype(np.float64)
    expected = model[mask].astype(np.float64)
    found -= found.mean()
    expected -= expected.mean()
    power, own = float(expected @ expected), float(found @ found)
    if power == 0 or own == 0:
        return Agreement(0.0, 0.0)
    product = float(found @ expected)
    return Agreement(product / np.sqrt(power * own), product / power)


def agreement_problem(found: Agreement) -> str:
    """Return what a field's slope on its label's field says of units or sign, in words, or an empty string."""
    if found.correlation < -_EXPLAINED:
        return (
            f"has the opposite sign of the field of its label (correlation {found.correlation:.2f}), so one of them "
            "counts paramagnetic as negative: turn its sign"
        )
    if found.correlation > _EXPLAINED and not _SLOPES[0] <= found.slope <= _SLOPES[1]:
        return (
            f"is {found.slope:.3g} times the field of its label, so the two are in different units: give both in ppm "
            "of B0 (Hz divided by 42.577 times B0 in tesla; radians divided by 2π times 42.577 times B0 times TE in "
            "seconds)"
        )
    return ""


def is_unexplained(found: Agreement) -> bool:
    """Tell whether a field has next to nothing in common with the field of its label."""
    return abs(found.correlation) < 0.3
