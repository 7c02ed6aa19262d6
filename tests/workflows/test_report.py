from __future__ import annotations

import errno
import json
import re
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from chi33.pipeline.errors import InputError, StepError
from chi33.workflows.derivatives import Derivatives, read_json, sidecar_path, write_image, write_transform
from chi33.workflows.figures import Planes
from chi33.workflows.report import write_group_index, write_subject_report
from chi33.workflows.report_checks import EXPECTED, Expected, check_scans, check_sign
from chi33.workflows.report_measures import ScanMeasures, View, dark_share, find_scans, measure_scan, measure_subject
from chi33.workflows.report_methods import flatten, lookup, write_methods
from scipy import ndimage
from scipy.spatial.transform import Rotation

SHAPE, EDGE = (36, 42, 34), 5.0
HALF_AXES = (65.0, 78.0, 58.0)  # mm, 1232 ml
TILTS = ((0, 0), (25, 0), (-20, 10), (5, 25), (10, -24), (20, 20))  # degrees about x and y
PROVENANCE = {
    "backend": "builtin",
    "tools": {"SimpleITK": "2.5.2"},
    "parameters": {"unwrap": "romeo", "bet_threshold": 0.5, "vsharp_largest_radius": 12.0, "vsharp_threshold": 0.05,
                   "fit": "closed", "prior_iso": 0.03, "prior_aniso": 0.004, "phase_sign": 1},
    "stages": [{"stage": "masks", "seconds": 12.25}, {"stage": "fit", "seconds": 30.5}],
}  # fmt: skip


def _affine() -> np.ndarray:
    affine = np.diag([-EDGE, EDGE, EDGE, 1.0])
    affine[:3, 3] = [(SHAPE[0] - 1) / 2 * EDGE, -(SHAPE[1] - 1) / 2 * EDGE, -(SHAPE[2] - 1) / 2 * EDGE]
    return affine


def _ellipsoid(shrink: float = 0.0) -> np.ndarray:
    x, y, z = (np.arange(n, dtype=float) for n in SHAPE)
    at = [(axis - (n - 1) / 2) * EDGE for axis, n in zip((x, y, z), SHAPE, strict=True)]
    a, b, c = (half - shrink for half in HALF_AXES)
    return (at[0][:, None, None] / a) ** 2 + (at[1][None, :, None] / b) ** 2 + (at[2] / c) ** 2 < 1


def _smooth(seed: int, std: float, mask: np.ndarray) -> np.ndarray:
    volume = ndimage.gaussian_filter(np.random.default_rng(seed).normal(size=SHAPE), 1.2)
    return volume / volume[mask].std() * std * mask


def _chi(seed: int, mask: np.ndarray) -> np.ndarray:
    """A map with the skew of a brain: weak and diamagnetic mostly, some strong paramagnetic sources."""
    volume = _smooth(seed, 1.0, mask)
    chi = np.where(volume > 1.2, 0.1 * (volume - 1.2) + 0.05, 0.02 * volume)
    return (chi - chi[mask].mean()) * mask


def _transform(tilt: tuple[float, float]) -> np.ndarray:
    transform = np.eye(4)
    transform[:3, :3] = Rotation.from_euler("xy", tilt, degrees=True).as_matrix()
    return transform


def _write_scan(files: Derivatives, label: str, transform: np.ndarray, seed: int) -> None:
    brain, local = _ellipsoid(), _ellipsoid(3.0)
    chi = _chi(0, local)
    for desc, mask in (("brain", brain), ("local", local)):
        write_image(files.path(label, suffix="mask", desc=desc), mask, _affine(), {}, dtype=np.uint8)
    maps = {
        ("magnitude", "MEGRE"): 100 + _smooth(seed, 20, brain),
        ("total", "fieldmap"): _smooth(seed + 1, 0.1, brain),
        ("local", "fieldmap"): _smooth(seed + 2, 0.02, local),
        ("chi33", "Chimap"): chi,
        ("deltab", "fieldmap"): _smooth(seed + 3, 0.003, local),
        ("cosmos", "Chimap"): chi + _smooth(seed + 4, 0.005, local),
        ("residual", "fieldmap"): _smooth(seed + 5, 0.005, local),
    }
    for (desc, suffix), volume in maps.items():
        write_image(files.path(label, suffix=suffix, desc=desc), volume, _affine(), {"Units": "ppm"})
    write_transform(files.transform(label), transform)


def _write_subject_frame(files: Derivatives) -> None:
    mask = _ellipsoid(3.0)
    chi = _chi(0, mask)
    tensor = np.stack([chi if i in (0, 3, 5) else _smooth(90 + i, 0.004, mask) for i in range(6)])
    direction = np.zeros((3, *SHAPE))
    direction[0] = mask
    volumes = {"cosmos": chi, "mms": chi, "msa": np.abs(_smooth(7, 0.01, mask)), "tensor": tensor, "pev": direction}
    for desc, volume in volumes.items():
        write_image(files.path(suffix="Chimap", desc=desc, space="subject"), volume, _affine(), {})


