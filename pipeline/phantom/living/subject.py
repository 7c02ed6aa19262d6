"""Subjects that differ: susceptibilities, layers and air spread wider than in the ideal head, tracts and lesions."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from ..anatomy import Head, build_head
from ..subjects import HeadParameters
from .effects import Effects
from .lesions import with_lesions
from .tracts import with_uneven_tracts


def living_head(parameters: HeadParameters, effects: Effects) -> Head:
    """Return the head of its parameters with what effects change in the head itself; without any, build_head's."""
    head = build_head(varied(parameters, effects.variety))
    if effects.tracts:
        head = with_uneven_tracts(head, effects.tracts)
    if effects.calcification or effects.bleeds:
        head = with_lesions(head, effects.calcification, effects.bleeds)
    return head


def varied(parameters: HeadParameters, spread: float) -> HeadParameters:
    """Return the parameters of another subject of the same seed, whose values are spread by a relative `spread`.

    Susceptibilities and anisotropy are log-normal about theirs; CSF is 1.5 to 4.5 mm wide, skull 4 to 9 and scalp 3 to
    9 mm thick, and air cavities differ by 30 %, where the spread is 0.2, and by more or less in proportion.
    """
    if not spread:
        return parameters
    rng = np.random.default_rng([*parameters.seed, 111])
    chi = {name: value * float(np.exp(rng.normal(0, spread))) for name, value in parameters.chi.items()}
    width = min(spread / 0.2, 1.5)

    def between(low: float, middle: float, high: float) -> float:
        share = float(rng.uniform(-1, 1)) * width
        return max(middle + share * ((high - middle) if share > 0 else (middle - low)), 0.5 * low)

    return replace(
        parameters,
        chi=chi,
        anisotropy=parameters.anisotropy * float(np.exp(rng.normal(0, spread))),
        csf_rim=between(1.5, 2.5, 4.5),
        skull=between(4.0, 6.0, 9.0),
        scalp=between(3.0, 5.5, 9.0),
        sinus=between(0.7, 1.0, 1.3),
        warp=between(1.5, 2.3, 3.2),
    )
