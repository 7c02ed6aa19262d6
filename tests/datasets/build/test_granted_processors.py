"""Reading and building take the processors and the memory that are granted, not those of the machine."""

from __future__ import annotations

from pathlib import Path

import pytest
from chi33.datasets.build import build
from chi33.datasets.build.build import build_store
from chi33.datasets.build.config import BuildConfig
from chi33.datasets.loading import patch_dataset
from chi33.datasets.loading.patch_dataset import physical_memory
from chi33.datasets.store import reader as store_reader
from chi33.datasets.store.reader import StoreReader
from chi33.datasets.store.schema import open_store


def test_a_reader_takes_the_processors_granted(store_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = open_store(store_path)
    volume = store.volumes[0].id
    for granted, pooled in ((1, False), (3, True)):
        monkeypatch.setattr(store_reader, "available_processors", lambda granted=granted: granted)
        reader = StoreReader(store)
        reader._each(lambda item: None, [1, 2])
        assert (reader._pool is not None) == pooled
        assert pooled is False or reader._pool._max_workers == granted
        assert reader.stack(volume, ("field",)).shape[1:] == store.volumes[0].shape
        reader.close()


def test_a_build_takes_the_processors_granted(
    derivatives: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[int] = []
    original = build.workers
    monkeypatch.setattr(build, "available_processors", lambda: 3)
    monkeypatch.setattr(build, "_WORTH_WORKERS", 0)
    monkeypatch.setattr(build, "workers", lambda n, *rest: asked.append(n) or original(1, *rest))
    build_store(derivatives, tmp_path / "s.h5", BuildConfig(patch_size=10, patches_per_scan=2), n_procs=None)
    assert asked == [3]


def test_memory_is_what_a_container_grants(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(patch_dataset, "memory_limit", lambda: 12345)
    assert physical_memory() == 12345
    monkeypatch.setattr(patch_dataset, "memory_limit", lambda: None)
    assert physical_memory() > 10**8
