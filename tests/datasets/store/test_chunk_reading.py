"""Chunks read beside the HDF5 library are what the library gives, whatever the box, the type and the filters."""

from __future__ import annotations

import os
from pathlib import Path

import h5py
import numpy as np
import pytest
from chi33.datasets.loading.patch_dataset import PatchDataset
from chi33.datasets.store.chunks import ChunkCache, ChunkLayout, bounds_of, pieces
from chi33.datasets.store.reader import StoreReader
from chi33.datasets.store.schema import open_store
from chi33.files.errors import InputError
from hypothesis import given
from hypothesis import strategies as st

VOLUME = "sub-01/acq-ori01"
GZIP = {"compression": "gzip", "shuffle": True}
edges = st.tuples(st.integers(-3, 20), st.integers(-3, 20))


@given(st.lists(edges, min_size=1, max_size=3), st.tuples(*[st.integers(1, 9)] * 3))
def test_pieces_make_up_any_box(box: list[tuple[int, int]], chunks: tuple[int, int, int]) -> None:
    whole = np.arange(11 * 13 * 17).reshape(11, 13, 17)
    slices = tuple(slice(*pair) for pair in box)
    bounds = bounds_of(slices, whole.shape)
    assert bounds is not None
    out = np.full([part.stop - part.start for part in bounds], -1)
    for index, inside, within in pieces(bounds, chunks):
        start = [number * n for number, n in zip(index, chunks, strict=True)]
        chunk = whole[tuple(slice(s, s + n) for s, n in zip(start, chunks, strict=True))]
        out[inside] = chunk[within]
    np.testing.assert_array_equal(out, whole[slices])


def test_only_plain_boxes_have_bounds() -> None:
    assert bounds_of((), (4, 5)) == (slice(0, 4), slice(0, 5))
    assert bounds_of(slice(1, 9), (4,)) == (slice(1, 4),)
    for other in ((slice(0, 4, 2),), (3,), (slice(None),) * 3, (np.array([1]),)):
        assert bounds_of(other, (4, 5)) is None


@pytest.mark.parametrize("dtype", ["<f4", "<f8", "<f2", "u1", "<i2"])
@pytest.mark.parametrize("filters", [GZIP, {"compression": "gzip"}, {}])
def test_a_chunk_is_what_hdf5_reads(tmp_path: Path, dtype: str, filters: dict) -> None:
    values = (100 * np.random.default_rng(0).standard_normal((9, 10, 7))).astype(dtype)
    with h5py.File(tmp_path / "a.h5", "w") as handle:
        handle.create_dataset("a", data=values, chunks=(4, 4, 4), **filters)
    with h5py.File(tmp_path / "a.h5", "r") as handle:
        layout = ChunkLayout.of(handle["a"])
    assert layout is not None
    descriptor = os.open(tmp_path / "a.h5", os.O_RDONLY)
    for index in np.ndindex(3, 3, 2):
        box = tuple(slice(4 * n, 4 * n + 4) for n in index)
        expected = values[box]
        chunk = layout.decode(descriptor, index)[tuple(slice(0, n) for n in expected.shape)]
        np.testing.assert_array_equal(chunk, expected)
    os.close(descriptor)


def test_a_chunk_never_written_is_zero(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "a.h5", "w") as handle:
        dataset = handle.create_dataset("a", (8, 8), "<f4", chunks=(4, 4), **GZIP)
        dataset[:4, :4] = 1
        layout = ChunkLayout.of(dataset)
        assert layout is not None
        assert list(layout.places) == [(0, 0)]
        assert not layout.decode(-1, (1, 1)).any()


@pytest.mark.parametrize(
    "options",
    [
        {"dtype": ">f4", "chunks": (4, 4)},
        {"dtype": "<f4", "chunks": (4, 4), "compression": "lzf"},
        {"dtype": "<f4", "chunks": (4, 4), "fletcher32": True},
        {"dtype": "<f4", "chunks": (4, 4), "fillvalue": 1},
        {"dtype": "<f4"},
    ],
)
def test_what_only_hdf5_can_read_is_left_to_it(tmp_path: Path, options: dict) -> None:
    with h5py.File(tmp_path / "a.h5", "w") as handle:
        assert ChunkLayout.of(handle.create_dataset("a", data=np.ones((8, 8)), **options)) is None


