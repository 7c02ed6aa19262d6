"""Writes a store: to a temporary name beside the final one, checked, then renamed; on any error nothing is left."""

from __future__ import annotations

import contextlib
import json
import shutil
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray

from ... import __version__
from ...files.errors import InputError, StepError
from ..build.splits import split_hash
from ..build.statistics import ChannelStatistics
from ..loading.patches import DEFAULT_RULE, PatchRule
from .guarded_file import GuardedFile, disk_full
from .hdf5_reading import hdf5_reading
from .schema import SCHEMA, VERSION, array_digest, attrs_digest, content_hash, open_store, store_digests
from .volume import TensorVolume, Volume
from .volume_group import FILTERS, write_tensor, write_volume
from .volume_part import PATCHES, part_digests

Reread = Callable[[Path], Mapping[str, str]]


class ReadBackError(StepError):
    """A store reads back differently from what was written."""


class StoreWriter:
    """A context manager that fills a new store one volume at a time and puts it in place when it ends well.

    path: the store; config: recorded as JSON; overwrite: replace an existing store (only at the very end); reread:
    what digests the finished file, store_digests by default; ready: called with the content hash of the checked
    file, before it is put in place.
    Raises InputError where the store exists or its folder cannot be written, StepError where the disk fills up.
    """

    def __init__(
        self,
        path: str | Path,
        config: Mapping[str, Any],
        *,
        overwrite: bool = False,
        reread: Reread | None = None,
        ready: Callable[[str], None] | None = None,
    ) -> None:
        self.path = Path(path)
        self.partial = self.path.with_name(f".{self.path.name}.partial")
        self._digests: dict[str, str] = {}
        self._splits: dict[str, str] = {}
        self._reread = reread or _digests_of
        self._ready = ready or (lambda content_hash: None)
        check_target(self.path, overwrite=overwrite)
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self._file = GuardedFile(self.partial)
        except OSError as error:
            raise cannot_write(self.path, error) from error
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
        self._digests.update(write_volume(self.handle, volume, self._file.check))
        self._place(self.handle[f"volumes/{volume.id}"], split)

    def add_tensor(self, tensor: TensorVolume, split: str) -> None:
        """Write a subject's tensor and its mask."""
        self._digests.update(write_tensor(self.handle, tensor, self._file.check))
        self._place(self.handle[f"tensors/sub-{tensor.subject}"], split)

    def add_part(self, part: Path, name: str, split: str) -> None:
        """Copy the group `name` (volumes/sub-01/acq-ori01, tensors/sub-01) from a part, its chunks as they are."""
        parent, _, last = name.rpartition("/")
        with hdf5_reading(part) as source:
            source.copy(source[name], self.handle.require_group(parent), name=last)
            self._digests.update(part_digests(source))
        self._place(self.handle[name], split)

    def add_patches(
        self,
        split: str,
        rows: NDArray[Any],
        *,
        patch_size: int,
        min_brain: float,
        seed: int,
        rule: str = DEFAULT_RULE,
        stride: int | None = None,
        grid: tuple[int, ...] | None = None,
    ) -> None:
        """Write the patch table of a split, and the rule it was made by."""
        table = self.handle.create_dataset(f"patches/{split}", data=rows)
        table.attrs.update(patch_size=patch_size, min_brain=min_brain, rule=rule, seed=seed)
        if stride is not None:
            table.attrs["stride"] = stride
        if grid is not None:
            table.attrs["grid"] = np.asarray(grid, np.int64)
        table.flush()
        self._digests[table.name] = array_digest(table.name, rows)
        self._record(table)

    def add_table(self, split: str, rows: NDArray[Any], rule: PatchRule) -> None:
        """Write the patch table of a split made by a rule."""
        self.add_patches(
            split,
            rows,
            patch_size=rule.size,
            min_brain=rule.min_brain,
            seed=rule.seed,
            rule=rule.name,
            stride=rule.stride,
            grid=rule.grid,
        )

    def add_statistics(self, statistics: Mapping[str, ChannelStatistics]) -> None:
        """Write mean, standard deviation and voxel count per channel."""
        for name, values in statistics.items():
            group = self.handle.create_group(f"statistics/{name}")
            group.attrs.update(mean=values.mean, std=values.std, count=values.count)

    def add_cropped(self, split: str, channels: Sequence[str], parts: Iterable[tuple[slice, Path]]) -> None:
        """Copy the cropped patches of a split from parts, each for a slice of its table, chunks as they are."""
        table = self.handle[f"patches/{split}"]
        size = int(table.attrs["patch_size"])
        patch = (len(channels), size, size, size)
        data = self.handle.create_dataset(
            f"patches/{split}_data", (len(table), *patch), np.float32, chunks=(1, *patch), **FILTERS
        )
        data.attrs["channels"] = json.dumps(list(channels))
        for rows, part in parts:
            with hdf5_reading(part) as source:
                cropped = source[PATCHES]
                for number, row in enumerate(range(rows.start, rows.stop)):
                    mask, chunk = cropped.id.read_direct_chunk((number, 0, 0, 0, 0))
                    data.id.write_direct_chunk((row, 0, 0, 0, 0), chunk, mask)
            self._file.check()

    def _place(self, group: h5py.Group, split: str) -> None:
        group.attrs["split"] = split
        self._splits[str(group.attrs["subject"])] = split
        group.file.flush()
        self._record(group)

    def _record(self, item: h5py.Group | h5py.Dataset) -> None:
        """Digest the attributes, and ask whether what was written arrived."""
        self._digests[f"{item.name}@"] = attrs_digest(item.name, item.attrs)
        self._file.check()

    def _finish(self) -> None:
        found = content_hash(self._digests)
        self.handle.attrs.update(split_hash=split_hash(self._splits), content_hash=found)
        self.handle.close()
        self._file.settle()
        self._verify()
        self._ready(found)
        self.partial.replace(self.path)
        self._file.close()

    def _verify(self) -> None:
        try:
            open_store(self.partial)
            same = self._reread(self.partial) == self._digests
        except (InputError, OSError) as error:
            raise ReadBackError(f"{self.path} cannot be read back ({' '.join(str(error).split())}).") from error
        if not same:
            raise ReadBackError(f"{self.path} reads back differently from what was written: check the disk.")

    def _give_up(self, error: BaseException) -> None:
        """Leave nothing behind, and raise a full disk as one sentence."""
        with contextlib.suppress(Exception):  # the file is thrown away, whatever state it is in
            self.handle.close()
        self.partial.unlink(missing_ok=True)
        self._file.close()
        full = disk_full(self._file.error or error, self.path)
        if full is not None:
            raise full from error


def _digests_of(path: Path) -> dict[str, str]:
    with hdf5_reading(path) as handle:
        return store_digests(handle)


def cannot_write(path: Path, error: OSError) -> InputError:
    """Return the sentence for a store whose folder refuses to be written to."""
    return InputError(f"{path} cannot be written ({error.strerror}): choose a folder that can be.")


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