@pytest.fixture
def derivatives(tmp_path: Path) -> Derivatives:
    """Six scans of an ellipsoid in good order."""
    files = Derivatives(tmp_path, "01")
    for i, tilt in enumerate(TILTS):
        _write_scan(files, f"acq-ori{i + 1:02d}", _transform(tilt), 10 * i)
    _write_subject_frame(files)
    return files


@pytest.fixture
def one_scan(tmp_path: Path) -> Derivatives:
    """One scan in good order, nothing in the subject frame."""
    files = Derivatives(tmp_path, "01")
    _write_scan(files, "acq-ori01", _transform((25, 0)), 3)
    return files


class _Page(HTMLParser):
    """Tags, ids and visible text of a page; every element that must be closed is."""

    VOID = ("meta", "link", "img", "source", "br")

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if not self.open or self.open[-1] != "style":
            self.text += data

    @property
    def words(self) -> str:
        return " ".join(self.text.split())


def test_page_in_good_order_has_every_map_no_warning_and_fetches_nothing(derivatives: Derivatives) -> None:
    path = write_subject_report(derivatives.out_dir, "01", PROVENANCE)
    assert path == derivatives.out_dir / "sub-01.html"
    text = path.read_text(encoding="utf-8")
    page = _Page(text)
    assert page.open == []
    assert "No warnings." in page.words
    assert "6 scans" in page.words
    for attribute in ("src", "srcset", "href"):
        for _, values in page.tags:
            assert (values.get(attribute) or "#").startswith(("#", "data:"))
    assert not re.search(r"https?://|@import|url\(|<script", text)
    images = [values for tag, values in page.tags if tag == "img"]
    # maps, registrations, B0 directions, one more scan, invariants, components
    assert len(images) == 6 * 7 + 5 + 1 + 1 + 4 + 6
    assert all(len(values["alt"] or "") > 20 for values in images)
    ids = [values["id"] for _, values in page.tags if "id" in values]
    assert len(ids) == len(set(ids))
    links = [values["href"] for tag, values in page.tags if tag == "a"]
    assert {str(link).removeprefix("#") for link in links} == set(ids)
    assert "grey −0.1 to 0.15 ppm" in page.words
    assert "Neurological convention" in page.words
    assert 'id="fit"' not in text  # the sidecars are of an older version
    assert 'id="uncertainty"' not in text
    assert "42.8" in page.words  # the stages together, in seconds


def test_numbers_of_a_scan_are_those_it_was_made_with(tmp_path: Path) -> None:
    files = Derivatives(tmp_path, "01")
    transform = _transform((25, 0))
    transform[:3, :3] *= 1.004
    transform[:3, 3] = [3, -4, 12]
    _write_scan(files, "acq-ori02", transform, 5)
    measures = measure_scan(find_scans(tmp_path, "01")[0])
    a, b, c = HALF_AXES
    volume = 4 / 3 * np.pi * a * b * c / 1000
    assert measures.brain_volume == pytest.approx(volume, rel=0.01)
    assert measures.valid_share == pytest.approx((a - 3) * (b - 3) * (c - 3) / (a * b * c), abs=0.02)
    assert measures.tilt == pytest.approx(25, abs=1e-6)
    assert measures.rotation == pytest.approx(25, abs=1e-6)
    assert measures.scale == pytest.approx(1.004, abs=1e-9)
    assert measures.shift == pytest.approx(13, abs=1e-6)  # the brain's centre is the origin of the world
    np.testing.assert_allclose(measures.b0_direction, [0, -np.sin(np.radians(25)), np.cos(np.radians(25))], atol=1e-9)
    assert measures.number("local_std") == pytest.approx(0.02, rel=1e-3)
    assert measures.number("residual_ratio") == pytest.approx(0.25, rel=1e-3)
    chi, cosmos = (measures.planes[name] for name in ("chi33", "cosmos"))
    assert 0.9 < (measures.number("correlation") or 0) < 1
    assert chi.axial.shape == cosmos.axial.shape
    assert measures.voxel_size == (EDGE, EDGE, EDGE)


def test_stated_b0_direction_overrides_the_affine(one_scan: Derivatives) -> None:
    path = one_scan.path("acq-ori01", suffix="fieldmap", desc="local")
    sidecar_path(path).write_text('{"B0_dir": [0, 0.6, 0.8]}', encoding="utf-8")
    one_scan.transform("acq-ori01").unlink()
    write_transform(one_scan.transform("acq-ori01"), np.eye(4))
    measures = measure_scan(find_scans(one_scan.out_dir, "01")[0])
    np.testing.assert_allclose(measures.b0_direction, [0, 0.6, 0.8], atol=1e-9)
    assert measures.tilt == pytest.approx(np.degrees(np.arccos(0.8)))


