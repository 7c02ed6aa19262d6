from __future__ import annotations

import errno
import json
import re
from pathlib import Path

import numpy as np
import pytest
from chi33.files.derivatives import Derivatives, read_json, sidecar_path, write_image, write_transform
from chi33.files.errors import InputError, StepError
from chi33.workflows.report.checks import EXPECTED, Expected, check_scans
from chi33.workflows.report.files import SubjectFiles, find_scans
from chi33.workflows.report.measures import measure_scan, measure_subject
from chi33.workflows.report.methods import flatten, lookup, write_methods
from chi33.workflows.report.page import write_subject_report
from hypothesis import given
from hypothesis import strategies as st
from report_scene import (
    EDGE,
    HALF_AXES,
    PROVENANCE,
    SHAPE,
    TILTS,
    Page,
    chi_map,
    ellipsoid,
    head_affine,
    measures,
    tilted,
    write_scan,
    write_subject_frame,
)  # fmt: skip


@pytest.fixture(scope="module")
def derivatives(tmp_path_factory: pytest.TempPathFactory) -> Derivatives:
    """Six scans of an ellipsoid in good order; read only."""
    files = Derivatives(tmp_path_factory.mktemp("six"), "01")
    for i, tilt in enumerate(TILTS):
        write_scan(files, f"acq-ori{i + 1:02d}", tilted(tilt), 10 * i)
    write_subject_frame(files)
    return files


@pytest.fixture
def one_scan(tmp_path: Path) -> Derivatives:
    """One scan in good order, nothing in the subject frame."""
    files = Derivatives(tmp_path, "01")
    write_scan(files, "acq-ori01", tilted((25, 0)), 3)
    return files


def test_page_in_good_order_has_every_map_no_warning_and_fetches_nothing(derivatives: Derivatives) -> None:
    path = write_subject_report(derivatives.out_dir, "01", PROVENANCE)
    assert path == derivatives.out_dir / "sub-01.html"
    text = path.read_text(encoding="utf-8")
    page = Page(text)
    assert page.open == []
    assert "No warnings." in page.words
    assert "6 scans" in page.words
    for tag, values in page.tags:
        for attribute in ("src", "srcset", *(["href"] if tag != "a" else [])):
            assert (values.get(attribute) or "#").startswith(("#", "data:"))
    assert not re.search(r"https?://|@import|url\(|<script", text)
    images = [values for tag, values in page.tags if tag == "img"]
    # maps, registrations, B0 directions, one more scan, distribution of chi33, invariants, components
    assert len(images) == 6 * 7 + 5 + 1 + 1 + 1 + 4 + 6
    assert all(len(values["alt"] or "") > 20 for values in images)
    ids = [values["id"] for _, values in page.tags if "id" in values]
    assert len(ids) == len(set(ids))
    links = [values["href"] for tag, values in page.tags if tag == "a"]
    assert {str(link).removeprefix("#") for link in links if str(link).startswith("#")} == set(ids)
    files = [derivatives.out_dir / str(link) for link in links if not str(link).startswith("#")]
    assert [file.name for file in files if file.is_file()] == ["CITATION.md", "CITATION.bib"]
    assert "grey −0.1 to 0.15 ppm" in page.words
    assert "Neurological convention" in page.words
    assert 'id="fit"' not in text  # the sidecars are of an older version
    assert 'id="uncertainty"' not in text
    assert "together" not in page.words  # steps overlap: their seconds have no sum
    assert "This run took 1 min 13 s from start to end" in page.words


def test_numbers_of_a_scan_are_those_it_was_made_with(tmp_path: Path) -> None:
    files = Derivatives(tmp_path, "01")
    transform = tilted((25, 0))
    transform[:3, :3] *= 1.004
    transform[:3, 3] = [3, -4, 12]
    write_scan(files, "acq-ori02", transform, 5)
    found = measure_scan(find_scans(tmp_path, "01")[0])
    a, b, c = HALF_AXES
    volume = 4 / 3 * np.pi * a * b * c / 1000
    assert found.brain_volume == pytest.approx(volume, rel=0.01)
    assert found.valid_share == pytest.approx((a - 3) * (b - 3) * (c - 3) / (a * b * c), abs=0.02)
    assert found.tilt == pytest.approx(25, abs=1e-6)
    assert found.rotation == pytest.approx(25, abs=1e-6)
    assert found.scale == pytest.approx(1.004, abs=1e-9)
    assert found.shift == pytest.approx(13, abs=1e-6)  # the brain's centre is the origin of the world
    np.testing.assert_allclose(found.b0_direction, [0, -np.sin(np.radians(25)), np.cos(np.radians(25))], atol=1e-9)
    assert found.number("local_std") == pytest.approx(0.02, rel=1e-3)
    assert found.number("residual_ratio") == pytest.approx(0.25, rel=1e-3)
    chi, cosmos = (found.planes[name] for name in ("chi33", "cosmos"))
    assert 0.9 < (found.number("correlation") or 0) < 1
    assert [one.axial.shape for one in chi] == [one.axial.shape for one in cosmos]
    assert found.voxel_size == (EDGE, EDGE, EDGE)


