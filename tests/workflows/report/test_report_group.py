"""Which files a report shows, reports of failed runs, and the index, table and citations of all subjects."""

from __future__ import annotations

import csv
import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from chi33.files.derivatives import (
    Derivatives,
    read_json,
    sidecar_path,
    write_dataset_description,
    write_image,
    write_json,
)
from chi33.files.errors import InputError, StepError
from chi33.files.manifest import Manifest, manifest_path
from chi33.workflows.report.files import SubjectFiles, find_scans
from chi33.workflows.report.group import Summary, write_summary
from chi33.workflows.report.measures import measure_scan, measure_subject
from chi33.workflows.report.methods import write_methods
from chi33.workflows.report.page import write_error_report, write_group_index, write_subject_report
from report_scene import PROVENANCE, Page, ellipsoid, head_affine, tilted, write_scan, write_subject_frame

CRASH = "/w/crash/crash-20260102-u-bet-1.pklz"
ERROR = f"sub-02, step mask_acq_ori01_wf.bet: the disk is full <now> (details: {CRASH})"


def write_manifest(out: Path, subject: str, kept: re.Pattern[str]) -> None:
    """A manifest of the files of a subject whose names match."""
    found = [path for path in (out / f"sub-{subject}").rglob("*") if path.is_file() and kept.search(path.name)]
    write_json(manifest_path(out, subject), Manifest.of(out, subject, found, {}).content)


def words_of(path: Path) -> str:
    return Page(path.read_text(encoding="utf-8")).words


def table_of(out: Path) -> list[dict[str, str]]:
    with (out / "group_chi33.tsv").open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file, delimiter="\t"))


FEW = ("local", "chi33", "residual")  # maps, to be quick


@pytest.fixture
def two_scans(tmp_path: Path) -> Derivatives:
    """Two scans with few maps."""
    files = Derivatives(tmp_path, "01")
    for number, tilt in ((1, (0, 0)), (2, (25, 0))):
        write_scan(files, f"acq-ori{number:02d}", tilted(tilt), number, only=FEW)
    return files


