"""Reads the maps of a store's volumes: in every process through a file of its own, from chunks that it keeps decoded.

The file is opened on first use in each process, and a forked child closes what it inherited. HDF5 is asked for the
index of a volume's chunks only, so no handle of it stays open, to be carried across a fork or to the end of a process.
No file lock is taken: it works on file systems without locks, and beside any other handle on the file.
"""

from __future__ import annotations

import contextlib
import os
import threading
import weakref
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray
from torch.utils.data import get_worker_info

from ...files.errors import InputError
from ...pipeline.computing.threads import available_processors
from .chunks import ChunkCache, ChunkLayout, Index, Slices, bounds_of, pieces
from .positioned_file import PositionedFile
from .schema import Store, unreadable
from .volume import FIELD, MASK, Float32Array

CACHE_BYTES = 2**30
_THREADS = 4

_lock = threading.RLock()
_readers: weakref.WeakSet[StoreReader] = weakref.WeakSet()


class StoreReader:
    """Reads the maps of volumes from a store.

    in_memory: keep every volume that was read, uncompressed; processes forked later share what is there by then.
    cache_bytes: of decoded chunks kept otherwise, those used last; the worker processes of one loader share it out
    among them. threads: that inflate, 4 at most by default and one in a loader's worker.
    """

    def __init__(
        self, store: Store, *, in_memory: bool = False, cache_bytes: int = CACHE_BYTES, threads: int | None = None
    ) -> None:
        if cache_bytes < 0:
            raise InputError(f"cache_bytes must be at least 0, got {cache_bytes}.")
        if threads is not None and threads < 1:
            raise InputError(f"threads must be at least 1, got {threads}.")
        self.store = store
        self.in_memory = in_memory
        self.cache_bytes = cache_bytes
        self.threads = threads
        self.cache = ChunkCache(cache_bytes)
        self._kept: dict[tuple[str, tuple[str, ...]], Float32Array] = {}
        self._descriptor = -1
        self._layouts: dict[str, ChunkLayout | None] = {}
        self._pool: ThreadPoolExecutor | None = None
        _readers.add(self)

    def stack(self, volume: str, channels: Sequence[str], box: Any = ()) -> Float32Array:
        """Return a box of the named channels of a volume as float32 (channel, x, y, z), to keep and to alter.

        The field is 0 outside the mask. box: slices along x, y and z. Raises InputError where the file was moved,
        replaced or damaged.
        """
        names = tuple(channels)
        if self.in_memory:
            return self._whole(volume, names)[(slice(None), *_as_tuple(box))].copy()
        return self._stack(volume, names, box)

    def maps(self, volume: str, channels: Sequence[str], box: Any = ()) -> dict[str, Float32Array]:
        """Return the same by the channels' names."""
        return dict(zip(channels, self.stack(volume, channels, box), strict=True))

    def read(self, name: str, box: Any = ()) -> Float32Array:
        """Return a part of a dataset of the file as float32; box is any index that h5py takes."""
        with self._hdf5() as handle:
            try:
                return np.asarray(handle[name][box], np.float32)
            except OSError as error:
                raise unreadable(self.store.path, error) from error

    def row(self, name: str, index: int) -> Float32Array:
        """Return entry `index` of a dataset that has one chunk per entry, through the cache; not to be altered."""
        with _lock:
            layout = self._layouts_of([name])[0]
            if layout is None or layout.chunks != (1, *layout.shape[1:]):
                return self.read(name, index)
            block = self.cache.get((name, index))
            descriptor = self._descriptor
        if block is None:
            decoded = layout.decode(descriptor, (index, *[0] * (len(layout.shape) - 1)))
            block = np.asarray(decoded[0], np.float32)
            with _lock:
                self.cache.put((name, index), block)
        return block

    def hold(self, volume: str, channels: Sequence[str]) -> None:
        """Read the channels of a volume into memory (with in_memory)."""
        self._whole(volume, tuple(channels))

    def close(self) -> None:
        """Close the files of this process, once its threads are done; the next read opens them again."""
        pool = self._pool
        if pool is not None:
            pool.shutdown()
        with _lock:
            if self._descriptor >= 0:
                os.close(self._descriptor)
            self._forget()

    def _whole(self, volume: str, names: tuple[str, ...]) -> Float32Array:
        key = (volume, names)
        if key not in self._kept:
            self._kept[key] = self._stack(volume, names, ())
        return self._kept[key]

    def _stack(self, volume: str, names: tuple[str, ...], box: Any) -> Float32Array:
        needed = (*names, MASK) if FIELD in names and MASK not in names else names
        with _lock:
            layouts = self._layouts_of([f"volumes/{volume}/{name}" for name in needed])
            descriptor = self._descriptor
        direct = [layout for layout in layouts if layout is not None]
        alike = len(direct) == len(needed) and len({(layout.shape, layout.chunks) for layout in direct}) == 1
        bounds = bounds_of(box, direct[0].shape) if alike else None
        if bounds is None:
            return self._stack_by_hdf5(volume, names, needed, box)
        whole = all(part == slice(0, n) for part, n in zip(bounds, direct[0].shape, strict=True))
        read = _Block(direct, needed, len(names), descriptor)
        return self._assembled(read, (volume, names), bounds, keep=not whole)

    def _assembled(self, read: _Block, key: Any, bounds: Slices, *, keep: bool) -> Float32Array:
        """Return a box out of its chunks, from the cache as far as they are there."""
        out = np.empty((read.channels, *(part.stop - part.start for part in bounds)), np.float32)
        missing = []
        everything = slice(None)
        found = []
        with _lock:
            for index, inside, within in pieces(bounds, read.chunks):
                block = self.cache.get((key, index)) if keep else None
                if block is None:
                    missing.append((index, (everything, *inside), (everything, *within)))
                else:
                    found.append((block, (everything, *inside), (everything, *within)))
        for block, inside, within in found:
            out[inside] = block[within]

        def fill(piece: tuple[Index, Slices, Slices]) -> None:
            index, inside, within = piece
            block = read(index)
            out[inside] = block[within]
            if keep:
                with _lock:
                    self.cache.put((key, index), block)

        self._each(fill, missing)
        return out

    def _each(self, work: Callable[[Any], None], items: list[Any]) -> None:
        threads = self.threads or (1 if get_worker_info() else min(_THREADS, available_processors()))
        if threads == 1 or len(items) < 2:
            for item in items:
                work(item)
            return
        with _lock:
            if self._pool is None:
                self._pool = ThreadPoolExecutor(threads, thread_name_prefix="chi33-chunks")
            pool = self._pool
        for _ in pool.map(work, items):
            pass

    def _stack_by_hdf5(self, volume: str, names: tuple[str, ...], needed: tuple[str, ...], box: Any) -> Float32Array:
        maps = {name: self.read(f"volumes/{volume}/{name}", box) for name in needed}
        if FIELD in maps:
            maps[FIELD] *= maps[MASK]
        return np.stack([maps[name] for name in names])

    def _layouts_of(self, names: Sequence[str]) -> list[ChunkLayout | None]:
        missing = [name for name in names if name not in self._layouts]
        worker = get_worker_info()
        if worker is not None:
            self.cache.bound = self.cache_bytes // worker.num_workers
        if missing:
            with self._hdf5() as handle:
                self._layouts.update({name: ChunkLayout.of(handle[name]) for name in missing})
        return [self._layouts[name] for name in names]

    @contextlib.contextmanager
    def _hdf5(self) -> Iterator[h5py.File]:
        """Give an HDF5 handle, by h5py's driver for Python files: without a file lock, and apart from others."""
        with _lock:
            first = self._descriptor < 0
            try:
                if first:
                    self._descriptor = os.open(self.store.path, os.O_RDONLY | os.O_CLOEXEC)
                handle = h5py.File(PositionedFile(self._descriptor), "r")
            except OSError as error:
                self.close()
                raise InputError(f"{self.store.path} cannot be opened again ({error}): was it moved?") from error
            with handle:
                replaced = first and handle.attrs["content_hash"] != self.store.content_hash
                if not replaced:
                    yield handle
            if replaced:
                self.close()
                raise InputError(f"{self.store.path} was replaced by another store while it was in use: start again.")

    def _forget(self) -> None:
        self._descriptor, self._layouts, self._pool = -1, {}, None

    def _after_fork(self) -> None:
        """Close, in the child, the descriptor it inherited; the threads of the pool are not here."""
        if self._descriptor >= 0:
            with contextlib.suppress(OSError):
                os.close(self._descriptor)
        self._forget()

    def __del__(self) -> None:
        if getattr(self, "_descriptor", -1) >= 0:
            with contextlib.suppress(Exception):  # at the end of the interpreter
                self.close()

    def __getstate__(self) -> dict[str, Any]:
        names = ("store", "in_memory", "cache_bytes", "threads")
        return {name: getattr(self, name) for name in names}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__init__(**state)  # type: ignore[misc]