def test_stated_b0_direction_overrides_the_affine(one_scan: Derivatives) -> None:
    path = one_scan.path("acq-ori01", suffix="fieldmap", desc="local")
    sidecar_path(path).write_text('{"B0_dir": [0, 0.6, 0.8]}', encoding="utf-8")
    one_scan.transform("acq-ori01").unlink()
    write_transform(one_scan.transform("acq-ori01"), np.eye(4))
    found = measure_scan(find_scans(one_scan.out_dir, "01")[0])
    np.testing.assert_allclose(found.b0_direction, [0, 0.6, 0.8], atol=1e-9)
    assert found.tilt == pytest.approx(np.degrees(np.arccos(0.8)))


@pytest.mark.parametrize("expected", EXPECTED, ids=lambda expected: expected.key)
def test_every_number_outside_its_range_is_told_with_scan_value_and_reason(expected: Expected) -> None:
    sides = [(expected.low, -1, expected.below), (expected.high, 1, expected.above)]
    for limit, direction, reason in sides:
        if limit is None:
            continue
        outside = limit + direction * 0.05 * max(abs(limit), 0.1)
        (check,) = [c for c in check_scans([measures(**{expected.key: outside})]) if c.title == expected.title]
        assert check.verdict == "look"
        (warning,) = check.warnings
        assert reason
        assert reason in warning
        assert "ori07" in warning
        assert expected.tell(outside)[0] in warning
        (inside,) = [c for c in check_scans([measures(**{expected.key: limit})]) if c.title == expected.title]
        assert inside.warnings == ()
        assert inside.verdict == "as expected"


def test_brain_masks_of_different_size_are_told() -> None:
    alike = check_scans([measures(brain_volume=1300.0), measures(brain_volume=1350.0)])
    assert not any(check.warnings for check in alike)
    apart = check_scans([measures(brain_volume=1300.0), measures(brain_volume=1600.0)])
    assert any("differ by 23.1\N{NO-BREAK SPACE}%" in warning for check in apart for warning in check.warnings)


@given(
    expected=st.sampled_from(EXPECTED),
    shares=st.lists(st.floats(-0.6, 2.2), min_size=1, max_size=5),
)
def test_what_a_check_shows_is_the_range_of_the_scans_and_stands_on_the_side_of_the_limit_that_it_names(
    expected: Expected, shares: list[float]
) -> None:
    limit = expected.high if expected.high is not None else expected.low
    assert limit is not None
    values = [share * limit for share in shares]
    scans = [measures(**{expected.key: value}) for value in values]
    (check,) = [one for one in check_scans(scans) if one.title == expected.title]
    shown = [_number(text) for text in check.value.removesuffix(expected.unit).split(" to ")]
    tolerance = 0.5000001 * 10.0**-expected.digits
    assert len(shown) == (1 if abs(shown[0] - shown[-1]) == 0 else 2)
    assert abs(shown[0] - min(values) * expected.factor) <= tolerance
    assert abs(shown[-1] - max(values) * expected.factor) <= tolerance
    low, high = (None if one is None else one * expected.factor for one in (expected.low, expected.high))
    said = " ".join(check.warnings)
    for value in values:
        if expected.passed(value) == expected.low is not None:
            assert f"ori07 ({expected.tell(value)[0]})" in said
            assert _number(expected.tell(value)[0]) < low
        elif expected.passed(value) is not None:
            assert _number(expected.tell(value)[0]) > high
    if not check.warnings:
        assert all(expected.passed(value) is None for value in values)


def _number(text: str) -> float:
    found = re.match(r"[\d.\N{MINUS SIGN}]+", text.strip())
    assert found
    return float(found[0].replace("\N{MINUS SIGN}", "-"))


def test_percentages_that_differ_between_scans_are_shown_as_a_range() -> None:
    found = [measures(valid_share=share) for share in (0.62, 0.68, 0.69)]
    (check,) = [one for one in check_scans(found) if one.title == "Brain with a local field"]
    assert check.value == "62 to 69\N{NO-BREAK SPACE}%"


