"""The order of an epoch's samples: by seed and epoch alone, and shared out among the processes of a training."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Literal

import numpy as np
from torch.utils.data import DistributedSampler

from ...files.errors import InputError

Uneven = Literal["drop", "repeat"]


class EpochSampler(DistributedSampler[Any]):
    """Indices of an epoch, the same for a seed and an epoch, so that a resumed training repeats none.

    length: of the dataset; number: indices per epoch, drawn without repetition (all when not given; ISDU-QSMNet's
    random samples); shuffle: off for the same evenly spread indices in order, every epoch. with_epoch: give keys
    (epoch, index), as RandomPatchDataset takes them.

    rank of num_replicas processes takes every num_replicas-th index of the common draw, so no two have one in common,
    and all have equally many, as gradients are exchanged at every step. What does not share out evenly is left out
    (uneven "drop": other indices in every epoch), or filled up with the first ones again ("repeat"). contiguous: a
    process takes successive indices of the draw instead, as those of a rotated head share it.

    It is a DistributedSampler by type, so Lightning takes it as it is and tells it the epoch.
    Raises InputError for a number or rank out of range.
    """

    def __init__(
        self,
        length: int,
        number: int | None = None,
        *,
        seed: int = 0,
        shuffle: bool = True,
        with_epoch: bool = False,
        num_replicas: int = 1,
        rank: int = 0,
        uneven: Uneven = "drop",
        contiguous: bool = False,
    ) -> None:
        if number is not None and not 1 <= number <= length:
            raise InputError(f"the samples per epoch must be between 1 and {length}, got {number}.")
        if not 0 <= rank < num_replicas:
            raise InputError(f"rank must be from 0 to {num_replicas - 1} of {num_replicas} processes, got {rank}.")
        self.length = length
        self.number = length if number is None else number
        if uneven == "drop" and self.number < num_replicas:
            raise InputError(
                f"{self.number} samples cannot be shared out among {num_replicas} processes: use fewer processes, or "
                "more samples."
            )
        self.seed = seed
        self.shuffle = shuffle
        self.with_epoch = with_epoch
        self.num_replicas = num_replicas
        self.rank = rank
        self.drop_last = uneven == "drop"
        self.contiguous = contiguous
        self.epoch = 0

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch whose draw comes next."""
        self.epoch = epoch

    def __len__(self) -> int:
        return self.number // self.num_replicas if self.drop_last else -(-self.number // self.num_replicas)

    def __iter__(self) -> Iterator[Any]:
        drawn = self._drawn()
        shares = np.resize(drawn, len(self) * self.num_replicas)
        own = (
            shares.reshape(self.num_replicas, -1)[self.rank]
            if self.contiguous
            else shares[self.rank :: self.num_replicas]
        )
        shared = own.tolist()
        return iter([(self.epoch, index) for index in shared] if self.with_epoch else shared)

    def _drawn(self) -> np.ndarray[Any, np.dtype[np.int64]]:
        if self.shuffle:
            return np.random.default_rng([self.seed, self.epoch]).permutation(self.length)[: self.number]
        return np.linspace(0, self.length - 1, self.number).round().astype(np.int64)
