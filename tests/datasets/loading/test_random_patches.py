"""Random patches are new every epoch, hold enough brain, and depend on seed, epoch and index alone."""

from __future__ import annotations

import pickle
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from chi33.datasets.build.build import BuildConfig, build_store
from chi33.datasets.build.corners import AdmissibleCorners
from chi33.datasets.loading.epoch_sampler import EpochSampler
from chi33.datasets.loading.patch_dataset import PatchDataset, RandomPatchDataset, VolumeDataset
from chi33.datasets.loading.patches import brain_counts
from chi33.files.errors import Chi33Warning, InputError
from torch.utils.data import DataLoader


def places(batches: Sequence[dict]) -> list[tuple]:
    """Volume and corner of every patch, in order."""
    return [
        (volume, *corner.tolist())
        for batch in batches
        for volume, corner in zip(batch["volume"], batch["corner"], strict=True)
    ]


def epochs_of(dataset: RandomPatchDataset, epochs: int = 2, **options) -> list[dict]:
    """The batches of some epochs of one loader, whose processes live on."""
    sampler = EpochSampler(len(dataset), seed=3, with_epoch=True)
    loader = DataLoader(
        dataset, 4, sampler=sampler, persistent_workers=options.get("num_workers", 0) > 0, **options
    )  # fmt: skip
    batches = []
    for epoch in range(epochs):
        sampler.set_epoch(epoch)
        batches += list(loader)
    return batches


def test_a_random_patch_is_cut_at_its_corner_and_holds_enough_brain(store_path: Path) -> None:
    dataset = RandomPatchDataset(store_path, "train", 9, 0.7, 30, seed=1)
    whole = {item["volume"]: item for item in VolumeDataset(store_path, "train")}
    for index in range(30):
        item = dataset[index]
        box = (slice(None), *(slice(start, start + 9) for start in item["corner"].tolist()))
        assert item["mask"].mean() >= 0.7
        for name in dataset.channels:
            assert torch.equal(item[name], whole[item["volume"]][name][box])
    assert len({item["volume"] for item in (dataset[n] for n in range(30))}) == 3


def test_corners_are_drawn_evenly_from_all_that_are_admissible() -> None:
    mask = np.zeros((7, 8, 9), np.uint8)
    mask[2:6, 1:7, 3:8] = 1
    corners = AdmissibleCorners.of(mask, 3, 0.9)
    expected = {tuple(corner) for corner in np.argwhere(brain_counts(mask, 3) >= 0.9 * 27)}
    generator = np.random.default_rng(0)
    drawn = [corners.draw(generator) for _ in range(400 * len(expected))]
    counts = np.array([drawn.count(corner) for corner in expected])
    assert len(corners) == len(expected) == 2 * 4 * 3
    assert set(drawn) == expected
    assert abs(counts / 400 - 1).max() < 0.25


def test_every_epoch_has_new_patches_and_repeats_exactly(store_path: Path) -> None:
    dataset = RandomPatchDataset(store_path, number=40, seed=1)
    assert (dataset.patch_size, dataset.min_brain, len(dataset)) == (10, 0.8, 40)
    first = [dataset.place(n) for n in range(40)]
    dataset.set_epoch(1)
    second = [dataset.place(n) for n in range(40)]
    again = RandomPatchDataset(store_path, number=40, seed=1)
    other = RandomPatchDataset(store_path, number=40, seed=2)
    found = [[(p.volume.id, p.corner) for p in places] for places in (first, second)]
    assert [(p.volume.id, p.corner) for p in map(again.place, range(40))] == found[0]
    assert [(p.volume.id, p.corner) for p in (again.place((1, n)) for n in range(40))] == found[1]
    theirs = [(p.volume.id, p.corner) for p in map(other.place, range(40))]
    assert len(set(found[0]) & set(found[1])) < 8
    assert len(set(found[0]) & set(theirs)) < 8
    assert dataset.place(-1) == second[-1]
    with pytest.raises(IndexError, match="index 40 is out of range for 40 patches"):
        dataset[40]


