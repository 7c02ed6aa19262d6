"""`run_participants`: what a run writes, keeps, refuses and says, on a coarse turning head with FSL's stand-ins."""

from __future__ import annotations

import json
import os
import shutil
import signal
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import nibabel as nib
import numpy as np
import pytest
from chi33.files.derivatives import Derivatives, read_image, read_json, read_transform, write_image
from chi33.files.errors import InputError, StepError
from chi33.files.manifest import read_manifest
from chi33.pipeline.fits import execution
from chi33.workflows.config import RunConfig
from chi33.workflows.engine.crashes import explain_crash
from chi33.workflows.report import page as report
from chi33.workflows.run import run_participants

QUICK = RunConfig(iterations=4, mask_method="bet")
Lines = list[str]
Done = tuple[Any, Path, list[str]]


def _run(head: Any, out: Path, config: RunConfig | None = None, **options: Any) -> Lines:
    lines: Lines = []
    run_participants(head.folder, out, config=config or QUICK, n_procs=1, announce=lines.append, **options)
    return lines


def _files(folder: Path) -> dict[str, int]:
    return {str(path.relative_to(folder)): path.stat().st_mtime_ns for path in folder.rglob("*") if path.is_file()}


def _maps(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted((folder / "sub-01" / "anat").iterdir())}


@pytest.fixture(autouse=True, scope="module")
def plain_report() -> Iterator[None]:
    """Pictures take long and are tested elsewhere."""

    def write(out: Path, subject: str, record: dict[str, Any], *, warned: Any, rois: Any = None) -> Path:
        warned("what the report says")
        page = out / f"sub-{subject}.html"
        page.write_text(f'<meta name="generator" content="chi33"><pre>{record.get("noise")}</pre>')
        return page

    def write_failure(out: Path, subject: str, error: str, record: dict[str, Any]) -> Path:
        page = out / f"sub-{subject}.html"
        page.write_text(f'<meta name="generator" content="chi33"><pre>{error}</pre>')
        return page

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(report, "write_subject_report", write)
        patch.setattr(report, "write_error_report", write_failure, raising=False)
        yield


@pytest.fixture
def small_head(make_head: Callable, tmp_path: Path) -> Any:
    """Two scans, to spoil."""
    return make_head(tmp_path / "raw", turns=((0, 0), (25, 10)))


@pytest.fixture(scope="module")
def done(make_head: Callable, make_stand_ins: Callable, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Done]:
    """A finished run of two scans: its head, its output folder and what it said; every test leaves it as it was."""
    folder = tmp_path_factory.mktemp("fertige Köpfe 頭")  # blanks and no ASCII
    head = make_head(folder / "raw", turns=((0, 0), (25, 10)))
    stand_ins = make_stand_ins(folder / "fsl", head.folder)
    with pytest.MonkeyPatch.context() as patch:
        for name, value in stand_ins.environment.items():
            patch.setenv(name, value)
        yield head, folder / "out", _run(head, folder / "out")