def _measures(**numbers: float) -> ScanMeasures:
    mask = np.ones((2, 2), bool)
    planes = Planes(mask, mask, mask, (1.0, 1.0, 1.0))
    attributes = {key: numbers.pop(key) for key in ("brain_volume", "scale", "valid_share") if key in numbers}
    values = {"brain_volume": 1300.0} | attributes
    return ScanMeasures(
        name="ori07", voxel_size=(1.0, 1.0, 1.0), shape=(2, 2, 2), brain=planes, numbers=numbers, **values
    )


@pytest.mark.parametrize("expected", EXPECTED, ids=lambda expected: expected.key)
def test_every_number_outside_its_range_is_told_with_scan_value_and_reason(expected: Expected) -> None:
    sides = [(expected.low, -1, expected.below), (expected.high, 1, expected.above)]
    for limit, direction, reason in sides:
        if limit is None:
            continue
        outside = limit + direction * 0.05 * max(abs(limit), 0.1)
        (check,) = [c for c in check_scans([_measures(**{expected.key: outside})]) if c.title == expected.title]
        assert check.verdict == "look"
        (warning,) = check.warnings
        assert reason
        assert reason in warning
        assert "ori07" in warning
        assert expected.show(outside) in warning
        (inside,) = [c for c in check_scans([_measures(**{expected.key: limit})]) if c.title == expected.title]
        assert inside.warnings == ()
        assert inside.verdict == "as expected"


def test_brain_masks_of_different_size_are_told() -> None:
    alike = check_scans([_measures(brain_volume=1300.0), _measures(brain_volume=1350.0)])
    assert not any(check.warnings for check in alike)
    apart = check_scans([_measures(brain_volume=1300.0), _measures(brain_volume=1600.0)])
    assert any("differ by 23 %" in warning for check in apart for warning in check.warnings)


def test_flipped_phase_is_told_with_the_remedy(one_scan: Derivatives) -> None:
    path = one_scan.path(suffix="Chimap", desc="cosmos", space="subject")
    chi = _chi(0, _ellipsoid(3.0))
    assert dark_share(chi.astype(np.float32), View.of(_ellipsoid(3.0), _affine())) == pytest.approx(0, abs=0.05)
    write_image(path, -chi, _affine(), {})
    page = _Page(write_subject_report(one_scan.out_dir, "01", PROVENANCE).read_text(encoding="utf-8"))
    assert "the phase sign may be flipped; set --phase-sign -1." in page.words
    (check,) = check_sign(measure_subject(one_scan), {"parameters": {"phase_sign": -1}})
    assert check.warnings[0].endswith("set --phase-sign 1.")


def test_orientations_that_do_not_determine_the_fits_are_told(tmp_path: Path) -> None:
    files = Derivatives(tmp_path, "01")
    for i, tilt in enumerate((0.0, 2.0)):
        _write_scan(files, f"acq-ori{i + 1:02d}", _transform((tilt, 0)), i)
    page = _Page(write_subject_report(tmp_path, "01", {}).read_text(encoding="utf-8"))
    assert "All B0 directions lie within 2.0 degrees of one another" in page.words
    assert "not determined" in page.words
    assert "2 warnings." in page.words


def test_a_repaired_mask_and_the_agreement_of_a_registration_are_told(one_scan: Derivatives) -> None:
    for path, more in (
        (one_scan.path("acq-ori01", suffix="mask", desc="brain"),
         {"MaskRepaired": "Dice 0.812 with the consensus, below 0.95", "MaskConsensusDice": 0.812}),
        (one_scan.transform("acq-ori01"), {"Quality": 0.876}),
    ):  # fmt: skip
        beside = sidecar_path(path)
        stated = read_json(beside) if beside.is_file() else {}
        beside.write_text(json.dumps(stated | more))
    page = _Page(write_subject_report(one_scan.out_dir, "01", {}).read_text(encoding="utf-8"))
    assert "The brain mask of ori01 was repaired (Dice 0.812 with the consensus, below 0.95)" in page.words
    assert "0.812" in page.words.replace("Dice 0.812", "")
    assert "0.88" in page.words


