"""Every corner of a volume whose patch holds enough brain, so that one can be drawn at any time."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ..loading.patches import brain_counts


@dataclass(frozen=True)
class AdmissibleCorners:
    """The admissible corners of one volume: a bit per corner, and how many there are up to each plane along x.

    best: the largest brain fraction of any patch.
    """

    shape: tuple[int, int, int]
    bits: NDArray[np.uint8]
    before: NDArray[np.int64]
    best: float

    @classmethod
    def of(cls, mask: ArrayLike, patch_size: int, min_brain: float) -> AdmissibleCorners:
        """Find them for a mask (x, y, z): patches of edge patch_size, at least the fraction min_brain in the mask."""
        counts = brain_counts(mask, patch_size)
        admissible = counts >= np.ceil(min_brain * patch_size**3 - 1e-6)
        x, y, z = admissible.shape
        before = np.concatenate([[0], np.cumsum(admissible.sum(axis=(1, 2), dtype=np.int64))])
        bits = np.packbits(admissible.reshape(x, y * z), axis=1)
        return cls((x, y, z), bits, before, float(counts.max() / patch_size**3))

    def __len__(self) -> int:
        return int(self.before[-1])

    def draw(self, generator: np.random.Generator) -> tuple[int, int, int]:
        """Return one corner (voxels), each as likely as any other."""
        number = int(generator.integers(len(self)))
        i = int(np.searchsorted(self.before, number, side="right")) - 1
        _, y, z = self.shape
        plane = np.flatnonzero(np.unpackbits(self.bits[i], count=y * z))
        j, k = divmod(int(plane[number - self.before[i]]), z)
        return i, j, k
