"""Heads turned on a device are those of rotate_tensor_image, and a patch depends on seed, epoch and index alone."""

from __future__ import annotations

import math
import multiprocessing
import pickle
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from chi33.datasets.augmentation import torch_rotation as rotation_torch
from chi33.datasets.augmentation.rotated_head import RotatableHead, read_sources
from chi33.datasets.augmentation.rotation import rotate_scalar_image, rotate_tensor_image
from chi33.datasets.augmentation.torch_rotation import RotatedPatchDataset, admissible_before, draw_corner
from chi33.datasets.build.build import BuildConfig, build_store
from chi33.datasets.loading.epoch_sampler import EpochSampler
from chi33.datasets.loading.loaders import LoaderConfig, loader_of, patches_of, sampler_of
from chi33.datasets.loading.patch_dataset import PatchDataset
from chi33.datasets.loading.patches import brain_counts
from chi33.datasets.store.schema import open_store
from chi33.datasets.store.volume import ScalarVolume, TensorVolume
from chi33.files.errors import InputError
from chi33.pipeline.images import torch_resample
from chi33.pipeline.images.spline_maps import evaluate, spline_maps
from chi33.pipeline.physics import torch_field
from scipy.spatial.transform import Rotation
from torch.utils.data import DataLoader, default_collate

DEVICES = ["cpu", *(["cuda"] if torch.cuda.is_available() else [])]
ROTATIONS = [
    Rotation.from_rotvec([0.3, -0.2, 0.25]).as_matrix(),
    Rotation.from_euler("x", 90, degrees=True).as_matrix(),
    Rotation.from_euler("z", 45, degrees=True).as_matrix(),
]


