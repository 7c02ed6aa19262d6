"""The table of errors: which files are compared, inside which mask, and what it says."""

from __future__ import annotations

import csv
import json
import shutil
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from chi33.files.errors import Chi33Warning, InputError
from chi33.files.manifest import Manifest, manifest_path
from chi33.training.evaluation.evaluate import compare, evaluate, means
from chi33.training.evaluation.map_pairs import find_pairs, parse_name

SHAPE = (14, 12, 13)
AFFINE = np.diag([1.0, 1.0, 1.5, 1.0])
RNG = np.random.default_rng(0)
MASK = np.zeros(SHAPE, np.uint8)
MASK[3:11, 2:10, 3:10] = 1


def save(path: Path, volume: np.ndarray, affine: np.ndarray = AFFINE) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    dtype = np.uint8 if volume.dtype == np.uint8 else np.float32
    nib.save(nib.Nifti1Image(volume.astype(dtype), affine), path)
    return path


def chi(seed: int) -> np.ndarray:
    return 0.05 * np.random.default_rng(seed).standard_normal(SHAPE)


@pytest.fixture
def folders(tmp_path: Path) -> tuple[Path, Path]:
    """Two scans of truth and maps of two methods that are 0.8 and 0.5 times it; the brain mask is larger."""
    pred, truth = tmp_path / "pred", tmp_path / "truth"
    for number, scan in enumerate(("acq-ori01", "acq-ori02")):
        anat = truth / "sub-01" / "anat"
        save(anat / f"sub-01_{scan}_desc-chi33_Chimap.nii.gz", chi(number))
        save(anat / f"sub-01_{scan}_desc-deltab_fieldmap.nii.gz", 0.1 * chi(number + 5))
        save(anat / f"sub-01_{scan}_desc-local_mask.nii.gz", MASK)
        save(anat / f"sub-01_{scan}_desc-brain_mask.nii.gz", np.ones(SHAPE, np.uint8))
        save(pred / f"sub-01_{scan}_chi.nii.gz", 0.8 * chi(number))
        save(pred / f"sub-01_{scan}_deltab.nii.gz", 0.09 * chi(number + 5))
        save(pred / f"sub-01_{scan}_tkd_chi.nii.gz", 0.5 * chi(number))
    return pred, truth


def test_maps_that_the_last_run_did_not_make_and_hidden_files_are_left_out(folders: tuple[Path, Path]) -> None:
    pred, truth = folders
    anat = truth / "sub-01" / "anat"
    kept = [path for path in anat.iterdir() if "acq-ori01" in path.name and "local_mask" not in path.name]
    path = manifest_path(truth, "01")
    path.parent.mkdir()
    path.write_text(json.dumps(Manifest.of(truth, "01", kept, {"Fit": "masked"}).content))
    for name in ("sub-01_acq-ori01_chi.nii.gz", "sub-01_acq-ori01_deltab.nii.gz"):
        (pred / f"._{name}").write_bytes(bytes(80))
    pairs, alone = find_pairs(pred, truth)
    assert {pair.truth.name for pair in pairs} == {
        "sub-01_acq-ori01_desc-chi33_Chimap.nii.gz",
        "sub-01_acq-ori01_desc-deltab_fieldmap.nii.gz",
    }
    assert {mask.name for pair in pairs for mask in pair.masks} == {"sub-01_acq-ori01_desc-brain_mask.nii.gz"}
    assert all("acq-ori02" in path.name for path in alone)
    simulated = truth.with_name("simulated")
    shutil.copytree(truth / "sub-01", simulated / "sub-01")
    save(anat / "sub-01_acq-ori02_tkd_desc-chi33_Chimap.nii.gz", chi(0))  # of another method, beside the run's
    inside, _ = find_pairs(anat, simulated)
    assert [(pair.name.orientation, pair.name.method) for pair in inside] == [
        ("acq-ori01", ""), ("acq-ori02", "tkd"), ("acq-ori01", "")
    ]  # fmt: skip


def test_a_prediction_of_cosmos_is_held_against_cosmos(folders: tuple[Path, Path]) -> None:
    pred, truth = folders
    (pred / "sub-01_acq-ori01_chi.json").write_text('{"Label": "cosmos"}')
    assert pred / "sub-01_acq-ori01_chi.nii.gz" in find_pairs(pred, truth)[1]
    save(truth / "sub-01/anat/sub-01_acq-ori01_desc-cosmos_Chimap.nii.gz", chi(0))
    pairs, _ = find_pairs(pred, truth)
    (pair,) = [pair for pair in pairs if pair.quantity == "cosmos"]
    assert (pair.estimate.name, pair.truth.name) == (
        "sub-01_acq-ori01_chi.nii.gz",
        "sub-01_acq-ori01_desc-cosmos_Chimap.nii.gz",
    )