def test_a_run_says_its_steps_and_records_them(done: Done) -> None:
    _, out, lines = done
    assert lines[0] == "checking 2 scans of 1 subject(s)"
    assert lines[1] == f"working folder: {out.with_name('out-work')}"
    assert lines[-1] == f"report: {out / 'sub-01.html'}"
    assert any(line.startswith("warning: sub-01: 2 scans cannot determine the six tensor") for line in lines)
    assert "warning: sub-01: what the report says" in lines
    steps = [line for line in lines if line.startswith("[")]
    assert sum(".total_field " in line and line.endswith(" s") for line in steps) == 2
    assert not any("(kept)" in line or "export_" in line for line in steps)
    record = read_json(out / "logs" / "sub-01_provenance.json")
    assert record["scans"] == ["acq-ori01", "acq-ori02"]
    assert record["config"]["prior_iso"] == 0.05
    assert (record["backend"], record["processes"]) == ("fsl", 1)
    assert {"numpy", "nipype", "niimath", "FSL"} <= record["tools"].keys()
    assert {stage["stage"] for stage in record["stages"]} >= {"bet", "flirt", "total_field", "local_field", "fit"}
    tensor = read_json(Derivatives(out, "01").path(space="subject", suffix="Chimap", desc="tensor", ext=".json"))
    assert record["noise"] == tensor["FieldNoisePpm"]
    label = read_json(Derivatives(out, "01").path("acq-ori02", suffix="Chimap", desc="chi33", ext=".json"))
    for sidecar in (tensor, label):
        assert (sidecar["Fit"], sidecar["Weights"]) == ("single-step", "magnitude")
        assert sidecar["StoppedBy"] in ("tolerance", "iteration limit")
        assert min(sidecar["Iterations"], sidecar["IterationsCosmos"], sidecar["IterationLimit"]) >= 1
        assert sidecar["Scans"] == ["acq-ori01", "acq-ori02"]
    assert not [name for name in _maps(out) if "sd_" in name]
    assert "total_field" in (out / "logs" / "sub-01.log").read_text()
    assert out.with_name("out-work").is_dir()
    hidden = {Path(name).name for name in _files(out) if Path(name).name.startswith(".")}
    assert hidden == {".bidsignore", ".index.lock", ".sub-01.lock"}
    assert record["work_seconds"] <= record["seconds"]
    assert max(stage["seconds"] for stage in record["stages"]) <= record["work_seconds"]


def test_the_manifest_lists_every_file_of_the_subject(done: Done) -> None:
    _, out, _ = done
    manifest = read_manifest(out, "01")
    assert manifest is not None
    maps = {name for name in manifest.files if name.startswith("sub-01/anat/")}
    assert maps == {f"sub-01/anat/{name}" for name in _maps(out)}
    figures = {name for name in manifest.files if name.startswith("sub-01/figures/")}
    assert figures == {f"sub-01/figures/{path.name}" for path in (out / "sub-01" / "figures").iterdir()}
    assert {"sub-01.html", "logs/sub-01_provenance.json"} <= manifest.files
    assert manifest.facts["Fit"] == "single-step"
    assert (manifest.facts["Reference"], manifest.facts["Scans"]) == ("acq-ori01", ["acq-ori01", "acq-ori02"])


def test_a_repeat_reads_no_image_and_touches_no_file(done: Done, monkeypatch: pytest.MonkeyPatch) -> None:
    head, out, _ = done
    before = _files(out)
    with monkeypatch.context() as patch:
        patch.setattr(nib, "load", lambda path: pytest.fail(f"{path} was read"))
        lines = _run(head, out)
    assert lines == [f"sub-01: finished before, nothing to do (report: {out / 'sub-01.html'})"]
    assert _files(out) == before
    (out / "index.html").unlink()
    _run(head, out)
    assert (out / "index.html").is_file()


def test_files_that_were_only_touched_rerun_no_step_and_change_no_map(done: Done) -> None:
    head, out, _ = done
    before = {name: time for name, time in _files(out).items() if name.startswith("sub-01/")}
    head.raw(1).touch()
    lines = _run(head, out)
    assert {name: time for name, time in _files(out).items() if name.startswith("sub-01/")} == before
    steps = [line for line in lines if line.startswith("[")]
    assert steps
    assert all(line.endswith("(kept)") for line in steps)


def test_a_changed_prior_reruns_the_fit_and_what_follows(done: Done) -> None:
    head, out, _ = done
    before = _maps(out)
    lines = _run(head, out, replace(QUICK, prior_iso=0.01))
    again = {line.split()[1].rpartition(".")[2] for line in lines if line.startswith("[") and "(kept)" not in line}
    assert again == {"fit", "labels"}
    changed = {name for name, content in _maps(out).items() if content != before[name] and name.endswith(".nii.gz")}
    assert "sub-01_space-subject_desc-cosmos_Chimap.nii.gz" in changed
    assert "sub-01_acq-ori02_desc-chi33_Chimap.nii.gz" in changed
    assert not [name for name in changed if "local_fieldmap" in name or "brain_mask" in name]
    _run(head, out)
    assert _maps(out) == before


