"""A store holds exactly the maps it was built from, in a layout any h5py reads."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import chi33
import h5py
import nibabel as nib
import numpy as np
import pytest
from chi33.datasets.build.build import BuildConfig, build_store
from chi33.datasets.store.schema import open_store
from chi33.datasets.store.volume import Geometry, Volume
from chi33.datasets.store.writer import StoreWriter

NAMES = {
    "field": "desc-local_fieldmap",
    "chi33": "desc-chi33_Chimap",
    "deltab": "desc-deltab_fieldmap",
    "cosmos": "desc-cosmos_Chimap",
    "mask": "desc-local_mask",
}


def test_volumes_are_the_files_to_the_last_bit(store_path: Path, derivatives: Path) -> None:
    with h5py.File(store_path, "r") as handle:
        for subject, split in (("01", "train"), ("02", "val"), ("03", "test")):
            for scan in (1, 2):
                group = handle[f"volumes/sub-{subject}/acq-ori0{scan}"]
                for channel, ending in NAMES.items():
                    file = derivatives / f"sub-{subject}/anat/sub-{subject}_acq-ori0{scan}_{ending}.nii.gz"
                    expected = np.asarray(nib.load(file).dataobj)
                    assert group[channel].dtype == (np.uint8 if channel == "mask" else np.float32)
                    np.testing.assert_array_equal(group[channel][()], expected)
                assert group.attrs["subject"] == subject
                assert group.attrs["split"] == split
                assert group.attrs["source"] == "acquired"
                assert group.attrs["B0"] == 3.0
                angle = np.radians(12 * (scan - 1))
                np.testing.assert_allclose(group.attrs["b0_direction"], [0, np.sin(angle), np.cos(angle)])
                np.testing.assert_allclose(group.attrs["voxel_size"], 2.0)


def test_tensor_is_the_file_with_components_first(store_path: Path, derivatives: Path) -> None:
    image = nib.load(derivatives / "sub-01/anat/sub-01_space-subject_desc-tensor_Chimap.nii.gz")
    with h5py.File(store_path, "r") as handle:
        group = handle["tensors/sub-01"]
        np.testing.assert_array_equal(group["chi"][()], np.moveaxis(np.asarray(image.dataobj), -1, 0))
        np.testing.assert_allclose(group.attrs["affine"], image.affine)
        assert group.attrs["frame"] == "world"
        assert group["mask"].shape == group["chi"].shape[1:]


def test_layout_needs_no_plugin_and_chunks_are_32(store_path: Path) -> None:
    with h5py.File(store_path, "r") as handle:
        assert handle.attrs["schema"] == "chi33-store"
        assert handle.attrs["chi33_version"] == chi33.__version__
        assert json.loads(handle.attrs["config"])["patch_size"] == 10
        field = handle["volumes/sub-01/acq-ori01/field"]
        assert (field.compression, field.shuffle) == ("gzip", True)
        assert field.chunks == tuple(min(32, n) for n in field.shape)
        table = handle["patches/train"]
        assert table.dtype.names == ("volume", "i", "j", "k", "brain_fraction")
        assert table.attrs["patch_size"] == 10
        assert table.attrs["rule"] == "modl-qsm"
        assert table.attrs["seed"] == 5


def test_chunks_of_a_large_volume_are_32(tmp_path: Path) -> None:
    channels = {"field": np.zeros((40, 33, 64), np.float32), "mask": np.ones((40, 33, 64), np.uint8)}
    volume = Volume("sub-01/acq-a", "01", channels, Geometry(np.eye(4), np.array([0.0, 0, 1]), 3.0))
    with StoreWriter(tmp_path / "s.h5", {}) as writer:
        writer.add_volume(volume, "train")
    with h5py.File(tmp_path / "s.h5") as handle:
        assert handle["volumes/sub-01/acq-a/field"].chunks == (32, 32, 32)


def test_open_store_describes_every_volume(store_path: Path) -> None:
    store = open_store(store_path, verify=True)
    assert {split: store.subjects(split) for split in ("train", "val", "test")} == {
        "train": ("01",),
        "val": ("02",),
        "test": ("03",),
    }
    turned = [volume for volume in store.volumes if volume.source == "augmented"]
    assert [volume.id for volume in turned] == ["sub-01/aug-001"]
    assert turned[0].parent == "/tensors/sub-01"
    assert turned[0].rotation is not None
    assert store.config["max_angle"] == 30.0
    assert store.tensors == ("sub-01", "sub-02", "sub-03")


def test_content_hash_tells_stores_apart_that_train_differently(make_derivatives, tmp_path: Path) -> None:
    folder = make_derivatives(2, 1)
    config = BuildConfig(patch_size=8, patches_per_scan=3)

    def built(changed: BuildConfig) -> str:
        build_store(folder, tmp_path / "s.h5", changed, overwrite=True)
        return open_store(tmp_path / "s.h5", verify=True).content_hash

    first = built(config)
    assert built(dataclasses.replace(config, materialise=True)) == first
    others = [built(dataclasses.replace(config, seed=1)), built(dataclasses.replace(config, val_subjects=("01",)))]
    file = folder / "sub-01/anat/sub-01_acq-ori01_desc-local_fieldmap.nii.gz"
    image = nib.load(file)
    values = np.asarray(image.dataobj).copy()
    values[13, 15, 12] = np.nextafter(values[13, 15, 12], np.float32(1))
    nib.save(nib.Nifti1Image(values, image.affine), file)
    assert len({first, *others, built(config)}) == 4


def test_the_same_build_twice_is_the_same_index_and_augmentation(
    derivatives: Path, store_path: Path, store_config: BuildConfig, tmp_path: Path
) -> None:
    build_store(derivatives, tmp_path / "again.h5", store_config)
    first, again = open_store(store_path), open_store(tmp_path / "again.h5")
    assert first.content_hash == again.content_hash
    for split in ("train", "val", "test"):
        np.testing.assert_array_equal(first.patches[split].rows, again.patches[split].rows)


def test_statistics_are_of_the_training_voxels_inside_the_mask(store_path: Path) -> None:
    store = open_store(store_path)
    with store.open() as handle:
        groups = [handle[f"volumes/{volume.id}"] for volume in store.of_split("train")]
        assert len(groups) == 3
        for channel in ("field", "chi33", "deltab", "cosmos"):
            values = np.concatenate([g[channel][()][g["mask"][()] > 0] for g in groups]).astype(np.float64)
            found = store.statistics[channel]
            assert found.count == values.size
            assert found.mean == pytest.approx(values.mean(), rel=1e-9, abs=1e-12)
            assert found.std == pytest.approx(values.std(), rel=1e-9)
    assert "mask" not in store.statistics


def test_materialised_patches_are_cut_from_the_volumes(derivatives: Path, tmp_path: Path) -> None:
    config = BuildConfig(patch_size=9, patches_per_scan=6, materialise=True, augment=1, val_subjects=("02", "03"))
    build_store(derivatives, tmp_path / "m.h5", config)
    store = open_store(tmp_path / "m.h5")
    with store.open() as handle:
        data = handle["patches/train_data"]
        channels = json.loads(data.attrs["channels"])
        assert data.chunks == (1, len(channels), 9, 9, 9)
        assert len(data) == len(store.patches["train"]) == 18
        for row, patch in zip(store.patches["train"].rows, data[()], strict=True):
            i, j, k = row["i"], row["j"], row["k"]
            group = handle[f"volumes/{row['volume'].decode()}"]
            for channel, values in zip(channels, patch, strict=True):
                np.testing.assert_array_equal(values, group[channel][i : i + 9, j : j + 9, k : k + 9])