def test_every_map_gets_its_line(folders: tuple[Path, Path], tmp_path: Path) -> None:
    lines = evaluate(*folders, tmp_path / "table.csv")
    assert [(line.orientation, line.quantity, line.method) for line in lines] == [
        ("acq-ori01", "chi33", ""), ("acq-ori02", "chi33", ""), ("acq-ori01", "chi33", "tkd"),
        ("acq-ori02", "chi33", "tkd"), ("acq-ori01", "deltab", ""), ("acq-ori02", "deltab", ""),
    ]  # fmt: skip
    assert [line.metrics.nrmse for line in lines] == pytest.approx([20, 20, 50, 50, 10, 10], rel=1e-4)
    assert [line.metrics.slope for line in lines] == pytest.approx([0.8, 0.8, 0.5, 0.5, 0.9, 0.9], rel=1e-4)
    assert {line.n_voxels for line in lines} == {int(MASK.sum())}
    assert means(lines)["chi33", "tkd"].nrmse == pytest.approx(50, rel=1e-4)
    with open(tmp_path / "table.csv", newline="") as handle:
        rows = list(csv.DictReader(handle))
    assert rows[0]["subject"] == "sub-01"
    assert rows[0]["reference"] == "as is"
    assert float(rows[2]["nrmse"]) == pytest.approx(50, rel=1e-4)
    assert float(rows[0]["correlation"]) == pytest.approx(1)


def test_error_is_counted_inside_both_local_masks(folders: tuple[Path, Path], tmp_path: Path) -> None:
    pred, truth = folders
    half = MASK.copy()
    half[7:] = 0
    save(pred / "sub-01_acq-ori01_desc-local_mask.nii.gz", half)
    wrong_outside = np.where(half, 0.8 * chi(0), 99)
    save(pred / "sub-01_acq-ori01_chi.nii.gz", wrong_outside)
    first = evaluate(pred, truth, tmp_path / "table.csv")[0]
    assert first.n_voxels == int(half.sum())
    assert first.metrics.nrmse == pytest.approx(20, rel=1e-4)


def test_without_a_mask_the_truth_s_support_counts(tmp_path: Path) -> None:
    save(tmp_path / "t" / "sub-01_acq-a_desc-chi33_Chimap.nii.gz", chi(0) * MASK)
    save(tmp_path / "p" / "sub-01_acq-a_desc-chi33_Chimap.nii.gz", chi(1))
    line = evaluate(tmp_path / "p", tmp_path / "t", tmp_path / "table.csv")[0]
    assert line.n_voxels == int(MASK.sum())


def test_demeaning_is_named_and_takes_an_offset_out(folders: tuple[Path, Path], tmp_path: Path) -> None:
    pred, truth = folders
    save(pred / "sub-01_acq-ori01_chi.nii.gz", chi(0) + 0.4)
    plain = evaluate(pred, truth, tmp_path / "plain.csv")[0]
    demeaned = evaluate(pred, truth, tmp_path / "demeaned.csv", demean=True)[0]
    assert plain.metrics.nrmse > 500
    assert demeaned.metrics.nrmse < 1e-3
    assert (plain.reference, demeaned.reference) == ("as is", "demeaned")
    assert ",demeaned," in (tmp_path / "demeaned.csv").read_text()


@pytest.mark.parametrize("how", ["file", "folder", "truth"])
def test_regions_are_averaged_by_name(folders: tuple[Path, Path], tmp_path: Path, how: str) -> None:
    pred, truth = folders
    regions = np.zeros(SHAPE, np.uint8)
    regions[5:7, 5:7, 5:7] = 4
    home = truth / "sub-01" / "anat" if how == "truth" else tmp_path / "rois"
    path = save(home / "sub-01_acq-ori01_dseg.nii.gz", regions)
    (home / "sub-01_acq-ori01_dseg.tsv").write_text("index\tname\n4\tglobus_pallidus\n")
    rois = {"file": path, "folder": home, "truth": None}[how]
    lines = evaluate(pred, truth, tmp_path / "table.csv", rois=rois)
    found = lines[0].regions["globus_pallidus"]
    box = chi(0)[5:7, 5:7, 5:7]
    assert (found.voxels, found.mean, found.truth_mean) == pytest.approx((8, 0.8 * box.mean(), box.mean()), rel=1e-4)
    assert bool(lines[1].regions) is (how == "file")
    assert "mean_globus_pallidus" in (tmp_path / "table.csv").read_text()


