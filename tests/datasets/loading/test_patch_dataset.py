"""Batches are the store's voxels, whichever process reads them and however it was started."""

from __future__ import annotations

import os
import pickle
import threading
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch
from chi33.datasets.build.build import BuildConfig, build_store
from chi33.datasets.loading.patch_dataset import PatchDataset, VolumeDataset
from chi33.datasets.loading.patches import draw_patches
from chi33.datasets.store.schema import PatchTable, open_store
from chi33.files.errors import InputError
from torch.utils.data import DataLoader


def test_a_patch_is_cut_at_its_corner(store_path: Path) -> None:
    dataset = PatchDataset(store_path, "train")
    assert len(dataset) == 60
    with h5py.File(store_path, "r") as handle:
        for index in (0, 25, 59):
            item = dataset[index]
            group = handle[f"volumes/{item['volume']}"]
            i, j, k = item["corner"].tolist()
            box = np.s_[i : i + 10, j : j + 10, k : k + 10]
            mask = group["mask"][box]
            assert mask.mean() >= 0.8
            for channel in ("chi33", "deltab", "mask"):
                assert item[channel].dtype == torch.float32
                assert item[channel].shape == (1, 10, 10, 10)
                np.testing.assert_array_equal(item[channel][0], group[channel][box])
            np.testing.assert_array_equal(item["field"][0], group["field"][box] * mask)
            np.testing.assert_allclose(item["b0_direction"], group.attrs["b0_direction"], rtol=1e-6)
            np.testing.assert_allclose(item["voxel_size"], 2)
            assert tuple(item["volume_shape"]) == group["mask"].shape


def test_channels_are_chosen(store_path: Path) -> None:
    item = PatchDataset(store_path, "val", ("field", "cosmos"))[0]
    assert {"field", "cosmos"} <= set(item)
    assert not {"mask", "chi33", "deltab"} & set(item)


def loaded(dataset: PatchDataset, **options) -> list[dict]:
    return list(DataLoader(dataset, batch_size=4, **options))


@pytest.mark.parametrize(("context", "in_memory"), [("fork", False), ("spawn", False), ("fork", True)])
def test_workers_give_what_one_process_gives(store_path: Path, context: str, in_memory: bool) -> None:
    dataset = PatchDataset(store_path, "train", in_memory=in_memory)
    expected = (
        loaded(PatchDataset(store_path, "train")) if in_memory else loaded(dataset)
    )  # the handle of this process is open when the workers start
    found = loaded(dataset, num_workers=2, multiprocessing_context=context)
    assert len(expected) == len(found) == 15
    for ours, theirs in zip(expected, found, strict=True):
        assert ours["volume"] == theirs["volume"]
        for name in ("field", "chi33", "deltab", "mask", "corner", "b0_direction"):
            assert torch.equal(ours[name], theirs[name])
    assert torch.equal(dataset[3]["field"], expected[0]["field"][3])


def open_files(path: Path) -> int:
    found = [os.path.realpath(f"/proc/self/fd/{number}") for number in os.listdir("/proc/self/fd")]
    return found.count(str(path.resolve()))


def test_no_file_is_open_before_it_is_read_nor_pickled_nor_in_a_fork(store_path: Path) -> None:
    dataset = PatchDataset(store_path, "train")
    before = open_files(store_path)
    first = dataset[0]["field"]
    assert open_files(store_path) == before + 1
    copy = pickle.loads(pickle.dumps(dataset))
    assert open_files(store_path) == before + 1
    assert torch.equal(copy[0]["field"], first)
    copy.reader.close()
    read, write = os.pipe()
    child = os.fork()
    if child == 0:  # tell the parent how many files came across, and what a read gives here
        inherited = open_files(store_path)
        same = torch.equal(dataset[0]["field"], first)
        os.write(write, bytes([inherited, same]))
        os._exit(0)
    os.close(write)
    os.waitpid(child, 0)
    assert os.read(read, 2) == bytes([0, True])
    os.close(read)
    assert torch.equal(dataset[0]["field"], first)
    dataset.reader.close()
    assert open_files(store_path) == before


def test_other_handles_on_the_same_file_are_no_hindrance(store_path: Path) -> None:
    dataset = PatchDataset(store_path, "train")
    with h5py.File(store_path, "r", locking=True):
        dataset[0]
    with h5py.File(store_path, "r", locking=False):
        dataset[1]
    for locking in (True, False):
        with h5py.File(store_path, "r", locking=locking) as handle:
            assert "volumes" in handle


