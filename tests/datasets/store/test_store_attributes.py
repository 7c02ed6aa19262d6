"""What a store says about each volume: residual, noise, scale, fingerprint; and about its splits."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import math
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import h5py
import nibabel as nib
import numpy as np
import pytest
from chi33.datasets.build.build import BuildConfig, build_from, build_store
from chi33.datasets.build.derivatives_finder import find_derivatives
from chi33.datasets.build.splits import split_hash
from chi33.datasets.build.statistics import residual_rms
from chi33.datasets.build.subject_source import DerivativesSource, SubjectSource, sources_of
from chi33.datasets.store.schema import open_store
from chi33.datasets.store.volume import Geometry, ScalarVolume, TensorVolume, Volume
from chi33.files.errors import InputError
from chi33.pipeline.physics.tensor_field import dipole_field

CONFIG = BuildConfig(patch_size=10, patches_per_scan=5)


def test_the_residual_is_what_the_labels_leave_of_the_field(derivatives: Path) -> None:
    volume = DerivativesSource(find_derivatives(derivatives)[0]).read_scan(1)
    assert residual_rms(volume) == pytest.approx(0, abs=1e-6)
    wave = 0.01 * np.random.default_rng(0).standard_normal(volume.mask.shape).astype(np.float32)
    changed = {**volume.channels, "field": volume.channels["field"] + wave + 0.3}
    found = residual_rms(dataclasses.replace(volume, channels=changed))
    assert found == pytest.approx(wave[volume.mask].std(), rel=1e-4)
    without = {name: values for name, values in volume.channels.items() if name != "deltab"}
    assert residual_rms(dataclasses.replace(volume, channels=without)) is None


def test_every_volume_says_its_residual_noise_and_scale(derivatives: Path, tmp_path: Path) -> None:
    config = dataclasses.replace(CONFIG, augment=2, augment_snr=(8.0, 20.0), augment_scale=(0.5, 2.0))
    build_store(derivatives, tmp_path / "s.h5", config)
    store = open_store(tmp_path / "s.h5", verify=True)
    scans = [volume for volume in store.volumes if volume.source == "acquired"]
    copies = [volume for volume in store.volumes if volume.source == "augmented"]
    assert {(volume.snr, volume.susceptibility_scale) for volume in scans} == {(math.inf, 1.0)}
    assert all(volume.residual_rms < 1e-6 for volume in scans)
    assert all(8 <= volume.snr <= 20 and 0.5 <= volume.susceptibility_scale <= 2 for volume in copies)
    assert len({volume.snr for volume in copies}) == len(copies) == 4
    with store.open() as handle:
        for volume in copies:
            group = handle[f"volumes/{volume.id}"]
            field, inside = group["field"][()], group["mask"][()] > 0
            clean = dipole_field(group["chi33"][()], volume.geometry.voxel_size, [0, 0, 1]) + group["deltab"][()]
            noise = (field - clean)[inside]
            assert volume.residual_rms == pytest.approx(noise.std(), rel=1e-3)
            assert np.sqrt(np.mean(clean[inside] ** 2)) / noise.std() == pytest.approx(volume.snr, rel=0.05)


def test_copies_without_noise_are_consistent_and_seeds_differ(derivatives: Path, tmp_path: Path) -> None:
    fields = []
    for seed in (1, 2):
        config = dataclasses.replace(CONFIG, augment=1, augmentation="cosmos", augment_scale=(2.0, 2.0), seed=seed)
        build_store(derivatives, tmp_path / f"{seed}.h5", config)
        store = open_store(tmp_path / f"{seed}.h5")
        (copy, _) = [volume for volume in store.volumes if volume.source == "augmented"]
        assert (copy.parent, copy.susceptibility_scale, copy.fingerprint) == ("/volumes/sub-01", 2.0, "")
        assert copy.residual_rms < 1e-6
        with store.open() as handle:
            group = handle[f"volumes/{copy.id}"]
            assert not group["deltab"][()].any()
            np.testing.assert_array_equal(group["chi33"][()], group["cosmos"][()])
            fields.append(group["field"][()])
    assert fields[0].shape != fields[1].shape or not np.array_equal(*fields)


@pytest.mark.parametrize(
    ("augmentation", "what"),
    [("tensor", "no tensor"), ("cosmos", "no COSMOS map"), (None, "neither a tensor nor a COSMOS map")],
)
def test_a_subject_with_nothing_to_turn_is_named(make_derivatives, tmp_path: Path, augmentation, what: str) -> None:
    folder = make_derivatives(2, 1, tensor=False)
    if augmentation != "tensor":
        for path in folder.rglob("*cosmos_Chimap.nii.gz"):
            path.unlink()
    config = dataclasses.replace(CONFIG, augment=1, augmentation=augmentation)
    with pytest.raises(InputError, match=f"sub-01 has {what} to turn: repeat `chi33 run`, or leave out --augment"):
        build_store(folder, tmp_path / "s.h5", config)


def test_the_fingerprint_is_of_field_and_mask(store_path: Path, derivatives: Path) -> None:
    for volume in open_store(store_path).volumes:
        if volume.source == "augmented":
            assert volume.fingerprint == ""
            continue
        name = f"{derivatives}/sub-{volume.subject}/anat/{volume.id.replace('/anat', '').replace('/', '_')}"
        field = np.asarray(nib.load(f"{name}_desc-local_fieldmap.nii.gz").dataobj, "<f4")
        mask = np.asarray(nib.load(f"{name}_desc-local_mask.nii.gz").dataobj, np.uint8)
        assert volume.fingerprint == hashlib.sha256(field.tobytes() + mask.tobytes()).hexdigest()


def test_the_split_hash_says_who_is_where(store_path: Path) -> None:
    store = open_store(store_path)
    members = json.dumps({"test": ["03"], "train": ["01"], "val": ["02"]}, sort_keys=True)
    assert store.split_hash == hashlib.sha256(members.encode()).hexdigest()
    with h5py.File(store_path, "r") as handle:
        assert handle.attrs["split_hash"] == store.split_hash
        assert handle.attrs["version"] == 2
    assert split_hash({"01": "train", "02": "train"}) == split_hash({"02": "train", "01": "train"})
    assert split_hash({"01": "train", "02": "val"}) != split_hash({"01": "val", "02": "train"})


def test_a_store_of_version_1_opens_with_defaults(store_path: Path, tmp_path: Path) -> None:
    old = Path(shutil.copy(store_path, tmp_path / "old.h5"))
    with h5py.File(old, "r+") as handle:
        handle.attrs["version"] = 1
        del handle.attrs["split_hash"]
        for subject in handle["volumes"].values():
            for group in subject.values():
                for name in {"residual_rms", "snr", "susceptibility_scale", "fingerprint"} & set(group.attrs):
                    del group.attrs[name]
    store, new = open_store(old), open_store(store_path)
    assert store.version == 1
    assert store.split_hash == new.split_hash
    assert {(v.snr, v.susceptibility_scale, v.fingerprint) for v in store.volumes} == {(math.inf, 1.0, "")}
    assert all(math.isnan(volume.residual_rms) for volume in store.volumes)


@dataclass(frozen=True)
class Pairs:
    """A subject of field and COSMOS maps alone, as an importer has them."""

    subject: str = "07"
    scan_ids: tuple[str, ...] = ("sub-07/acq-a", "sub-07/acq-b")
    labels: tuple[str, ...] = ("cosmos",)
    voxels: tuple[int, ...] = (1728, 1728)

    def read_scan(self, number: int) -> Volume:
        chi = np.random.default_rng(number).standard_normal((12, 12, 12)).astype(np.float32)
        geometry = Geometry(np.eye(4), np.array([0.0, 0.0, 1.0]), 3.0)
        maps = {
            "field": dipole_field(chi, (1, 1, 1), (0, 0, 1)),
            "cosmos": chi,
            "mask": np.ones((12, 12, 12), np.uint8),
        }
        return Volume(self.scan_ids[number], self.subject, maps, geometry)

    def read_tensor(self) -> TensorVolume | None:
        return None

    def read_cosmos(self) -> ScalarVolume | None:
        scan = self.read_scan(0)
        return ScalarVolume(scan.id, self.subject, scan.channels["cosmos"], scan.channels["mask"], scan.geometry)

    def fingerprint(self) -> str:
        return "1"


def test_a_source_of_field_and_cosmos_alone_builds_a_store(tmp_path: Path) -> None:
    sources: list[SubjectSource] = [
        Pairs(),
        dataclasses.replace(Pairs(), subject="08", scan_ids=("sub-08/a", "sub-08/b")),
    ]
    config = BuildConfig(patch_size=8, patches_per_scan=3, min_brain=0.5, augment=1)
    summary = build_from(sources, tmp_path / "s.h5", config)
    assert summary.volumes == {"train": 3, "val": 2}
    store = open_store(tmp_path / "s.h5", verify=True)
    assert set(store.statistics) == {"field", "cosmos"}
    for volume in store.volumes:
        assert sorted(volume.channels) == ["cosmos", "field", "mask"]
        assert math.isnan(volume.residual_rms)
        assert (volume.fingerprint == "") == (volume.source == "augmented")
    assert store.tensors == ()


@pytest.mark.parametrize("change", [lambda: [], lambda: [Pairs(), Pairs()]])
def test_no_subject_or_the_same_twice_is_refused(tmp_path: Path, change: Callable[[], list[SubjectSource]]) -> None:
    message = r"there is no subject to build a store from|sub-07, sub-07/acq-a, sub-07/acq-b is given twice"
    with pytest.raises(InputError, match=message):
        build_from(change(), tmp_path / "s.h5", CONFIG)
    assert list(tmp_path.iterdir()) == []


def test_a_source_changes_its_fingerprint_with_its_files_and_sidecars(make_derivatives) -> None:
    folder = make_derivatives(2, 1)
    first, second = (source.fingerprint() for source in sources_of(folder))
    assert first != second
    (folder / "sub-01/anat/sub-01_acq-ori01_desc-local_fieldmap.json").write_text("{}")
    assert sources_of(folder)[0].fingerprint() != first
    assert sources_of(folder)[1].fingerprint() == second
