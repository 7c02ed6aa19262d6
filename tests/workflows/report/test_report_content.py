"""What the report adds to the maps: an echo, Hz, regions, convergence, chi-square, an undetermined tensor."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from chi33.files.derivatives import Derivatives, read_json, sidecar_path, write_image, write_json
from chi33.files.errors import InputError
from chi33.workflows.report.checks import check_echoes
from chi33.workflows.report.files import SubjectFiles, find_scans
from chi33.workflows.report.measures import CHI_BINS, measure_scan
from chi33.workflows.report.page import with_fit_numbers, write_subject_report
from chi33.workflows.report.plots import chi33_histogram, convergence
from chi33.workflows.report.regions import LabelMap, check_regions, region_rows, region_table, simulated_regions
from PIL import Image
from report_scene import SHAPE, Page, ellipsoid, head_affine, measures, tilted, write_scan, write_subject_frame

RECORD: dict[str, Any] = {
    "Fit": "single-step", "FieldNoisePpm": 0.002, "TensorRank": 4, "MagneticFieldStrength": 2.895,
    "Scans": ["acq-ori01", "acq-ori02"], "ReducedChiSquare": [1.25, 3.5], "ScanNoisePpm": [0.0021, 0.0084],
    "StoppingTolerance": 0.004, "ScoreGroups": 2, "ScoreTensor": [0.25, 0.31], "ScoreCosmos": [0.3, 0.36],
    "ScoreNoise": [0.05, 0.07],
    "RelativeChanges": [0.5, 0.2, 0.05, 0.003], "RelativeChangesCosmos": [0.4, 0.002],
}  # fmt: skip


def add_to_sidecar(path: Path, more: dict[str, Any]) -> None:
    write_json(sidecar_path(path), {**read_json(sidecar_path(path)), **more})


@pytest.fixture(scope="module")
def two_scans(tmp_path_factory: pytest.TempPathFactory) -> Derivatives:
    """Two scans at 2.895 T, one with the picture of its echo, and a tensor that they do not determine; read only."""
    files = Derivatives(tmp_path_factory.mktemp("content"), "01")
    for number, tilt in ((1, (0, 0)), (2, (25, 0))):
        label = f"acq-ori{number:02d}"
        write_scan(files, label, tilted(tilt), number, only=("total", "local", "chi33"))
        add_to_sidecar(files.path(label, suffix="fieldmap", desc="total"), {"MagneticFieldStrength": 2.895})
    write_subject_frame(files)
    add_to_sidecar(files.path(suffix="Chimap", desc="tensor", space="subject"), RECORD)
    picture = files.figure("acq-ori01", suffix="MEGRE", desc="phase")
    picture.parent.mkdir()
    Image.new("L", (12, 9), 77).save(picture)
    write_json(sidecar_path(picture), {"EchoTimes": [0.005, 0.0123, 0.02], "EchoNumber": 2})
    return files


@pytest.fixture(scope="module")
def labels(two_scans: Derivatives) -> Path:
    """A label map in the subject frame: 3 the left half, 7 the right half of the head, 9 outside of it."""
    right = np.zeros(SHAPE, np.int16)
    right[SHAPE[0] // 2 :] = 3  # the affine runs from right to left
    right[: SHAPE[0] // 2] = 7
    right[:, :, 0] = 9
    path = two_scans.out_dir / "atlas_dseg.nii.gz"
    write_image(path, right, head_affine(), {}, dtype=np.int16)
    path.with_name("atlas_dseg.tsv").write_text("index\tname\n3\tleft half\n7\tright half\n9\tair\n", encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def page(two_scans: Derivatives, labels: Path) -> str:
    return write_subject_report(two_scans.out_dir, "01", {}, rois=labels).read_text(encoding="utf-8")


def test_the_echo_is_shown_with_its_number_and_time(page: str) -> None:
    assert "Echo 2 of 3 (12.3 ms)" in page
    (alt,) = re.findall(r'alt="(Echo [^"]*)"', page)
    assert alt.endswith("rows: phase as measured, phase unwrapped, weight in the field.")


def test_fields_are_told_in_hz_too(page: str) -> None:
    hertz = 42.577478518 * 2.895
    assert f"1 ppm is {hertz:.1f} Hz at 2.895 T" in page
    cells = re.findall(r'title="([\d.]+) Hz">([\d.]+)</td>', page)
    assert len(cells) == 6  # total and local field, and noise, of two scans
    for shown, ppm in cells:
        assert float(shown) == pytest.approx(float(ppm) * hertz, abs=0.02)
    assert f"grey −0.05 to 0.05 ppm (−{0.05 * hertz:.3g} to {0.05 * hertz:.3g} Hz at 2.895 T)" in page
    assert "0.002 ppm (0.25 Hz at 2.895 T)" in page


def test_a_tensor_that_the_orientations_do_not_determine_is_not_shown_as_measured(page: str) -> None:
    assert "The tensor is not determined by these orientations (rank 4 of 6)" in page
    captions = dict(re.findall(r"<figcaption>([^<]+)\s*<small>([^<]*)", page))
    told = {title.strip(): "not determined by these orientations" in detail for title, detail in captions.items()}
    for title in ("Susceptibility anisotropy (MSA)", "Principal eigenvector, weighted by MSA", "Tensor component xz"):
        assert told[title], title
    for title in ("COSMOS", "χ33", "Local field"):
        assert not told[title], title
    (eigenvector,) = re.findall(r'alt="(Principal eigenvector[^"]*)"', page)
    assert "red" not in eigenvector
    assert "MSA" not in re.sub(r"<[^>]*>", " ", page[page.index('id="regions"') : page.index('id="maps"')])


def test_the_held_out_score_is_told_of_the_fit_and_of_each_scan(page: str) -> None:
    assert re.search("Missed of a held-out scan.*s field, tensor", page)
    assert "28\N{NO-BREAK SPACE}% (25\N{NO-BREAK SPACE}% to 31\N{NO-BREAK SPACE}%)" in page
    assert "Held out, COSMOS" in page
    assert ">36<" in page


def test_a_scan_whose_echoes_depart_from_a_line_much_farther_than_the_others_is_named() -> None:
    usual = [measures(echoes_median=0.02) for _ in range(4)]
    assert check_echoes(usual[:2]) == ()
    (check,) = check_echoes(usual)
    assert check.warnings == ()
    (check,) = check_echoes([*usual, measures(echoes_median=0.05)])
    (warning,) = check.warnings
    assert warning.startswith("The phase of the echoes of ori07 departs from a line by 0.050\N{NO-BREAK SPACE}rad")
    assert "that of the other scans by 0.020\N{NO-BREAK SPACE}rad" in warning


def test_convergence_of_the_fit_is_drawn_and_told(page: str) -> None:
    (alt,) = re.findall(r'alt="(Change in each iteration[^"]*)"', page)
    assert "χ33 from 50 % in the first to 0.3 % in iteration 4; COSMOS from 40 % in the first to 0.2 % in" in alt
    assert "Dashed: the tolerance, 0.4 %." in alt
    for nothing in ({}, {"RelativeChanges": None}, {"RelativeChanges": []}, {"RelativeChanges": [float("nan")]}):
        assert convergence(nothing) is None


def test_chi_square_is_the_fits_own_and_else_that_of_the_residual_of_local_fields(page: str) -> None:
    assert "Reduced χ²" in page
    assert ">1.25<" in page
    assert ">3.50<" in page
    assert ">0.0084<" in page
    scan = measures(residual_std=0.006)
    record = {"Fit": "masked", "FieldNoisePpm": 0.002}
    assert with_fit_numbers([scan], record)[0].number("reduced_chi2") == pytest.approx(9)
    own = record | {"Scans": ["acq-ori07"], "ReducedChiSquare": [1.5]}
    assert with_fit_numbers([scan], own)[0].number("reduced_chi2") == 1.5
    for unknown in ({"Fit": "single-step", "FieldNoisePpm": 0.002}, {"Fit": "closed"}, {}):
        assert with_fit_numbers([scan], unknown)[0].number("reduced_chi2") is None


def test_the_distribution_of_chi33_counts_every_voxel_of_every_scan(two_scans: Derivatives) -> None:
    scans = [measure_scan(scan) for scan in find_scans(two_scans.out_dir, "01")]
    for scan in scans:
        assert scan.histogram is not None
        assert scan.histogram.sum() == ellipsoid(3.0).sum()
        assert len(scan.histogram) == len(CHI_BINS) - 1
    curves = chi33_histogram(scans)
    assert curves is not None
    (low, middle, high) = (float(one.replace("−", "-")) for one in re.findall(r"[−\d.]+(?=[,.])", curves.alt)[-3:])
    assert low < middle < 0.02 < high
    assert chi33_histogram([measures()]) is None


# Regions


def test_means_by_region_are_those_of_the_voxels_with_the_label(
    page: str, two_scans: Derivatives, labels: Path
) -> None:
    table = region_table(find_scans(two_scans.out_dir, "01"), SubjectFiles.of(two_scans.out_dir, "01"), labels)
    assert table is not None
    assert [name for name, _ in table.rows] == ["left half", "right half"]  # air has no voxel in the brain
    assert [name for name, _ in table.columns] == ["Volume", "χ33", "χ33", "χ33", "χ33", "COSMOS", "MMS", "MSA"]
    local = ellipsoid(3.0)
    chi = np.asarray(read(two_scans.path("acq-ori01", suffix="Chimap", desc="chi33")))
    left = local.copy()
    left[: SHAPE[0] // 2] = False
    volume, mean, std, least, most = table.rows[0][1][:5]
    assert volume == pytest.approx(left.sum() * 0.125)
    assert (mean, std) == (pytest.approx(chi[left].mean(), abs=1e-6), pytest.approx(chi[left].std(), abs=1e-6))
    assert least is not None
    assert most is not None
    assert least <= mean <= most
    words = " ".join(Page(page).words.split())
    assert "Regions" in words
    assert "left half" in words


def read(path: Path) -> np.ndarray:
    import nibabel as nib

    return nib.load(path).get_fdata()


def test_labels_of_the_subject_frame_move_along_with_a_tilted_scan(two_scans: Derivatives, tmp_path: Path) -> None:
    up = np.zeros(SHAPE, np.int16)
    up[:, :, SHAPE[2] // 2 :] = 1
    path = tmp_path / "up.nii.gz"
    write_image(path, up, head_affine(), {}, dtype=np.int16)
    moved = LabelMap.read(path).on(head_affine(), SHAPE, np.linalg.inv(tilted((90, 0))))
    x, y, z = (np.argwhere(moved.labels == 1).mean(axis=0) - (np.array(SHAPE) - 1) / 2).tolist()
    # The scan's world is the subject's rotated by -90 degrees about x: what is up there is in front here.
    assert abs(z) < 1
    assert abs(x) < 1
    assert y > 5
    assert LabelMap.read(path).names == {1: "label 1"}


def test_a_folder_of_label_maps_gives_each_scan_its_own(two_scans: Derivatives, tmp_path: Path) -> None:
    scans = find_scans(two_scans.out_dir, "01")
    for number, scan in enumerate(scans, 1):
        labels = np.where(ellipsoid(20.0), number, 0)
        write_image(tmp_path / "deep" / scan.path("rois", "dseg").name, labels, head_affine(), {}, dtype=np.uint8)
    table = region_table(scans, SubjectFiles.of(two_scans.out_dir, "01"), tmp_path)
    assert table is not None
    assert [name for name, _ in table.rows] == ["label 1", "label 2"]
    assert table.rows[1][1][0] is None  # the first scan has no label 2
    (tmp_path / "none").mkdir()
    assert region_table(scans, SubjectFiles.of(two_scans.out_dir, "01"), tmp_path / "none") is None


def test_regions_elsewhere_than_the_brain_are_told(tmp_path: Path) -> None:
    write_scan(Derivatives(tmp_path, "01"), "acq-ori01", np.eye(4), 1, only=("chi33",))
    affine = head_affine()
    affine[:3, 3] += 1000
    write_image(tmp_path / "far.nii.gz", np.ones(SHAPE), affine, {}, dtype=np.uint8)
    said: list[str] = []
    path = write_subject_report(tmp_path, "01", {"fit": "none"}, warned=said.append, rois=tmp_path / "far.nii.gz")
    assert "No region of far.nii.gz lies where the labels of sub-01 are: check its frame." in said
    assert 'id="regions"' not in path.read_text(encoding="utf-8")


def test_a_simulation_brings_its_regions(simulated: Path, tmp_path: Path) -> None:
    truth = simulated_regions(simulated)
    assert truth is not None
    assert simulated_regions(tmp_path) is None
    check_regions(truth)
    table = region_table(find_scans(truth, "01"), SubjectFiles.of(truth, "01"), truth)
    assert table is not None
    means = {name: numbers[1] for name, numbers in table.rows}
    assert means["pallidum"] > means["putamen"] > means["white"]
    with pytest.raises(InputError, match="does not exist"):
        check_regions(tmp_path / "nothing.nii.gz")


def test_region_rows_are_exact() -> None:
    values = np.array([[[1.0, 3.0, 10.0, 7.0]]], np.float32)
    rows = region_rows(values, np.array([[[1, 1, 2, 2]]], np.int32), {1: "a", 2: "b", 5: "c"}, values != 7)
    assert [(one.name, one.voxels, one.mean, one.std) for one in rows] == [("a", 2, 2.0, 1.0), ("b", 1, 10.0, 0.0)]
    with pytest.raises(InputError, match=r"labels have shape \(1,\), but the map has \(1, 1, 4\)"):
        region_rows(values, np.zeros(1, np.int32), {}, values != 7)


@pytest.mark.parametrize(("volume", "said"), [
    (np.zeros(SHAPE), "holds 0 labels"), (np.full(SHAPE, 0.5), "values that are no labels"),
    (np.full(SHAPE, -1.0), "values that are no labels"), (np.ones((2, *SHAPE)), "give a 3-D label map"),
], ids=["empty", "fractions", "negative", "4-D"])  # fmt: skip
def test_a_map_without_labels_is_refused(tmp_path: Path, volume: np.ndarray, said: str) -> None:
    path = tmp_path / "labels.nii.gz"
    write_image(path, volume, head_affine(), {})
    with pytest.raises(InputError, match=said):
        LabelMap.read(path)


def test_names_without_their_columns_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "labels.nii.gz"
    write_image(path, np.ones(SHAPE), head_affine(), {})
    path.with_name("labels.tsv").write_text("1\tone\n", encoding="utf-8")
    with pytest.raises(InputError, match="give the columns index and name"):
        LabelMap.read(path)
