"""The layout of LPCNN (repository Sulam-Group/LPCNN; Lai 2020).

Files as its `data/to_numpy.py`, `partition_data.py`, `create_list.py` and `statistic.py` write and `QsmDataset` of its
`LPCNN/lib/dataset/qsm_dataset.py` reads them, for one orientation an item (`--number 1`), under `data/numpy_data/`:

whole/phase_data/Sub001/ori1/Sub001_ori1_phase.npy       field in Hz, which the reader divides by (tesla × 42.57747892)
whole/dipole_data/Sub001/ori1/Sub001_ori1_dipole.npy     D(k) on the whole grid, k = 0 first, D(0) = 0
whole/cosmos_data/Sub001/Sub001_cosmos.npy, whole/mask_data/Sub001/Sub001_mask.npy       label in ppm, mask
partition/phase_pdata, cosmos_pdata, mask_pdata          the same names with _p0, _p1 … cut to patches
{whole,partition}/list/{train,validation,test}.txt       `Sub001 ori1`, `Sub001 p0 ori1`
{whole,partition}/list/train_gt_mean.npy, train_gt_std.npy, train_val_gt_max.npy, train_val_gt_min.npy,
                         validation_mse.npy              figures of the label

All arrays are float32 (x, y, z). Scans of a subject that share grid, mask and label are orientations of one Sub, as in
LPCNN's subject frame, with the patches of the first; scans on grids of their own are Subs of their own (scans.tsv).
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...files.errors import InputError
from ..build.statistics import MaskedMoments, masked_moments
from ..store.schema import VolumeEntry
from ..store.volume import FIELD, MASK, Float32Array, Volume
from .source import ExportSource, full_dipole_kernel

GAMMA = 42.57747892  # MHz/T, as the published code has it
_LISTS = {"train": "train", "val": "validation", "test": "test"}
_LABEL = "label"


@dataclass
class _Sub:
    name: str
    split: str
    corners: NDArray[np.int64]
    scans: list[str] = field(default_factory=list)


@dataclass
class _Figures:
    """Of the label, a line of the lists each: mean and deviation (train), extremes, mean squares (validation)."""

    moments: MaskedMoments = field(default_factory=MaskedMoments)
    largest: float = 0.0
    smallest: float = 0.0
    squares: list[float] = field(default_factory=list)

    def add(self, label: Float32Array, mask: Float32Array, entry: VolumeEntry) -> None:
        """Count one label (x, y, z), or one patch of it."""
        if entry.split == "train" and mask.any():
            volume = Volume(entry.id, entry.subject, {_LABEL: label, MASK: mask}, entry.geometry)
            self.moments.merge(masked_moments(volume))
        if entry.split in ("train", "val"):
            self.largest = max(self.largest, float(label.max()))
            self.smallest = min(self.smallest, float(label.min()))
        if entry.split == "val" and mask.any():
            self.squares.append(float(np.square(label * mask, dtype=np.float64).sum() / mask.sum()))

    def save(self, folder: Path) -> None:
        """Write them as the arrays without axes that the published code loads."""
        result = self.moments.result()
        if _LABEL in result:
            np.save(folder / "train_gt_mean.npy", np.float64(result[_LABEL].mean))
            np.save(folder / "train_gt_std.npy", np.float64(result[_LABEL].std))
        np.save(folder / "train_val_gt_max.npy", np.float64(self.largest))
        np.save(folder / "train_val_gt_min.npy", np.float64(self.smallest))
        np.save(folder / "validation_mse.npy", np.float64(np.mean(self.squares) if self.squares else np.nan))


def write_lpcnn(source: ExportSource, folder: Path) -> Sequence[str]:
    """Write the splits of a source into a folder; return what to pass to the published code."""
    root = folder / "data" / "numpy_data"
    tesla = _tesla(source)
    subs: dict[tuple[str, str], _Sub] = {}
    figures = {"whole": _Figures(), "partition": _Figures()}
    for split in source.splits:
        for entry in source.each(split):
            _write_scan(source, root, entry, tesla, subs, figures)
    _write_lists(source, root, list(subs.values()))
    for kind, found in figures.items():
        found.save(root / kind / "list")
    rows = [f"{sub.name}\tori{number}\t{scan}\t{sub.split}" for sub in subs.values()
            for number, scan in enumerate(sub.scans, start=1)]  # fmt: skip
    (folder / "scans.tsv").write_text("\n".join(["sub\tori\tvolume\tsplit", *rows]) + "\n", encoding="utf-8")
    return [
        f"The label is {source.label}; patches have {source.patch_size} voxels; scans.tsv tells which Sub is which "
        "scan.",
        f"Copy data over the repository's and run LPCNN/main.py with --number 1 --tesla {tesla}.",
    ]


def _tesla(source: ExportSource) -> int:
    """Return the field strength to write Hz for: 3 T where the scans are at 3 T, else 7 T; the reader has these two."""
    strengths = [volume.geometry.b0 for split in source.splits for volume in source.store.of_split(split)]
    known = [strength for strength in strengths if np.isfinite(strength)]
    return 3 if known and all(abs(strength - 3) < 0.2 for strength in known) else 7


def _write_scan(
    source: ExportSource,
    root: Path,
    entry: VolumeEntry,
    tesla: int,
    subs: dict[tuple[str, str], _Sub],
    figures: dict[str, _Figures],
) -> None:
    maps = source.maps(entry, [FIELD, source.label, MASK])
    label, mask = maps[source.label], maps[MASK]
    phase = maps[FIELD] * np.float32(tesla * GAMMA)
    key = (entry.subject, _digest(label, mask, entry))
    new = key not in subs
    if new:
        subs[key] = _Sub(f"Sub{len(subs) + 1:03d}", entry.split, source.corners(entry, mask))
    sub = subs[key]
    sub.scans.append(entry.id)
    orientation = f"ori{len(sub.scans)}"
    whole = root / "whole"
    _save(whole / "phase_data" / sub.name / orientation / f"{sub.name}_{orientation}_phase.npy", phase)
    kernel = full_dipole_kernel(entry.shape, entry.geometry.voxel_size, entry.geometry.b0_direction)
    _save(whole / "dipole_data" / sub.name / orientation / f"{sub.name}_{orientation}_dipole.npy", kernel)
    if new:
        _save(whole / "cosmos_data" / sub.name / f"{sub.name}_cosmos.npy", label)
        _save(whole / "mask_data" / sub.name / f"{sub.name}_mask.npy", mask)
    figures["whole"].add(label, mask, entry)
    part = root / "partition"
    for number, corner in enumerate(sub.corners):
        box = tuple(slice(int(start), int(start) + source.patch_size) for start in corner)
        name = f"p{number}"
        _save(part / "phase_pdata" / sub.name / orientation / f"{sub.name}_{orientation}_phase_{name}.npy", phase[box])
        if new:
            _save(part / "cosmos_pdata" / sub.name / f"{sub.name}_cosmos_{name}.npy", label[box])
            _save(part / "mask_pdata" / sub.name / f"{sub.name}_mask_{name}.npy", mask[box])
        figures["partition"].add(label[box], mask[box], entry)


def _digest(label: Float32Array, mask: Float32Array, entry: VolumeEntry) -> str:
    digest = hashlib.sha256(np.ascontiguousarray(label).tobytes())
    digest.update(np.ascontiguousarray(mask).tobytes())
    digest.update(entry.geometry.affine.round(4).tobytes())
    return digest.hexdigest()


def _write_lists(source: ExportSource, root: Path, subs: list[_Sub]) -> None:
    if "train" in source.splits and not any(len(sub.corners) for sub in subs if sub.split == "train"):
        raise InputError(f"{source.store.path} has no train patches: draw some with --patch-rule.")
    for kind in ("whole", "partition"):
        folder = root / kind / "list"
        folder.mkdir(parents=True, exist_ok=True)
        for split in source.splits:
            lines = [line for sub in subs if sub.split == split for line in _lines(sub, kind)]
            (folder / f"{_LISTS[split]}.txt").write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")


def _lines(sub: _Sub, kind: str) -> list[str]:
    orientations = [f"ori{number}" for number in range(1, len(sub.scans) + 1)]
    if kind == "whole":
        return [f"{sub.name} {orientation}" for orientation in orientations]
    return [f"{sub.name} p{number} {orientation}" for orientation in orientations for number in range(len(sub.corners))]


def _save(path: Path, values: NDArray[Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    np.save(path, np.ascontiguousarray(values, np.float32))