def test_page_is_self_contained_and_escaped(folders: tuple[Path, Path], tmp_path: Path) -> None:
    evaluate(*folders, tmp_path / "table.csv", html=True)
    page = (tmp_path / "table.html").read_text()
    assert page.count("<tr>") == 1 + 6 + 3  # head, maps, means of three groups
    assert "http" not in page
    assert "<script" not in page


def test_maps_in_the_subject_frame_are_left_out(folders: tuple[Path, Path]) -> None:
    pred, truth = folders
    save(pred / "sub-01_space-subject_desc-cosmos_Chimap.nii.gz", chi(0))
    pairs, alone = find_pairs(pred, truth)
    assert len(pairs) == 6
    assert alone == []


def test_cosmos_is_held_against_cosmos_only(folders: tuple[Path, Path], tmp_path: Path) -> None:
    pred, truth = folders
    save(pred / "sub-01_acq-ori01_desc-cosmos_Chimap.nii.gz", chi(0))
    with pytest.warns(Chi33Warning, match=r"1 of 7 maps have no truth in .*: sub-01_acq-ori01_desc-cosmos_Chimap"):
        assert len(evaluate(pred, truth, tmp_path / "a.csv")) == 6
    save(truth / "sub-01_acq-ori01_desc-cosmos_Chimap.nii.gz", 2 * chi(0))
    lines = evaluate(pred, truth, tmp_path / "b.csv")
    assert [line.metrics.nrmse for line in lines if line.quantity == "cosmos"] == pytest.approx([50], rel=1e-4)


def _restate(path: Path, factor: float, **sidecar: object) -> None:
    image = nib.load(path)
    save(path, factor * image.get_fdata(), image.affine)
    path.with_name(path.name.replace(".nii.gz", ".json")).write_text(json.dumps(sidecar))


def test_maps_in_other_units_are_compared_in_ppm(folders: tuple[Path, Path], tmp_path: Path) -> None:
    pred, truth = folders
    expected = evaluate(pred, truth, tmp_path / "ppm.csv")
    _restate(pred / "sub-01_acq-ori01_chi.nii.gz", 1e3, Units="ppb")
    _restate(truth / "sub-01" / "anat" / "sub-01_acq-ori02_desc-chi33_Chimap.nii.gz", 1e3, Units="ppb")
    hertz = {"Units": "Hz", "MagneticFieldStrength": 3.0}
    _restate(pred / "sub-01_acq-ori01_deltab.nii.gz", 42.577478518 * 3, **hertz)
    with pytest.warns(Chi33Warning) as said:
        found = evaluate(pred, truth, tmp_path / "other.csv")
    assert {str(one.message).partition(" is in ")[2] for one in said} == {
        "ppb: multiplied by 0.001 to ppm.", "Hz at 3 T (MagneticFieldStrength): multiplied by 0.007829 to ppm.",
    }  # fmt: skip
    for one, other in zip(expected, found, strict=True):
        assert other.metrics.rmse == pytest.approx(one.metrics.rmse, rel=1e-4)


def test_masks_and_maps_along_other_axes_are_reordered(folders: tuple[Path, Path], tmp_path: Path) -> None:
    pred, truth = folders
    expected = evaluate(pred, truth, tmp_path / "a.csv")[0].metrics
    ornt = np.array([[2, 1], [0, -1], [1, 1]], float)
    for path in (pred / "sub-01_acq-ori01_chi.nii.gz",):
        image = nib.load(path)
        affine = image.affine @ nib.orientations.inv_ornt_aff(ornt, SHAPE)
        save(path, nib.apply_orientation(image.get_fdata(), ornt)[..., None], affine)
    with pytest.warns(Chi33Warning, match="its voxels were reordered"):
        found = evaluate(pred, truth, tmp_path / "b.csv")[0].metrics
    assert found.nrmse == pytest.approx(expected.nrmse, rel=1e-4)


def test_names() -> None:
    name = parse_name(Path("sub-02_ses-a_run-3_method-star_chi.nii.gz"), ("chi",))
    assert name is not None
    assert (name.subject, name.orientation, name.method) == ("sub-02_ses-a", "run-3", "method-star")
    assert parse_name(Path("sub-02_desc-chi33_Chimap.json"), ("desc-chi33_Chimap",)) is None
    assert parse_name(Path("sub-02_psychi.nii.gz"), ("chi",)) is None


def test_compare_checks_its_maps() -> None:
    with pytest.raises(InputError, match="the mask has shape"):
        compare(chi(0), chi(1), MASK[1:])
    with pytest.raises(InputError, match="the mask is empty"):
        compare(chi(0), chi(1), 0 * MASK)


