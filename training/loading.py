"""Batches of patches in an order that a resumed training continues exactly."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence

import torch
from torch.utils.data import Sampler

from ..datasets.loading.epoch_sampler import EpochSampler
from ..datasets.loading.leakage import check_disjoint
from ..datasets.loading.loaders import Loader, LoaderConfig, loader_of, patches_of, sampler_of
from ..datasets.loading.patch_dataset import PatchKey
from ..datasets.store.schema import Store
from ..datasets.store.volume import FIELD, MASK
from ..files.errors import InputError
from .config import TrainConfig
from .inference.weights import CHI33_AND_DELTAB


class StepSampler(Sampler[list[PatchKey]]):
    """The batches of a whole training, epoch after epoch, from the step that `position` tells when iteration starts.

    epochs: an EpochSampler (its draw depends on seed and epoch alone); batch_size: patches; total_steps: of the
    training; position: the steps already taken. The last batch of an epoch may be smaller.
    """

    def __init__(
        self, epochs: EpochSampler, batch_size: int, total_steps: int, position: Callable[[], int] = lambda: 0
    ) -> None:
        self.epochs = epochs
        self.batch_size = batch_size
        self.total_steps = total_steps
        self.position = position
        self.steps_per_epoch = math.ceil(len(epochs) / batch_size)

    def __len__(self) -> int:
        return self.total_steps

    def __iter__(self) -> Iterator[list[PatchKey]]:
        indices: list[PatchKey] = []
        drawn = -1
        for step in range(self.position(), self.total_steps):
            epoch, batch = divmod(step, self.steps_per_epoch)
            if epoch != drawn:
                self.epochs.set_epoch(epoch)
                indices, drawn = list(self.epochs), epoch
            yield indices[batch * self.batch_size : (batch + 1) * self.batch_size]


def loader_config(config: TrainConfig) -> LoaderConfig:
    """Return how a training reads its stores."""
    return LoaderConfig(
        batch_size=config.batch_size,
        draw=config.draw,
        patch_size=config.patch_size,
        samples_per_epoch=config.samples_per_epoch,
        val_samples=config.val_samples,
        keep=config.keep,
        cache_mb=config.cache_mb,
        num_workers=config.num_workers,
        seed=config.seed,
        turn=config.turn,
        max_angle=config.max_angle,
        patches_per_turn=config.patches_per_turn,
        snr=config.snr,
        scale=config.scale,
    )


def samples_per_epoch(config: TrainConfig, store: Store) -> int:
    """Return the patches of an epoch: as configured, and of the index at most those there are.

    Raises InputError where the store has no training patches.
    """
    available = len(store.patches.get("train", ()))
    if available == 0:
        raise InputError(f"{store.path} has no train patches: build it with subjects to train on.")
    if config.samples_per_epoch is None:
        return available
    return min(config.samples_per_epoch, available) if config.draw == "index" else config.samples_per_epoch


def train_loader(
    store: Store,
    config: TrainConfig,
    position: Callable[[], int],
    device: torch.device | str = "cpu",
    targets: Sequence[str] = CHI33_AND_DELTAB,
) -> Loader:
    """Return the loader of all the steps of a training on the store's train split.

    position: tells the steps already taken; device: that trains, which rotates heads and keeps them with keep =
    "device"; targets: the channels that are learnt.
    """
    reading = loader_config(config)
    patches = patches_of(store, "train", reading, (FIELD, *targets, MASK), device)
    epochs = sampler_of(patches, config.samples_per_epoch, reading)
    steps_per_epoch = math.ceil(len(epochs) / config.batch_size)
    sampler = StepSampler(epochs, config.batch_size, config.epochs * steps_per_epoch, position)
    return loader_of(patches, sampler, reading, device)


def validation_loader(
    store: Store,
    config: TrainConfig,
    val_store: Store | None = None,
    device: torch.device | str = "cpu",
    targets: Sequence[str] = CHI33_AND_DELTAB,
) -> Loader | None:
    """Return the loader of the validation patches, spread evenly over the split, or None where the store has none.

    They are as many as config.val_samples says; otherwise a quarter of the training samples of an epoch (the paper's
    80 to 20). val_store: the store whose val split validates, when not `store`. Raises InputError where a subject both
    trains and validates, or a val_store has no patches to validate on.
    """
    reading = loader_config(config).for_validation()
    source = store if val_store is None else val_store
    available = len(source.patches.get("val", ()))
    if available == 0:
        if val_store is not None:
            raise InputError(f"{source.path} has no val patches: build it with subjects to validate on.")
        return None
    check_disjoint(store, "train", source, "val")
    wanted = config.val_samples
    if wanted is None:
        wanted = math.ceil(samples_per_epoch(config, store) / 4)
    patches = patches_of(source, "val", reading, (FIELD, *targets, MASK))
    epochs = sampler_of(patches, min(wanted, available), reading, shuffle=False)
    return loader_of(patches, epochs, reading, device)
