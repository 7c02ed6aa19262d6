"""Batches of rotated heads made by loader processes, each head rotated once and by one of them.

A DataLoader gives batch n to process n modulo their number. Where the patches of a head fill several batches, every
process would rotate it. Here what goes to a process is a head with all its successive patches, and the batches are put
together from these afterwards; their content and order are those of any other number of processes.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator, Sequence, Sized
from typing import Any

import torch
from torch.utils.data import DataLoader, Sampler

from ..augmentation.torch_rotation import RotatedPatchDataset
from .patch_dataset import PatchKey

Batch = dict[str, Any]


class HeadLoader:
    """Takes the place of a DataLoader: yields a batch for every list of keys that `batches` gives.

    dataset: the patches, whose heads are rotated on the CPU; sampler: told the epoch by whoever trains, where it has
    set_epoch; options: of the DataLoader, num_workers among them. One iteration at a time.
    """

    def __init__(
        self, dataset: RotatedPatchDataset, batches: Iterable[Sequence[PatchKey]], sampler: Any, options: dict[str, Any]
    ) -> None:
        self.dataset = dataset
        self.batch_sampler = batches
        self.sampler = sampler
        self._heads = _HeadSampler(batches, dataset.patches_per_turn)
        self._loader: DataLoader[Batch] = DataLoader(dataset, batch_sampler=self._heads, **options)

    def __len__(self) -> int:
        assert isinstance(self.batch_sampler, Sized)
        return len(self.batch_sampler)

    def __iter__(self) -> Iterator[Batch]:
        heads = iter(self._loader)
        sizes = self._heads.sizes
        held: list[Batch] = []
        for head in heads:
            held.append(head)
            while sizes and sum(_length(one) for one in held) >= sizes[0]:
                whole, size = _joined(held), sizes.popleft()
                rest = _part(whole, size, None)
                held = [rest] if _length(rest) else []
                yield _part(whole, 0, size)


class _HeadSampler(Sampler[list[PatchKey]]):
    """The keys of all batches, cut where another head begins; sizes: of the batches read so far and not yet made."""

    def __init__(self, batches: Iterable[Sequence[PatchKey]], patches_per_turn: int) -> None:
        self.batches = batches
        self.patches_per_turn = patches_per_turn
        self.sizes: deque[int] = deque()

    def __iter__(self) -> Iterator[list[PatchKey]]:
        self.sizes = deque()
        return self._cut(self.sizes)

    def _cut(self, sizes: deque[int]) -> Iterator[list[PatchKey]]:
        head: list[PatchKey] = []
        for batch in self.batches:
            sizes.append(len(batch))
            for key in batch:
                if head and self._turn(key) != self._turn(head[-1]):
                    yield head
                    head = []
                head.append(key)
        if head:
            yield head

    def _turn(self, key: PatchKey) -> tuple[int | None, int]:
        epoch, index = key if isinstance(key, tuple) else (None, key)
        return epoch, index // self.patches_per_turn


def _length(batch: Batch) -> int:
    return len(batch["volume"])


def _part(batch: Batch, start: int, stop: int | None) -> Batch:
    return {name: value[start:stop] for name, value in batch.items()}


def _joined(batches: list[Batch]) -> Batch:
    if len(batches) == 1:
        return batches[0]
    joined: Batch = {}
    for name, value in batches[0].items():
        values = [batch[name] for batch in batches]
        joined[name] = (
            torch.cat(values) if isinstance(value, torch.Tensor) else [one for many in values for one in many]
        )
    return joined
