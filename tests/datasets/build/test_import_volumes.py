"""A store from field, label and mask files; units, signs and grids that cannot be are refused."""

from __future__ import annotations

import dataclasses
import json
import pickle
import re
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from chi33.datasets.build.build import BuildConfig
from chi33.datasets.build.import_table import scans_of_lists, scans_of_table, with_b0_directions
from chi33.datasets.build.import_volumes import ImportedScan, group_subjects, import_volumes
from chi33.datasets.build.plausibility import agreement
from chi33.datasets.loading.patch_dataset import PatchDataset
from chi33.datasets.store.schema import open_store
from chi33.datasets.store.verify import verify_store
from chi33.files.errors import Chi33Warning, InputError
from chi33.files.sidecars import sidecar_path
from chi33.pipeline.physics.tensor_field import dipole_field
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter

SHAPE = (20, 22, 18)
AFFINE = np.diag([2.0, 2.0, 2.0, 1.0])
CONFIG = BuildConfig(patch_size=8, patches_per_scan=5, val_subjects=("02",))


def _save(path: Path, values: NDArray, affine: NDArray = AFFINE) -> Path:
    nib.save(nib.Nifti1Image(values.astype(np.float32), affine), path)
    return path


def _head(seed: int) -> tuple[NDArray[np.float32], NDArray[np.uint8]]:
    axes = np.meshgrid(*((np.arange(n) - (n - 1) / 2) / (0.45 * n) for n in SHAPE), indexing="ij")
    mask = (sum(axis**2 for axis in axes) < 1).astype(np.uint8)
    noise = np.random.default_rng(seed).standard_normal(SHAPE)
    return (0.3 * gaussian_filter(noise, 1.5) * mask).astype(np.float32), mask


@pytest.fixture
def scans(tmp_path: Path) -> tuple[ImportedScan, ...]:
    """Two subjects with two scans each, B0 turned in the second, given as lists."""
    (tmp_path / "in").mkdir()
    files: dict[str, list[Path]] = {"field": [], "label": [], "mask": []}
    for subject in (1, 2):
        chi, mask = _head(subject)
        for number, h in enumerate(([0.0, 0.0, 1.0], [0.0, 0.28, 0.96])):
            name = f"{tmp_path}/in/{subject}_{number}"
            field = dipole_field(chi, (2, 2, 2), h) * mask
            files["field"].append(_save(Path(f"{name}_f.nii.gz"), field))
            files["label"].append(_save(Path(f"{name}_x.nii.gz"), chi))
            files["mask"].append(_save(Path(f"{name}_m.nii.gz"), mask))
            sidecar = {"B0_dir": h, "MagneticFieldStrength": 3.0}
            Path(f"{name}_f.json").write_text(json.dumps(sidecar))
    return scans_of_lists(files["field"], files["label"], files["mask"], ["01", "01", "sub-02", "02"])


def _again(path: Path, factor: float = 1.0, add: float = 0.0) -> None:
    image = nib.load(path)
    _save(path, np.asarray(image.dataobj) * factor + add, image.affine)


def test_a_store_holds_what_was_imported(scans: tuple[ImportedScan, ...], tmp_path: Path) -> None:
    said: list[str] = []
    path = tmp_path / "s.h5"
    done = import_volumes(scans, path, CONFIG, progress=lambda *words: said.append(words[2]))
    assert done.subjects == {"train": ("01",), "val": ("02",)}
    assert said[0] == "checking sub-01/acq-ori01"
    store = open_store(path)
    assert [volume.id for volume in store.volumes] == [
        f"sub-{s}/acq-ori{n}" for s in ("01", "02") for n in ("01", "02")
    ]
    with store.open() as handle:
        for scan, volume in zip(scans, store.volumes, strict=True):
            group = handle[f"volumes/{volume.id}"]
            assert set(group) == {"field", "cosmos", "mask"}
            for name, file in (("field", scan.field), ("cosmos", scan.label), ("mask", scan.mask)):
                np.testing.assert_array_equal(group[name][()], np.asarray(nib.load(file).dataobj))
    np.testing.assert_allclose(store.volumes[1].geometry.b0_direction, [0, 0.28, 0.96])
    assert store.volumes[0].geometry.b0 == 3.0
    found = verify_store(path)
    assert found.problems == ()
    with pytest.raises(InputError, match="has no chi33, deltab"):
        PatchDataset(path)
    assert PatchDataset(path, channels=("field", "cosmos", "mask"))[0]["cosmos"].shape == (1, 8, 8, 8)


