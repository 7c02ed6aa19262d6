"""Each layout read back the way its published reader reads it, and compared with the store."""

from __future__ import annotations

import json
from pathlib import Path

import h5py
import nibabel as nib
import numpy as np
import pytest
from chi33.datasets.build.build import BuildConfig, build_store
from chi33.datasets.export.export import export_store
from chi33.datasets.loading.patches import patch_rule
from chi33.datasets.store.schema import Store, open_store
from chi33.datasets.store.volume import Geometry, Volume
from chi33.datasets.store.writer import StoreWriter
from chi33.files.errors import Chi33Warning
from chi33.pipeline.physics.tensor_field import dipole_field
from numpy.typing import NDArray
from scipy.io import loadmat

pytestmark = pytest.mark.filterwarnings("ignore:The code that reads")  # the second scan is turned by 12 degrees


@pytest.fixture(scope="module")
def store(store_path: Path) -> Store:
    return open_store(store_path)


def _map(store: Store, volume: str, name: str) -> NDArray[np.float32]:
    """A map of the store as float32; the field is 0 outside the mask."""
    with store.open() as handle:
        values = np.asarray(handle[f"volumes/{volume}/{name}"][()], np.float32)
        return values * handle[f"volumes/{volume}/mask"][()] if name == "field" else values


def _crop(values: NDArray, row: NDArray, edge: int) -> NDArray:
    return values[tuple(slice(int(row[axis]), int(row[axis]) + edge) for axis in "ijk")]


