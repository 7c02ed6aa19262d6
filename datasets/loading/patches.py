"""Which patches of a volume are drawn: at random or on a grid, and how much brain each must hold."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ...files.errors import InputError
from ...pipeline.images.morphology import bounding_box
from ..augmentation.named_draws import named_generator

Grid = tuple[int, int, int]


@dataclass(frozen=True)
class PatchRule:
    """How the patches of a volume are chosen; patch_rule() gives those of the papers.

    name; size: edge in voxels; min_brain: fraction 0 to 1 of a patch inside the mask, which `lpcnn` must exceed and
    the others reach; number: random patches a volume, None for grids; stride: voxels between the patches of a grid;
    grid: positions per axis instead of a stride; seed: of the random rules.
    """

    name: str
    size: int
    min_brain: float
    number: int | None = None
    stride: int | None = None
    grid: Grid | None = None
    seed: int = 0

    @property
    def random(self) -> bool:
        """Whether the corners are drawn at random."""
        return self.number is not None


RULES = {
    "modl-qsm": PatchRule("modl-qsm", 48, 0.8, number=300),  # 27,000 of 90 scans (MoDL-QSM section 3.3)
    "isdu": PatchRule("isdu", 64, 0.0, stride=22),  # 66 % overlap (ISDU-QSMNet section 2.1)
    "lpcnn": PatchRule("lpcnn", 64, 0.125, stride=32),  # LPCNN, Lai 2020
    "grid": PatchRule("grid", 64, 0.125, stride=32),
    "random": PatchRule("random", 48, 0.8, number=300),
}
DEFAULT_RULE = "modl-qsm"


def patch_rule(
    name: str = DEFAULT_RULE,
    *,
    size: int | None = None,
    min_brain: float | None = None,
    number: int | None = None,
    stride: int | None = None,
    grid: Grid | None = None,
    seed: int = 0,
) -> PatchRule:
    """Return a named rule with its paper's values, or those given instead.

    modl-qsm: 48 voxels, random, at most 20 % background. isdu: 64 voxels, spread evenly over the brain's box, about
    66 % overlap or `grid` positions per axis. lpcnn: 64 voxels, every 32 and at the far faces, more than 12.5 % brain.
    grid: like lpcnn, by default every half patch. random: like modl-qsm. Raises InputError where the name is
    unknown, a value is out of range, or does not apply to the rule.
    """
    if name not in RULES:
        raise InputError(f"--patch-rule must be one of {', '.join(RULES)}, got {name!r}.")
    rule = RULES[name]
    _check_applies(name, number=number, stride=stride, grid=grid)
    given = {"size": size, "min_brain": min_brain, "number": number, "stride": stride, "grid": grid}
    chosen: dict[str, Any] = {key: value for key, value in given.items() if value is not None}
    if grid is not None:
        chosen["stride"] = None
    elif size is not None and stride is None and name in ("isdu", "grid"):
        chosen["stride"] = max(1, round(size * (0.34 if name == "isdu" else 0.5)))
    rule = replace(rule, **chosen, seed=seed)
    _check_values(rule)
    return rule


def _check_applies(name: str, *, number: int | None, stride: int | None, grid: Grid | None) -> None:
    if stride is not None and grid is not None:
        raise InputError(f"give either --patch-stride or --patch-grid, got {stride} and {_text(grid)}.")
    belongs = {
        "--patches-per-scan": (number, [key for key, rule in RULES.items() if rule.random]),
        "--patch-stride": (stride, [key for key, rule in RULES.items() if not rule.random]),
        "--patch-grid": (grid, ["isdu"]),
    }
    for option, (value, rules) in belongs.items():
        if value is not None and name not in rules:
            raise InputError(
                f"{option} does not apply to --patch-rule {name}, only to {', '.join(rules)}: leave it out, or choose "
                "another rule."
            )


def _check_values(rule: PatchRule) -> None:
    values = {"--patch-size": rule.size, "--patches-per-scan": rule.number, "--patch-stride": rule.stride}
    for option, value in values.items():
        if value is not None and value < 1:
            raise InputError(f"{option} must be at least 1, got {value}.")
    if rule.grid is not None and (len(rule.grid) != 3 or min(rule.grid) < 1):
        raise InputError(f"--patch-grid must be three counts of at least 1 such as 6,8,7, got {_text(rule.grid)}.")
    if rule.random and not 0 < rule.min_brain <= 1:
        raise InputError(f"--min-brain must be above 0 and at most 1, got {rule.min_brain:g}.")
    if not 0 <= rule.min_brain <= 1:
        raise InputError(f"--min-brain must be between 0 and 1, got {rule.min_brain:g}.")


def _text(grid: tuple[int, ...]) -> str:
    return ",".join(map(str, grid))


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


def choose_patches(mask: ArrayLike, volume_id: str, rule: PatchRule) -> tuple[NDArray[Any], float]:
    """Return the table (patch_dtype) of one volume's patches by a rule, and the largest brain fraction among them.

    The fraction counts refused positions too. An empty table means that no patch holds enough brain. The choice
    depends on the rule, the mask and, where random, the id, not on the other volumes.
    """
    counts = brain_counts(mask, rule.size)
    voxels = rule.size**3
    corners = np.arange(counts.size) if rule.random else _grid_corners(np.asarray(mask) != 0, counts.shape, rule)
    held = counts.ravel()[corners]
    best = float(held.max() / voxels) if held.size else 0.0
    least = rule.min_brain * voxels
    chosen = corners[held > least if rule.name == "lpcnn" else held >= np.ceil(least - 1e-6)]
    if rule.random:
        number = min(int(rule.number or 0), chosen.size)
        chosen = np.sort(named_generator(volume_id, rule.seed).choice(chosen, size=number, replace=False))
    encoded = volume_id.encode()
    table = np.empty(chosen.size, patch_dtype(len(encoded)))
    table["volume"] = encoded
    table["i"], table["j"], table["k"] = np.unravel_index(chosen, counts.shape)
    table["brain_fraction"] = counts.ravel()[chosen] / voxels
    return table, best


def draw_patches(
    mask: ArrayLike, volume_id: str, *, patch_size: int, min_brain: float, number: int, seed: int
) -> tuple[NDArray[Any], float]:
    """Return a table (patch_dtype) of random patches of one volume, and the largest brain fraction of any patch.

    Uniform over all corners whose patch holds at least the fraction min_brain (0 to 1) of mask voxels, without
    repetition; where fewer than `number` exist, all of them. The draw depends on the seed and the id alone, not on
    the other volumes. An empty table means that no patch is admissible.
    """
    return choose_patches(mask, volume_id, PatchRule("random", patch_size, min_brain, number=number, seed=seed))


def _grid_corners(mask: NDArray[np.bool_], shape: tuple[int, ...], rule: PatchRule) -> NDArray[np.intp]:
    """Flat indices, among the corners (shape), of a grid's positions; none where the mask is empty."""
    if not mask.any():
        return np.empty(0, np.intp)
    starts = [
        _box_starts(held, corners, axis, rule) if rule.name == "isdu" else _starts(corners, rule)
        for axis, (held, corners) in enumerate(zip(bounding_box(mask), shape, strict=True))
    ]
    return np.ravel_multi_index(np.ix_(*starts), shape).ravel()