def test_copies_of_an_imported_cosmos_map_are_consistent(scans: tuple[ImportedScan, ...], tmp_path: Path) -> None:
    config = dataclasses.replace(CONFIG, augment=2, augment_snr=(10.0, 30.0))
    import_volumes(scans, tmp_path / "s.h5", config)
    found = verify_store(tmp_path / "s.h5")
    assert (found.problems, found.physics) == ((), 2)


def test_chi33_and_deltab(scans: tuple[ImportedScan, ...], tmp_path: Path) -> None:
    placed = []
    for number, scan in enumerate(scans):
        deltab = 0.002 * gaussian_filter(np.random.default_rng(number).standard_normal(SHAPE), 1.0)
        path = _save(tmp_path / f"d{number}.nii.gz", deltab)
        field = np.asarray(nib.load(scan.field).dataobj) + np.asarray(nib.load(path).dataobj)
        _save(scan.field, field)
        placed.append(dataclasses.replace(scan, deltab=path))
    import_volumes(placed, tmp_path / "s.h5", CONFIG, kind="chi33")
    found = verify_store(tmp_path / "s.h5")
    assert (found.problems, found.physics) == ((), 4)
    assert open_store(tmp_path / "s.h5").volumes[0].residual_rms < 1e-3
    assert len(PatchDataset(tmp_path / "s.h5")) > 0
    import_volumes(scans, tmp_path / "t.h5", CONFIG, kind="chi33")
    with pytest.raises(InputError, match="has no deltab"):
        PatchDataset(tmp_path / "t.h5")
    with pytest.raises(InputError, match="--augment needs COSMOS maps or tensors to turn"):
        import_volumes(scans, tmp_path / "u.h5", dataclasses.replace(CONFIG, augment=1), kind="chi33")


@pytest.mark.parametrize(("which", "factor", "add", "sentence"), [
    ("field", 127.7, 0.0, r"1_0_f.nii.gz states no Units and reaches .* too large for ppm: give the field in ppm"),
    ("field", 5.0, 0.0, r"1_0_f.nii.gz is 5 times the field of its label, so the two are in different units"),
    ("field", -1.0, 0.0, r"1_0_f.nii.gz has the opposite sign of the field of its label \(correlation -1.00\)"),
    ("field", 1e-6, 0.0, r"1_0_f.nii.gz states no Units and stays below .* too small for ppm: give the field in ppm"),
    ("label", 1e3, 0.0, r"1_0_x.nii.gz reaches .* too large for ppm: give the susceptibility in ppm"),
    ("label", 0.0, 0.0, r"1_0_x.nii.gz stays below .* too small for ppm"),
    ("field", 1.0, np.nan, r"1_0_f.nii.gz holds NaN or infinity in \d+ voxels inside its mask"),
    ("mask", 0.0, 0.0, r"the mask .*1_0_m.nii.gz is empty"),
])  # fmt: skip
def test_maps_that_cannot_be_are_refused(
    scans: tuple[ImportedScan, ...], tmp_path: Path, which: str, factor: float, add: float, sentence: str
) -> None:
    _again(getattr(scans[0], which), factor, add)
    with pytest.raises(InputError, match=sentence):
        import_volumes(scans, tmp_path / "s.h5", CONFIG)
    assert not (tmp_path / "s.h5").exists()


