"""Which patches are read, from where and by how many processes: one description for every training."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import torch
from torch.utils.data import BatchSampler, DataLoader

from ...files.errors import InputError
from ..augmentation.rotation import Bounds
from ..augmentation.torch_rotation import RotatedPatchDataset
from ..store.schema import Store
from .device_patches import DeviceLoader, DevicePatches
from .epoch_sampler import EpochSampler
from .head_loader import HeadLoader
from .patch_dataset import TRAINING_CHANNELS, PatchDataset, Patches, PatchKey, RandomPatchDataset

Draw = Literal["index", "random", "turned"]
Turn = Literal["auto", "tensor", "cosmos"]
Keep = Literal["chunks", "memory", "device"]
StartMethod = Literal["auto", "fork", "spawn", "forkserver"]
Loader = DataLoader[dict[str, Any]] | DeviceLoader | HeadLoader
PatchSource = PatchDataset | RandomPatchDataset | RotatedPatchDataset


@dataclass(frozen=True)
class LoaderConfig:
    """How a store is read.

    batch_size: patches of a batch, of each process; draw: "index" for the store's patches, "random" for new ones every
    epoch, "turned" for those of heads that are turned while training (validation stays with the index), of patch_size
    voxels and min_brain (0 to 1), by default those of the index; samples_per_epoch: all of the
    index when not given; val_samples: all of the validation index when not given; keep: what stays in memory, decoded
    "chunks" (at most cache_mb megabytes), the whole split in host "memory", or on the "device"; num_workers: loader
    processes; start_method: how they start ("auto" is Python's choice); seed: of the order and of random patches.

    Of turned heads: turn, "tensor" or "cosmos", "auto" for tensors where the store has them; max_angle in degrees;
    patches_per_turn; snr and scale, bounds of noise and susceptibility (RotatedPatchDataset). They are rotated
    on the device that trains, on the CPU by loader processes where there are such, each head by one of them.
    """

    batch_size: int = 2
    draw: Draw = "index"
    patch_size: int | None = None
    min_brain: float | None = None
    samples_per_epoch: int | None = None
    val_samples: int | None = None
    keep: Keep = "chunks"
    cache_mb: int = 1024
    num_workers: int = 0
    start_method: StartMethod = "auto"
    seed: int = 0
    turn: Turn = "auto"
    max_angle: float = 30.0
    patches_per_turn: int = 4
    snr: Bounds | None = None
    scale: Bounds | None = None

    def __post_init__(self) -> None:
        """Check the ranges; raises InputError naming the setting."""
        for key in ("batch_size", "patch_size", "samples_per_epoch", "val_samples"):
            value = getattr(self, key)
            if value is not None and value < 1:
                raise InputError(f"{key} must be at least 1, got {value}.")
        for key in ("cache_mb", "num_workers", "seed"):
            if getattr(self, key) < 0:
                raise InputError(f"{key} must be at least 0, got {getattr(self, key)}.")
        if self.draw == "index" and (self.patch_size is not None or self.min_brain is not None):
            raise InputError(
                'patch_size and min_brain are those of the store\'s index: choose draw = "random" or "turned" too.'
            )
        if self.keep == "device" and self.num_workers:
            raise InputError(
                f'keep = "device" needs no loader processes, got num_workers = {self.num_workers}: set it to 0.'
            )

    def for_validation(self) -> LoaderConfig:
        """Return the same for patches to validate on: of heads as they were scanned."""
        if self.draw != "turned":
            return self
        return replace(self, draw="index", patch_size=None, min_brain=None)


def patches_of(
    store: Store,
    split: str,
    config: LoaderConfig,
    channels: Sequence[str] = TRAINING_CHANNELS,
    device: torch.device | str = "cpu",
) -> PatchSource:
    """Return the patches of a split as a config describes them; device: that trains, on which heads are turned."""
    if config.draw == "turned":
        return _turned(store, split, config, channels, device)
    memory, cache = config.keep == "memory", config.cache_mb * 10**6
    if config.draw == "index":
        return PatchDataset(store, split, channels, in_memory=memory, cache_bytes=cache)
    number = config.samples_per_epoch if split == "train" else config.val_samples
    return RandomPatchDataset(
        store, split, config.patch_size, config.min_brain, number, seed=config.seed, channels=channels,
        in_memory=memory, cache_bytes=cache,
    )  # fmt: skip


def _turned(
    store: Store, split: str, config: LoaderConfig, channels: Sequence[str], device: torch.device | str
) -> RotatedPatchDataset:
    subjects = {f"sub-{subject}" for subject in store.subjects(split)}
    kind = config.turn
    if kind == "auto":
        kind = "tensor" if subjects & set(store.tensors) and "cosmos" not in channels else "cosmos"
    elif kind == "tensor" and "cosmos" in channels:
        raise InputError('turn = "tensor" makes no COSMOS to learn: choose turn = "cosmos", or the label chi33.')
    return RotatedPatchDataset(
        store, split, kind=kind, channels=channels, patch_size=config.patch_size, min_brain=config.min_brain,
        length=config.samples_per_epoch, max_angle=config.max_angle, patches_per_turn=config.patches_per_turn,
        snr=config.snr, scale=config.scale, seed=config.seed, device="cpu" if config.num_workers else str(device),
    )  # fmt: skip


def sampler_of(
    patches: PatchSource,
    number: int | None,
    config: LoaderConfig,
    *,
    shuffle: bool = True,
    share: tuple[int, int] = (1, 0),
) -> EpochSampler:
    """Return the order of an epoch's patches: `number` of them, at most those there are.

    share: how many processes train together, and the rank of this one.
    """
    count = len(patches) if number is None else min(number, len(patches))
    anew = shuffle and not isinstance(patches, PatchDataset)
    turned = isinstance(patches, RotatedPatchDataset)  # in order: successive patches share a turned head
    return EpochSampler(
        len(patches), count, seed=config.seed, shuffle=shuffle and not turned, with_epoch=anew, num_replicas=share[0],
        rank=share[1], contiguous=turned,
    )  # fmt: skip


def loader_of(
    patches: Patches | RotatedPatchDataset,
    batches: Iterable[list[PatchKey]] | EpochSampler,
    config: LoaderConfig,
    device: torch.device | str = "cpu",
) -> Loader:
    """Return the loader of given batches, or of a sampler's indices in batches of config.batch_size.

    device: where the split is kept with keep = "device".
    """
    sampler = batches if isinstance(batches, EpochSampler) else None
    keys: Any = batches if sampler is None else BatchSampler(sampler, config.batch_size, drop_last=False)
    if isinstance(patches, RotatedPatchDataset):
        if config.num_workers:
            return HeadLoader(patches, keys, sampler, process_options(config))
        return DeviceLoader(patches, keys, sampler)
    if config.keep == "device":
        return DeviceLoader(DevicePatches(patches, device), keys, sampler)
    if sampler is not None:
        return DataLoader(patches, config.batch_size, sampler=sampler, **process_options(config))
    return DataLoader(patches, batch_sampler=keys, **process_options(config))


def process_options(config: LoaderConfig) -> dict[str, Any]:
    """Return the options of a DataLoader that say which processes read; they live on from epoch to epoch."""
    context = None if config.start_method == "auto" or config.num_workers == 0 else config.start_method
    return {
        "num_workers": config.num_workers,
        "multiprocessing_context": context,
        "persistent_workers": config.num_workers > 0,
        "pin_memory": torch.cuda.is_available(),
        "generator": torch.Generator().manual_seed(config.seed),  # so that the global one is left to the dropout
    }