def test_draws_add_standard_deviations(done: Done) -> None:
    head, out, _ = done
    before, anat = _maps(out), out / "sub-01" / "anat"
    lines = _run(head, out, RunConfig(fit="closed", draws=2, mask_method="bet"))
    added = sorted(_maps(out).keys() - before.keys())
    sidecars = [read_json(anat / name) for name in added if name.endswith(".json")]
    known = {scan: read_image(anat / f"sub-01_acq-{scan}_desc-local_mask.nii.gz")[0] > 0 for scan in ("ori01", "ori02")}
    shares = [(read_image(anat / name)[0][known[name.split("-")[2][:5]]] > 0).mean() for name in added if "nii" in name]
    _run(head, out)
    assert _maps(out) == before  # standard deviations of another fit do not stay beside this one's labels
    again = {line.split()[1].rpartition(".")[2] for line in lines if line.startswith("[") and "(kept)" not in line}
    assert again == {"fit", "labels"}
    kinds = ("chi33sd_Chimap", "cosmossd_Chimap", "deltabsd_fieldmap")
    assert added == [
        f"sub-01_acq-{scan}_desc-{kind}{ext}" for scan in known for kind in kinds for ext in (".json", ".nii.gz")
    ]
    assert min(shares) > 0.98
    for sidecar in sidecars:
        assert (sidecar["Fit"], sidecar["UncertaintyDraws"], sidecar["Units"]) == ("closed", 2, "ppm")
        assert "background removal" in sidecar["UncertaintyLeavesOut"]


def test_fields_alone_after_a_fit_leave_none_of_its_maps(done: Done) -> None:
    head, out, _ = done
    before = _maps(out)
    roi = out / "sub-01" / "anat" / "sub-01_acq-ori01_desc-roi_mask.nii.gz"
    roi.write_text("the user's own")
    _run(head, out, replace(QUICK, fit="none"))
    left = set(_maps(out))
    assert roi.name in left
    assert not [name for name in left if "Chimap" in name or "space-subject" in name or "deltab" in name]
    assert "sub-01_acq-ori02_desc-local_fieldmap.nii.gz" in left
    roi.unlink()
    _run(head, out)
    assert _maps(out) == before


def test_a_scan_that_was_taken_away_leaves_no_map(done: Done) -> None:
    head, out, _ = done
    before = _maps(out)
    away = head.folder.with_name("taken away")
    away.mkdir()
    moved = sorted(head.folder.rglob("sub-01_acq-ori02_echo*"))
    for path in moved:
        path.rename(away / path.name)
    _run(head, out, replace(QUICK, fit="none"))
    assert not [name for name in _maps(out) if "ori02" in name]
    for path in moved:
        (away / path.name).rename(path)
    away.rmdir()
    _run(head, out)
    assert _maps(out) == before


def test_changed_input_reruns_its_scan(done: Done) -> None:
    head, out, _ = done
    volume, affine = read_image(head.raw(2, 2))
    sidecar = read_json(head.raw(2, 2, ext=".json"))
    before = _maps(out)
    write_image(head.raw(2, 2), np.clip(volume + 0.01, -np.pi, np.pi), affine, sidecar)
    lines = _run(head, out)
    write_image(head.raw(2, 2), volume, affine, sidecar)
    again = {line.split()[1] for line in lines if line.startswith("[") and "(kept)" not in line}
    assert "scan_acq_ori02_wf.total_field" in again
    assert not [step for step in again if "bet" in step or "ori01_wf.total_field" in step or "flirt" in step]
    assert _maps(out) != before
    _run(head, out)
    assert _maps(out) == before


def test_a_lost_file_comes_back(done: Done) -> None:
    head, out, _ = done
    before = _maps(out)
    for name in ("sub-01_acq-ori02_desc-chi33_Chimap.nii.gz", "sub-01_acq-ori01_desc-local_fieldmap.json"):
        (out / "sub-01" / "anat" / name).unlink()
    (out / "sub-01.html").unlink()
    lines = _run(head, out)
    assert all("(kept)" in line for line in lines if line.startswith("["))
    assert _maps(out) == before
    assert (out / "sub-01.html").is_file()