def test_maps_in_other_units_become_ppm(scans: tuple[ImportedScan, ...], tmp_path: Path) -> None:
    with open_store(_store(scans, tmp_path / "ppm.h5")).open() as handle:
        expected = {
            volume.id: {name: handle[f"volumes/{volume.id}/{name}"][()] for name in ("field", "cosmos")}
            for volume in open_store(tmp_path / "ppm.h5").volumes
        }
    changed = []
    stated = {"MagneticFieldStrength": 3.0, "ImagingFrequency": 123.255, "EchoTime": 0.02}
    for number, scan in enumerate(scans):
        sidecar = sidecar_path(scan.field)
        units, factor = (("Hz", 123.255), ("rad", 2 * np.pi * 123.255 * 0.02))[number % 2]
        _again(scan.field, factor)
        sidecar.write_text(json.dumps({**json.loads(sidecar.read_text()), **stated, "Units": units}))
        _again(scan.label, 1e3)
        sidecar_path(scan.label).write_text('{"Units": "ppb"}')
        changed.append(scan)
    with pytest.warns(Chi33Warning) as said:
        store = open_store(_store(tuple(changed), tmp_path / "other.h5"))
    sentences = [str(one.message) for one in said]
    assert sorted(s.partition("and ")[2].partition(":")[0] for s in sentences) == [
        "1 more are in Hz at 2.8948 T (ImagingFrequency)",
        "1 more are in rad at 2.8948 T (ImagingFrequency) and TE 20 ms",
        "3 more are in ppb",
    ]
    with store.open() as handle:
        for volume in store.volumes:
            assert volume.geometry.b0 == pytest.approx(123.255 / 42.577478518)
            for name, values in expected[volume.id].items():
                np.testing.assert_allclose(handle[f"volumes/{volume.id}/{name}"][()], values, atol=1e-6)


def test_scans_on_one_grid_need_their_directions(scans: tuple[ImportedScan, ...], tmp_path: Path) -> None:
    """Two fields of one head on one grid, and nothing that says how the head lay: never twice the same direction."""
    for scan in scans:
        sidecar_path(scan.field).unlink()
    with pytest.raises(
        InputError, match=r"sub-01/acq-ori01 and sub-01/acq-ori02 lie on one grid .* although they have"
    ):
        import_volumes(scans, tmp_path / "s.h5", CONFIG)
    by_hand = tuple(dataclasses.replace(scan, b0_direction=(0.0, 0.28 * (i % 2), 0.96 if i % 2 else 1.0))
                    for i, scan in enumerate(scans))  # fmt: skip
    assert _store(by_hand, tmp_path / "s.h5").exists()
    _again(scans[1].label, 1.0, 1e-3)
    _again(scans[3].label, 1.0, 1e-3)
    with pytest.warns(Chi33Warning) as said:
        import_volumes(scans, tmp_path / "t.h5", CONFIG)
    assert any("where they were resampled to one grid, give --b0-directions" in str(one.message) for one in said)


def _store(scans: tuple[ImportedScan, ...], path: Path) -> Path:
    import_volumes(scans, path, CONFIG)
    return path


@pytest.mark.parametrize(("units", "sentence"), [
    ("arbitrary", "1_0_f.nii.gz is in 'arbitrary' by its sidecar, from which ppm cannot be told"),
    ("rad", "1_0_f.nii.gz is in rad, but its echo time is not known"),
    ("ppb", "1_0_f.nii.gz is in ppb as stated and stays below .* too small for ppm after the conversion: correct"),
])  # fmt: skip
def test_units_that_cannot_be_are_refused(
    scans: tuple[ImportedScan, ...], tmp_path: Path, units: str, sentence: str
) -> None:
    sidecar = sidecar_path(scans[0].field)
    sidecar.write_text(json.dumps({**json.loads(sidecar.read_text()), "Units": units}))
    with pytest.raises(InputError, match=sentence):
        import_volumes(scans, tmp_path / "s.h5", CONFIG)
    assert not (tmp_path / "s.h5").exists()


def test_a_field_of_another_head_is_warned_of(scans: tuple[ImportedScan, ...], tmp_path: Path) -> None:
    other = [dataclasses.replace(scans[0], field=scans[2].field), *scans[1:]]
    with pytest.warns(Chi33Warning, match=r"2_0_f.nii.gz has little to do with the field of .*1_0_x.nii.gz"):
        import_volumes(other, tmp_path / "s.h5", CONFIG)


