"""Batches of patches in an order that a resumed training continues exactly."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch
from torch.utils.data import DataLoader, Sampler

from ..datasets.patch_dataset import EpochSampler, PatchDataset, check_disjoint
from ..datasets.store import Store
from .config import TrainConfig


class StepSampler(Sampler[list[int]]):
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

    def __iter__(self) -> Iterator[list[int]]:
        indices: list[int] = []
        drawn = -1
        for step in range(self.position(), self.total_steps):
            epoch, batch = divmod(step, self.steps_per_epoch)
            if epoch != drawn:
                self.epochs.set_epoch(epoch)
                indices, drawn = list(self.epochs), epoch
            yield indices[batch * self.batch_size : (batch + 1) * self.batch_size]


def samples_per_epoch(config: TrainConfig, available: int) -> int:
    """Return the patches of an epoch: as configured, at most those there are."""
    return available if config.samples_per_epoch is None else min(config.samples_per_epoch, available)


def train_loader(store: Store, config: TrainConfig, position: Callable[[], int]) -> DataLoader[dict[str, Any]]:
    """Return the loader of all the steps of a training on the store's train split."""
    dataset = PatchDataset(store, "train")
    epochs = EpochSampler(len(dataset), samples_per_epoch(config, len(dataset)), seed=config.seed)
    steps_per_epoch = math.ceil(len(epochs) / config.batch_size)
    sampler = StepSampler(epochs, config.batch_size, config.epochs * steps_per_epoch, position)
    return _loader(dataset, config, sampler)


def validation_loader(store: Store, config: TrainConfig) -> DataLoader[dict[str, Any]] | None:
    """Return the loader of the validation patches, spread evenly over the split, or None where the store has none.

    They are as many as config.val_samples says; otherwise a quarter of the training samples of an epoch (the paper's
    80 to 20). Raises InputError where a subject both trains and validates.
    """
    if len(store.patches.get("val", ())) == 0:
        return None
    check_disjoint(store, "train", store, "val")
    dataset = PatchDataset(store, "val")
    wanted = config.val_samples
    if wanted is None:
        wanted = math.ceil(samples_per_epoch(config, len(store.patches["train"])) / 4)
    count = min(max(wanted, 1), len(dataset))
    chosen = np.linspace(0, len(dataset) - 1, count).round().astype(int).tolist()
    batches = [chosen[i : i + config.batch_size] for i in range(0, count, config.batch_size)]
    return _loader(dataset, config, batches)


def _loader(dataset: Any, config: TrainConfig, batches: Any) -> DataLoader[dict[str, Any]]:
    return DataLoader(
        dataset,
        batch_sampler=batches,
        num_workers=config.num_workers,
        pin_memory=torch.cuda.is_available(),
        generator=torch.Generator().manual_seed(config.seed),  # so that the global one is left to the dropout
    )