def test_volumes_held_in_memory_are_neither_altered_nor_pickled(store_path: Path) -> None:
    dataset = PatchDataset(store_path, "train", ("field", "chi33"), in_memory=True)
    first = dataset[0]
    first["field"].fill_(9)
    again, plain = dataset[0], PatchDataset(store_path, "train")[0]
    assert torch.equal(again["field"], plain["field"])
    assert torch.equal(again["chi33"], plain["chi33"])
    voxels = sum(np.prod(volume.shape) for volume in dataset.store.of_split("train"))
    assert len(pickle.dumps(dataset)) < 4 * voxels
    assert torch.equal(pickle.loads(pickle.dumps(dataset))[0]["field"], plain["field"])


def test_threads_share_a_dataset(store_path: Path) -> None:
    dataset = PatchDataset(store_path, "train")
    expected = [dataset[n]["chi33"] for n in range(20)]
    wrong: list[int] = []

    def read(start: int) -> None:
        for n in range(start, 20):
            if not torch.equal(dataset[n]["chi33"], expected[n]):
                wrong.append(n)

    threads = [threading.Thread(target=read, args=(n,)) for n in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []


def test_materialised_patches_are_the_same(derivatives: Path, tmp_path: Path) -> None:
    config = BuildConfig(patch_size=10, patches_per_scan=5)
    build_store(derivatives, tmp_path / "plain.h5", config)
    build_store(derivatives, tmp_path / "cropped.h5", BuildConfig(patch_size=10, patches_per_scan=5, materialise=True))
    plain, cropped = PatchDataset(tmp_path / "plain.h5"), PatchDataset(tmp_path / "cropped.h5")
    assert "field" in cropped.table.data_channels
    for n in range(len(plain)):
        for name in ("field", "chi33", "deltab", "mask", "corner"):
            assert torch.equal(plain[n][name], cropped[n][name])
    assert torch.equal(cropped[-1]["field"], plain[len(plain) - 1]["field"])


def test_any_patch_size_later(store_path: Path) -> None:
    store = open_store(store_path)
    with store.open() as handle:
        mask = handle["volumes/sub-01/acq-ori01/mask"][()]
    rows, _ = draw_patches(mask, "sub-01/acq-ori01", patch_size=7, min_brain=0.9, number=4, seed=0)
    dataset = PatchDataset(store, "train", table=PatchTable(rows, 7, 0.9, "random", 0, ()))
    assert [tuple(dataset[n]["field"].shape) for n in range(4)] == [(1, 7, 7, 7)] * 4


def test_whole_volumes_come_with_their_geometry(store_path: Path) -> None:
    dataset = VolumeDataset(store_path, "val", ("field", "chi33", "mask"))
    assert len(dataset) == 2
    item = dataset[1]
    assert (item["volume"], item["subject"], item["source"], item["b0"]) == ("sub-02/acq-ori02", "02", "acquired", 3.0)
    with h5py.File(store_path, "r") as handle:
        group = handle["volumes/sub-02/acq-ori02"]
        np.testing.assert_array_equal(item["chi33"][0], group["chi33"][()])
        np.testing.assert_array_equal(item["field"][0], group["field"][()] * group["mask"][()])
        np.testing.assert_array_equal(item["affine"], group.attrs["affine"])
        assert tuple(item["volume_shape"].tolist()) == group["mask"].shape
        np.testing.assert_allclose(item["b0_direction"], group.attrs["b0_direction"], rtol=1e-6)


def test_a_split_without_subjects_is_refused(derivatives: Path, tmp_path: Path) -> None:
    build_store(derivatives, tmp_path / "s.h5", BuildConfig(patch_size=10, patches_per_scan=2))
    with pytest.raises(InputError, match="has no test patches"):
        PatchDataset(tmp_path / "s.h5", "test")
    with pytest.raises(InputError, match="has no test volumes"):
        VolumeDataset(tmp_path / "s.h5", "test")


def test_a_channel_the_store_lacks_is_named(store_path: Path) -> None:
    with pytest.raises(InputError, match=r"sub-01/acq-ori01 in .* has no chi33sd \(it has chi33, cosmos"):
        PatchDataset(store_path, "train", ("field", "chi33sd"))


def test_a_store_that_was_moved_is_named(store_path: Path, tmp_path: Path) -> None:
    copy = tmp_path / "copy.h5"
    copy.write_bytes(store_path.read_bytes())
    dataset = PatchDataset(copy)
    copy.unlink()
    with pytest.raises(InputError, match=r"copy.h5 cannot be opened again .* was it moved\?"):
        dataset[0]
