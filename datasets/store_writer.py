"""Writes a store: to a temporary name beside the final one, checked, then renamed; on any error nothing is left."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import shutil
from collections.abc import Iterable, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray

from .. import __version__
from ..pipeline.errors import InputError, StepError
from .guarded_file import GuardedFile
from .patches import RULE
from .statistics import ChannelStatistics
from .store import SCHEMA, VERSION, array_digest, attrs_digest, content_hash, open_store, store_digests
from .volume import MASK, Geometry, TensorVolume, Volume

_CHUNK = 32
_FILTERS: dict[str, Any] = {"compression": "gzip", "compression_opts": 4, "shuffle": True}
_NO_SPACE = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}


class StoreWriter:
    """A context manager that fills a new store one volume at a time and puts it in place when it ends well.

    path: the store; config: recorded as JSON; overwrite: replace an existing store (only at the very end).
    Raises InputError where the store exists or its folder cannot be written, StepError where the disk fills up.
    """

    def __init__(self, path: str | Path, config: Mapping[str, Any], *, overwrite: bool = False) -> None:
        self.path = Path(path)
        self.partial = self.path.with_name(f".{self.path.name}.partial")
        self._digests: dict[str, str] = {}
        check_target(self.path, overwrite=overwrite)
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self._file = GuardedFile(self.partial)
        except OSError as error:
            raise InputError(
                f"{self.path} cannot be written ({error.strerror}): choose a folder that can be."
            ) from error
        self.handle = h5py.File(self._file, "w")
        self.handle.attrs.update(schema=SCHEMA, version=VERSION, chi33_version=__version__)
        self.handle.attrs["config"] = json.dumps(dict(config), sort_keys=True)
        for group in ("volumes", "tensors", "patches", "statistics"):
            self.handle.create_group(group)

    def __enter__(self) -> StoreWriter:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if error is None:
            try:
                self._finish()
            except BaseException as failure:
                self._give_up(failure)
                raise
        else:
            self._give_up(error)

    def add_volume(self, volume: Volume, split: str) -> None:
        """Write the channels of a volume, float32 and the mask uint8, with its geometry and split."""
        group = self.handle.create_group(f"volumes/{volume.id}")
        for name, channel in volume.channels.items():
            self._write(group, name, np.asarray(channel, np.uint8 if name == MASK else np.float32))
        _describe(group, volume.geometry, volume.subject, split, volume.source, volume.parent)
        if volume.rotation is not None:
            group.attrs["rotation"] = volume.rotation
        self._record(group)

    def add_tensor(self, tensor: TensorVolume, split: str) -> None:
        """Write a subject's tensor and its mask."""
        group = self.handle.create_group(f"tensors/sub-{tensor.subject}")
        self._write(group, "chi", np.asarray(tensor.chi, np.float32))
        self._write(group, MASK, np.asarray(tensor.mask, np.uint8))
        _describe(group, tensor.geometry, tensor.subject, split, "acquired", "")
        group.attrs["frame"] = "world"
        self._record(group)

    def add_patches(self, split: str, rows: NDArray[Any], *, patch_size: int, min_brain: float, seed: int) -> None:
        """Write the patch table of a split."""
        table = self.handle.create_dataset(f"patches/{split}", data=rows)
        table.attrs.update(patch_size=patch_size, min_brain=min_brain, rule=RULE, seed=seed)
        self._record(table, rows)

    def add_statistics(self, statistics: Mapping[str, ChannelStatistics]) -> None:
        """Write mean, standard deviation and voxel count per channel."""
        for name, values in statistics.items():
            group = self.handle.create_group(f"statistics/{name}")
            group.attrs.update(mean=values.mean, std=values.std, count=values.count)

    def materialise(self, split: str) -> None:
        """Copy the patches of a split out of the volumes, one volume in memory at a time and one chunk a patch."""
        table = self.handle[f"patches/{split}"]
        rows, size = table[()], int(table.attrs["patch_size"])
        names = sorted(set(rows["volume"].tolist()))
        if not names:
            return
        groups = {name: self.handle[f"volumes/{name.decode()}"] for name in names}
        channels = sorted(set.intersection(*(set(group) for group in groups.values())))
        patch = (len(channels), size, size, size)
        data = self.handle.create_dataset(
            f"patches/{split}_data", (len(rows), *patch), np.float32, chunks=(1, *patch), **_FILTERS
        )
        data.attrs["channels"] = json.dumps(channels)
        for name, group in groups.items():
            volume = np.stack([group[channel][()].astype(np.float32) for channel in channels])
            for row in np.flatnonzero(rows["volume"] == name):
                i, j, k = (int(rows[row][axis]) for axis in "ijk")
                data[row] = volume[:, i : i + size, j : j + size, k : k + size]
            self._file.check()

    def _write(self, group: h5py.Group, name: str, array: NDArray[Any]) -> None:
        leading = (1,) * (array.ndim - 3)
        chunks = (*leading, *(min(_CHUNK, n) for n in array.shape[-3:]))
        dataset = group.create_dataset(name, data=array, chunks=chunks, **_FILTERS)
        self._record(dataset, array)

    def _record(self, item: h5py.Group | h5py.Dataset, array: NDArray[Any] | None = None) -> None:
        """Digest what was written, from memory, and ask whether it arrived."""
        if array is not None:
            self._digests[item.name] = array_digest(item.name, array)
            item.flush()
        if len(item.attrs):
            self._digests[f"{item.name}@"] = attrs_digest(item.name, item.attrs)
        self._file.check()

    def _finish(self) -> None:
        self.handle.attrs["content_hash"] = content_hash(self._digests)
        self.handle.close()
        self._file.settle()
        self._verify()
        os.replace(self.partial, self.path)
        self._file.close()

    def _verify(self) -> None:
        store = open_store(self.partial)
        with store.open() as handle:
            if store_digests(handle) != self._digests:
                raise StepError(f"{self.path} reads back differently from what was written: check the disk.")

    def _give_up(self, error: BaseException) -> None:
        """Leave nothing behind, and raise a full disk as one sentence."""
        with contextlib.suppress(Exception):  # the file is thrown away, whatever state it is in
            self.handle.close()
        self.partial.unlink(missing_ok=True)
        self._file.close()
        first = self._file.error or error
        if isinstance(first, OSError) and first.errno in _NO_SPACE:
            raise StepError(
                f"the disk ran full while {self.path} was written, and nothing was left behind: free some space, or "
                "choose another disk."
            ) from error


