"""Whether the values of a map can be ppm of a brain: their size, and marks of phase and of unscaled whole numbers.

Sizes (99th percentile in a brain mask, ppm): a local field 0.02 to 0.15, a susceptibility 0.05 to 0.3, both up to three
times that with large bleedings. A total field departs from its median by 0.4 to 3, shimmed or not, and cannot by more
than what air does to tissue (9.4 ppm of susceptibility difference); its offset is free. In Hz all are 21 (0.5 T) to
300 (7 T) times that, in ppb 1000 times, in radians 2 to 40 times: there the sizes overlap, and what is left is a doubt.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ...pipeline.images.fine_structure import fine_structure

LARGEST = 1.0  # ppm: of the 99th percentile of |value| in a brain, with room for pathology and for scaled copies
LARGEST_TOTAL = 10.0  # ppm: of the 99th percentile of a total field's departure from its median
SMALLEST = 1e-4  # ppm
SMALLEST_FIELD = 1e-3  # ppm: below a field map's noise
_PERCENTILE = 99.0
_DOUBTFUL = {"field": (0.01, 0.35), "total": (0.01, 4.0)}  # ppm, of the same percentile
_FIELDS = {"field": "the local field", "total": "the total field"}
_DOUBTFUL_FINE = 0.03  # ppm, of the median of |fine structure|: 0.002 to 0.01 in brains, noise included
_FOLD_SHARE = 0.7  # of the range, that the step across a fold is at least
_FEWEST_FOLDS = 40  # pairs of neighbours
_LEAST_DECILE = 2e-4  # of the values, in each tenth of the range of a folded map
_PILE = 0.01  # of the values at the very end of the range: filled or clipped, no fold


def size_problem(name: str, inside: NDArray[np.floating]) -> str:
    """Return what is wrong with the size of a map's values inside the mask, in words, or an empty string.

    name: field (local), total, chi33, deltab or cosmos. delta_b_prime may be 0 everywhere; the others may not be close
    to it.
    """
    bad = int(inside.size - np.isfinite(inside).sum())
    if bad:
        return f"holds {bad} values that are not finite inside the mask"
    top = _top(name, inside)
    if top > (LARGEST_TOTAL if name == "total" else LARGEST):
        varies = "departs from its median by" if name == "total" else "reaches"
        return f"{varies} {top:.3g} inside the mask, too large for ppm"
    if top < (SMALLEST_FIELD if name in _DOUBTFUL else SMALLEST) and name != "deltab":
        return f"stays below {max(top, 1e-30):.2g} inside the mask, too small for ppm"
    return ""


def _top(name: str, inside: NDArray[np.floating]) -> float:
    level = float(np.median(inside)) if name == "total" else 0.0
    return float(np.percentile(np.abs(inside - level), _PERCENTILE))


def size_doubt(name: str, field: ArrayLike, mask: ArrayLike, voxel_size: ArrayLike) -> str:
    """Return why a field (x, y, z) that is taken as ppm may well be in another unit, or an empty string.

    name: field (local) or total. A field in radians is several times as large, in its fine structure too, which shim
    and background do not touch.
    """
    inside = np.asarray(mask, bool)
    values = np.asarray(field)
    top = _top(name, values[inside])
    least, most = _DOUBTFUL[name]
    if not least <= top <= most:
        return f"99 % of it lie within {top:.2g}, where {_FIELDS[name]} of a brain in ppm has {least:g} to {most:g}"
    fine = float(np.median(np.abs(fine_structure(values, inside, voxel_size)[inside])))
    if fine > _DOUBTFUL_FINE:
        return (
            f"the median of its fine structure is {fine:.2g}, where that of a brain in ppm is below {_DOUBTFUL_FINE:g}"
        )
    return ""


def phase_problem(values: ArrayLike, mask: ArrayLike) -> str:
    """Return why stored values (x, y, z) are a wrapped phase, in words, or an empty string.

    Neighbours in a mask that lie at opposite ends of the range, many times and with every tenth of the range filled,
    are what folding at +-pi (or any other period) does and no field.
    """
    volume, inside = np.asarray(values, np.float32), np.asarray(mask, bool)
    found = volume[inside]
    lowest, highest = float(found.min()), float(found.max())
    extent = highest - lowest
    if not extent > 0 or not np.isfinite(extent):
        return ""
    counts, _ = np.histogram(found, bins=10, range=(lowest, highest))
    piles = max((found == lowest).mean(), (found == highest).mean())
    if counts.min() < max(_LEAST_DECILE * found.size, 4) or piles > _PILE:
        return ""
    steps, folds = 0, 0
    for axis in range(3):
        ahead, behind = [slice(None)] * 3, [slice(None)] * 3
        ahead[axis], behind[axis] = slice(1, None), slice(None, -1)
        both = inside[tuple(ahead)] & inside[tuple(behind)]
        jump = np.abs(volume[tuple(ahead)] - volume[tuple(behind)])[both]
        folds += int((jump > _FOLD_SHARE * extent).sum())
        steps += int(((jump > 0.3 * extent) & (jump <= _FOLD_SHARE * extent)).sum())
    if folds < _FEWEST_FOLDS or folds < steps:
        return ""
    return f"jumps between {lowest:.4g} and {highest:.4g} at {folds} pairs of neighbours, as a wrapped phase does"


def unscaled_problem(inside: NDArray[np.floating]) -> str:
    """Return why values are no ppm because all are whole numbers, in words, or an empty string."""
    if inside.size and np.ptp(inside) > 0 and (inside == np.round(inside)).all():
        return f"holds whole numbers only ({inside.min():g} to {inside.max():g}), which ppm of a brain are not"
    return ""


def plausible_names(names: tuple[str, ...]) -> tuple[str, ...]:
    """Return the channels whose size can be judged: the field and the labels."""
    return tuple(name for name in names if name in ("field", "chi33", "deltab", "cosmos"))