@pytest.mark.parametrize(("workers", "context"), [(1, "fork"), (2, "fork"), (2, "spawn")])
def test_the_same_seed_gives_the_same_batches_on_any_processes(store_path: Path, workers: int, context: str) -> None:
    dataset = RandomPatchDataset(store_path, number=10, seed=1)
    expected = epochs_of(dataset)
    found = epochs_of(dataset, num_workers=workers, multiprocessing_context=context)
    assert places(found) == places(expected)
    assert len(set(places(found))) == 20
    for ours, theirs in zip(expected, found, strict=True):
        assert all(torch.equal(ours[name], theirs[name]) for name in dataset.channels)


class Reporting(RandomPatchDataset):
    """Tells which worker process made an item."""

    def __getitem__(self, key):
        worker = torch.utils.data.get_worker_info()
        assert worker is not None
        return {**super().__getitem__(key), "worker": worker.id}


def test_two_worker_processes_never_return_the_same_sequence(store_path: Path) -> None:
    batches = epochs_of(Reporting(store_path, number=24, seed=1), num_workers=2)
    of_worker: dict[int, list[tuple]] = {0: [], 1: []}
    for batch, where in zip(batches, [batch["worker"].tolist() for batch in batches], strict=True):
        assert len(set(where)) == 1
        of_worker[where[0]] += places([batch])
    assert len(of_worker[0]) == len(of_worker[1]) == 24
    assert not set(of_worker[0]) & set(of_worker[1])


def test_it_travels_to_other_processes_without_the_voxels(store_path: Path) -> None:
    dataset = RandomPatchDataset(store_path, number=5, in_memory=True)
    copy = pickle.loads(pickle.dumps(dataset))
    assert torch.equal(copy[3]["field"], dataset[3]["field"])
    voxels = sum(np.prod(volume.shape) for volume in dataset.volumes)
    assert len(pickle.dumps(dataset)) < 2 * voxels


def test_volumes_without_an_admissible_patch_are_left_out(derivatives: Path, tmp_path: Path) -> None:
    import h5py

    build_store(derivatives, tmp_path / "s.h5", BuildConfig(patch_size=10, patches_per_scan=2))
    with h5py.File(tmp_path / "s.h5", "r+") as handle:
        mask = handle["volumes/sub-01/acq-ori01/mask"]
        mask[...] = 0
    with pytest.warns(Chi33Warning, match="Left out, no patch of 10 voxels in sub-01/acq-ori01 holds 80% brain"):
        dataset = RandomPatchDataset(tmp_path / "s.h5", number=50)
    assert "sub-01/acq-ori01" not in {dataset.place(n).volume.id for n in range(50)}
    with pytest.raises(InputError, match=r"no patch of 24 voxels in .* holds 100% brain"):
        RandomPatchDataset(tmp_path / "s.h5", patch_size=24, min_brain=1.0)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"min_brain": 0.0}, "min_brain must be above 0 and at most 1, got 0"),
        ({"number": 0}, "the patches per epoch must be at least 1, got 0"),
        ({"patch_size": 99}, "a patch of 99 voxels does not fit"),
        ({"channels": ("t1w",)}, "has no t1w"),
    ],
)
def test_wrong_arguments_are_named(store_path: Path, arguments: dict, message: str) -> None:
    with pytest.raises(InputError, match=message):
        RandomPatchDataset(store_path, **arguments)


def test_what_the_index_does_not_say_must_be_given(store_path: Path) -> None:
    from dataclasses import replace

    from chi33.datasets.store.schema import open_store

    store = replace(open_store(store_path), patches={})
    with pytest.raises(InputError, match="patch_size must be given, as the store has no patch index"):
        RandomPatchDataset(store)
    with pytest.raises(InputError, match="number must be given"):
        RandomPatchDataset(store, "train", 8, 0.5)
    with pytest.raises(InputError, match="has no test volumes"):
        RandomPatchDataset(replace(store, volumes=store.of_split("train")), "test", 8, 0.5, 3)


def test_volumes_larger_than_the_memory_are_refused(store_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from chi33.datasets.loading import patch_dataset

    monkeypatch.setattr(patch_dataset, "physical_memory", lambda: 100_000)
    with pytest.raises(InputError, match=r"take 0.00 GB uncompressed, but this machine's memory has 0.00 GB: read"):
        PatchDataset(store_path, in_memory=True)