@pytest.fixture(scope="module")
def store_of_two(derivatives: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store whose training split holds two subjects."""
    path = tmp_path_factory.mktemp("turned") / "store.h5"
    config = BuildConfig(patch_size=10, min_brain=0.7, patches_per_scan=6, val_subjects=("03",), test_subjects=())
    build_store(derivatives, path, config)
    return path


def sources(path: Path, kind: str) -> list[TensorVolume | ScalarVolume]:
    return read_sources(open_store(path), "train", kind)


def equal(one: dict[str, Any], other: dict[str, Any]) -> bool:
    return one.keys() == other.keys() and all(
        torch.equal(a, b) if isinstance(a, torch.Tensor) else a == b
        for a, b in zip(one.values(), other.values(), strict=True)
    )


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("rotation", ROTATIONS)
def test_a_tensor_turned_in_torch_is_that_of_numpy(
    store_of_two: Path, rotation: np.ndarray, device: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch_resample, "_POINTS", {"cpu": 1000, "cuda": 1000})  # many slabs
    monkeypatch.setattr(torch_resample, "_PLANES", 5000)
    monkeypatch.setattr(torch_field, "_SLAB_POINTS", 20_000)
    tensor = sources(store_of_two, "tensor")[0]
    assert isinstance(tensor, TensorVolume)
    expected = rotate_tensor_image(tensor, rotation, "a")
    found = RotatableHead.of(tensor, device).turn(rotation)
    np.testing.assert_array_equal(found.mask.cpu().numpy(), expected.mask)
    np.testing.assert_array_equal(found.geometry.affine, expected.geometry.affine)
    assert set(found.maps) == {"field", "chi33", "deltab"}
    for name, values in found.maps.items():
        assert values.device.type == device
        difference = np.abs(values.cpu().numpy() - expected.channels[name]).max()
        assert difference < 2e-6 * np.ptp(expected.channels[name]), name
    assert float(found.field_rms) == pytest.approx(
        np.sqrt(np.mean(expected.channels["field"][expected.mask] ** 2)), rel=1e-5
    )


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("size", [(1.0, 1.0, 4.0), (2.5, 1.0, 1.4)])
def test_on_a_coarser_grid_torch_averages_as_numpy(size: tuple[float, float, float], device: str) -> None:
    rng = np.random.default_rng(0)
    mask = np.pad(np.ones((18, 16, 20), bool), 3)
    maps = spline_maps(rng.standard_normal((2, *mask.shape)), mask, np.diag([1, 1.2, 1, 1]))
    transform = np.eye(4)
    transform[:3, :3], transform[:3, 3] = Rotation.from_rotvec([0.3, 0.2, -0.1]).as_matrix(), [2, -1, 3]
    place = (np.diag([*size, 1.0]), (24, 22, 20), transform)
    expected, inside = evaluate(maps, *place)
    on_device = torch_resample.TorchSplineMaps.of(maps, device)
    found, where = on_device.evaluate(on_device.coefficients, *place)
    np.testing.assert_array_equal(where.cpu().numpy(), inside)
    assert np.abs(found.cpu().numpy() - expected).max() < 2e-6 * np.ptp(expected)


@pytest.mark.parametrize("device", DEVICES)
def test_a_cosmos_map_turned_in_torch_is_that_of_numpy(store_of_two: Path, device: str) -> None:
    scalar = sources(store_of_two, "cosmos")[1]
    assert isinstance(scalar, ScalarVolume)
    assert scalar.id == "sub-01/acq-ori02"
    expected = rotate_scalar_image(scalar, ROTATIONS[0], "a", labels=("chi33", "cosmos"))
    found = RotatableHead.of(scalar, device).turn(ROTATIONS[0])
    np.testing.assert_array_equal(found.mask.cpu().numpy(), expected.mask)
    for name in ("field", "chi33", "cosmos"):
        difference = np.abs(found.maps[name].cpu().numpy() - expected.channels[name]).max()
        assert difference < 2e-6 * np.ptp(expected.channels[name]), name


@pytest.mark.parametrize("kind", ["tensor", "cosmos"])
def test_items_are_crops_of_turned_heads_in_the_layout_of_patches(store_of_two: Path, kind: str) -> None:
    dataset = RotatedPatchDataset(store_of_two, kind=kind, seed=3)
    assert len(dataset) == len(PatchDataset(store_of_two))
    like = PatchDataset(store_of_two)[0]
    by_name = {getattr(one, "id", f"sub-{one.subject}"): one for one in sources(store_of_two, kind)}
    for index in range(6):
        item = dataset[index]
        assert set(item) == set(like)
        for name, value in like.items():
            if isinstance(value, torch.Tensor):
                assert (item[name].shape, item[name].dtype) == (value.shape, value.dtype), name
        source, rotation, scale = dataset.rotation(index)
        assert scale == 1
        assert item["volume"] == f"{source}/turned-0-{index}"
        assert 0 < np.degrees(Rotation.from_matrix(rotation).magnitude()) <= 30
        one = by_name[source]
        labels = ("chi33", "deltab")
        whole = (
            rotate_tensor_image(one, rotation, "a")
            if isinstance(one, TensorVolume)
            else rotate_scalar_image(one, rotation, "a", labels=labels)
        )
        i, j, k = item["corner"].tolist()
        box = np.s_[i : i + 10, j : j + 10, k : k + 10]
        assert tuple(item["volume_shape"].tolist()) == whole.mask.shape
        np.testing.assert_array_equal(item["mask"][0], whole.mask[box])
        assert item["mask"].mean() >= 0.7
        for name in ("field", *labels):
            expected = whole.channels[name][box] * (whole.mask[box] if name == "field" else 1)
            np.testing.assert_allclose(item[name][0], expected, atol=2e-6 * np.ptp(whole.channels["field"]))
        np.testing.assert_array_equal(item["b0_direction"], [0, 0, 1])
        np.testing.assert_allclose(item["voxel_size"], whole.geometry.voxel_size)
    assert {dataset.rotation(n)[0][:6] for n in range(12)} == {"sub-01", "sub-02"}


def test_a_batch_is_its_items_collated(store_of_two: Path) -> None:
    dataset = RotatedPatchDataset(store_of_two, patches_per_turn=3, snr=(10, 40), scale=(0.5, 2))
    assert equal(dataset.batch([4, 5, (2, 1)]), default_collate([dataset[4], dataset[5], dataset[2, 1]]))


def test_several_patches_share_a_turned_head(store_of_two: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    turned = []
    turn = RotatableHead.turn
    monkeypatch.setattr(RotatableHead, "turn", lambda self, rotation: turned.append(1) or turn(self, rotation))
    dataset = RotatedPatchDataset(store_of_two, patches_per_turn=4)
    items = [dataset[index] for index in range(8)]
    assert len(turned) == 2
    assert [item["volume"] for item in items] == [items[0]["volume"]] * 4 + [items[4]["volume"]] * 4
    assert len({tuple(item["corner"].tolist()) for item in items[:4]}) > 1
    assert equal(items[2], RotatedPatchDataset(store_of_two, patches_per_turn=4)[2])  # in any order


def test_epochs_and_seeds_differ_and_repeat(store_of_two: Path) -> None:
    dataset = RotatedPatchDataset(store_of_two, seed=1, snr=(20, 20))
    first = dataset[0]
    dataset.set_epoch(1)
    second = dataset[0]
    assert equal(second, RotatedPatchDataset(store_of_two, seed=1, snr=(20, 20))[1, 0])
    other = RotatedPatchDataset(store_of_two, seed=2, snr=(20, 20))
    rotations = [dataset.rotation((0, 0))[1], dataset.rotation((1, 0))[1], other.rotation(0)[1]]
    assert not any(np.allclose(rotations[a], rotations[b]) for a, b in ((0, 1), (0, 2), (1, 2)))
    assert not torch.equal(first["field"], second["field"])
    assert equal(dataset[0, -1], dataset[0, len(dataset) - 1])
    with pytest.raises(IndexError, match="index 24 is out of range for 24 patches"):
        dataset[24]


@pytest.mark.parametrize("start", ["fork", "spawn"])
def test_any_number_of_workers_gives_the_same_patches(store_of_two: Path, start: str) -> None:
    dataset = RotatedPatchDataset(store_of_two, length=6, patches_per_turn=2, snr=(10, 20), scale=(0.5, 2))
    sampler = EpochSampler(6, seed=4, with_epoch=True)
    sampler.set_epoch(3)
    plain = list(DataLoader(dataset, batch_size=2, sampler=sampler))
    context = multiprocessing.get_context(start)
    loader = DataLoader(dataset, batch_size=2, sampler=sampler, num_workers=2, multiprocessing_context=context)
    for one, other in zip(plain, loader, strict=True):
        assert equal(one, other)
    ranks = [EpochSampler(6, seed=4, with_epoch=True, num_replicas=2, rank=rank) for rank in (0, 1)]
    for sampler_of_rank in ranks:
        sampler_of_rank.set_epoch(3)
    seen = {key: dataset[key]["volume"] for rank in ranks for key in rank}
    assert sorted(seen) == [(3, n) for n in range(6)]


@pytest.fixture
def rotations(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[], int]:
    """Tells how many heads were rotated since it was asked last, in this process and in those forked from it."""
    log = tmp_path / "rotations"
    log.touch()
    turn = RotatableHead.turn

    def recorded(self: RotatableHead, rotation: np.ndarray) -> Any:
        with open(log, "ab") as file:
            file.write(b".")
        return turn(self, rotation)

    def count() -> int:
        found = log.stat().st_size
        log.write_bytes(b"")
        return found

    monkeypatch.setattr(RotatableHead, "turn", recorded)
    return count


@pytest.mark.parametrize(("batch_size", "per_head"), [(2, 4), (3, 4), (5, 3)])
def test_each_head_is_rotated_once_whatever_the_number_of_loader_processes(
    store_of_two: Path, rotations: Callable[[], int], batch_size: int, per_head: int
) -> None:
    store = open_store(store_of_two)
    config = LoaderConfig(
        batch_size=batch_size, draw="turned", samples_per_epoch=14, patches_per_turn=per_head, snr=(10, 20),
        start_method="fork",
    )  # fmt: skip
    expected: list[dict[str, Any]] = []
    for workers in (0, 2):
        reading = replace(config, num_workers=workers)
        patches = patches_of(store, "train", reading)
        loader = loader_of(patches, sampler_of(patches, None, reading), reading)
        batches = [batch for epoch in (0, 1) for batch in of_epoch(loader, epoch)]
        assert rotations() == 2 * math.ceil(14 / per_head)
        assert len(batches) == 2 * len(loader) == 2 * math.ceil(14 / batch_size)
        expected = expected or batches
        assert all(equal(one, other) for one, other in zip(batches, expected, strict=True))


def of_epoch(loader: Any, epoch: int) -> list[dict[str, Any]]:
    loader.sampler.set_epoch(epoch)
    return list(loader)


def test_an_epoch_that_is_left_early_does_not_disturb_the_next(store_of_two: Path) -> None:
    store = open_store(store_of_two)
    reading = LoaderConfig(draw="turned", samples_per_epoch=9, num_workers=2, start_method="fork")
    patches = patches_of(store, "train", reading)
    loader = loader_of(patches, sampler_of(patches, None, reading), reading)
    first = next(iter(loader))
    again = list(loader)
    assert equal(again[0], first)
    assert [len(batch["volume"]) for batch in again] == [2, 2, 2, 2, 1]


def test_processes_that_train_together_share_out_whole_heads(store_of_two: Path) -> None:
    store = open_store(store_of_two)
    reading = LoaderConfig(draw="turned", samples_per_epoch=16, patches_per_turn=4)
    patches = patches_of(store, "train", reading)
    seen = [list(sampler_of(patches, None, reading, share=(2, rank))) for rank in (0, 1)]
    heads = [{index // 4 for _, index in keys} for keys in seen]
    assert heads == [{0, 1}, {2, 3}]
    assert sorted(seen[0] + seen[1]) == [(0, n) for n in range(16)]


def test_a_pickled_dataset_leaves_the_turned_head_behind(store_of_two: Path) -> None:
    dataset = RotatedPatchDataset(store_of_two)
    item = dataset[0]
    assert dataset._last is not None
    copy = pickle.loads(pickle.dumps(dataset))
    assert copy._last is None
    assert equal(copy[0], item)


def test_noise_has_the_given_ratio_and_lies_inside_the_mask(store_of_two: Path) -> None:
    plain = RotatedPatchDataset(store_of_two, seed=5, patches_per_turn=4)
    noisy = RotatedPatchDataset(store_of_two, seed=5, patches_per_turn=4, snr=(8, 8))
    added, inside = [], 0
    for index in range(8):
        one, other = plain[index], noisy[index]
        difference = (other["field"] - one["field"]) / plain.turned(index).field_rms
        assert not difference[one["mask"] == 0].any()
        assert torch.equal(one["chi33"], other["chi33"])
        added.append(difference[one["mask"] > 0])
        inside += int(one["mask"].sum())
    noise = torch.cat(added)
    assert float(noise.std()) == pytest.approx(1 / 8, rel=4 / np.sqrt(2 * inside))
    assert abs(float(noise.mean())) < 4 / 8 / np.sqrt(inside)


@pytest.mark.parametrize("kind", ["tensor", "cosmos"])
def test_scale_multiplies_field_and_labels_together(store_of_two: Path, kind: str) -> None:
    plain = RotatedPatchDataset(store_of_two, kind=kind)
    scaled = RotatedPatchDataset(store_of_two, kind=kind, scale=(0.5, 3))
    scales = []
    for index in range(5):
        scales.append(scaled.rotation(index)[2])
        for name in ("field", "chi33", "deltab"):
            torch.testing.assert_close(scaled[index][name], plain[index][name] * scales[-1], rtol=1e-5, atol=1e-7)
    assert all(0.5 <= scale <= 3 for scale in scales)
    assert np.ptp(scales) > 0.1


def test_every_admissible_corner_is_drawn_alike() -> None:
    mask = torch.zeros(12, 9, 11, dtype=torch.bool)
    mask[3:10, 2:8, 1:9] = True
    before = admissible_before(mask, 4, 0.75)
    counts = brain_counts(mask.numpy(), 4)
    admissible = np.argwhere(counts >= 48)
    assert int(before[-1]) == len(admissible)
    shares = (np.arange(len(admissible)) + 0.5) / len(admissible)
    drawn = [draw_corner(before, counts.shape, share).tolist() for share in shares]
    np.testing.assert_array_equal(drawn, admissible)
    assert draw_corner(before, counts.shape, np.nextafter(1, 0)).tolist() == admissible[-1].tolist()
    fullest = admissible_before(mask[:6, :5, :4], 4, 1.0)  # none is full: those with most brain
    best = brain_counts(mask[:6, :5, :4].numpy(), 4)
    assert int(fullest[-1]) == (best == best.max()).sum() >= 1


def test_cosmos_as_a_channel(store_of_two: Path) -> None:
    item = RotatedPatchDataset(store_of_two, kind="cosmos", channels=("field", "cosmos", "mask"))[0]
    assert set(item) & {"field", "chi33", "deltab", "cosmos", "mask"} == {"field", "cosmos", "mask"}
    assert item["cosmos"].abs().max() > 0


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"kind": "chi"}, "kind must be one of tensor, cosmos, got 'chi'"),
        ({"channels": ("field", "cosmos")}, "turning by 'tensor' makes field, chi33, deltab, mask, but cosmos was"),
        ({"length": 0}, "length must be at least 1, got 0"),
        ({"patches_per_turn": 0}, "patches_per_turn must be at least 1, got 0"),
        ({"min_brain": 1.5}, "min_brain must be above 0 and at most 1, got 1.5"),
        ({"max_angle": 0}, "--max-angle must be above 0 and at most 90 degrees, got 0"),
        ({"snr": (5, 2)}, "--augment-snr must be two rising numbers above 0, LOW,HIGH, got 5,2"),
        ({"scale": (0, 2)}, "--augment-scale must be two rising numbers above 0, LOW,HIGH, got 0,2"),
        ({"patch_size": 40}, "a patch of 40 voxels does not fit a volume of shape"),
        ({"patch_size": 22, "min_brain": 1.0}, "no patch of 22 voxels in sub-01 holds 100% brain"),
        ({"device": "gpu"}, "device must be 'cpu', 'cuda' or 'cuda:N', got 'gpu'"),
        ({"split": "test"}, "has no tensors in test to turn: choose kind 'cosmos', or another split"),
        ({"split": "test", "kind": "cosmos"}, "has no acquired volumes with COSMOS maps in test to turn"),
    ],
)
def test_unfit_options_are_refused(store_of_two: Path, options: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        RotatedPatchDataset(store_of_two, **options)


def test_a_patch_size_must_be_known(store_of_two: Path) -> None:
    with pytest.raises(InputError, match="patch_size must be given, as the store has no patch index for this split"):
        RotatedPatchDataset(replace(open_store(store_of_two), patches={}))


def test_a_gpu_is_not_used_from_workers(store_of_two: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    dataset = RotatedPatchDataset(store_of_two)
    monkeypatch.setattr(dataset, "device", torch.device("cuda"))
    monkeypatch.setattr(rotation_torch, "get_worker_info", lambda: object())
    with pytest.raises(InputError, match="heads on cuda cannot be turned in worker processes: use num_workers=0"):
        dataset[0]