def test_a_lost_working_folder_gives_the_same_labels(done: Done) -> None:
    head, out, _ = done
    before = _maps(out)
    shutil.rmtree(out.with_name("out-work"))
    assert _run(head, out) == [f"sub-01: finished before, nothing to do (report: {out / 'sub-01.html'})"]
    (out / "sub-01" / "anat" / "sub-01_acq-ori01_desc-local_fieldmap.nii.gz").unlink()
    lines = _run(head, out)
    assert not any("(kept)" in line for line in lines)
    assert _maps(out) == before


def test_the_named_reference_spans_the_subject_frame(small_head: Any, use_fsl: Callable, tmp_path: Path) -> None:
    stand_ins = use_fsl(small_head)
    answers = stand_ins.record.parent / "answers"
    names = [small_head.raw(scan, part="mag").name for scan in (1, 2)]
    (answers / f"{names[0]}-to-{names[1]}.mat").write_text("1 0 0 0\n0 1 0 0\n0 0 1 0\n0 0 0 1\n")
    _run(small_head, tmp_path / "out", replace(QUICK, reference="acq-ori02"), work_dir=tmp_path / "elsewhere")
    places = Derivatives(tmp_path / "out", "01")
    np.testing.assert_array_equal(read_transform(places.transform("acq-ori02")), np.eye(4))
    # The voxels of all scans coincide: the identity in FSL's coordinates is the true transform.
    truth = small_head.affines[1] @ np.linalg.inv(small_head.affines[0])
    np.testing.assert_allclose(read_transform(places.transform("acq-ori01")), truth, atol=1e-5)
    _, affine = read_image(places.path(space="subject", suffix="Chimap", desc="cosmos"))
    np.testing.assert_allclose(affine, small_head.affines[1], atol=1e-5)
    assert (tmp_path / "elsewhere").is_dir()
    assert not (tmp_path / "out-work").exists()


def test_a_dry_run_says_the_plan_and_writes_nothing(turning_head: Any, tmp_path: Path) -> None:
    lines = _run(turning_head, tmp_path / "out", RunConfig(backend="builtin"), dry_run=True)
    assert lines[0].startswith("sub-01: 3 scans, backend builtin, reference acq-ori01, ")
    assert lines[-1] == f"working folder: {tmp_path / 'out-work'}"
    assert list(tmp_path.iterdir()) == []


def test_a_dry_run_draws_the_graph_where_it_is_asked_for(turning_head: Any, tmp_path: Path) -> None:
    lines = _run(turning_head, tmp_path / "out", RunConfig(backend="builtin"), dry_run=True, write_graph=True)
    (said,) = [line for line in lines if line.startswith("graph: ")]
    assert Path(said.removeprefix("graph: ")).is_file()
    assert {path.suffix for path in tmp_path.rglob("*") if path.is_file()} <= {".svg", ".dot"}
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_the_graph_is_drawn_or_left_as_dot(done: Done) -> None:
    head, out, _ = done
    lines = _run(head, out, write_graph=True)
    (said,) = [line for line in lines if line.startswith("graph: ")]
    written = Path(said.removeprefix("graph: "))
    assert written.parent == out / "logs"
    assert written.suffix == (".svg" if shutil.which("dot") else ".dot")
    assert "fit" in written.read_text()


@pytest.mark.parametrize("error", [StepError, InputError])
def test_a_step_that_fails_is_named_in_one_sentence(
    small_head: Any, use_fsl: Callable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: type[Exception]
) -> None:
    use_fsl(small_head)

    def fail(*arguments: object, **options: object) -> None:
        raise error("the field is beyond repair: scan again.")

    with monkeypatch.context() as patch:
        patch.setattr("chi33.workflows.interfaces.scan.remove_background", fail)
        with pytest.raises(error) as stop:
            _run(small_head, tmp_path / "out")
    sentence = str(stop.value)
    assert "\n" not in sentence
    assert sentence.startswith("sub-01, step scan_acq_ori01_wf.local_field: the field is beyond repair: scan again. (")
    crash = Path(sentence.rpartition("details: ")[2].rstrip(")"))
    assert crash.is_file()
    assert crash.parent == tmp_path / "out-work" / "crash" / "sub-01"
    out = tmp_path / "out"
    assert "the field is beyond repair" in (out / "sub-01.html").read_text()
    assert (out / "index.html").is_file()
    assert read_json(out / "logs" / "sub-01_provenance.json")["error"] == sentence
    unfinished = read_manifest(out, "01")
    assert unfinished is not None
    assert unfinished.files == frozenset()
    if error is StepError:
        lines = _run(small_head, out)
        assert any("bet (kept)" in line for line in lines)
        assert lines[-1].startswith("report: ")


