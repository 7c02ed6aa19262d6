"""Builds a store from a derivatives folder: volumes, tensors, augmented copies, patch tables, statistics."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..pipeline.errors import Chi33Warning, InputError
from .augmentation import random_rotation, turn_scalar, turn_tensor
from .derivatives_reader import (
    ScanFiles,
    SubjectFiles,
    find_derivatives,
    map_shape,
    read_cosmos,
    read_scan,
    read_tensor,
)
from .patches import draw_patches, join_tables, no_patch_message
from .splits import split_subjects
from .statistics import MaskedMoments
from .store_writer import StoreWriter, check_finite, check_free_space, check_target
from .volume import FIELD, SPLITS, ScalarVolume, TensorVolume, Volume

Progress = Callable[[int, int, str], None]
_COMPRESSED = 0.5  # of float32 volumes whose surroundings are zero: a floor, not a promise


@dataclass(frozen=True)
class BuildConfig:
    """How a store is built.

    patch_size in voxels; min_brain: fraction 0 to 1 of a patch inside the mask; patches_per_scan: 300 gives the 27,000
    of 90 scans (MoDL-QSM); augment: turned copies per training subject; max_angle in degrees; val_subjects and
    test_subjects: labels, None for the rule of split_subjects; materialise: also store the cropped patches.
    """

    patch_size: int = 48
    min_brain: float = 0.8
    patches_per_scan: int = 300
    augment: int = 0
    max_angle: float = 30.0
    val_subjects: tuple[str, ...] | None = None
    test_subjects: tuple[str, ...] | None = None
    materialise: bool = False
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("patch_size", "patches_per_scan"):
            if getattr(self, name) < 1:
                raise InputError(f"--{name.replace('_', '-')} must be at least 1, got {getattr(self, name)}.")
        for name in ("augment", "seed"):
            if getattr(self, name) < 0:
                raise InputError(f"--{name} must be at least 0, got {getattr(self, name)}.")
        if not 0 < self.min_brain <= 1:
            raise InputError(f"--min-brain must be above 0 and at most 1, got {self.min_brain:g}.")
        if not 0 < self.max_angle <= 90:
            raise InputError(f"--max-angle must be above 0 and at most 90 degrees, got {self.max_angle:g}.")


@dataclass(frozen=True)
class BuildSummary:
    """What a store came to hold: subjects, volumes (of them augmented) and patches per split, and its bytes."""

    subjects: dict[str, tuple[str, ...]]
    volumes: dict[str, int]
    augmented: int
    patches: dict[str, int]
    size: int


@dataclass
class _Tables:
    """The patch tables and moments gathered while volumes go by."""

    config: BuildConfig
    by_split: dict[str, list[NDArray[Any]]] = field(default_factory=lambda: {split: [] for split in SPLITS})
    refused: list[str] = field(default_factory=list)
    moments: MaskedMoments = field(default_factory=MaskedMoments)

    def add(self, volume: Volume, split: str) -> None:
        config = self.config
        rows, best = draw_patches(
            volume.mask,
            volume.id,
            patch_size=config.patch_size,
            min_brain=config.min_brain,
            number=config.patches_per_scan,
            seed=config.seed,
        )
        if len(rows) == 0:
            self.refused.append(no_patch_message(volume.id, config.patch_size, config.min_brain, best))
        self.by_split[split].append(rows)
        if split == "train":
            self.moments.add(volume)

    def check(self) -> None:
        if sum(len(rows) for rows in self.by_split["train"]) == 0:
            raise InputError(self.refused[0])
        for message in self.refused:
            warnings.warn(f"Left out, {message}", Chi33Warning, stacklevel=3)


def build_store(
    derivatives: Path,
    path: Path,
    config: BuildConfig | None = None,
    *,
    overwrite: bool = False,
    progress: Progress | None = None,
) -> BuildSummary:
    """Write the store `path` from the label maps under `derivatives`, holding one volume in memory at a time.

    progress(done, total, what) is called before every volume. Raises InputError for unusable input (missing or
    damaged maps, splits, patch size, an existing store, too little disk) and StepError where the disk runs full; then
    nothing is left behind. Warns of volumes without an admissible patch.
    """
    config = config or BuildConfig()
    check_target(path, overwrite=overwrite)
    subjects = find_derivatives(derivatives)
    splits = split_subjects([s.subject for s in subjects], config.val_subjects, config.test_subjects)
    check_free_space(path, _estimated_bytes(subjects, splits, config))
    with StoreWriter(path, asdict(config), overwrite=overwrite) as writer:
        tables = _Tables(config)
        augmented = _write_volumes(writer, tables, subjects, splits, config, progress or (lambda *_: None))
        tables.check()
        patches = {}
        for split in sorted(set(splits.values()), key=SPLITS.index):
            rows = join_tables(tables.by_split[split])
            patches[split] = len(rows)
            writer.add_patches(split, rows, patch_size=config.patch_size, min_brain=config.min_brain, seed=config.seed)
            if config.materialise:
                writer.materialise(split)
        writer.add_statistics(tables.moments.result())
    named = {split: tuple(s for s, of in splits.items() if of == split) for split in patches}
    volumes = {split: len(tables.by_split[split]) for split in patches}
    return BuildSummary(named, volumes, augmented, patches, path.stat().st_size)


def _write_volumes(
    writer: StoreWriter,
    tables: _Tables,
    subjects: tuple[SubjectFiles, ...],
    splits: dict[str, str],
    config: BuildConfig,
    progress: Progress,
) -> int:
    copies = {s.subject: config.augment if splits[s.subject] == "train" else 0 for s in subjects}
    total = sum(len(s.scans) + copies[s.subject] for s in subjects)
    done = 0
    for subject in subjects:
        split = splits[subject.subject]
        for scan in subject.scans:
            progress(done, total, scan.id)
            _write(writer, tables, read_scan(scan), split)
            done += 1
        tensor = read_tensor(subject) if "tensor" in subject.space else None
        if tensor is not None:
            writer.add_tensor(tensor, split)
        if copies[subject.subject]:
            head = _Head.of(subject, tensor)
            for number in range(1, copies[subject.subject] + 1):
                progress(done, total, f"sub-{subject.subject}/aug-{number:03d}")
                _write(writer, tables, head.turned(number, config), split)
                done += 1
    progress(total, total, "checking")
    return sum(copies.values())


def _write(writer: StoreWriter, tables: _Tables, volume: Volume, split: str) -> None:
    check_finite(volume.id, volume.channels.items())
    writer.add_volume(volume, split)
    tables.add(volume, split)


@dataclass(frozen=True)
class _Head:
    """What of a subject is turned: its tensor, or the COSMOS map as a scalar where there is no tensor."""

    subject: str
    labels: tuple[str, ...]
    tensor: TensorVolume | None
    cosmos: ScalarVolume | None

    @classmethod
    def of(cls, files: SubjectFiles, tensor: TensorVolume | None) -> _Head:
        labels = files.scans[0].labels
        cosmos = read_cosmos(files) if "cosmos" in labels else None
        if cosmos is None and (tensor is None or "chi33" not in labels):
            raise InputError(
                f"sub-{files.subject} has neither a tensor nor a COSMOS map to turn: repeat `chi33 run`, or leave out "
                "--augment."
            )
        return cls(files.subject, labels, tensor if "chi33" in labels else None, cosmos)

    def turned(self, number: int, config: BuildConfig) -> Volume:
        rotation = random_rotation(self.subject, number, max_angle=config.max_angle, seed=config.seed)
        name = f"aug-{number:03d}"
        if self.tensor is not None:
            return turn_tensor(self.tensor, rotation, name, cosmos=self.cosmos)
        assert self.cosmos is not None  # of() made sure
        return turn_scalar(self.cosmos, rotation, name, labels=self.labels)


def _estimated_bytes(subjects: tuple[SubjectFiles, ...], splits: dict[str, str], config: BuildConfig) -> int:
    """About the bytes of the store: float32 channels, half of which compression saves."""
    total = 0
    for subject in subjects:
        sizes = [_voxels(scan) for scan in subject.scans]
        channels = 2 + len(subject.scans[0].labels)
        copies = config.augment if splits[subject.subject] == "train" else 0
        scans = len(sizes) + copies
        total += 4 * channels * (sum(sizes) + copies * max(sizes))
        if "tensor" in subject.space:
            total += 4 * int(np.prod(map_shape(subject.space["tensor"])))
        if config.materialise:
            total += 4 * channels * scans * config.patches_per_scan * config.patch_size**3
    return int(_COMPRESSED * total)


def _voxels(scan: ScanFiles) -> int:
    return int(np.prod(map_shape(scan.paths[FIELD])))
