"""Map-style torch datasets over a store: patches to train on, whole volumes to validate on."""

from __future__ import annotations

import os
import warnings
from abc import abstractmethod
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.utils.data import Dataset

from ...files.errors import Chi33Warning, InputError
from ...pipeline.computing.cgroups import memory_limit
from ...pipeline.computing.threads import available_processors
from ..build.corners import AdmissibleCorners
from ..store.reader import CACHE_BYTES, StoreReader
from ..store.schema import PatchTable, Store, VolumeEntry, open_store
from ..store.volume import FIELD, MASK, Float32Array
from .patches import no_patch_message

__all__ = [
    "TRAINING_CHANNELS",
    "PatchDataset",
    "PatchKey",
    "Patches",
    "RandomPatchDataset",
    "VolumeDataset",
]

TRAINING_CHANNELS = (FIELD, "chi33", "deltab", MASK)

PatchKey = int | tuple[int, int]


@dataclass(frozen=True)
class PatchPlace:
    """Where a patch lies: its volume and its corner in voxels."""

    volume: VolumeEntry
    corner: tuple[int, int, int]


class Patches(Dataset[dict[str, Any]]):
    """Patches of one split of a store; which ones, its subclasses say.

    An item holds, per channel, a float32 tensor (1, p, p, p) in ppm (mask 0 or 1; the field is 0 outside the mask,
    as it is only known inside), and `volume` (id), `corner` (3,) int64 voxels, `volume_shape` (3,) int64,
    `voxel_size` (3,) float32 mm, `b0_direction` (3,) float32 in the voxel frame.
    in_memory: hold the split's volumes uncompressed; cache_bytes: of decoded chunks kept otherwise (see StoreReader).
    Raises InputError where a volume lacks a channel, or the volumes are larger than the machine's memory.
    """

    def __init__(
        self, store: Store, split: str, channels: Sequence[str], patch_size: int, in_memory: bool, cache_bytes: int
    ) -> None:
        self.store = store
        self.split = split
        self.channels = tuple(channels)
        self.patch_size = patch_size
        self.volumes = store.of_split(split)
        _check_channels(store, self.volumes, self.channels)
        self.reader = StoreReader(store, in_memory=in_memory, cache_bytes=cache_bytes)
        self._geometry = {volume.id: _geometry(volume) for volume in self.volumes}
        if in_memory:
            check_room(store, self.volumes, len(self.channels), physical_memory(), "this machine's memory")
            for volume in self.volumes:
                self.reader.hold(volume.id, self.channels)

    @abstractmethod
    def place(self, key: PatchKey) -> PatchPlace:
        """Return where a patch lies."""

    def stack(self, key: PatchKey, place: PatchPlace) -> Float32Array:
        """Return the voxels of a patch (channel, p, p, p)."""
        box = tuple(slice(start, start + self.patch_size) for start in place.corner)
        return self.reader.stack(place.volume.id, self.channels, box)

    def __getitem__(self, key: PatchKey) -> dict[str, Any]:
        place = self.place(key)
        stack = torch.from_numpy(self.stack(key, place))
        return {
            **{name: stack[number : number + 1] for number, name in enumerate(self.channels)},
            **self.describe(place),
        }

    def describe(self, place: PatchPlace) -> dict[str, Any]:
        """Return what an item holds beside its voxels."""
        return {
            "volume": place.volume.id,
            "corner": torch.tensor(place.corner),
            "volume_shape": torch.tensor(place.volume.shape),
            **{name: tensor.clone() for name, tensor in self._geometry[place.volume.id].items()},
        }