@pytest.fixture(scope="module")
def reported(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the report of one subject, the page of another whose run failed, and index and table; read only."""
    out = tmp_path_factory.mktemp("reported")
    for number, tilt in ((1, (0, 0)), (2, (25, 0))):
        write_scan(Derivatives(out, "01"), f"acq-ori{number:02d}", tilted(tilt), number, only=FEW)
    write_dataset_description(out)
    write_subject_report(out, "01", PROVENANCE)
    write_error_report(out, "02", ERROR, PROVENANCE)
    (out / "sub-other.html").write_text("<title>of another program</title>", encoding="utf-8")
    write_group_index(out)
    return out


@pytest.fixture
def mask_alone(tmp_path: Path) -> Derivatives:
    """One scan of which there is a brain mask and nothing else."""
    files = Derivatives(tmp_path, "01")
    write_image(files.path("acq-ori01", suffix="mask", desc="brain"), ellipsoid(), head_affine(), {}, dtype=np.uint8)
    return files


# Files


def test_without_a_manifest_every_scan_is_found(two_scans: Derivatives) -> None:
    assert [scan.name for scan in find_scans(two_scans.out_dir, "01")] == ["ori01", "ori02"]


def test_scans_and_maps_that_the_manifest_does_not_list_are_not_shown(two_scans: Derivatives) -> None:
    out = two_scans.out_dir
    write_subject_frame(two_scans)
    write_manifest(out, "01", re.compile(r"ori01_(?!desc-(chi33|residual))"))
    (scan,) = find_scans(out, "01")
    found = measure_scan(scan)
    assert found.name == "ori01"
    assert set(found.planes) == {"local"}
    assert found.unfinished == ()
    assert found.b0_direction is not None
    assert measure_subject(SubjectFiles.of(out, "01")).planes == {}
    sidecar_path(two_scans.path("acq-ori02", suffix="fieldmap", desc="local")).unlink()  # of a scan that is not shown
    text = write_subject_report(out, "01", {"fit": "none"}).read_text(encoding="utf-8")
    assert "1 scan ·" in Page(text).words
    assert "ori02" not in text
    assert 'id="subject"' not in text
    assert "COSMOS" not in text


def test_a_transform_that_is_not_listed_is_not_read(two_scans: Derivatives) -> None:
    write_manifest(two_scans.out_dir, "01", re.compile(r"ori02_desc"))
    (scan,) = find_scans(two_scans.out_dir, "01")
    assert measure_scan(scan).b0_direction is None


def test_a_manifest_without_scans_is_told(two_scans: Derivatives) -> None:
    write_manifest(two_scans.out_dir, "01", re.compile("nothing"))
    with pytest.raises(InputError, match=r"the manifest of sub-01 lists no scan of sub-01: repeat `chi33 run`"):
        find_scans(two_scans.out_dir, "01")


@pytest.mark.parametrize(("session", "name", "raw"), [(None, "scan", "scan"), ("a", "ses-a", "ses-a")])
def test_a_scan_without_entities_is_found(tmp_path: Path, session: str | None, name: str, raw: str) -> None:
    write_scan(Derivatives(tmp_path, "01", session), "", np.eye(4), 1)
    write_subject_frame(Derivatives(tmp_path, "01"))
    (scan,) = find_scans(tmp_path, "01")
    assert (scan.label, scan.name, scan.raw_name) == ("", name, raw)
    assert measure_scan(scan).rotation == pytest.approx(0)


# Runs that failed


def test_a_failed_run_has_a_page_that_names_step_log_and_crash_file_and_shows_no_map(two_scans: Derivatives) -> None:
    out = two_scans.out_dir
    write_scan(Derivatives(out, "02"), "acq-ori01", np.eye(4), 5)  # of an earlier run
    (out / "logs").mkdir()
    (out / "logs" / "sub-02.log").write_text("...")
    path = write_error_report(out, "02", ERROR, {**PROVENANCE, "errors": [ERROR]})
    assert path == out / "sub-02.html"
    text, page = path.read_text(encoding="utf-8"), Page(path.read_text(encoding="utf-8"))
    assert page.open == []
    assert "the disk is full &lt;now&gt;" in text
    assert page.words.count("the disk is full") == 1
    for name, value in (("Step", "mask_acq_ori01_wf.bet"), ("Crash file", CRASH), ("Log", out / "logs" / "sub-02.log")):
        assert f'<th scope="row">{name}</th><td>{value}</td>' in text
    assert "so none is shown; do not use them" in page.words
    assert "<img" not in text
    assert 'id="errors"' in text


def test_a_failed_run_without_maps_log_or_step_claims_none(tmp_path: Path) -> None:
    words = words_of(write_error_report(tmp_path, "07", "sub-07 has no phase: export it too.", {}))
    assert "sub-07 has no phase: export it too." in words
    assert "The run left no maps of sub-07." in words
    assert not re.search(r"Step|Log|Crash file", words)


def test_errors_of_a_run_that_made_maps_stand_on_top_of_its_report(mask_alone: Derivatives) -> None:
    said = "sub-01: the scan ori03 was left out: its phase is missing."
    text = write_subject_report(mask_alone.out_dir, "01", {"errors": [said]}).read_text(encoding="utf-8")
    top = text[: text.index('role="status"')]
    assert said in top
    assert '<h2 id="errors">Errors</h2>' in top
    assert 'href="#errors"' in text
    write_group_index(mask_alone.out_dir)
    assert table_of(mask_alone.out_dir)[0]["status"] == "failed"


def test_a_failed_page_is_written_whole_or_not_at_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = write_error_report(tmp_path, "01", "first", {}).read_text(encoding="utf-8")

    def full(self: Path, *arguments: object, **options: object) -> int:
        self.touch()
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(Path, "write_text", full)
        with pytest.raises(StepError, match="disk is full"):
            write_error_report(tmp_path, "01", "second", {})
    assert (tmp_path / "sub-01.html").read_text(encoding="utf-8") == first


# All subjects


def test_index_and_table_have_a_line_for_every_subject_also_those_that_failed(reported: Path) -> None:
    out = reported
    page = Page((out / "index.html").read_text(encoding="utf-8"))
    links = [values["href"] for tag, values in page.tags if tag == "a"]
    assert links == ["group_chi33.tsv", "sub-01.html", "sub-02.html"]
    assert "2 subjects: 1 with warnings, 1 failed" in page.words
    assert re.search(r"sub-01 warnings ?2 scans, \d+ warnings, report of", page.words)
    assert re.search(r"sub-02 failed ?failed, run of", page.words)
    assert "the disk is full <now>" in page.words
    first, second = table_of(out)
    told = [first[name] for name in ("participant_id", "status", "scans", "error")]
    assert told == ["sub-01", "warnings", "2", "n/a"]
    assert float(first["largest_angle"]) == pytest.approx(25)
    measured = measure_scan(find_scans(out, "01")[0]).number("chi33_std")
    assert float(first["chi33_std"]) == pytest.approx(measured, rel=1e-4)
    assert float(first["residual_ratio"]) == pytest.approx(0.25, rel=1e-3)
    assert int(first["warnings"]) > 0
    assert (second["participant_id"], second["status"], second["error"]) == ("sub-02", "failed", ERROR)
    assert second["scans"] == second["chi33_std"] == "n/a"
    described = read_json(out / "group_chi33.json")
    assert list(described) == list(first)
    assert all(one["Description"] for one in described.values())
    assert (described["chi33_std"]["Units"], described["largest_angle"]["Units"]) == ("ppm", "degree")
    assert {"group_chi33.tsv", "group_chi33.json", "figures/"} <= set((out / ".bidsignore").read_text().splitlines())


def test_index_is_written_where_every_subject_failed(tmp_path: Path) -> None:
    for subject in ("01", "02"):
        write_error_report(tmp_path, subject, f"sub-{subject} has\tno phase:\nexport it.", {})
    assert "2 subjects: 2 failed" in words_of(write_group_index(tmp_path))
    assert [row["error"] for row in table_of(tmp_path)] == [f"sub-0{n} has no phase: export it." for n in (1, 2)]


def test_a_repeated_run_that_succeeds_is_no_longer_called_failed(mask_alone: Derivatives) -> None:
    out = mask_alone.out_dir
    write_error_report(out, "01", ERROR, {})
    write_subject_report(out, "01", {})
    assert "failed" not in words_of(write_group_index(out))
    assert table_of(out)[0]["error"] == "n/a"


def test_index_takes_in_a_report_of_an_earlier_version(tmp_path: Path) -> None:
    for subject, warnings in (("01", 2), ("02", 0)):
        said = "".join(f"<meta name='{name}' content='{value}'>" for name, value in (
            ("generator", "chi33 0.0"), ("description", f"2 scans, {warnings} warnings")))  # fmt: skip
        (tmp_path / f"sub-{subject}.html").write_text(f"<html><head>{said}</head></html>", encoding="utf-8")
    words = words_of(write_group_index(tmp_path))
    assert re.search(r"sub-01 warnings ?2 scans, 2 warnings", words)
    assert re.search(r"sub-02 ok ?2 scans, 0 warnings", words)


def test_index_without_reports_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="holds no report of chi33 such as sub-01"):
        write_group_index(tmp_path)


def test_a_subject_that_another_run_adds_meanwhile_is_in_the_index(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from chi33.workflows.report import group as report_group

    write_error_report(tmp_path, "01", "one", {})
    render, calls = report_group.render_index, []

    def slow(**content: Any) -> str:
        calls.append(len(content["entries"]))
        if len(calls) == 1:
            write_error_report(tmp_path, "02", "two", {})
        return str(render(**content))

    monkeypatch.setattr(report_group, "render_index", slow)
    write_group_index(tmp_path)
    assert calls == [1, 2]
    assert [row["participant_id"] for row in table_of(tmp_path)] == ["sub-01", "sub-02"]


# Citations


def test_citations_name_what_was_used_with_doi_for_words_and_for_bibtex(reported: Path) -> None:
    out = reported
    words, bibliography = ((out / "logs" / f"CITATION.{kind}").read_text(encoding="utf-8") for kind in ("md", "bib"))
    keys = re.findall(r"^@\w+\{(\w+),$", bibliography, re.MULTILINE)
    assert len(keys) == len(set(keys))
    assert {"chi33", "liu2009cosmos", "liu2010sti", "wu2012vsharp", "li2011spheres", "dymerska2021romeo"} <= set(keys)
    assert not {"jenkinson2002flirt", "sun2014resharp", "zhou2014lbv", "liu2011pdf"} & set(keys)
    assert "doi = {10.1002/mrm.21828}" in bibliography
    assert bibliography.count("{") == bibliography.count("}")
    cited = set(re.findall(r"@(\w+)", words))
    assert cited == set(keys) - {"chi33"}
    assert "[@schweser2011sharp; @li2011spheres; @wu2012vsharp]" in words
    assert "doi:10.1002/mrm.21828" in words
    assert "author = {Liu, T. and Spincemaille, P. and de Rochefort, L. and Kressler, B. and Wang, Y.}" in bibliography


def test_citations_of_subjects_with_other_methods_are_joined(tmp_path: Path) -> None:
    out = tmp_path
    for subject, ran in (("01", PROVENANCE), ("02", {"backend": "fsl", "fit": "none", "background": "lbv"})):
        write_summary(out, Summary(f"sub-{subject}", "ok"), write_methods(ran))
    words = (out / "logs" / "CITATION.md").read_text(encoding="utf-8")
    assert "## Methods (sub-01)" in words
    assert "## Methods (sub-02)" in words
    bibliography = (out / "logs" / "CITATION.bib").read_text(encoding="utf-8")
    assert "jenkinson2002flirt" in bibliography
    assert "zhou2014lbv" in bibliography
    assert bibliography.count("smith2002bet,") == 1


def test_a_line_that_is_no_json_is_told(tmp_path: Path) -> None:
    write_error_report(tmp_path, "01", "one", {})
    (tmp_path / "logs" / "sub-01_summary.json").write_text(json.dumps([1]))
    with pytest.raises(InputError, match="must hold a JSON object"):
        write_group_index(tmp_path)