def test_orientations_that_do_not_determine_the_fits_are_told(tmp_path: Path) -> None:
    files = Derivatives(tmp_path, "01")
    for i, tilt in enumerate((0.0, 2.0)):
        write_scan(files, f"acq-ori{i + 1:02d}", tilted((tilt, 0)), i)
    page = Page(write_subject_report(tmp_path, "01", {}).read_text(encoding="utf-8"))
    assert "All B0 directions lie within 2.0 degrees of one another" in page.words
    assert "not determined" in page.words
    assert "2 warnings." in page.words


def test_a_repaired_mask_and_the_agreement_of_a_registration_are_told(one_scan: Derivatives) -> None:
    for path, more in (
        (one_scan.path("acq-ori01", suffix="mask", desc="brain"),
         {"MaskRepaired": "Dice 0.812 with the consensus, below 0.95", "MaskConsensusDice": 0.812}),
        (one_scan.path("acq-ori01", suffix="fieldmap", desc="total"), {"Warnings": ["its phase looks filtered."]}),
        (one_scan.transform("acq-ori01"), {"Quality": 0.876}),
    ):  # fmt: skip
        beside = sidecar_path(path)
        stated = read_json(beside) if beside.is_file() else {}
        beside.write_text(json.dumps(stated | more))
    page = Page(write_subject_report(one_scan.out_dir, "01", {}).read_text(encoding="utf-8"))
    assert "The brain mask of ori01 was repaired (Dice 0.812 with the consensus, below 0.95)" in page.words
    assert "0.812" in page.words.replace("Dice 0.812", "")
    assert "0.88" in page.words
    assert "ori01: its phase looks filtered." in page.words


def test_warnings_of_the_run_unfinished_maps_and_missing_transforms_are_told(one_scan: Derivatives) -> None:
    sidecar_path(one_scan.path("acq-ori01", suffix="fieldmap", desc="deltab")).unlink()
    one_scan.transform("acq-ori01").unlink()
    path = write_subject_report(one_scan.out_dir, "01", {"warnings": ["One echo was <left> out."]})
    text = path.read_text(encoding="utf-8")
    page = Page(text)
    assert "One echo was &lt;left&gt; out." in text
    assert "sub-01_acq-ori01_desc-deltab_fieldmap.nii.gz has no sidecar" in page.words
    assert "ori01: no transform to the subject frame" in page.words
    assert "3 warnings." in page.words
    assert "Head orientations" not in page.words


def test_only_a_mask_and_one_map_still_make_a_page(tmp_path: Path) -> None:
    files = Derivatives(tmp_path, "x")
    write_image(files.path("run-2", suffix="mask", desc="brain"), ellipsoid(), head_affine(), {}, dtype=np.uint8)
    write_image(files.path("run-2", suffix="Chimap", desc="chi33"), chi_map(0, ellipsoid()), head_affine(), {})
    page = Page(write_subject_report(tmp_path, "x", {}).read_text(encoding="utf-8"))
    assert "1 scan ·" in page.words
    images = [str(values["alt"]) for tag, values in page.tags if tag == "img"]
    assert len(images) == 2
    assert images[0].startswith("Distribution of χ33")
    assert "outline of the brain mask" in images[1]
    assert "names no processing step" in page.words


def test_scans_of_all_sessions_are_shown(tmp_path: Path) -> None:
    write_scan(Derivatives(tmp_path, "01", "b"), "acq-ori01", tilted((25, 0)), 3)
    write_scan(Derivatives(tmp_path, "01", "a"), "acq-ori01_run-2", np.eye(4), 4)
    assert [scan.name for scan in find_scans(tmp_path, "01")] == ["ses-a acq-ori01 run-2", "ses-b acq-ori01"]
    page = Page(write_subject_report(tmp_path, "01", {}).read_text(encoding="utf-8"))
    assert "2 · ses-b acq-ori01" in page.words


def test_subject_frame_without_a_mask_is_cut_where_the_map_is_not_zero(derivatives: Derivatives) -> None:
    found = measure_subject(SubjectFiles.of(derivatives.out_dir, "01"))
    assert set(found.planes) == {"cosmos", "mms", "msa", "tensor", "pev"}
    assert measure_subject(SubjectFiles.of(derivatives.out_dir, "02")).planes == {}


