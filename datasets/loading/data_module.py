"""The store as a Lightning DataModule."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import torch
from lightning.pytorch import LightningDataModule
from torch.utils.data import DataLoader

from ..store.schema import Store, open_store
from .epoch_sampler import EpochSampler
from .leakage import check_disjoint
from .loaders import Loader, LoaderConfig, loader_of, patches_of, process_options, sampler_of
from .patch_dataset import TRAINING_CHANNELS, VolumeDataset


class StoreDataModule(LightningDataModule):
    """Training, validation and test batches of a store.

    config: how it is read; val_store: another store whose val split validates; validate_on: "patches" of the index
    spread evenly (random ones of epoch 0 with draw = "random", the same at every validation), or whole "volumes".
    Tests are on whole volumes, one a batch. The items are those of PatchDataset and VolumeDataset, collated.

    On several processes (any strategy, use_distributed_sampler on or off) each takes its share of the epoch's common
    draw: the samplers are DistributedSamplers by type, so Lightning does not put its own in their place, and it tells
    them the epoch. samples_per_epoch is of all processes together. Patches that do not share out evenly are left out
    (fewer than there are processes; others in every epoch); whole volumes are filled up with the first ones again.

    Raises InputError where the stores share a subject between training and validation, or lack a split or channel.
    """

    def __init__(
        self,
        store: Store | str | Path,
        config: LoaderConfig | None = None,
        *,
        val_store: Store | str | Path | None = None,
        channels: Sequence[str] = TRAINING_CHANNELS,
        validate_on: Literal["patches", "volumes"] = "patches",
    ) -> None:
        super().__init__()
        self.store = store if isinstance(store, Store) else open_store(store)
        other = self.store if val_store is None else val_store
        self.val_store = other if isinstance(other, Store) else open_store(other)
        self.config = config or LoaderConfig()
        self.channels = tuple(channels)
        self.validate_on = validate_on
        check_disjoint(self.store, "train", self.val_store, "val")

    def train_dataloader(self) -> Loader:
        """Return the loader of the training patches; every epoch another draw."""
        patches = patches_of(self.store, "train", self.config, self.channels, self._device())
        sampler = sampler_of(patches, self.config.samples_per_epoch, self.config, share=self._share)
        return loader_of(patches, sampler, self.config, self._device())

    def val_dataloader(self) -> Loader | list[Any]:
        """Return the loader of the validation patches or volumes; an empty list where the store has none."""
        if not self.val_store.of_split("val"):
            return []
        if self.validate_on == "volumes":
            return self._whole_volumes(self.val_store, "val")
        config = self.config.for_validation()
        patches = patches_of(self.val_store, "val", config, self.channels)
        sampler = sampler_of(patches, config.val_samples, config, shuffle=False, share=self._share)
        return loader_of(patches, sampler, config, self._device())

    def test_dataloader(self) -> DataLoader[dict[str, Any]]:
        """Return the loader of the test volumes, one a batch."""
        return self._whole_volumes(self.store, "test")

    def _whole_volumes(self, store: Store, split: str) -> DataLoader[dict[str, Any]]:
        dataset = VolumeDataset(store, split, self.channels)
        processes, rank = self._share
        sampler = EpochSampler(len(dataset), shuffle=False, num_replicas=processes, rank=rank, uneven="repeat")
        return DataLoader(dataset, batch_size=1, sampler=sampler, **process_options(self.config))

    @property
    def _share(self) -> tuple[int, int]:
        """How many processes there are, and which one this is."""
        return (1, 0) if self.trainer is None else (self.trainer.world_size, self.trainer.global_rank)

    def _device(self) -> torch.device:
        return torch.device("cpu") if self.trainer is None else self.trainer.strategy.root_device
