"""Batches cropped on the device are those read from the file."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from chi33.datasets.loading import device_patches
from chi33.datasets.loading.device_patches import DeviceLoader, DevicePatches
from chi33.datasets.loading.loaders import LoaderConfig, loader_of, patches_of, sampler_of
from chi33.datasets.loading.patch_dataset import PatchDataset
from chi33.datasets.store.schema import open_store
from chi33.files.errors import InputError
from torch.utils.data import DataLoader

DEVICES = ["cpu", *(["cuda"] if torch.cuda.is_available() else [])]


def same(ours: dict, theirs: dict) -> bool:
    return ours.keys() == theirs.keys() and all(
        torch.equal(ours[name].cpu(), value) if isinstance(value, torch.Tensor) else ours[name] == value
        for name, value in theirs.items()
    )


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("draw", ["index", "random"])
def test_batches_on_the_device_are_those_of_the_file(store_path: Path, device: str, draw: str) -> None:
    store = open_store(store_path)
    epochs = []
    for keep in ("chunks", "memory", "device"):
        config = LoaderConfig(batch_size=4, draw=draw, keep=keep, samples_per_epoch=10)
        patches = patches_of(store, "train", config)
        sampler = sampler_of(patches, 10, config)
        loader = loader_of(patches, sampler, config, device)
        assert isinstance(loader, DeviceLoader if keep == "device" else DataLoader)
        assert len(loader) == 3
        batches = []
        for epoch in range(2):
            loader.sampler.set_epoch(epoch)
            batches += list(loader)
        epochs.append(batches)
    from_file, from_memory, on_device = epochs
    assert on_device[0]["chi33"].device.type == device
    assert len(from_file) == 6
    assert all(same(a, b) and same(c, b) for a, b, c in zip(from_memory, from_file, on_device, strict=True))


def test_a_batch_may_be_altered(store_path: Path) -> None:
    held = DevicePatches(PatchDataset(store_path), "cpu")
    first = held.batch([0, 1])["field"].clone()
    held.batch([0, 1])["field"].fill_(3)
    assert torch.equal(held.batch([0, 1])["field"], first)


def test_a_device_that_is_too_small_is_refused(store_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(device_patches, "free_bytes", lambda device: 10_000)
    with pytest.raises(InputError, match=r"take 0.00 GB uncompressed, but cpu has 0.00 GB: read them from the store"):
        DevicePatches(PatchDataset(store_path), "cpu")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"batch_size": 0}, "batch_size must be at least 1, got 0"),
        ({"cache_mb": -1}, "cache_mb must be at least 0, got -1"),
        (
            {"patch_size": 32},
            'patch_size and min_brain are those of the store\'s index: choose draw = "random" or "turned" too',
        ),
        ({"keep": "device", "num_workers": 2}, 'keep = "device" needs no loader processes, got num_workers = 2'),
    ],
)
def test_settings_that_do_not_fit_are_refused(arguments: dict, message: str) -> None:
    with pytest.raises(InputError, match=message):
        LoaderConfig(**arguments)