class _Block:
    """Decodes the chunks of several datasets at one place into one array (channel, x, y, z), the field masked."""

    def __init__(self, layouts: list[ChunkLayout], names: tuple[str, ...], channels: int, descriptor: int) -> None:
        self.layouts = layouts
        self.names = names
        self.channels = channels
        self.chunks = layouts[0].chunks
        self._descriptor = descriptor

    def __call__(self, index: Index) -> Float32Array:
        block = np.empty((self.channels, *self.chunks), np.float32)
        beyond: dict[str, NDArray[Any]] = {}
        for number, (name, layout) in enumerate(zip(self.names, self.layouts, strict=True)):
            decoded = layout.decode(self._descriptor, index)
            if number < self.channels:
                block[number] = decoded
            else:
                beyond[name] = decoded
        if FIELD in self.names:
            mask = beyond[MASK] if MASK in beyond else block[self.names.index(MASK)]
            block[self.names.index(FIELD)] *= mask
        return block


def _as_tuple(box: Any) -> tuple[Any, ...]:
    return box if isinstance(box, tuple) else (box,)


def _after_fork_in_child() -> None:
    global _lock
    _lock = threading.RLock()
    for reader in list(_readers):
        reader._after_fork()


def _before_fork() -> None:
    _lock.acquire()


def _after_fork_in_parent() -> None:
    _lock.release()


os.register_at_fork(before=_before_fork, after_in_parent=_after_fork_in_parent, after_in_child=_after_fork_in_child)