@pytest.fixture(scope="module")
def qsmnet(store: Store, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("qsmnet") / "out"
    with pytest.warns(Chi33Warning, match=r"takes B0 along the array's third axis, but in .*acq-ori02 it leans by 12"):
        export_store(store, out, "qsmnet")
    return out


class TestQsmnet:
    """As `Code/training_data_patch.py` and the class `dataset` of `Code/utils.py` have it."""

    def test_training_patches(self, store: Store, qsmnet: Path) -> None:
        table = store.patches["train"]
        with h5py.File(qsmnet / "Data/Train/Training_data_patch/training_data_patch_QSMnet_10.hdf5") as f:
            assert set(f) == {"temp_i", "temp_m", "temp_l"}
            for name, channel in {"temp_i": "field", "temp_m": "mask", "temp_l": "cosmos"}.items():
                assert f[name].shape == (len(table), 10, 10, 10, 1)
                assert f[name].dtype == np.float32
                batch = f[name][[0, 3, len(table) - 1], :, :, :, :]
                for patch, row in zip(batch, table.rows[[0, 3, len(table) - 1]], strict=True):
                    expected = _crop(_map(store, row["volume"].decode(), channel), row, 10)
                    np.testing.assert_array_equal(patch[..., 0], expected)
            inside = f["temp_m"][()] > 0
            for first, name in (("input", "temp_i"), ("label", "temp_l")):
                values = f[name][()][inside].astype(np.float64)
                for file in ("norm_factor.mat", "norm_factor_QSMnet_10.mat"):
                    factors = loadmat(qsmnet / "Checkpoints/QSMnet_10" / file)
                    assert factors[f"{first}_mean"].shape == (1, 1)
                    assert factors[f"{first}_mean"].item() == pytest.approx(values.mean(), rel=1e-6, abs=1e-12)
                    assert factors[f"{first}_std"].item() == pytest.approx(values.std(), rel=1e-6)

    def test_validation_volumes(self, store: Store, qsmnet: Path) -> None:
        field = loadmat(qsmnet / "Data/Train/Input/val_input.mat")["phs_tissue"]
        label = loadmat(qsmnet / "Data/Train/Label/val_label.mat")["chi_cosmos"]
        assert field.shape == label.shape == (32, 32, 32, 2)
        tefield = np.swapaxes(np.expand_dims(field, axis=0), 0, 4)
        assert tefield.shape == (2, 32, 32, 32, 1)
        for number, volume in enumerate(store.of_split("val")):
            np.testing.assert_array_equal(field[:26, :30, :24, number], _map(store, volume.id, "field"))
            np.testing.assert_array_equal(label[:26, :30, :24, number], _map(store, volume.id, "cosmos"))
        assert not field[26:].any()
        assert not field[:, :, 24:].any()

    def test_test_volumes(self, store: Store, qsmnet: Path) -> None:
        for number, volume in enumerate(store.of_split("test"), start=1):
            field = loadmat(qsmnet / f"Data/Test/Input/test_input{number}.mat")["phs_tissue"]
            np.testing.assert_array_equal(field, _map(store, volume.id, "field"))

    def test_another_label_and_rule(self, store: Store, tmp_path: Path) -> None:
        rule = patch_rule("random", size=8, number=4, min_brain=0.5, seed=2)
        done = export_store(store, tmp_path / "out", "qsmnet", splits=["train"], label="chi33", rule=rule)
        with h5py.File(done.out_dir / "Data/Train/Training_data_patch/training_data_patch_QSMnet_8.hdf5") as f:
            assert f["temp_l"].shape == (12, 8, 8, 8, 1)
            chi33 = np.concatenate([_map(store, v.id, "chi33").ravel() for v in store.of_split("train")])
            assert np.isin(f["temp_l"][()], chi33).all()
        assert not (done.out_dir / "Data/Test").exists()
        assert "The label is chi33." in done.notes

    def test_voxels_that_are_not_cubes_are_warned_of(self, tmp_path: Path) -> None:
        mask = np.ones((8, 8, 8), np.uint8)
        channels = {"field": mask.astype(np.float32), "cosmos": mask.astype(np.float32), "mask": mask}
        geometry = Geometry(np.diag([1.0, 1.0, 2.0, 1.0]), np.array([0.0, 0.0, 1.0]), 3.0)
        with StoreWriter(tmp_path / "s.h5", {}) as writer:
            writer.add_volume(Volume("sub-01/acq-a", "01", channels, geometry), "test")
        with pytest.warns(Chi33Warning, match="takes cubic voxels, but those of sub-01/acq-a are 1 × 1 × 2 mm"):
            export_store(open_store(tmp_path / "s.h5"), tmp_path / "out", "qsmnet")


@pytest.fixture(scope="module")
def lpcnn(store: Store, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("lpcnn") / "out"
    done = export_store(store, out, "lpcnn")
    assert any("--number 1 --tesla 3" in note for note in done.notes)
    return out / "data" / "numpy_data"


class TestLpcnn:
    """As `QsmDataset` of `LPCNN/lib/dataset/qsm_dataset.py` reads it, with number=1."""

    TESLA, GAMMA = 3, 42.57747892

    def _items(self, lpcnn: Path, kind: str, split: str) -> list[dict[str, NDArray]]:
        """The items of a list as the reader makes them: field in ppm, normalised label, mask, dipole kernel."""
        mean, std = (np.load(lpcnn / kind / "list" / f"train_gt_{name}.npy") for name in ("mean", "std"))
        assert mean.shape == std.shape == ()
        items = []
        for line in (lpcnn / kind / "list" / f"{split}.txt").read_text().splitlines():
            words = line.split(" ")
            sub, orientation = words[0], words[-1]
            patch = f"_{words[1]}" if kind == "partition" else ""
            folder = {"whole": "data", "partition": "pdata"}[kind]
            place = lpcnn / kind
            phase = np.load(place / f"phase_{folder}" / sub / orientation / f"{sub}_{orientation}_phase{patch}.npy")
            mask = np.load(place / f"mask_{folder}" / sub / f"{sub}_mask{patch}.npy")
            label = np.load(place / f"cosmos_{folder}" / sub / f"{sub}_cosmos{patch}.npy")
            dipole = np.load(lpcnn / "whole/dipole_data" / sub / orientation / f"{sub}_{orientation}_dipole.npy")
            items.append({
                "field": phase / (self.TESLA * self.GAMMA), "label": (label - mean) / std * mask, "mask": mask,
                "plain": label, "dipole": dipole,
            })  # fmt: skip
        return items

    def _scans(self, lpcnn: Path, split: str) -> list[str]:
        lines = (lpcnn.parents[1] / "scans.tsv").read_text().splitlines()
        assert lines[0] == "sub\tori\tvolume\tsplit"
        return [line.split("\t")[2] for line in lines[1:] if line.endswith(f"\t{split}")]

    def test_whole_volumes(self, store: Store, lpcnn: Path) -> None:
        for split, name in (("train", "train"), ("val", "validation"), ("test", "test")):
            items, scans = self._items(lpcnn, "whole", name), self._scans(lpcnn, split)
            assert sorted(scans) == sorted(volume.id for volume in store.of_split(split))
            for item, scan in zip(items, scans, strict=True):
                field = _map(store, scan, "field")
                np.testing.assert_allclose(item["field"], field, rtol=1e-5, atol=1e-9)
                np.testing.assert_array_equal(item["plain"], _map(store, scan, "cosmos"))
                np.testing.assert_array_equal(item["mask"], _map(store, scan, "mask"))
                assert item["dipole"].shape == field.shape

    def test_the_kernel_makes_the_field_of_its_scan(self, store: Store, lpcnn: Path) -> None:
        entries = {volume.id: volume for volume in store.volumes}
        for item, scan in zip(self._items(lpcnn, "whole", "train"), self._scans(lpcnn, "train"), strict=True):
            geometry = entries[scan].geometry
            own = np.fft.ifftn(item["dipole"] * np.fft.fftn(item["plain"])).real
            expected = dipole_field(item["plain"], geometry.voxel_size, geometry.b0_direction, padding=0.0)
            np.testing.assert_allclose(own, expected, atol=2e-3 * np.abs(expected).max())

    def test_patches(self, store: Store, lpcnn: Path) -> None:
        table = store.patches["train"]
        items = self._items(lpcnn, "partition", "train")
        # The two acquired scans share grid, mask and COSMOS map: one Sub, with the patches of the first.
        first, second, copy = self._scans(lpcnn, "train")
        places = {scan: table.rows[table.rows["volume"] == scan.encode()] for scan in (first, copy)}
        expected = [(scan, row) for scan in (first, second, copy) for row in places[copy if scan == copy else first]]
        assert (lpcnn / "partition/list/train.txt").read_text().splitlines()[-1].startswith("Sub002 p")
        assert len(items) == len(expected)
        for item, (scan, row) in zip(items, expected, strict=True):
            assert item["field"].shape == item["label"].shape == (10, 10, 10)
            np.testing.assert_allclose(item["field"], _crop(_map(store, scan, "field"), row, 10), rtol=1e-5, atol=1e-9)
            np.testing.assert_array_equal(item["plain"], _crop(_map(store, scan, "cosmos"), row, 10))

    def test_figures_of_the_label(self, store: Store, lpcnn: Path) -> None:
        for kind in ("whole", "partition"):
            items = self._items(lpcnn, kind, "train")
            inside = np.concatenate([item["label"][item["mask"] == 1] for item in items])
            assert abs(inside.mean()) < 1e-5
            assert inside.std() == pytest.approx(1, rel=1e-5)
            val = self._items(lpcnn, kind, "validation")
            squares = [np.square(item["plain"] * item["mask"]).sum() / item["mask"].sum() for item in val]
            found = {name: np.load(lpcnn / kind / "list" / f"{name}.npy") for name in
                     ("validation_mse", "train_val_gt_max", "train_val_gt_min")}  # fmt: skip
            assert found["validation_mse"] == pytest.approx(np.mean(squares), rel=1e-5)
            assert found["train_val_gt_max"] == max(item["plain"].max() for item in items + val)
            assert found["train_val_gt_min"] == min(item["plain"].min() for item in items + val)

    def test_scans_in_one_frame_are_orientations_of_one_sub(self, tmp_path: Path) -> None:
        mask = np.ones((8, 8, 8), np.uint8)
        label = np.random.default_rng(0).standard_normal((8, 8, 8)).astype(np.float32)
        with StoreWriter(tmp_path / "s.h5", {}) as writer:
            for number, h in enumerate(([0.0, 0.0, 1.0], [0.0, 0.6, 0.8])):
                channels = {"field": label * (number + 1), "cosmos": label, "mask": mask}
                geometry = Geometry(np.eye(4), np.array(h), float("nan"))
                writer.add_volume(Volume(f"sub-01/acq-{number}", "01", channels, geometry), "train")
        rule = patch_rule("random", size=4, number=3, min_brain=0.5)
        done = export_store(open_store(tmp_path / "s.h5"), tmp_path / "out", "lpcnn", rule=rule)
        assert any("--tesla 7" in note for note in done.notes)
        lpcnn = done.out_dir / "data/numpy_data"
        assert (lpcnn / "whole/list/train.txt").read_text() == "Sub001 ori1\nSub001 ori2\n"
        lines = (lpcnn / "partition/list/train.txt").read_text().splitlines()
        assert lines == [f"Sub001 p{patch} ori{scan}" for scan in (1, 2) for patch in range(3)]
        first, second = (
            np.load(lpcnn / f"partition/phase_pdata/Sub001/ori{scan}/Sub001_ori{scan}_phase_p2.npy") for scan in (1, 2)
        )
        np.testing.assert_allclose(second, 2 * first, rtol=1e-6)
        kernels = [np.load(lpcnn / f"whole/dipole_data/Sub001/ori{n}/Sub001_ori{n}_dipole.npy") for n in (1, 2)]
        assert not np.allclose(*kernels)


@pytest.fixture(scope="module")
def modl(store: Store, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("modl") / "out"
    export_store(store, out, "modl-qsm")
    return out


class TestModlQsm:
    """As `train/train_lines.py` reads it."""

    def test_patches_about_their_centres(self, store: Store, modl: Path) -> None:
        data = [loadmat(modl / f"train_data/{number}.mat") for number in (1, 2, 3)]
        lines = loadmat(modl / "lines.mat")["index"].tolist()
        rows = store.patches["train"].rows
        assert len(lines) == len(rows)
        edge = [10, 10, 10]
        for temp, row in zip(lines, rows, strict=True):
            batch = data[temp[0] - 1]
            box = tuple(slice(int(temp[a + 1] - edge[a] / 2), int(temp[a + 1] + edge[a] / 2)) for a in range(3))
            scan = row["volume"].decode()
            np.testing.assert_array_equal(batch["x_input"][box], _crop(_map(store, scan, "field"), row, 10))
            np.testing.assert_array_equal(batch["msk"][box], _crop(_map(store, scan, "mask"), row, 10))
            labels = batch["labels"][(*box, slice(None))]
            assert labels.shape == (10, 10, 10, 2)
            np.testing.assert_array_equal(labels[..., 0], _crop(_map(store, scan, "chi33"), row, 10))
            np.testing.assert_array_equal(labels[..., 1], _crop(_map(store, scan, "deltab"), row, 10))

    def test_constants(self, store: Store, modl: Path) -> None:
        factors = loadmat(modl / "NormFactor.mat")
        for key, name in (("CosTrnMean", "mean"), ("CosTrnStd", "std")):
            assert np.tile(factors[key][np.newaxis, np.newaxis, :, :], (48, 48, 48, 1)).shape == (48, 48, 48, 2)
            expected = [getattr(store.statistics[channel], name) for channel in ("chi33", "deltab")]
            np.testing.assert_allclose(factors[key][0], expected, rtol=1e-6, atol=1e-12)
        kernel = loadmat(modl / "train_data/D.mat")["D"]
        assert kernel.shape == (210, 224, 160)
        assert kernel[0, 0, 0] == 0
        np.testing.assert_allclose(
            [kernel[1, 0, 0], kernel[0, 1, 0], kernel[0, 0, 1]], [1 / 3, 1 / 3, -2 / 3], rtol=1e-6
        )

    def test_test_volumes(self, store: Store, modl: Path) -> None:
        for volume in store.of_split("test"):
            data = loadmat(modl / "data" / volume.id.replace("/", "_") / "test_data.mat")
            np.testing.assert_array_equal(data["phi"], _map(store, volume.id, "field"))
            np.testing.assert_array_equal(data["mask"], _map(store, volume.id, "mask"))

    def test_voxels_of_two_shapes_are_warned_of(self, tmp_path: Path) -> None:
        mask = np.ones((8, 8, 8), np.uint8)
        maps = {name: mask.astype(np.float32) for name in ("field", "chi33", "deltab")}
        with StoreWriter(tmp_path / "s.h5", {}) as writer:
            for number, edge in enumerate((2.0, 2.0, 3.0)):
                geometry = Geometry(np.diag([1.0, 1.0, edge, 1.0]), np.array([0.0, 0.0, 1.0]), 3.0)
                writer.add_volume(Volume(f"sub-01/acq-{number}", "01", {**maps, "mask": mask}, geometry), "train")
        rule = patch_rule("random", size=4, number=3, min_brain=0.5)
        with pytest.warns(Chi33Warning, match="takes voxels of one shape, but those of sub-01/acq-2 are 1 × 1 × 3 mm"):
            done = export_store(open_store(tmp_path / "s.h5"), tmp_path / "out", "modl-qsm", rule=rule)
        kernel = loadmat(done.out_dir / "train_data/D.mat")["D"]
        k = 1 / (210 * 1.0), 1 / (160 * 2.0)  # 1/mm along x and z
        assert kernel[1, 0, 1] == pytest.approx(1 / 3 - k[1] ** 2 / (k[0] ** 2 + k[1] ** 2), rel=1e-5)


class TestBids:
    """As `chi33 build-dataset` reads it."""

    def test_a_store_built_from_it_holds_the_same(
        self, store: Store, store_path: Path, store_config: BuildConfig, tmp_path: Path
    ) -> None:
        out = tmp_path / "out"
        export_store(store, out, "bids")
        for path in (out / "sub-01/anat").glob("*acq-aug001*"):
            path.unlink()
        build_store(out, tmp_path / "again.h5", store_config)
        again = open_store(tmp_path / "again.h5")
        assert again.split_hash == store.split_hash
        with h5py.File(store_path) as first, h5py.File(tmp_path / "again.h5") as second:
            for volume in store.volumes:
                if volume.source != "acquired":
                    continue
                for name in volume.channels:
                    np.testing.assert_array_equal(
                        first[f"volumes/{volume.id}/{name}"][()], second[f"volumes/{volume.id}/{name}"][()]
                    )
                for key in ("affine", "b0_direction", "B0", "split"):
                    np.testing.assert_array_equal(
                        first[f"volumes/{volume.id}"].attrs[key], second[f"volumes/{volume.id}"].attrs[key]
                    )
            np.testing.assert_array_equal(first["tensors/sub-02/chi"][()], second["tensors/sub-02/chi"][()])

    def test_names_and_sidecars(self, store: Store, tmp_path: Path) -> None:
        done = export_store(store, tmp_path / "out", "bids", splits=["train"])
        anat = done.out_dir / "sub-01/anat"
        copy = next(volume for volume in store.volumes if volume.source == "augmented")
        image = nib.load(anat / "sub-01_acq-aug001_desc-chi33_Chimap.nii.gz")
        np.testing.assert_array_equal(np.asarray(image.dataobj), _map(store, copy.id, "chi33"))
        np.testing.assert_allclose(image.affine, copy.geometry.affine)
        assert image.get_data_dtype() == np.float32
        assert nib.load(anat / "sub-01_acq-ori01_desc-local_mask.nii.gz").get_data_dtype() == np.uint8
        sidecar = json.loads((anat / "sub-01_acq-aug001_desc-chi33_Chimap.json").read_text())
        assert sidecar["Units"] == "ppm"
        assert sidecar["Augmented"] is True
        assert sidecar["Parent"] == "/tensors/sub-01"
        assert copy.rotation is not None
        np.testing.assert_allclose(sidecar["Rotation"], copy.rotation)
        assert "SNR" not in sidecar
        scan = json.loads((anat / "sub-01_acq-ori02_desc-local_fieldmap.json").read_text())
        np.testing.assert_allclose(scan["B0_dir"], [0, np.sin(np.radians(12)), np.cos(np.radians(12))])
        assert scan["MagneticFieldStrength"] == 3.0
        assert "Parent" not in scan
        tensor = nib.load(anat / "sub-01_space-subject_desc-tensor_Chimap.nii.gz")
        assert tensor.shape == (26, 30, 24, 6)
        assert (done.out_dir / "participants.tsv").read_text() == "participant_id\tsplit\nsub-01\ttrain\n"
        assert json.loads((done.out_dir / "dataset_description.json").read_text())["DatasetType"] == "derivative"
        assert not list(done.out_dir.glob("sub-02*"))

    def test_noise_and_scale_are_told(self, tmp_path: Path) -> None:
        channels = {"field": np.ones((4, 4, 4), np.float32), "mask": np.ones((4, 4, 4), np.uint8)}
        geometry = Geometry(np.eye(4), np.array([0.0, 0, 1]), float("nan"))
        copy = Volume(
            "sub-01/aug-007", "01", channels, geometry, "augmented", "/volumes/sub-01/a", np.eye(3), 20.0, 1.5
        )
        with StoreWriter(tmp_path / "s.h5", {}) as writer:
            writer.add_volume(copy, "train")
        done = export_store(open_store(tmp_path / "s.h5"), tmp_path / "out", "bids")
        told = json.loads((done.out_dir / "sub-01/anat/sub-01_acq-aug007_desc-local_fieldmap.json").read_text())
        assert (told["SNR"], told["SusceptibilityScale"]) == (20.0, 1.5)
        assert "MagneticFieldStrength" not in told