def _starts(corners: int, rule: PatchRule) -> NDArray[np.intp]:
    """Every stride from the first corner, and the last corner, so that the far face is covered."""
    return np.unique([*range(0, corners, rule.stride or 1), corners - 1])


def _box_starts(held: slice, corners: int, axis: int, rule: PatchRule) -> NDArray[np.intp]:
    """Evenly from one side of the brain's box to the other; in its middle where the box is smaller than a patch."""
    low, high = held.start, held.stop - rule.size
    if high <= low:
        return np.array([min(max((low + high) // 2, 0), corners - 1)])
    count = rule.grid[axis] if rule.grid else 1 + max(1, round((high - low) / (rule.stride or 1)))
    if count == 1:
        return np.array([(low + high) // 2])
    return np.unique(np.floor(np.linspace(low, high, count) + 0.5).astype(np.intp))


def no_patch_message(volume_id: str, patch_size: int, min_brain: float, best: float) -> str:
    """Return the sentence for a volume none of whose patches holds enough brain; best is its largest fraction."""
    wanted = f"no patch of {patch_size} voxels in {volume_id} holds {100 * min_brain:.3g}% brain"
    if best <= 0:
        return f"{wanted}: its mask is empty."
    allowed = np.floor((best - 1e-9) * 1000) / 1000
    return f"{wanted} (the best holds {best:.1%}): use --min-brain {allowed:.3g} or less, or a smaller --patch-size."


def join_tables(tables: list[NDArray[Any]]) -> NDArray[Any]:
    """Return patch tables as one, with room for the longest volume id."""
    length = max((table.dtype["volume"].itemsize for table in tables), default=1)
    return np.concatenate([np.empty(0, patch_dtype(length)), *[table.astype(patch_dtype(length)) for table in tables]])
