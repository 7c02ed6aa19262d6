"""Chunks of an HDF5 file, read beside the HDF5 library and kept decoded within a bound.

HDF5 inflates one chunk at a time and under one lock. Here its index of chunks is read once, and the chunks are then
read at their place in the file and inflated on as many threads as are given.
"""

from __future__ import annotations

import itertools
import os
import zlib
from collections import OrderedDict
from collections.abc import Hashable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray

from ...files.errors import InputError

Index = tuple[int, ...]
Slices = tuple[slice, ...]


@dataclass(frozen=True)
class ChunkLayout:
    """Where the chunks of a dataset lie: its shape, the chunks' shape and type, their filters, and offset and bytes.

    places: of every chunk, by its index along each axis. A chunk that was never written has none and is zero.
    """

    name: str
    shape: Index
    chunks: Index
    dtype: np.dtype[Any]
    deflated: bool
    shuffled: bool
    places: Mapping[Index, tuple[int, int]]

    @classmethod
    def of(cls, dataset: h5py.Dataset) -> ChunkLayout | None:
        """Return the layout of a dataset, or None where only the HDF5 library can read it."""
        filters = dataset.id.get_create_plist()
        codes = [filters.get_filter(number)[0] for number in range(filters.get_nfilters())]
        shuffle, deflate = h5py.h5z.FILTER_SHUFFLE, h5py.h5z.FILTER_DEFLATE
        known: tuple[list[int], ...] = ([], [deflate], [shuffle, deflate])
        plain = dataset.dtype.kind in "fui" and dataset.dtype == dataset.dtype.newbyteorder("<")
        if dataset.chunks is None or codes not in known or not plain or np.any(dataset.fillvalue != 0):
            return None
        if dataset.file.userblock_size or not hasattr(dataset.id, "chunk_iter"):
            return None
        places: dict[Index, tuple[int, int]] = {}
        skipped: list[int] = []

        def place(chunk: Any) -> None:
            index = tuple(int(o) // n for o, n in zip(chunk.chunk_offset, dataset.chunks, strict=True))
            places[index] = (int(chunk.byte_offset), int(chunk.size))
            skipped.append(chunk.filter_mask)

        dataset.id.chunk_iter(place)
        if any(skipped):
            return None
        shuffled = shuffle in codes
        name, shape, chunks = str(dataset.name), tuple(dataset.shape), tuple(dataset.chunks)
        return cls(name, shape, chunks, dataset.dtype, bool(codes), shuffled, places)

    def decode(self, descriptor: int, index: Index) -> NDArray[Any]:
        """Return one chunk, whole, in the dataset's type; raises InputError where its bytes are damaged."""
        place = self.places.get(index)
        if place is None:
            return np.zeros(self.chunks, self.dtype)
        count = int(np.prod(self.chunks))
        try:
            raw = _bytes_at(descriptor, *place)
            plain = zlib.decompress(raw, bufsize=count * self.dtype.itemsize) if self.deflated else raw
            if len(plain) != count * self.dtype.itemsize:
                raise zlib.error(f"{len(plain)} bytes instead of {count * self.dtype.itemsize}")
        except zlib.error as error:
            raise InputError(
                f"{self.name} is damaged at chunk {index} ({error}): copy the store again, or build it again with "
                "`chi33 build-dataset`."
            ) from error
        except OSError as error:
            raise InputError(f"{self.name} cannot be read ({error.strerror}): check the disk of the store.") from error
        flat = _unshuffled(plain, self.dtype) if self.shuffled else np.frombuffer(plain, self.dtype)
        return flat.reshape(self.chunks)


def _bytes_at(descriptor: int, offset: int, count: int) -> bytes:
    parts = []
    while count:
        part = os.pread(descriptor, count, offset)
        if not part:
            break
        parts.append(part)
        offset, count = offset + len(part), count - len(part)
    return b"".join(parts)


def _unshuffled(raw: bytes, dtype: np.dtype[Any]) -> NDArray[Any]:
    """Undo HDF5's shuffle, which stores the first bytes of all values, then the second ones and so on."""
    planes = np.frombuffer(raw, np.uint8).reshape(dtype.itemsize, -1)
    if dtype.itemsize == 1:
        return planes[0].view(dtype)
    if dtype.itemsize == 4 and np.little_endian:  # three times as fast as a transposition
        words = planes[3].astype(np.uint32)
        for plane in planes[2::-1]:
            words <<= 8
            words |= plane
        return words.view(dtype)
    return np.ascontiguousarray(planes.T).view(dtype)[:, 0]


class ChunkCache:
    """Decoded arrays, the most recently used ones within a bound in bytes. Not safe for threads: its user locks.

    bytes, hits and misses tell how it is used.
    """

    def __init__(self, bound: int) -> None:
        self.bound = bound
        self.bytes = self.hits = self.misses = 0
        self._arrays: OrderedDict[Hashable, NDArray[Any]] = OrderedDict()

    def __len__(self) -> int:
        return len(self._arrays)

    def get(self, key: Hashable) -> NDArray[Any] | None:
        """Return an array that is there and mark it as just used."""
        found = self._arrays.get(key)
        if found is None:
            self.misses += 1
            return None
        self.hits += 1
        self._arrays.move_to_end(key)
        return found

    def clear(self) -> None:
        """Give up all arrays."""
        self._arrays.clear()
        self.bytes = 0

    def put(self, key: Hashable, array: NDArray[Any]) -> None:
        """Keep an array, and give up those used longest ago until all are within the bound."""
        if array.nbytes > self.bound or key in self._arrays:
            return
        self._arrays[key] = array
        self.bytes += array.nbytes
        while self.bytes > self.bound:
            self.bytes -= self._arrays.popitem(last=False)[1].nbytes


def bounds_of(box: Any, shape: Index) -> Slices | None:
    """Return a box of plain slices as one with a start and stop within shape per axis; None for anything else."""
    parts = box if isinstance(box, tuple) else (box,)
    if len(parts) > len(shape) or not all(isinstance(part, slice) and part.step in (None, 1) for part in parts):
        return None
    parts = (*parts, *[slice(None)] * (len(shape) - len(parts)))
    bounds = (part.indices(n)[:2] for part, n in zip(parts, shape, strict=True))
    return tuple(slice(start, max(start, stop)) for start, stop in bounds)


def pieces(box: Slices, chunks: Index) -> Iterator[tuple[Index, Slices, Slices]]:
    """Yield, for every chunk that a box touches, its index, the part in the box and the part in the chunk."""
    axes = []
    for part, n in zip(box, chunks, strict=True):
        along = []
        for number in range(part.start // n, -(-part.stop // n) if part.stop > part.start else 0):
            first, last = max(part.start, number * n), min(part.stop, (number + 1) * n)
            along.append(
                (number, slice(first - part.start, last - part.start), slice(first - number * n, last - number * n))
            )
        axes.append(along)
    for corner in itertools.product(*axes):
        yield (
            tuple(along[0] for along in corner),
            tuple(along[1] for along in corner),
            tuple(along[2] for along in corner),
        )