def test_other_grids_are_refused_and_all_problems_counted(scans: tuple[ImportedScan, ...], tmp_path: Path) -> None:
    _save(scans[0].label, np.zeros((20, 22, 17)))
    _save(scans[2].mask, np.ones(SHAPE), np.diag([2.0, 2.0, 2.2, 1.0]))
    _again(scans[3].field, -1)
    with pytest.raises(InputError, match=r"1_0_x.nii.gz has shape \(20, 22, 17\).*\(2 more scans cannot be imported"):
        import_volumes(scans, tmp_path / "s.h5", CONFIG)
    scans[0].label.write_bytes(b"no image")
    with pytest.raises(InputError, match=r"1_0_x.nii.gz is damaged"):
        import_volumes(scans, tmp_path / "s.h5", CONFIG)


def test_what_is_wrong_is_said_before_a_file_is_read(scans: tuple[ImportedScan, ...], tmp_path: Path) -> None:
    for scan in scans:
        scan.field.unlink()
    with pytest.raises(InputError, match="sub-09 named for validation cannot be found"):
        import_volumes(scans, tmp_path / "s.h5", dataclasses.replace(CONFIG, val_subjects=("09",)))
    (tmp_path / "s.h5").write_text("")
    with pytest.raises(InputError, match="pass --overwrite"):
        import_volumes(scans, tmp_path / "s.h5", CONFIG)
    assert (tmp_path / "s.h5").read_text() == ""


@pytest.mark.parametrize(("change", "kind", "sentence"), [
    ({"subject": "0 1"}, "cosmos", "the subject label '0 1' must be letters and digits"),
    ({"scan": "acq_1"}, "cosmos", "the scan name 'acq_1' must be like acq-ori01 or run-1"),
    ({"scan": "acq-ori02"}, "cosmos", "sub-01 has two scans named acq-ori02"),
    ({"deltab": Path("d.nii")}, "cosmos", "δB′ (d.nii) goes with --label-kind chi33"),
    ({"deltab": Path("d.nii")}, "chi33", "sub-01 acq-ori02 has no δB′, but others have"),
    ({}, "iso", "--label-kind must be one of cosmos, chi33, got 'iso'"),
])  # fmt: skip
def test_lists_that_cannot_be_are_refused(
    scans: tuple[ImportedScan, ...], change: dict[str, object], kind: str, sentence: str
) -> None:
    changed = [dataclasses.replace(scans[0], **change), *scans[1:]]  # type: ignore[arg-type]
    with pytest.raises(InputError, match=re.escape(sentence)):
        group_subjects(changed, kind)


def test_no_scan_is_refused() -> None:
    with pytest.raises(InputError, match="there is no scan to import"):
        group_subjects((), "cosmos")


def test_lists_of_other_lengths_are_refused(tmp_path: Path) -> None:
    paths = [tmp_path / "a", tmp_path / "b"]
    for lists, option in (((paths, paths[:1], paths, ["1", "1"]), "--label names 1"),
                          ((paths, paths, paths[:1], ["1", "1"]), "--mask names 1"),
                          ((paths, paths, paths, ["1"]), "--subjects names 1"),
                          ((paths, paths, paths, ["1", "1"], paths[:1]), "--deltab names 1")):  # fmt: skip
        with pytest.raises(InputError, match=f"{option}, but --field names 2: give one a field"):
            scans_of_lists(*lists)


def test_sources_travel_and_tell_when_files_change(scans: tuple[ImportedScan, ...]) -> None:
    first = group_subjects(scans, "cosmos")[0]
    assert (first.labels, first.voxels) == (("cosmos",), (int(np.prod(SHAPE)),) * 2)
    assert pickle.loads(pickle.dumps(first)) == first
    before = first.fingerprint()
    assert before == pickle.loads(pickle.dumps(first)).fingerprint()
    turned = dataclasses.replace(first, scans=tuple(dataclasses.replace(s, b0_direction=(0, 0, 1)) for s in scans[:2]))
    assert turned.fingerprint() != before
    assert turned.read_scan(1).geometry.b0_direction.tolist() == [0, 0, 1]
    scans[0].field.with_name("1_0_f.json").unlink()
    assert first.fingerprint() != before
    chi33 = group_subjects(scans, "chi33")[0]
    assert chi33.read_cosmos() is None
    assert chi33.read_tensor() is None
    assert chi33.labels == ("chi33",)