class PatchDataset(Patches):
    """The patches of the store's own index, or of another table (any size, see draw_patches).

    Items and options are those of Patches. Materialised patches are read where the store has them for all channels.
    Raises InputError where the split has no patches.
    """

    def __init__(
        self,
        store: Store | str | Path,
        split: str = "train",
        channels: Sequence[str] = TRAINING_CHANNELS,
        *,
        table: PatchTable | None = None,
        in_memory: bool = False,
        cache_bytes: int = CACHE_BYTES,
    ) -> None:
        opened = _opened(store)
        opened.of_split(split)
        found = opened.patches.get(split) if table is None else table
        if found is None or len(found) == 0:
            raise InputError(f"{opened.path} has no {split} patches: build it with subjects for this split.")
        super().__init__(opened, split, channels, found.patch_size, in_memory, cache_bytes)
        self.table = found
        self._volumes = {volume.id: volume for volume in self.volumes}
        self._materialised = table is None and not in_memory and {*self.channels, MASK} <= set(found.data_channels)

    def __len__(self) -> int:
        return len(self.table)

    def place(self, key: PatchKey) -> PatchPlace:
        """Return the place in row `key` of the table."""
        row = self.table.rows[_index(key)]
        return PatchPlace(self._volumes[row["volume"].decode()], (int(row["i"]), int(row["j"]), int(row["k"])))

    def stack(self, key: PatchKey, place: PatchPlace) -> Float32Array:
        """Return the voxels of a patch (channel, p, p, p)."""
        if not self._materialised:
            return super().stack(key, place)
        number = _index(key) % len(self.table)
        patch = self.reader.row(f"patches/{self.split}_data", number)
        names = self.table.data_channels
        stack = patch[[names.index(name) for name in self.channels]]
        if FIELD in self.channels:
            stack[self.channels.index(FIELD)] *= patch[names.index(MASK)]
        return stack


class RandomPatchDataset(Patches):
    """New random patches every epoch: a volume, each as likely, then a corner, each admissible one as likely.

    patch_size in voxels and min_brain (0 to 1), by default those of the store's index; number of patches an epoch, by
    default as many as the index has. A patch depends on the seed, the epoch and its index alone, whichever process
    reads it. An index n is of the epoch given to set_epoch; a key (epoch, n), which EpochSampler gives with
    with_epoch, says the epoch itself, so that it also reaches worker processes that live on. Items and further options
    are those of Patches.

    Raises InputError where the split has no volumes or none has a patch with so much brain; warns of volumes without.
    """

    def __init__(
        self,
        store: Store | str | Path,
        split: str = "train",
        patch_size: int | None = None,
        min_brain: float | None = None,
        number: int | None = None,
        *,
        seed: int = 0,
        channels: Sequence[str] = TRAINING_CHANNELS,
        in_memory: bool = False,
        cache_bytes: int = CACHE_BYTES,
    ) -> None:
        opened = _opened(store)
        if not opened.of_split(split):
            raise InputError(f"{opened.path} has no {split} volumes: build it with subjects for this split.")
        table = opened.patches.get(split)
        size = _default("patch_size", patch_size, table and table.patch_size)
        self.min_brain = _default("min_brain", min_brain, table and table.min_brain)
        self.number = _default("number", number, table and len(table))
        if not 0 < self.min_brain <= 1:
            raise InputError(f"min_brain must be above 0 and at most 1, got {self.min_brain:g}.")
        if self.number < 1:
            raise InputError(f"the patches per epoch must be at least 1, got {self.number}.")
        super().__init__(opened, split, channels, size, in_memory, cache_bytes)
        self.seed = seed
        self.epoch = 0
        self._corners = self._find_corners()
        self._usable = [volume for volume in self.volumes if len(self._corners[volume.id])]

    def _find_corners(self) -> dict[str, AdmissibleCorners]:
        def find(volume: VolumeEntry) -> AdmissibleCorners:
            mask = self.reader.read(f"volumes/{volume.id}/{MASK}")
            return AdmissibleCorners.of(mask, self.patch_size, self.min_brain)

        with ThreadPoolExecutor(min(4, available_processors())) as pool:
            corners = dict(zip([v.id for v in self.volumes], pool.map(find, self.volumes), strict=True))
        refused = [
            no_patch_message(name, self.patch_size, self.min_brain, found.best)
            for name, found in corners.items()
            if not len(found)
        ]
        if len(refused) == len(corners):
            raise InputError(refused[0])
        for message in refused:
            warnings.warn(f"Left out, {message}", Chi33Warning, stacklevel=3)
        return corners

    def __len__(self) -> int:
        return self.number

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch whose patches plain indices stand for."""
        self.epoch = epoch

    def place(self, key: PatchKey) -> PatchPlace:
        """Return the place drawn for an index of this epoch, or for a key (epoch, index)."""
        epoch, index = key if isinstance(key, tuple) else (self.epoch, key)
        if not -self.number <= index < self.number:
            raise IndexError(f"index {index} is out of range for {self.number} patches")
        generator = np.random.default_rng([self.seed, epoch, index % self.number])
        volume = self._usable[int(generator.integers(len(self._usable)))]
        return PatchPlace(volume, self._corners[volume.id].draw(generator))


class VolumeDataset(Dataset[dict[str, Any]]):
    """The whole volumes of one split of a store.

    An item holds, per channel, a float32 tensor (1, x, y, z) as in PatchDataset, and `volume`, `subject`, `source`,
    `volume_shape` (3,) int64, `affine` (4, 4) float64 voxel to world in mm, `voxel_size` (3,), `b0_direction` (3,) and
    `b0` in tesla (NaN where unknown). Shapes may differ between items.
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
        self.reader = StoreReader(self.store)

    def __len__(self) -> int:
        return len(self.volumes)

    def __getitem__(self, index: int) -> dict[str, Any]:
        volume = self.volumes[index]
        stack = torch.from_numpy(self.reader.stack(volume.id, self.channels))
        return {
            **{name: stack[number : number + 1] for number, name in enumerate(self.channels)},
            "volume": volume.id,
            "subject": volume.subject,
            "source": volume.source,
            "volume_shape": torch.tensor(volume.shape),
            "affine": torch.from_numpy(volume.geometry.affine.copy()),
            "b0": volume.geometry.b0,
            **_geometry(volume),
        }