class TestBadInput:
    """Each in one sentence, and no table."""

    def check(self, pred: Path, truth: Path, out: Path, message: str, **options) -> None:
        with pytest.raises(InputError, match=message):
            evaluate(pred, truth, out, **options)
        assert not out.exists()

    def test_folders(self, folders: tuple[Path, Path], tmp_path: Path) -> None:
        out = tmp_path / "table.csv"
        self.check(tmp_path / "none", folders[1], out, "none is no folder")
        self.check(folders[0], tmp_path / "none", out, "none is no folder")
        self.check(*folders, out, "none does not exist: give a .*dseg", rois=tmp_path / "none")
        (tmp_path / "empty").mkdir()
        self.check(tmp_path / "empty", folders[1], out, "empty holds no map: names must end with _chi")
        self.check(folders[0], tmp_path / "empty", out, "has its truth in .*: names must share sub-")

    def test_grids(self, folders: tuple[Path, Path], tmp_path: Path) -> None:
        pred, truth = folders
        save(pred / "sub-01_acq-ori01_chi.nii.gz", chi(0)[1:])
        self.check(pred, truth, tmp_path / "table.csv", r"has shape \(14, 12, 13\), but .* has \(13, 12, 13\)")
        save(pred / "sub-01_acq-ori01_chi.nii.gz", chi(0), 2 * AFFINE)
        self.check(pred, truth, tmp_path / "table.csv", "lies elsewhere than")

    def test_damaged_nan_or_masked_away(self, folders: tuple[Path, Path], tmp_path: Path) -> None:
        pred, truth = folders
        path = save(pred / "sub-01_acq-ori01_chi.nii.gz", np.full(SHAPE, np.nan))
        self.check(pred, truth, tmp_path / "table.csv", "not finite inside the mask: make it again")
        path.write_bytes(path.read_bytes()[:60])
        self.check(pred, truth, tmp_path / "table.csv", "is damaged or no NIfTI")
        save(path, chi(0))
        apart = np.zeros_like(MASK)
        apart[11:] = 1
        save(pred / "sub-01_acq-ori01_desc-local_mask.nii.gz", apart)
        self.check(pred, truth, tmp_path / "table.csv", "leave no voxel")

    def test_sizes(self, folders: tuple[Path, Path], tmp_path: Path) -> None:
        pred, truth = folders
        path = pred / "sub-01_acq-ori01_chi.nii.gz"
        save(path, 800 * chi(0))
        self.check(
            pred, truth, tmp_path / "table.csv", r"_chi.nii.gz is 800 times its truth .* too large for ppm: give"
        )
        save(path, 40 * np.random.default_rng(9).standard_normal(SHAPE))
        with pytest.warns(Chi33Warning, match=r"_chi.nii.gz reaches .* its errors are counted as if it were in ppm"):
            assert evaluate(pred, truth, tmp_path / "bad.csv")[0].metrics.nrmse > 1e4
        save(truth / "sub-01" / "anat" / "sub-01_acq-ori01_desc-chi33_Chimap.nii.gz", 1e3 * chi(0))
        self.check(
            pred, truth, tmp_path / "table.csv", r"Chimap.nii.gz reaches .* too large for ppm: give the truth in"
        )
        _restate(path, 1.0, Units="Hz")
        self.check(pred, truth, tmp_path / "table.csv", "in 'Hz' by its sidecar, from which ppm cannot be told")

    def test_twice_the_same(self, folders: tuple[Path, Path], tmp_path: Path) -> None:
        pred, truth = folders
        save(pred / "again" / "sub-01_acq-ori01_chi.nii.gz", chi(0))
        self.check(pred, truth, tmp_path / "table.csv", "are the same map by name")
        (pred / "again" / "sub-01_acq-ori01_chi.nii.gz").unlink()
        save(truth / "again" / "sub-01_acq-ori01_desc-chi33_Chimap.nii.gz", chi(0))
        self.check(pred, truth, tmp_path / "table.csv", "are both the truth of sub-01 acq-ori01")

    def test_outputs(self, folders: tuple[Path, Path], tmp_path: Path) -> None:
        out = tmp_path / "table.csv"
        evaluate(*folders, out)
        before = out.read_text()
        with pytest.raises(InputError, match=r"table.csv exists: choose another --out, or pass --overwrite"):
            evaluate(*folders, out)
        evaluate(*folders, out, overwrite=True)
        assert out.read_text() == before
        self.check(*folders, tmp_path / "page.html", "is the name of the page itself", html=True)

    def test_region_table(self, folders: tuple[Path, Path], tmp_path: Path) -> None:
        path = save(tmp_path / "rois" / "sub-01_acq-ori01_dseg.nii.gz", MASK)
        path.with_name("sub-01_acq-ori01_dseg.tsv").write_text("number\tlabel\n1\tGP\n")
        self.check(*folders, tmp_path / "table.csv", "has no columns index and name", rois=path)