def test_stores_with_other_filters_read_the_same(store_path: Path, tmp_path: Path) -> None:
    path = tmp_path / "s.h5"
    path.write_bytes(store_path.read_bytes())
    with h5py.File(path, "r+") as handle:
        group = handle[f"volumes/{VOLUME}"]
        values, attributes = group["chi33"][()], dict(group["chi33"].attrs)
        del group["chi33"]
        group.create_dataset("chi33", data=values, chunks=(5, 6, 7), compression="lzf").attrs.update(attributes)
    names, box = ("field", "chi33"), np.s_[3:14, 2:20, 5:9]
    found = StoreReader(open_store(path)).stack(VOLUME, names, box)
    np.testing.assert_array_equal(found, StoreReader(open_store(store_path)).stack(VOLUME, names, box))


def test_a_damaged_chunk_is_named(store_path: Path, tmp_path: Path) -> None:
    path = tmp_path / "s.h5"
    path.write_bytes(store_path.read_bytes())
    with h5py.File(path, "r") as handle:
        layout = ChunkLayout.of(handle[f"volumes/{VOLUME}/chi33"])
    assert layout is not None
    offset, size = layout.places[0, 0, 0]
    with open(path, "r+b") as handle:
        handle.seek(offset + size // 2)
        handle.write(bytes(size - size // 2))
    reader = StoreReader(open_store(path))
    with pytest.raises(InputError, match=r"/volumes/sub-01/acq-ori01/chi33 is damaged at chunk \(0, 0, 0\)"):
        reader.stack(VOLUME, ("chi33",), np.s_[:8, :8, :8])


def test_a_cache_keeps_what_was_used_last_within_its_bound() -> None:
    cache = ChunkCache(100)
    for number in range(5):
        cache.put(number, np.zeros(20, np.uint8))
    assert cache.get(0) is not None
    cache.put(5, np.zeros(20, np.uint8))
    assert (cache.bytes, len(cache)) == (100, 5)
    assert cache.get(1) is None
    assert cache.get(0) is not None
    cache.put(6, np.zeros(101, np.uint8))
    assert cache.get(6) is None
    cache.put(7, np.zeros(95, np.uint8))
    assert (cache.bytes, len(cache), cache.get(0)) == (95, 1, None)
    cache.clear()
    assert (cache.bytes, len(cache)) == (0, 0)


def test_the_decoded_chunks_stay_within_their_bound(store_path: Path) -> None:
    plenty, little, none = (PatchDataset(store_path, cache_bytes=size) for size in (2**30, 400_000, 0))
    for index in range(len(plenty)):
        item = plenty[index]
        for other in (little, none):
            assert all(np.array_equal(item[name], other[index][name]) for name in plenty.channels)
        assert 0 < little.reader.cache.bytes <= 400_000
        assert none.reader.cache.bytes == 0
    misses = plenty.reader.cache.misses
    plenty[0]
    assert plenty.reader.cache.misses == misses


@pytest.mark.parametrize("threads", [1, 3])
def test_threads_that_inflate_change_nothing(store_path: Path, threads: int) -> None:
    reader = StoreReader(open_store(store_path), threads=threads)
    names = ("deltab", "field")
    whole = reader.stack(VOLUME, names)
    with h5py.File(store_path, "r") as handle:
        group = handle[f"volumes/{VOLUME}"]
        np.testing.assert_array_equal(whole[0], group["deltab"][()])
        np.testing.assert_array_equal(whole[1], group["field"][()] * group["mask"][()])
    assert reader.cache.bytes == 0  # a whole volume does not drive out what is kept
    np.testing.assert_array_equal(reader.stack(VOLUME, names, np.s_[4:9, :, 2:3]), whole[:, 4:9, :, 2:3])


def test_what_was_read_may_be_altered(store_path: Path) -> None:
    dataset = PatchDataset(store_path)
    first = dataset[0]["field"].clone()
    dataset[0]["field"].fill_(7)
    np.testing.assert_array_equal(dataset[0]["field"], first)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"cache_bytes": -1}, "cache_bytes must be at least 0, got -1"),
        ({"threads": 0}, "threads must be at least 1, got 0"),
    ],
)
def test_settings_out_of_range_are_refused(store_path: Path, options: dict, message: str) -> None:
    with pytest.raises(InputError, match=message):
        StoreReader(open_store(store_path), **options)
