"""Map-style torch datasets over a store: patches to train on, whole volumes to validate on.

No file handle is ever pickled or carried across a fork: it is opened on first use in each process, and closed
before a fork in the process that forks.
"""

from __future__ import annotations

import os
import threading
import weakref
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import torch
from torch.utils.data import Dataset, Sampler

from ..pipeline.errors import InputError
from .store import PatchTable, Store, VolumeEntry, open_store
from .volume import FIELD, MASK, Float32Array

TRAINING_CHANNELS = (FIELD, "chi33", "deltab", MASK)

_lock = threading.RLock()
_readers: weakref.WeakSet[StoreReader] = weakref.WeakSet()


class StoreReader:
    """Reads the maps of volumes from a store, through a handle of its own in every process.

    in_memory: keep every volume that was read, uncompressed; processes forked later share what is there by then.
    """

    def __init__(self, store: Store, *, in_memory: bool = False) -> None:
        self.store = store
        self.in_memory = in_memory
        self._kept: dict[tuple[str, str], Float32Array] = {}
        self._handle: h5py.File | None = None
        self._pid = -1
        _readers.add(self)

    def maps(self, volume: str, channels: Sequence[str], box: Any = ()) -> dict[str, Float32Array]:
        """Return a box of the named channels of a volume as float32; the field is 0 outside the mask."""
        if self.in_memory:
            return {name: self._whole(volume, name)[box].copy() for name in channels}
        maps = {name: self.read(f"volumes/{volume}/{name}", box) for name in channels}
        if FIELD in maps:
            maps[FIELD] *= self.read(f"volumes/{volume}/{MASK}", box) if MASK not in maps else maps[MASK]
        return maps

    def read(self, name: str, box: Any = ()) -> Float32Array:
        """Return a part of a dataset of the file as float32."""
        with _lock:
            return np.asarray(self._open()[name][box], np.float32)

    def close(self) -> None:
        """Close the handle of this process; the next read opens it again."""
        with _lock:
            if self._handle is not None and self._pid == os.getpid():
                self._handle.close()
                self._handle = None

    def _whole(self, volume: str, name: str) -> Float32Array:
        if (volume, name) not in self._kept:
            array = self.read(f"volumes/{volume}/{name}")
            self._kept[volume, name] = array * self._whole(volume, MASK) if name == FIELD else array
        return self._kept[volume, name]

    def _open(self) -> h5py.File:
        if self._handle is None or self._pid != os.getpid():
            try:
                self._handle = self.store.open()
            except OSError as error:
                raise InputError(f"{self.store.path} cannot be opened again ({error}): was it moved?") from error
            self._pid = os.getpid()
            if self._handle.attrs["content_hash"] != self.store.content_hash:
                raise InputError(f"{self.store.path} was replaced by another store while it was in use: start again.")
        return self._handle

    def __getstate__(self) -> dict[str, Any]:
        return {"store": self.store, "in_memory": self.in_memory}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__init__(**state)  # type: ignore[misc]


def _before_fork() -> None:
    _lock.acquire()
    for reader in list(_readers):
        reader.close()


def _after_fork_in_child() -> None:
    global _lock
    _lock = threading.RLock()


os.register_at_fork(before=_before_fork, after_in_parent=lambda: _lock.release(), after_in_child=_after_fork_in_child)


class PatchDataset(Dataset[dict[str, Any]]):
    """The patches of one split of a store.

    An item holds, per channel, a float32 tensor (1, p, p, p) in ppm (mask 0 or 1; the field is 0 outside the mask,
    as it is only known inside), and `volume` (id), `corner` (3,) int64 voxels, `volume_shape` (3,) int64,
    `voxel_size` (3,) float32 mm, `b0_direction` (3,) float32 in the voxel frame.
    table: other patches than the store's index (any size, see draw_patches); in_memory: hold the split's volumes
    uncompressed. Raises InputError where the split has no patches or a volume lacks a channel.
    """

    def __init__(
        self,
        store: Store | str | Path,
        split: str = "train",
        channels: Sequence[str] = TRAINING_CHANNELS,
        *,
        table: PatchTable | None = None,
        in_memory: bool = False,
    ) -> None:
        self.store = _opened(store)
        self.split = split
        self.channels = tuple(channels)
        volumes = self.store.of_split(split)
        own = table is None
        found = self.store.patches.get(split) if table is None else table
        if found is None or len(found) == 0:
            raise InputError(f"{self.store.path} has no {split} patches: build it with subjects for this split.")
        self.table = found
        _check_channels(self.store, volumes, self.channels)
        self._volumes = {volume.id: volume for volume in volumes}
        self._materialised = own and not in_memory and {*self.channels, MASK} <= set(found.data_channels)
        self._reader = StoreReader(self.store, in_memory=in_memory)
        if in_memory:
            for volume in volumes:
                self._reader.maps(volume.id, self.channels, np.s_[:0])

    def __len__(self) -> int:
        return len(self.table)

    def __getitem__(self, index: int) -> dict[str, Any]:
        row = self.table.rows[index]
        volume = self._volumes[row["volume"].decode()]
        corner = tuple(int(row[axis]) for axis in "ijk")
        patches = self._read(index % len(self.table), volume.id, corner)
        return {
            **_as_tensors(patches, self.channels),
            "volume": volume.id,
            "corner": torch.tensor(corner),
            "volume_shape": torch.tensor(volume.shape),
            **_geometry(volume),
        }

    def _read(self, index: int, volume: str, corner: tuple[int, ...]) -> dict[str, Float32Array]:
        if self._materialised:
            patch = self._reader.read(f"patches/{self.split}_data", index)
            maps = dict(zip(self.table.data_channels, patch, strict=True))
            maps[FIELD] = maps[FIELD] * maps[MASK]
            return maps
        box = tuple(slice(start, start + self.table.patch_size) for start in corner)
        return self._reader.maps(volume, self.channels, box)