def test_warnings_of_the_run_unfinished_maps_and_missing_transforms_are_told(one_scan: Derivatives) -> None:
    sidecar_path(one_scan.path("acq-ori01", suffix="fieldmap", desc="deltab")).unlink()
    one_scan.transform("acq-ori01").unlink()
    path = write_subject_report(one_scan.out_dir, "01", {"warnings": ["One echo was <left> out."]})
    text = path.read_text(encoding="utf-8")
    page = _Page(text)
    assert "One echo was &lt;left&gt; out." in text
    assert "sub-01_acq-ori01_desc-deltab_fieldmap.nii.gz has no sidecar" in page.words
    assert "ori01: no transform to the subject frame" in page.words
    assert "3 warnings." in page.words
    assert "Head orientations" not in page.words


def test_only_a_mask_and_one_map_still_make_a_page(tmp_path: Path) -> None:
    files = Derivatives(tmp_path, "x")
    write_image(files.path("run-2", suffix="mask", desc="brain"), _ellipsoid(), _affine(), {}, dtype=np.uint8)
    write_image(files.path("run-2", suffix="Chimap", desc="chi33"), _chi(0, _ellipsoid()), _affine(), {})
    page = _Page(write_subject_report(tmp_path, "x", {}).read_text(encoding="utf-8"))
    assert "1 scan ·" in page.words
    (image,) = [values for tag, values in page.tags if tag == "img"]
    assert "outline of the brain mask" in str(image["alt"])
    assert "names no processing step" in page.words


def test_scans_of_all_sessions_are_shown(tmp_path: Path) -> None:
    _write_scan(Derivatives(tmp_path, "01", "b"), "acq-ori01", _transform((25, 0)), 3)
    _write_scan(Derivatives(tmp_path, "01", "a"), "acq-ori01_run-2", np.eye(4), 4)
    assert [scan.name for scan in find_scans(tmp_path, "01")] == ["ses-a acq-ori01 run-2", "ses-b acq-ori01"]
    page = _Page(write_subject_report(tmp_path, "01", {}).read_text(encoding="utf-8"))
    assert "2 · ses-b acq-ori01" in page.words


def test_subject_frame_without_a_mask_is_cut_where_the_map_is_not_zero(derivatives: Derivatives) -> None:
    assert set(measure_subject(derivatives).planes) == {"cosmos", "mms", "msa", "tensor", "pev"}
    assert measure_subject(Derivatives(derivatives.out_dir, "02")).planes == {}


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
    assert sorted(path.name for path in one_scan.out_dir.iterdir()) == ["sub-01", "sub-01.html"]
    assert ">second<" in write_subject_report(one_scan.out_dir, "01", {"note": "second"}).read_text(encoding="utf-8")


def test_index_links_each_report_with_its_line(one_scan: Derivatives) -> None:
    out = one_scan.out_dir
    _write_scan(Derivatives(out, "02"), "acq-ori01", np.eye(4), 3)
    write_subject_report(out, "01", {"warnings": "One echo was left out."})
    write_subject_report(out, "02", {})
    (out / "sub-other.html").write_text("<title>of another program</title>", encoding="utf-8")
    page = _Page(write_group_index(out).read_text(encoding="utf-8"))
    assert [values["href"] for tag, values in page.tags if tag == "a"] == ["sub-01.html", "sub-02.html"]
    assert "sub-01 1 scan, 3 warnings, report of" in page.words  # one direction determines neither fit
    assert "sub-02 1 scan, 2 warnings, report of" in page.words
    assert "2 subjects" in page.words


def test_index_without_reports_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="holds no report of chi33 such as sub-01"):
        write_group_index(tmp_path)


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
    write_image(path, np.zeros(SHAPE), _affine(), {}, dtype=np.uint8)
    with pytest.raises(InputError, match="is empty or not 3-D"):
        write_subject_report(one_scan.out_dir, "01", {})


def test_masks_of_different_shape_are_refused(one_scan: Derivatives) -> None:
    path = one_scan.path("acq-ori01", suffix="mask", desc="local")
    write_image(path, np.ones((4, 5, 6)), _affine(), {}, dtype=np.uint8)
    with pytest.raises(InputError, match=r"shape \(4, 5, 6\), but sub-01_acq-ori01_desc-brain_mask"):
        write_subject_report(one_scan.out_dir, "01", {})


def test_map_on_another_grid_is_refused(one_scan: Derivatives) -> None:
    affine = _affine()
    affine[0, 3] += 1
    write_image(one_scan.path("acq-ori01", suffix="Chimap", desc="chi33"), np.zeros(SHAPE), affine, {})
    with pytest.raises(InputError, match="not on the grid of its mask"):
        write_subject_report(one_scan.out_dir, "01", {})


def test_map_with_nan_is_refused(one_scan: Derivatives) -> None:
    import nibabel as nib

    path = one_scan.path("acq-ori01", suffix="Chimap", desc="chi33")
    nib.save(nib.Nifti1Image(np.full(SHAPE, np.nan, np.float32), _affine()), path)
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