def check_room(store: Store, volumes: Sequence[VolumeEntry], channels: int, room: int, where: str) -> None:
    """Raise InputError where the channels of volumes, uncompressed, take more bytes than there is room."""
    needed = 4 * channels * sum(int(np.prod(volume.shape)) for volume in volumes)
    if needed > room:
        raise InputError(
            f"the volumes of {store.path} take {needed / 1e9:.2f} GB uncompressed, but {where} has {room / 1e9:.2f} "
            "GB: read them from the store instead."
        )


def physical_memory() -> int:
    """Return the bytes of this machine's memory, or what a container or a batch system grants of it."""
    whole = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    return min(whole, memory_limit() or whole)


def _index(key: PatchKey) -> int:
    return key[1] if isinstance(key, tuple) else key


def _default(name: str, given: Any, of_index: Any) -> Any:
    if given is None and of_index is None:
        raise InputError(f"{name} must be given, as the store has no patch index for this split.")
    return of_index if given is None else given


def _opened(store: Store | str | Path) -> Store:
    return store if isinstance(store, Store) else open_store(store)


def _check_channels(store: Store, volumes: Sequence[VolumeEntry], channels: Sequence[str]) -> None:
    for volume in volumes:
        missing = [name for name in channels if name not in volume.channels]
        if missing:
            raise InputError(
                f"{volume.id} in {store.path} has no {', '.join(missing)} (it has {', '.join(volume.channels)}): build "
                "the store from label maps that have it, or choose another label."
            )


def _geometry(volume: VolumeEntry) -> dict[str, torch.Tensor]:
    return {
        "voxel_size": torch.from_numpy(volume.geometry.voxel_size.astype(np.float32)),
        "b0_direction": torch.from_numpy(volume.geometry.b0_direction.astype(np.float32)),
    }