def check_target(path: Path, *, overwrite: bool) -> None:
    """Raise InputError where a store may not be written to path: a folder is there, or a file and not overwrite."""
    if path.is_dir():
        raise InputError(f"{path} is a folder: give the name of the store's file, such as {path / 'store.h5'}.")
    if path.exists() and not overwrite:
        raise InputError(f"{path} exists: choose another name, or pass --overwrite to replace it.")


def check_free_space(path: Path, needed: int) -> None:
    """Raise InputError where the disk of a store has fewer than `needed` bytes free."""
    folder = next((parent for parent in path.absolute().parents if parent.is_dir()), Path("/"))
    free = shutil.disk_usage(folder).free
    if free < needed:
        raise InputError(
            f"{folder} has {free / 1e9:.2f} GB free, but the store needs about {needed / 1e9:.2f} GB: free some "
            "space, or choose another disk."
        )


def check_finite(volume_id: str, channels: Iterable[tuple[str, NDArray[Any]]]) -> None:
    """Raise StepError where a channel holds a value that is not finite."""
    for name, channel in channels:
        if not np.isfinite(channel).all():
            raise StepError(f"{name} of {volume_id} came out with values that are not finite: check its tensor.")


def _describe(group: h5py.Group, geometry: Geometry, subject: str, split: str, source: str, parent: str) -> None:
    group.attrs.update(
        affine=geometry.affine,
        voxel_size=geometry.voxel_size,
        b0_direction=geometry.b0_direction,
        B0=geometry.b0,
        subject=subject,
        split=split,
        source=source,
        parent=parent,
        units="ppm",
    )
