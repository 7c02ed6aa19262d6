"""Which patches of a volume hold enough brain: every corner is counted, then drawn from uniformly."""

from __future__ import annotations

import hashlib
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ..pipeline.errors import InputError

RULE = "random"


def patch_dtype(id_length: int) -> np.dtype[Any]:
    """Return the row of a patch table: volume id (fixed-length UTF-8), corner i, j, k (voxels), brain fraction."""
    return np.dtype(
        [
            ("volume", np.dtype(f"S{id_length}")),
            ("i", np.int32),
            ("j", np.int32),
            ("k", np.int32),
            ("brain_fraction", np.float32),
        ]
    )


def brain_counts(mask: ArrayLike, patch_size: int) -> NDArray[np.int32]:
    """Return, for every corner (x - p + 1, y - p + 1, z - p + 1), how many mask voxels its patch of edge p holds.

    mask: (x, y, z), non-zero in the brain. Exact: differences of running sums, one axis after the other.
    Raises InputError where the patch does not fit the volume.
    """
    counts = (np.asarray(mask) != 0).astype(np.int32)
    if patch_size < 1 or counts.ndim != 3 or patch_size > min(counts.shape):
        raise InputError(
            f"a patch of {patch_size} voxels does not fit a volume of shape {counts.shape}: choose --patch-size "
            f"between 1 and {min(counts.shape)}."
        )
    for axis in range(3):
        running = np.cumsum(counts, axis=axis, dtype=np.int32)
        running = np.concatenate([np.zeros_like(running.take([0], axis)), running], axis=axis)
        n = running.shape[axis]
        counts = running.take(range(patch_size, n), axis) - running.take(range(n - patch_size), axis)
    return counts


def draw_patches(
    mask: ArrayLike, volume_id: str, *, patch_size: int, min_brain: float, number: int, seed: int
) -> tuple[NDArray[Any], float]:
    """Return a table (patch_dtype) of random patches of one volume, and the largest brain fraction of any patch.

    Uniform over all corners whose patch holds at least the fraction min_brain (0 to 1) of mask voxels, without
    repetition; where fewer than `number` exist, all of them. The draw depends on the seed and the id alone, not on
    the other volumes. An empty table means that no patch is admissible.
    """
    counts = brain_counts(mask, patch_size)
    voxels = patch_size**3
    admissible = np.flatnonzero(counts >= np.ceil(min_brain * voxels - 1e-6))
    chosen = _generator(volume_id, seed).choice(admissible, size=min(number, admissible.size), replace=False)
    chosen.sort()
    encoded = volume_id.encode()
    table = np.empty(chosen.size, patch_dtype(len(encoded)))
    table["volume"] = encoded
    table["i"], table["j"], table["k"] = np.unravel_index(chosen, counts.shape)
    table["brain_fraction"] = counts.ravel()[chosen] / voxels
    return table, float(counts.max() / voxels)


def no_patch_message(volume_id: str, patch_size: int, min_brain: float, best: float) -> str:
    """Return the sentence for a volume none of whose patches holds enough brain; best is its largest fraction."""
    wanted = f"no patch of {patch_size} voxels in {volume_id} holds {min_brain:.0%} brain"
    if best <= 0:
        return f"{wanted}: its mask is empty."
    allowed = np.floor(best * 1000) / 1000
    return f"{wanted} (the best holds {best:.1%}): use --min-brain {allowed:.3g} or less, or a smaller --patch-size."


def join_tables(tables: list[NDArray[Any]]) -> NDArray[Any]:
    """Return patch tables as one, with room for the longest volume id."""
    length = max((table.dtype["volume"].itemsize for table in tables), default=1)
    return np.concatenate([np.empty(0, patch_dtype(length)), *[table.astype(patch_dtype(length)) for table in tables]])


def _generator(volume_id: str, seed: int) -> np.random.Generator:
    words = np.frombuffer(hashlib.sha256(volume_id.encode()).digest(), np.uint32)
    return np.random.default_rng([seed, *words.tolist()])
