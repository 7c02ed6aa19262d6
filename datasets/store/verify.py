"""Checks a whole store: hashes, splits, patch tables, statistics and every volume, one in memory at a time."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray

from ...files.errors import InputError
from ..build.splits import split_hash
from ..build.statistics import MaskedMoments
from ..loading.patches import brain_counts
from .schema import PatchTable, Store, VolumeEntry, open_store
from .verify_volume import Maps, geometry_problems, map_problems, parent_problems, physics_problems, tensor_problems
from .volume import MASK, Volume
from .volume_group import volume_fingerprint

Progress = Callable[[int, int, str], None]
_STATISTICS = 1e-4


@dataclass(frozen=True)
class Verification:
    """What was found in a store: problems (a sentence each), volumes checked, of them with their physics checked.

    unrecorded: acquired volumes with chi33 and delta_b_prime for which no residual was recorded (stores of version 1).
    """

    problems: tuple[str, ...]
    volumes: int
    physics: int
    unrecorded: tuple[str, ...]


@dataclass
class _Findings:
    problems: list[str] = field(default_factory=list)
    physics: int = 0
    unrecorded: list[str] = field(default_factory=list)
    moments: MaskedMoments = field(default_factory=MaskedMoments)
    complete: bool = True


def verify_store(path: Path, *, progress: Progress | None = None) -> Verification:
    """Check a store and return all that is wrong with it; progress(done, total, what) is called before each volume.

    Checked are the content hash, splits (a subject, its copies and its tensor in one; no data twice), finite and
    plausible maps and tensors, geometry, patch tables and materialised patches against the volumes, the statistics, and
    field = D * chi33 + delta_b_prime + residual. Raises InputError where the store cannot be opened at all.
    """
    say = progress or (lambda *_: None)
    store = open_store(path)
    findings = _Findings()
    total = len(store.volumes) + 1
    say(0, total, "content hash")
    try:
        open_store(path, verify=True)
    except InputError as error:
        findings.problems.append(str(error))
    with store.reading() as handle:
        findings.problems += [*_split_problems(store, handle), *_table_problems(store)]
        for number, entry in enumerate(store.volumes, start=1):
            say(number, total, entry.id)
            _verify_volume(store, handle, entry, findings)
        for name in store.tensors:
            findings.problems += tensor_problems(name, handle)
    findings.problems += _statistics_problems(store, findings)
    say(total, total, "done")
    return Verification(tuple(findings.problems), len(store.volumes), findings.physics, tuple(findings.unrecorded))


def _verify_volume(store: Store, handle: h5py.File, entry: VolumeEntry, findings: _Findings) -> None:
    group = handle[f"volumes/{entry.id}"]
    misplaced = geometry_problems(entry, dict(group.attrs))
    findings.problems += misplaced + parent_problems(entry, handle)
    try:
        maps = {name: np.asarray(dataset[()]) for name, dataset in group.items()}
    except (OSError, RuntimeError) as error:
        findings.complete = False
        findings.problems.append(f"{entry.id} cannot be read ({' '.join(str(error).split())}).")
        return
    problems = map_problems(entry, maps)
    findings.problems += problems
    if problems:
        findings.complete = False
        return
    findings.problems += list(_patch_problems(store, handle, entry, maps))
    volume = Volume(entry.id, entry.subject, maps, entry.geometry)
    if entry.split == "train":
        findings.moments.add(volume)
    if entry.fingerprint and entry.fingerprint != volume_fingerprint(volume):
        findings.problems.append(f"the fingerprint of {entry.id} is not the one of its field and mask.")
    if misplaced:
        return
    wrong, judged = physics_problems(entry, maps)
    findings.problems += wrong
    findings.physics += judged
    if not judged and "chi33" in maps and "deltab" in maps:
        findings.unrecorded.append(entry.id)


def _split_problems(store: Store, handle: h5py.File) -> Iterator[str]:
    places: dict[str, dict[str, list[str]]] = {}
    for volume in store.volumes:
        places.setdefault(volume.subject, {}).setdefault(volume.split, []).append(volume.id)
    for name in store.tensors:
        attrs = handle[f"tensors/{name}"].attrs
        places.setdefault(str(attrs["subject"]), {}).setdefault(str(attrs["split"]), []).append(f"the tensor of {name}")
    for subject, splits in places.items():
        if len(splits) > 1:
            where = " and ".join(f"{split} ({members[0]})" for split, members in sorted(splits.items()))
            yield f"sub-{subject} is in more than one split: {where}."
    for volume in store.volumes:
        if not volume.id.startswith(f"sub-{volume.subject}/"):
            yield f"{volume.id} says that it is of sub-{volume.subject}."
    yield from _twins(store)
    if store.split_hash and store.split_hash != split_hash({volume.subject: volume.split for volume in store.volumes}):
        yield f"the split hash of {store.path.name} is not the one of who is in which split."


def _twins(store: Store) -> Iterator[str]:
    """Acquired volumes of different subjects with the same field and mask."""
    known = [volume for volume in store.volumes if volume.fingerprint]
    known.sort(key=lambda volume: volume.fingerprint)
    for _, members in itertools.groupby(known, key=lambda volume: volume.fingerprint):
        twins = list(members)
        if len({twin.subject for twin in twins}) > 1:
            names = " and ".join(f"{twin.id} ({twin.split})" for twin in twins)
            yield f"{names} hold the same field and mask, so a subject goes by two labels."


def _table_problems(store: Store) -> Iterator[str]:
    entries = {volume.id: volume for volume in store.volumes}
    for split, table in store.patches.items():
        for name in np.unique(table.rows["volume"]):
            volume = entries.get(name.decode())
            if volume is None:
                yield f"the {split} patches name {name.decode()}, which the store does not hold."
            elif volume.split != split:
                yield f"the {split} patches name {volume.id}, which is in {volume.split}."


def _patch_problems(store: Store, handle: h5py.File, entry: VolumeEntry, maps: Maps) -> Iterator[str]:
    for split, table in store.patches.items():
        chosen = np.flatnonzero(table.rows["volume"] == entry.id.encode())
        if not chosen.size:
            continue
        rows, edge = table.rows[chosen], table.patch_size
        corners = np.stack([rows[axis] for axis in "ijk"], axis=1)
        outside = ((corners < 0) | (corners + edge > np.array(entry.shape))).any(axis=1)
        if outside.any():
            first = corners[outside][0].tolist()
            yield (
                f"{outside.sum()} {split} patches of {entry.id} reach outside its shape {entry.shape}, such as the one "
                f"at {first} of {edge} voxels."
            )
            continue
        yield from _brain_problems(split, table, entry, rows, corners, maps[MASK])
        if table.data_channels:
            yield from _copy_problems(handle[f"patches/{split}_data"], table, entry, chosen, maps)


def _brain_problems(
    split: str, table: PatchTable, entry: VolumeEntry, rows: NDArray[Any], corners: NDArray[Any], mask: NDArray[Any]
) -> Iterator[str]:
    counts = brain_counts(mask, table.patch_size)
    own = counts[tuple(corners.T)] / table.patch_size**3
    wrong = np.abs(own - rows["brain_fraction"]) > 1e-5
    if wrong.any():
        worst = int(np.argmax(np.abs(own - rows["brain_fraction"])))
        yield (
            f"brain_fraction of {wrong.sum()} {split} patches of {entry.id} is not the mask's: at "
            f"{corners[worst].tolist()} it says {rows['brain_fraction'][worst]:.3f}, but the mask has {own[worst]:.3f}."
        )
    low = own < table.min_brain - 1e-5
    if low.any():
        yield f"{low.sum()} {split} patches of {entry.id} hold less than {table.min_brain:.0%} brain."


def _copy_problems(
    data: h5py.Dataset, table: PatchTable, entry: VolumeEntry, chosen: NDArray[np.intp], maps: Maps
) -> Iterator[str]:
    """Compare the materialised patches of a volume with its maps, one patch in memory at a time."""
    wrong = 0
    for row in chosen:
        box = tuple(slice(int(table.rows[row][axis]), int(table.rows[row][axis]) + table.patch_size) for axis in "ijk")
        expected = np.stack([maps[name][box] for name in table.data_channels]).astype(np.float32)
        wrong += not np.array_equal(data[int(row)], expected)
    if wrong:
        yield f"{wrong} materialised patches of {entry.id} are not what its maps hold."


def _statistics_problems(store: Store, findings: _Findings) -> Iterator[str]:
    if not findings.complete:
        return
    for name, own in findings.moments.result().items():
        stated = store.statistics.get(name)
        if stated is None:
            yield f"the statistics lack {name}."
            continue
        scale = max(own.std, 1e-12)
        if abs(stated.mean - own.mean) > _STATISTICS * scale or abs(stated.std - own.std) > _STATISTICS * scale:
            yield (
                f"the statistics of {name} say {stated.mean:.4g} ± {stated.std:.4g} ppm, but the training volumes have "
                f"{own.mean:.4g} ± {own.std:.4g} ppm."
            )