class VolumeDataset(Dataset[dict[str, Any]]):
    """The whole volumes of one split of a store.

    An item holds, per channel, a float32 tensor (1, x, y, z) as in PatchDataset, and `volume`, `subject`, `source`,
    `affine` (4, 4) float64 voxel to world in mm, `voxel_size` (3,), `b0_direction` (3,) and `b0` in tesla (NaN where
    unknown). Shapes may differ between items.
    """

    def __init__(
        self, store: Store | str | Path, split: str = "val", channels: Sequence[str] = TRAINING_CHANNELS
    ) -> None:
        self.store = _opened(store)
        self.channels = tuple(channels)
        self.volumes = self.store.of_split(split)
        if not self.volumes:
            raise InputError(f"{self.store.path} has no {split} volumes: build it with subjects for this split.")
        _check_channels(self.store, self.volumes, self.channels)
        self._reader = StoreReader(self.store)

    def __len__(self) -> int:
        return len(self.volumes)

    def __getitem__(self, index: int) -> dict[str, Any]:
        volume = self.volumes[index]
        maps = self._reader.maps(volume.id, self.channels)
        return {
            **_as_tensors(maps, self.channels),
            "volume": volume.id,
            "subject": volume.subject,
            "source": volume.source,
            "affine": torch.from_numpy(volume.geometry.affine.copy()),
            "b0": volume.geometry.b0,
            **_geometry(volume),
        }


class EpochSampler(Sampler[int]):
    """Random indices without repetition, the same for a seed and an epoch, so that a resumed training repeats none.

    length: of the dataset; number: indices per epoch (all when not given; ISDU-QSMNet's random samples).
    """

    def __init__(self, length: int, number: int | None = None, *, seed: int = 0) -> None:
        if number is not None and not 1 <= number <= length:
            raise InputError(f"the samples per epoch must be between 1 and {length}, got {number}.")
        self.length = length
        self.number = length if number is None else number
        self.seed = seed
        self.epoch = 0

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch whose draw comes next."""
        self.epoch = epoch

    def __len__(self) -> int:
        return self.number

    def __iter__(self) -> Iterator[int]:
        generator = np.random.default_rng([self.seed, self.epoch])
        return iter(generator.permutation(self.length)[: self.number].tolist())


def check_disjoint(
    train_store: Store | str | Path, train_split: str, val_store: Store | str | Path, val_split: str
) -> None:
    """Raise InputError where a subject is in both splits (of one store or of two)."""
    first, second = _opened(train_store), _opened(val_store)
    both = sorted(set(first.subjects(train_split)) & set(second.subjects(val_split)))
    if both:
        names = ", ".join(f"sub-{label}" for label in both)
        raise InputError(
            f"{names} is in {train_split} of {first.path} and in {val_split} of {second.path}: a subject may be in "
            "one of the two only; build the store with --val-subjects and --test-subjects."
        )


def _opened(store: Store | str | Path) -> Store:
    return store if isinstance(store, Store) else open_store(store)


def _check_channels(store: Store, volumes: Sequence[VolumeEntry], channels: Sequence[str]) -> None:
    for volume in volumes:
        missing = [name for name in channels if name not in volume.channels]
        if missing:
            raise InputError(
                f"{volume.id} in {store.path} has no {', '.join(missing)} (it has {', '.join(volume.channels)}): build "
                "the store from label maps that have it, or choose another model."
            )


def _as_tensors(maps: dict[str, Float32Array], channels: Sequence[str]) -> dict[str, torch.Tensor]:
    return {name: torch.from_numpy(np.ascontiguousarray(maps[name][None])) for name in channels}


def _geometry(volume: VolumeEntry) -> dict[str, torch.Tensor]:
    return {
        "voxel_size": torch.from_numpy(volume.geometry.voxel_size.astype(np.float32)),
        "b0_direction": torch.from_numpy(volume.geometry.b0_direction.astype(np.float32)),
    }
