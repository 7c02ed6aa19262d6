"""What the report says of the fit: its record, its uncertainty, how it stopped, and what one more scan would bring."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from chi33.files.derivatives import Derivatives, write_image, write_transform
from chi33.workflows.report.checks import check_fit, check_scans
from chi33.workflows.report.files import SubjectFiles, find_scans
from chi33.workflows.report.measures import measure_scan, measure_subject
from chi33.workflows.report.methods import fit_rows, uncertainty_words, write_methods
from chi33.workflows.report.page import write_subject_report
from scipy.spatial.transform import Rotation

SHAPE = (22, 24, 20)
AFFINE = np.diag([5.0, 5.0, 5.0, 1.0])
DEVIATIONS = {"chi33sd": ("Chimap", 0.006), "deltabsd": ("fieldmap", 0.002), "cosmossd": ("Chimap", 0.004)}
SINGLE: dict[str, Any] = {
    "Fit": "single-step", "FieldNoisePpm": 0.00263, "PriorIsoPpm": 0.03, "PriorAnisoPpm": 0.004, "Weights": "magnitude",
    "Iterations": 18, "IterationsCosmos": 11, "IterationLimit": 40, "StoppingTolerance": 0.004,
    "LastRelativeChange": 0.0037, "StoppedBy": "tolerance", "RadiiMm": [18.0, 12.4, 4.0], "UncertaintyDraws": 4,
    "UncertaintyJackknifeGroups": 3, "UncertaintySeed": 7, "UncertaintyLeavesOut": "errors that all scans share",
    "CosmosRatio": None, "CosmosNoiseGain": None,
}  # fmt: skip
MASKED = {key: value for key, value in SINGLE.items() if key != "RadiiMm" and "Uncertainty" not in key}
MASKED |= {"Fit": "masked", "Weights": "mask", "Iterations": 28, "IterationLimit": 20, "LastRelativeChange": 0.031,
           "StoppedBy": "iteration limit"}  # fmt: skip
CLOSED = {"Fit": "closed", "FieldNoisePpm": 0.001, "PriorIsoPpm": 0.03, "PriorAnisoPpm": None, "Weights": "magnitude"}


def _ball(radius: float) -> np.ndarray:
    axes = np.meshgrid(*(np.arange(n) - (n - 1) / 2 for n in SHAPE), indexing="ij")
    return np.sqrt(sum(axis**2 for axis in axes)) < radius


@pytest.fixture
def derivatives(tmp_path: Path) -> Derivatives:
    """Three scans with standard deviations, the second the reference, and a tensor with the record of its fit."""
    files = Derivatives(tmp_path, "01")
    brain, local, rng = _ball(9), _ball(8), np.random.default_rng(1)
    for number, tilt in enumerate((20, 0, -25), 1):
        label = f"acq-ori{number:02d}"
        for desc, mask in (("brain", brain), ("local", local)):
            write_image(files.path(label, suffix="mask", desc=desc), mask, AFFINE, {}, dtype=np.uint8)
        write_image(files.path(label, suffix="Chimap", desc="chi33"), rng.normal(0, 0.03, SHAPE) * local, AFFINE, {})
        for desc, (suffix, value) in DEVIATIONS.items():
            values = number * value * np.where(rng.random(SHAPE) < 0.4, 0.5, 1.0) * local
            values[11, 12, 10] = 0  # not known there
            write_image(files.path(label, suffix=suffix, desc=desc), values, AFFINE, {})
        transform = np.eye(4)
        transform[:3, :3] = Rotation.from_euler("xy", (tilt, tilt / 3), degrees=True).as_matrix()
        write_transform(files.transform(label), transform)
    _write_record(files, SINGLE)
    return files


def _write_record(files: Derivatives, record: dict[str, Any]) -> None:
    tensor = np.stack([np.where(_ball(8), 0.01 * (i in (0, 3, 5)), 0) for i in range(6)])
    path = files.path(suffix="Chimap", desc="tensor", space="subject")
    write_image(path, tensor, AFFINE, {"Description": "Susceptibility tensor", **record})


def _report(files: Derivatives, provenance: dict[str, Any] | None = None) -> tuple[str, str]:
    """The page and its words."""
    text = write_subject_report(files.out_dir, "01", provenance or {}).read_text(encoding="utf-8")
    words = re.sub(r"<style>.*?</style>|<[^>]*>", " ", text, flags=re.DOTALL)
    return text, " ".join(words.split())


def test_standard_deviations_are_shown_for_the_reference_and_told_for_every_scan(derivatives: Derivatives) -> None:
    text, words = _report(derivatives)
    section = text[text.index('id="uncertainty"') : text.index('id="maps"')]
    alts = re.findall(r'alt="([^"]*)"', section)
    assert [alt.split(",")[0] for alt in alts] == ["χ33", "δB′", "COSMOS"]
    assert all("standard deviation of scan ori02" in alt for alt in alts)
    rows = [re.findall(r">([^<>]+)</t[hd]>", row) for row in section.split("<tr>")[2:]]
    assert rows[0] == ["1 · ori01", "0.0060", "0.0060", "0.0020", "0.0040"]
    assert rows[2] == ["3 · ori03", "0.0180", "0.0180", "0.0060", "0.0120"]
    assert "They leave out errors that all scans share." in words
    assert "[" not in section.split("<div")[0]  # citations are for the methods
    assert 'href="#uncertainty"' in text
    maps = text[text.index('id="maps"') :]
    assert maps.count('alt="χ33, standard deviation') == 3
    assert 'alt="δB′, standard deviation' not in maps


def test_median_deviation_leaves_out_where_it_is_not_known(derivatives: Derivatives) -> None:
    path = derivatives.path("acq-ori01", suffix="Chimap", desc="chi33sd")
    values = np.where(_ball(8), 0.007, 0)
    values[:, :12] = 0
    write_image(path, values, AFFINE, {})
    measures = measure_scan(find_scans(derivatives.out_dir, "01")[0])
    assert measures.number("chi33sd_median") == pytest.approx(0.007)


@pytest.mark.parametrize(("value", "warned"), [(0.0, False), (0.0199, False), (0.0201, True)])
def test_uncertain_maps_are_told(derivatives: Derivatives, value: float, warned: bool) -> None:
    path = derivatives.path("acq-ori02", suffix="Chimap", desc="chi33sd")
    write_image(path, np.where(_ball(8), value, 0), AFFINE, {})
    scans = [measure_scan(scan) for scan in find_scans(derivatives.out_dir, "01")]
    (check,) = [check for check in check_scans(scans) if "standard deviation" in check.title]
    assert bool(check.warnings) is warned
    if warned:
        assert "median standard deviation is above 0.020\xa0ppm in ori02 (0.0201\xa0ppm)" in check.warnings[0]


def test_one_deviation_alone_is_shown(derivatives: Derivatives) -> None:
    for desc, (suffix, _) in DEVIATIONS.items():
        for number in (1, 2, 3):
            if (desc, number) != ("cosmossd", 3):
                derivatives.path(f"acq-ori{number:02d}", suffix=suffix, desc=desc).unlink()
    _write_record(derivatives, CLOSED)
    text, words = _report(derivatives)
    section = text[text.index('id="uncertainty"') : text.index('id="maps"')]
    assert section.count("<img") == 1
    assert "3 · ori03" in section
    assert "1 · ori01" not in section
    assert "How they were estimated is not recorded." in words


def test_derivatives_without_uncertainty_or_record_have_no_such_sections(derivatives: Derivatives) -> None:
    for desc, (suffix, _) in DEVIATIONS.items():
        for number in (1, 2, 3):
            derivatives.path(f"acq-ori{number:02d}", suffix=suffix, desc=desc).unlink()
    _write_record(derivatives, {})
    text, words = _report(derivatives)
    assert not re.search(r'"#?(uncertainty|fit)"', text)
    assert "median standard deviation" not in words
    assert "Last change" not in words
    assert "With field noise of 0.001 ppm and the prior (0.03 ppm isotropic, 0.004 ppm anisotropic)" in words


def test_record_of_a_fit_becomes_a_table(derivatives: Derivatives) -> None:
    rows = dict(fit_rows(measure_subject(SubjectFiles.of(derivatives.out_dir, "01")).record))
    assert rows == {
        "Method": "single step, from total fields", "Field noise": "0.00263 ppm",
        "Prior, isotropic and traceless part": "0.03 ppm, 0.004 ppm", "Iterations, tensor and COSMOS": "18, 11",
        "Stopped by": "tolerance", "Last change of χ33": "0.37\xa0% (tolerance 0.4\xa0%)",
        "Radii of the spheres": "18, 12.4, 4 mm", "Weights of voxels": "from the magnitude",
        "Draws of the posterior": "4 (seed 7)", "Jackknife groups": "3",
    }  # fmt: skip
    assert dict(fit_rows(MASKED))["Stopped by"] == "iteration limit of 20"
    assert dict(fit_rows(CLOSED)) == {
        "Method": "closed form, from local fields", "Field noise": "0.001 ppm",
        "Prior, isotropic and traceless part": "0.03 ppm, infinite width",
    }  # fmt: skip
    assert fit_rows({}) == []
    text, _ = _report(derivatives)
    assert "18, 12.4, 4 mm" in text[text.index('id="fit"') : text.index('id="subject"')]


@pytest.mark.parametrize("name", sorted(SINGLE))
def test_a_record_may_lack_any_key_or_hold_nothing_in_it(name: str) -> None:
    for record in ({k: v for k, v in SINGLE.items() if k != name}, SINGLE | {name: None}):
        for one in (record, record | {"StoppedBy": "iteration limit"}):
            methods, rows = write_methods({"config": {"fit": "single-step"}}, one), fit_rows(one)
            assert "None" not in " ".join([methods.text, *(word for row in rows for word in row)])
            assert not re.search(r"nan|[{}]|\. ?\.", methods.text)
            check_fit(one)
            uncertainty_words(one)


PROVENANCE = {"backend": "builtin", "config": {"vsharp_largest_radius": 18.0, "vsharp_smallest_radius": 4.5}}


def test_single_step_fit_is_described_and_cited() -> None:
    methods = write_methods(PROVENANCE, SINGLE)
    for said in (
        "Local fields, which the fit did not use, were made with V-SHARP",
        "in a single step", "total fields", "the background removed inside the fit",
        "priors of 0.03 ppm (isotropic part) and 0.004 ppm (traceless part) and field noise of 0.00263 ppm",
        "spheres of radius 18, 12.4, 4 mm", "weighted by the inverse standard deviation",
        "took 18 steps for the tensor and 11 for COSMOS", "ended when χ33 changed by less than 0.4\xa0% of itself",
        "4 draws of the posterior by perturb-and-solve", "a jackknife over 3 groups of scans",
        "They leave out errors that all scans share.",
    ):  # fmt: skip
        assert said in methods.text, said
    assert "The background field was removed" not in methods.text
    references = " ".join(methods.references)
    assert "Chatnuntawech I, McDaniel P, Cauley SF, et al. Single-step quantitative susceptibility" in references
    assert "Papandreou G, Yuille A. Gaussian sampling by local perturbations." in references
    cited = [int(n) for group in re.findall(r"\[([\d, ]+)\]", methods.text) for n in group.split(",")]
    assert list(dict.fromkeys(cited)) == list(range(1, len(methods.references) + 1))


@pytest.mark.parametrize(("method", "said", "cited"), [
    ("resharp", "RESHARP", "Sun H, Wilman AH"), ("pdf", "projection onto dipole fields", "Liu T, Khalidov I"),
    ("ismv", "the iterative spherical mean value method", "Wen Y, Zhou D"),
    ("lbv", "the Laplacian boundary value method", "Zhou D, Liu T"),
])  # fmt: skip
def test_other_background_removals_are_described_and_cited(method: str, said: str, cited: str) -> None:
    methods = write_methods({"config": {"background": method, "vsharp_largest_radius": 18.0}}, MASKED)
    assert f"The background field was removed with {said}" in methods.text
    assert "V-SHARP" not in methods.text
    assert cited in " ".join(methods.references)


def test_masked_fit_that_reached_its_limit_is_described() -> None:
    methods = write_methods(PROVENANCE, MASKED)
    assert "The background field was removed with V-SHARP" in methods.text
    assert "to the local fields within the masks of the scans" in methods.text
    assert "Every voxel of a scan's mask had the same weight." in methods.text
    assert (
        "took 28 steps for the tensor and 11 for COSMOS and ended at its limit of 20 after the noise was estimated, "
        "when χ33 still changed by 3.1\xa0% of itself (tolerance 0.4\xa0%)." in methods.text
    )
    assert not re.search(r"total fields|perturb|jackknife", methods.text)
    assert not re.search(r"Chatnuntawech|Papandreou", " ".join(methods.references))


def test_the_record_outweighs_what_was_asked_for() -> None:
    methods = write_methods({"config": {"fit": "single-step", "prior_iso": 0.5}, "noise": 0.1}, CLOSED)
    assert "in closed form" in methods.text
    assert "0.03 ppm (isotropic part) and infinite width (traceless part) and field noise of 0.001 ppm" in methods.text
    assert "weight" not in methods.text
    assert "took" not in methods.text


@pytest.mark.parametrize(
    ("changed", "warned"),
    [
        ({}, True),
        ({"LastRelativeChange": 0.0201}, True),
        ({"LastRelativeChange": 0.0199}, False),
        ({"StoppedBy": "tolerance"}, False),
        ({"StoppingTolerance": 0.02}, False),
    ],
)
def test_fit_far_from_its_end_is_told(changed: dict[str, Any], warned: bool) -> None:
    (check,) = check_fit(MASKED | changed)
    assert bool(check.warnings) is warned
    if warned:
        assert "stopped at its iteration limit of 20" in check.warnings[0]
        assert "more than 5 times the tolerance (0.4 %)" in check.warnings[0]


def test_fit_without_iterations_has_no_check_of_them() -> None:
    assert check_fit({}) == ()
    assert check_fit(CLOSED) == ()
    assert check_fit(MASKED | {"LastRelativeChange": float("inf")}) == ()


def test_warning_of_the_fit_stands_on_top_of_the_page(derivatives: Derivatives) -> None:
    _write_record(derivatives, MASKED)
    text, _ = _report(derivatives)
    top = text[text.index('role="status"') : text.index("<nav")]
    assert "the maps are not finished; repeat the run with more --iterations." in top


def test_what_scans_bring_is_said_in_a_few_sentences(derivatives: Derivatives) -> None:
    text, words = _report(derivatives)
    section = text[text.index('id="orientations"') : text.index('id="fit"')]
    said = words[words.index("What each scan counts, and one more") : words.index("Scans are numbered as in")]
    assert "With field noise of 0.0026 ppm and the prior (0.03 ppm isotropic, 0.004 ppm anisotropic)" in said
    assert "Best next scan: pitch" in said
    assert not re.search(r" -\d", said)  # a real minus sign
    singular = "3 scans cannot determine the six tensor components alone"
    assert singular in words
    assert singular not in said  # it stands beside the numbers already
    (details,) = re.findall(r"<details>.*?</details>", section, flags=re.DOTALL)
    assert 'src="data:image/jpeg;base64,' in details
    assert "best next scan: pitch" in details


def test_what_a_record_says_is_escaped_and_no_template(derivatives: Derivatives) -> None:
    hostile = "<b>{bids}</b> & {nothing} {{ 7 * 7 }}"
    _write_record(derivatives, SINGLE | {"Fit": "<i>x</i>", "StoppedBy": hostile, "UncertaintyLeavesOut": hostile})
    text, _ = _report(derivatives)
    assert "&lt;i&gt;x&lt;/i&gt;" in text
    assert "&lt;b&gt;" in text
    assert "<b>" not in text
    assert "<i>" not in text
    assert "{{ 7 * 7 }}" in text
    _write_record(derivatives, SINGLE | {"UncertaintyLeavesOut": "<b>{nothing} {</b>"})
    text, _ = _report(derivatives, {"backend": "builtin"})
    assert text.count("They leave out &lt;b&gt;{nothing} {&lt;/b&gt;.") == 2  # uncertainty and methods


def test_numbers_that_are_none_in_the_sidecar_do_not_stop_the_report(derivatives: Derivatives) -> None:
    path = derivatives.path(suffix="Chimap", desc="tensor", space="subject", ext=".json")
    path.write_text(json.dumps(dict.fromkeys(SINGLE)), encoding="utf-8")
    _, words = _report(derivatives, {"note": "given"})
    assert "None" not in words


def test_plan_has_the_prior_of_the_fit(derivatives: Derivatives) -> None:
    _write_record(derivatives, SINGLE | {"PriorAnisoPpm": None})
    _, words = _report(derivatives)
    assert "Without a finite prior these scans do not determine χ33." in words
    _write_record(derivatives, SINGLE | {"PriorIsoPpm": 0.05})
    _, words = _report(derivatives)
    assert "0.05 ppm isotropic" in words


def test_masks_and_the_mean_reference_are_described() -> None:
    scans = ["acq-ori01", "acq-ori02", "acq-ori03"]
    config = {"backend": "builtin", "mask_consensus": True, "reference": "mean"}
    said = write_methods({"backend": "builtin", "scans": scans, "config": config}, MASKED).text
    assert "Masks that disagreed with the majority of the other scans were replaced by it" in said
    assert "to one another and then to their mean image, in the mean of their frames, with 7 degrees" in said
    few = write_methods({"backend": "builtin", "scans": scans[:2], "config": config}, MASKED).text
    assert "majority" not in few
    learned = {"backend": "fsl", "tools": {"deepbet": "1.0.2"}, "config": {"mask_method": "deepbet"}}
    methods = write_methods(learned)
    assert "The brain was masked in each scan with the networks of deepbet 1.0.2 [" in methods.text
    assert any("10.1016/j.compbiomed.2024.108845" in reference for reference in methods.references)
    assert "BET" not in methods.text
    given = write_methods({"backend": "builtin", "scans": scans, "config": config | {"masks": "/m"}}, MASKED).text
    assert "Brain masks were given." in given
    assert "BET" not in given


def test_what_the_prior_knew_of_tissue_is_said() -> None:
    record = SINGLE | {
        "WhiteMatter": "from the susceptibility of a first fit", "WhiteMatterShare": 0.28, "PriorCorrelationMm": 3.0,
        "PriorAnisoElsewherePpm": 0.002, "ExpectedSlopeDeltaB": 0.64,
    }  # fmt: skip
    rows = dict(fit_rows(record))
    assert rows["White matter in the prior"] == (
        "from the susceptibility of a first fit, 28\N{NO-BREAK SPACE}% of the brain; 0.002 ppm elsewhere"
    )
    assert rows["Correlation of the traceless part"] == "3 mm"
    assert rows["Expected slope of δB′ against the truth"] == "0.64"
    plain = dict(fit_rows(SINGLE | {"WhiteMatter": "none", "PriorCorrelationMm": 0.0}))
    assert plain["White matter in the prior"] == "none"
    assert "Correlation of the traceless part" not in plain
