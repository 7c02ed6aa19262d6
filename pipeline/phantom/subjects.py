"""What makes one simulated head differ from another: size, shape, susceptibilities, sinuses, seeds of the rest."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from itertools import pairwise

import numpy as np
from numpy.typing import ArrayLike

from .template import MAP_ORIGIN

# ppm against CSF; Wharton & Bowtell 2010, Langkammer 2012, Li 2012 (ranges of adults at 3 T and 7 T)
LITERATURE_CHI = {
    "caudate": 0.045,
    "putamen": 0.05,
    "pallidum": 0.13,
    "thalamus": 0.01,
    "red_nucleus": 0.10,
    "substantia_nigra": 0.12,
    "dentate": 0.10,
    "vein": 0.30,
    "white": -0.03,
    "grey": 0.02,
}
IRON_ORDER = ("pallidum", "substantia_nigra", "red_nucleus", "putamen", "caudate")  # falling susceptibility
_SMALLEST_RATIO = 1.04
_MEAN_SCALE = 0.93  # the MNI152 brain is larger than the average adult's


@dataclass(frozen=True)
class HeadParameters:
    """The parameters of one head; the same seed gives the same head.

    scale: head size relative to MNI152 along x, y, z; warp: RMS in mm of the smooth displacement along each axis;
    chi: ppm against CSF per tissue; anisotropy: MSA in ppm of white matter; skull, scalp: thickness in mm;
    sinus: size of the air cavities relative to the average; csf_rim: mm between the hull of the brain and the skull;
    seed: of vessels, fibres, warp and texture.
    """

    seed: tuple[int, ...]
    scale: tuple[float, float, float]
    warp: float = 2.0
    chi: dict[str, float] = field(default_factory=lambda: dict(LITERATURE_CHI))
    anisotropy: float = 0.02
    skull: float = 6.0
    scalp: float = 5.5
    sinus: float = 1.0
    csf_rim: float = 2.0

    @classmethod
    def from_seed(cls, seed: int | Sequence[int]) -> HeadParameters:
        """Return the head of a seed: size within 6 %, susceptibilities within 15 % and nuclei in their known order."""
        key = (seed,) if isinstance(seed, int) else tuple(int(s) for s in seed)
        rng = np.random.default_rng([*key, 101])
        x, y, z = _MEAN_SCALE * (1 + rng.uniform(-0.06, 0.06, 3))
        return cls(
            seed=key,
            scale=(float(x), float(y), float(z)),
            warp=float(rng.uniform(1.5, 2.3)),
            chi=_jittered_chi(rng),
            anisotropy=float(0.02 * rng.uniform(0.9, 1.1)),
            skull=float(rng.uniform(5.0, 7.0)),
            scalp=float(rng.uniform(4.5, 6.5)),
            sinus=float(rng.uniform(0.85, 1.15)),
        )

    def box(self, low: ArrayLike, high: ArrayLike) -> tuple[slice, slice, slice]:
        """Return where on the head maps a structure between two corners (3,) in MNI152 mm can lie, in this head."""
        corners = np.stack([low, high]) * np.asarray(self.scale)
        margin = 4 * self.warp + 2
        start = np.floor(corners[0] - margin - MAP_ORIGIN).astype(int)
        stop = np.ceil(corners[1] + margin - MAP_ORIGIN).astype(int) + 1
        x, y, z = (slice(max(int(a), 0), max(int(b), 0)) for a, b in zip(start, stop, strict=True))
        return x, y, z

    def isotropic(self) -> HeadParameters:
        """Return the same head without white-matter anisotropy (deltaB' is then zero)."""
        return replace(self, anisotropy=0.0)


def _jittered_chi(rng: np.random.Generator) -> dict[str, float]:
    while True:
        chi = {name: value * float(rng.uniform(0.85, 1.15)) for name, value in LITERATURE_CHI.items()}
        ranked = [chi[name] for name in IRON_ORDER]
        if all(high > _SMALLEST_RATIO * low for high, low in pairwise(ranked)):
            return chi