def test_report_can_be_repeated_and_an_error_leaves_the_old_one(
    one_scan: Derivatives, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = write_subject_report(one_scan.out_dir, "01", {"note": "first"}).read_text(encoding="utf-8")

    def full(self: Path, *arguments: object, **options: object) -> int:
        self.touch()
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(Path, "write_text", full)
        with pytest.raises(StepError, match="disk is full"):
            write_subject_report(one_scan.out_dir, "01", {"note": "second"})
    assert one_scan.report.read_text(encoding="utf-8") == first
    assert sorted(path.name for path in one_scan.out_dir.iterdir()) == ["logs", "sub-01", "sub-01.html"]
    assert ">second<" in write_subject_report(one_scan.out_dir, "01", {"note": "second"}).read_text(encoding="utf-8")


def test_subject_without_scans_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="holds no scan of sub-07"):
        write_subject_report(tmp_path, "07", {})


def test_scan_without_a_mask_is_refused(one_scan: Derivatives) -> None:
    for desc in ("brain", "local"):
        one_scan.path("acq-ori01", suffix="mask", desc=desc).unlink()
    with pytest.raises(InputError, match=r"desc-brain_mask.nii.gz is missing or unfinished"):
        write_subject_report(one_scan.out_dir, "01", {})


def test_empty_mask_is_refused(one_scan: Derivatives) -> None:
    path = one_scan.path("acq-ori01", suffix="mask", desc="local")
    write_image(path, np.zeros(SHAPE), head_affine(), {}, dtype=np.uint8)
    with pytest.raises(InputError, match="is empty or not 3-D"):
        write_subject_report(one_scan.out_dir, "01", {})


def test_masks_of_different_shape_are_refused(one_scan: Derivatives) -> None:
    path = one_scan.path("acq-ori01", suffix="mask", desc="local")
    write_image(path, np.ones((4, 5, 6)), head_affine(), {}, dtype=np.uint8)
    with pytest.raises(InputError, match=r"shape \(4, 5, 6\), but sub-01_acq-ori01_desc-brain_mask"):
        write_subject_report(one_scan.out_dir, "01", {})


def test_map_on_another_grid_is_refused(one_scan: Derivatives) -> None:
    affine = head_affine()
    affine[0, 3] += 1
    write_image(one_scan.path("acq-ori01", suffix="Chimap", desc="chi33"), np.zeros(SHAPE), affine, {})
    with pytest.raises(InputError, match="not on the grid of its mask"):
        write_subject_report(one_scan.out_dir, "01", {})


def test_map_with_nan_is_refused(one_scan: Derivatives) -> None:
    import nibabel as nib

    path = one_scan.path("acq-ori01", suffix="Chimap", desc="chi33")
    nib.save(nib.Nifti1Image(np.full(SHAPE, np.nan, np.float32), head_affine()), path)
    with pytest.raises(InputError, match="not finite"):
        write_subject_report(one_scan.out_dir, "01", {})


@pytest.mark.parametrize(
    ("provenance", "present", "absent"),
    [
        (PROVENANCE, ["SimpleITK", "Mattes", "ROMEO", "V-SHARP", "COSMOS", "0.004 ppm"], ["FLIRT", "Laplacian"]),
        (
            {"run": {"backend": "fsl", "unwrap": "laplacian", "fit": "masked", "phase_sign": -1}},
            ["FSL BET", "FSL FLIRT", "Laplacian", "conjugate gradients", "its sign was reversed"],
            ["SimpleITK", "ROMEO", "V-SHARP"],
        ),
    ],
)
def test_methods_say_what_ran_and_cite_it(provenance: dict, present: list[str], absent: list[str]) -> None:
    methods = write_methods(provenance)
    whole = " ".join([methods.text, *methods.references])
    assert all(word in whole for word in present)
    assert not any(word in whole for word in absent)
    cited = [int(number) for group in re.findall(r"\[([\d, ]+)\]", methods.text) for number in group.split(",")]
    assert list(dict.fromkeys(cited)) == list(range(1, len(methods.references) + 1))
    assert not re.search(r"[{}]", methods.text)


def test_provenance_becomes_rows_of_plain_words() -> None:
    nested = {"a": {"b": [1.5, 2], "c": None}, "scans": [{"te": 0.004}, {"te": 0.008}], "on": True, "x": 1 / 3}
    assert list(flatten(nested)) == [
        ("a.b", "1.5, 2"), ("a.c", "not set"), ("scans.1.te", "0.004"), ("scans.2.te", "0.008"), ("on", "yes"),
        ("x", "0.333333"),
    ]  # fmt: skip
    assert lookup({"config": {"backend": "auto"}, "backend": "fsl"}, "backend") == "fsl"
    assert lookup({"config": {"run": {"fit": "closed"}}}, "fit") == "closed"
