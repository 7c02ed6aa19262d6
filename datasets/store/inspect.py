"""What a store holds, as plain text: splits, grids, B0 directions, channels, patches, copies, and its size."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any

import h5py
import numpy as np

from ...pipeline.frames import rotation_angle
from .schema import SCHEMA, PatchTable, Store, VolumeEntry
from .volume import MASK, SPLITS

_MOST_COPIES = 20
_AUGMENTED = "augmented"


def describe_store(store: Store) -> str:
    """Return a page of plain text about a store, without reading a voxel.

    Lengths in mm, angles in degrees, maps in ppm, sizes in MB of 10^6 bytes. Tilt is the angle between B0 and the third
    axis of a volume's array.
    """
    with store.reading() as handle:
        sizes = _sizes(handle)
    parts = [
        _head(store, sizes),
        _splits(store),
        _grids(store.volumes),
        _channels(store),
        _patches(store),
        _copies([volume for volume in store.volumes if volume.source == _AUGMENTED]),
        _bytes(sizes),
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def tilt(volume: VolumeEntry) -> float:
    """Return the angle in degrees (0 to 90) between B0 and the third axis of a volume's array."""
    x, y, z = volume.geometry.b0_direction
    return float(np.degrees(np.arctan2(np.hypot(x, y), abs(z))))


def table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Return rows under a header as lines of aligned text; columns of numbers stand on the right."""
    lines = [list(header), *[list(row) for row in rows]]
    widths = [max(len(line[column]) for line in lines) for column in range(len(header))]
    right = [all(line[column][:1] in "-0123456789" for line in lines[1:]) for column in range(len(header))]
    aligned = (
        "  ".join(
            cell.rjust(width) if number else cell.ljust(width)
            for cell, width, number in zip(line, widths, right, strict=True)
        ).rstrip()
        for line in lines
    )
    return "\n".join(aligned)


def _head(store: Store, sizes: dict[str, tuple[int, int]]) -> str:
    raw, stored = (sum(size[kind] for size in sizes.values()) for kind in (0, 1))
    on_disk = store.path.stat().st_size
    ratio = f", compressed {raw / stored:.1f} times" if stored else ""
    lines = [
        f"{store.path}: {on_disk / 1e6:.1f} MB{ratio}",
        f"{SCHEMA} version {store.version}, written by chi33 {store.chi33_version}",
        f"content hash {store.content_hash}",
    ]
    if store.split_hash:
        lines.append(f"split hash   {store.split_hash}")
    if store.tensors:
        lines.append(f"tensors of {' '.join(store.tensors)}")
    return "\n".join(lines)


def _splits(store: Store) -> str:
    rows = []
    for split in SPLITS:
        volumes = store.of_split(split)
        if not volumes:
            continue
        copies = sum(volume.source == _AUGMENTED for volume in volumes)
        patches = len(store.patches[split]) if split in store.patches else 0
        subjects = store.subjects(split)
        counts = (len(subjects), len(volumes) - copies, copies, patches)
        rows.append([split, *map(str, counts), " ".join(f"sub-{label}" for label in subjects)])
    return table(["split", "subjects", "acquired", _AUGMENTED, "patches", "who"], rows)


def _grids(volumes: Sequence[VolumeEntry]) -> str:
    seen: dict[tuple[str, str, str], list[VolumeEntry]] = {}
    for volume in volumes:
        size = " × ".join(f"{edge:.3g}" for edge in volume.geometry.voxel_size)
        b0 = volume.geometry.b0
        key = ("×".join(map(str, volume.shape)), size, f"{b0:g}" if np.isfinite(b0) else "not recorded")
        seen.setdefault(key, []).append(volume)
    rows = []
    for key, members in seen.items():
        tilts = [tilt(volume) for volume in members]
        rows.append([*key, str(len(members)), f"{min(tilts):.1f} to {max(tilts):.1f}"])
    return table(["shape", "voxel (mm)", "B0 (T)", "volumes", "tilt of B0 (degrees)"], rows)


def _channels(store: Store) -> str:
    held = Counter(channel for volume in store.volumes for channel in volume.channels if channel != MASK)
    rows = []
    for channel, count in held.items():
        values = store.statistics.get(channel)
        moments = ["", "", ""] if values is None else [f"{values.mean:.3e}", f"{values.std:.3e}", str(values.count)]
        rows.append([channel, str(count), *moments])
    return table(["channel", "volumes", "mean (ppm)", "std (ppm)", "training voxels in the mask"], rows)


def _patches(store: Store) -> str:
    rows = [[split, *_patch_row(found)] for split, found in store.patches.items()]
    if not rows:
        return ""
    return table(["patches of", "number", "edge (voxels)", "rule", "least brain", "seed", "materialised"], rows)


def _patch_row(found: PatchTable) -> list[str]:
    stored = " ".join(found.data_channels) or "no"
    return [str(len(found)), str(found.patch_size), found.rule, f"{found.min_brain:.0%}", str(found.seed), stored]


def _copies(copies: Sequence[VolumeEntry]) -> str:
    if not copies:
        return ""
    rows = []
    for copy in copies[:_MOST_COPIES]:
        turn = f"{rotation_angle(copy.rotation):.1f}" if copy.rotation is not None else ""
        snr = f"{copy.snr:.1f}" if np.isfinite(copy.snr) else "no noise"
        rows.append([copy.id, copy.parent, turn, snr, f"{copy.susceptibility_scale:.2f}"])
    text = table(["augmented copy", "turned from", "turn (degrees)", "SNR", "scale of χ"], rows)
    more = len(copies) - _MOST_COPIES
    return f"{text}\nand {more} more" if more > 0 else text


def _bytes(sizes: dict[str, tuple[int, int]]) -> str:
    rows = [
        [what, f"{raw / 1e6:.1f}", f"{stored / 1e6:.1f}", f"{raw / stored:.1f}" if stored else ""]
        for what, (raw, stored) in sizes.items()
        if raw
    ]
    return table(["bytes of", "in memory (MB)", "stored (MB)", "ratio"], rows)


def _sizes(handle: h5py.File) -> dict[str, tuple[int, int]]:
    """Bytes in memory and on disk of the volumes, the tensors, the patch tables and the materialised patches."""
    sizes = {name: (0, 0) for name in ("volumes", "tensors", "patch tables", "materialised patches")}

    def visit(name: str, item: Any) -> None:
        if not isinstance(item, h5py.Dataset):
            return
        kind = name.split("/")[0]
        if kind == "patches":
            kind = "materialised patches" if name.endswith("_data") else "patch tables"
        raw, stored = sizes[kind]
        sizes[kind] = (raw + item.nbytes, stored + item.id.get_storage_size())

    handle.visititems(visit)
    return sizes