class TestTable:
    def _write(self, path: Path, *rows: str) -> Path:
        path.write_text("\n".join(rows) + "\n", encoding="utf-8")
        return path

    def test_commas_and_tabs_name_the_same_scans(self, tmp_path: Path) -> None:
        rows = ("subject,scan,field,label,mask", "01,ori01,f.nii,in/x.nii,m.nii", "sub-02,run-2,/f,x.nii, m.nii ")
        comma = scans_of_table(self._write(tmp_path / "a.csv", *rows))
        tabs = scans_of_table(self._write(tmp_path / "a.tsv", *(row.replace(",", "\t") for row in rows)))
        assert comma == tabs
        assert comma[0] == ImportedScan(
            "01", "acq-ori01", tmp_path / "f.nii", tmp_path / "in/x.nii", tmp_path / "m.nii"
        )
        assert (comma[1].subject, comma[1].scan, comma[1].field) == ("02", "run-2", Path("/f"))
        with_deltab = self._write(tmp_path / "b.csv", rows[0] + ",deltab", rows[1] + ",d.nii", rows[2] + ",")
        assert [scan.deltab for scan in scans_of_table(with_deltab)] == [tmp_path / "d.nii", None]

    @pytest.mark.parametrize(("rows", "sentence"), [
        (("subject,scan,field,mask", "01,a,f,m"), "lacks the column label: the columns are subject, scan, field"),
        (("subject,scan,field,label,mask,b0", "01,a,f,x,m,3"), "has an unknown column 'b0'"),
        (("subject,scan,field,label,mask", "01,a,,x,m"), "has no field on line 2: fill it in"),
        (("subject,scan,field,label,mask", "01,a,f,x"), "has no mask on line 2"),
        (("subject,scan,field,label,mask", "01,a,f,x,m,y"), "has more cells on line 2 than columns"),
        (("",), "lacks the columns subject, scan, field, label, mask"),
    ])  # fmt: skip
    def test_what_a_table_lacks_is_named(self, tmp_path: Path, rows: tuple[str, ...], sentence: str) -> None:
        with pytest.raises(InputError, match=re.escape(sentence)):
            scans_of_table(self._write(tmp_path / "a.csv", *rows))

    def test_a_file_that_is_no_table(self, tmp_path: Path) -> None:
        with pytest.raises(InputError, match=r"none.csv cannot be read as a table"):
            scans_of_table(tmp_path / "none.csv")
        (tmp_path / "a.csv").write_bytes(b"\xff\xfe\x00\x01")
        with pytest.raises(InputError, match=r"a.csv cannot be read as a table"):
            scans_of_table(tmp_path / "a.csv")

    def test_b0_directions(self, scans: tuple[ImportedScan, ...], tmp_path: Path) -> None:
        path = self._write(tmp_path / "h.txt", "0 0 1", "0 0.6 0.8", "0 0 1", "1 0 0")
        assert with_b0_directions(scans, path)[1].b0_direction == (0, 0.6, 0.8)
        with pytest.raises(InputError, match=r"line 2 of .*h.txt must be a unit vector, got \|h\| = 2"):
            with_b0_directions(scans, self._write(tmp_path / "h.txt", "0 0 1", "0 0 2", "0 0 1", "0 0 1"))
        with pytest.raises(InputError, match="on each of 4 lines, one a scan, got 1 lines of 3"):
            with_b0_directions(scans, self._write(tmp_path / "h.txt", "0 0 1"))
        for content in ("a b c", "0 0 1\n0 0"):
            with pytest.raises(InputError, match=r"h.txt cannot be read"):
                with_b0_directions(scans, self._write(tmp_path / "h.txt", content))


def test_figures_of_agreement() -> None:
    model = np.random.default_rng(0).standard_normal((6, 6, 6))
    mask = np.ones(model.shape, bool)
    found = agreement(3 * model + 5, model, mask)
    assert found.correlation == pytest.approx(1)
    assert found.slope == pytest.approx(3)
    assert agreement(np.zeros_like(model), model, mask).correlation == 0