def test_a_step_that_is_killed_is_named(
    small_head: Any, use_fsl: Callable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As the system does where memory runs out."""
    use_fsl(small_head)
    monkeypatch.setattr(
        "chi33.workflows.interfaces.scan.remove_background", lambda *a, **k: os.kill(os.getpid(), signal.SIGKILL)
    )
    with pytest.raises(
        StepError, match=r"^sub-01, step scan_acq_ori01_wf\.local_field: its process was killed, often "
    ):
        _run(small_head, tmp_path / "out")


def test_an_external_program_that_fails_is_named(small_head: Any, use_fsl: Callable, tmp_path: Path) -> None:
    stand_ins = use_fsl(small_head)
    (stand_ins.record.parent / "bin" / "flirt").write_text("#!/bin/sh\necho 'no licence for the moon' >&2\nexit 3\n")
    with pytest.raises(StepError, match=r"^sub-01, step registration_acq_ori02_wf\.flirt: ") as stop:
        _run(small_head, tmp_path / "out")
    assert "\n" not in str(stop.value)
    assert "flirt failed: no licence for the moon (details: " in str(stop.value)


def test_a_failure_without_crash_file_is_still_one_sentence() -> None:
    error = explain_crash(ValueError("first\nlast word"), [], "01", {"sub_01_wf.fit_wf.fit"})
    assert isinstance(error, StepError)
    assert str(error) == "sub-01, step fit_wf.fit: first last word"
    assert str(explain_crash(ValueError(), [], "01")) == "sub-01, a step: ValueError"


def test_a_working_folder_that_cannot_be_made_is_refused(turning_head: Any, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match=r"file/work cannot be written \(.*/file is a file\): choose another"):
        _run(turning_head, tmp_path / "out", RunConfig(backend="builtin"), work_dir=tmp_path / "file" / "work")
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


@pytest.mark.parametrize(("settings", "message"), [
    ({"dask": "tcp://127.0.0.1:9"}, "the Dask scheduler at tcp://127.0.0.1:9 did not answer within"),
    ({"device": "cuda:63"}, "device 'cuda:63' was asked for, but torch finds . CUDA GPUs"),
])  # fmt: skip
def test_what_the_fit_needs_and_is_not_there_is_refused_before_work(
    turning_head: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, settings: dict[str, Any], message: str
) -> None:
    monkeypatch.setattr(execution, "CONNECT_TIMEOUT", 0.5)
    with pytest.raises(InputError, match=message):
        _run(turning_head, tmp_path / "out", RunConfig(backend="builtin", **settings))
    assert list(tmp_path.iterdir()) == []


def test_a_full_disk_is_refused_before_work(turning_head: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(free=10**5))
    with pytest.raises(InputError, match=r"out has 0\.1 MB free but about .* MB are needed: free some space or choose"):
        _run(turning_head, tmp_path / "out", RunConfig(backend="builtin"))
    assert list(tmp_path.iterdir()) == []


def test_output_folders_that_do_not_do(turning_head: Any, tmp_path: Path) -> None:
    other = tmp_path / "other"
    other.mkdir()
    (other / "dataset_description.json").write_text(json.dumps({"GeneratedBy": [{"Name": "fmriprep"}]}))
    (tmp_path / "file").write_text("")
    for out, message in (
        (turning_head.folder, "is also the input dataset"),
        (turning_head.folder / "sub-01", "lies inside the input dataset"),
        (other, "holds a dataset made by fmriprep"),
        (tmp_path / "file", "is a file: give a folder for the output"),
    ):
        with pytest.raises(InputError, match=message):
            _run(turning_head, out, RunConfig(backend="builtin"), work_dir=tmp_path / "work")
    assert not (tmp_path / "work").exists()
