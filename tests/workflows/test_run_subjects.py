"""Runs of several subjects, and of scans named or stored otherwise: one's failure is no other's."""

from __future__ import annotations

import errno
import gzip
import json
import os
import re
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
from chi33.files.derivatives import read_image, read_json
from chi33.files.errors import InputError, StepError
from chi33.files.manifest import read_manifest
from chi33.workflows.config import RunConfig
from chi33.workflows.report import page as report
from chi33.workflows.run import default_work_dir, run_participants

FIELDS = RunConfig(fit="none", mask_method="bet")
CLOSED = RunConfig(fit="closed", mask_method="bet")


@pytest.fixture(autouse=True)
def plain_reports(monkeypatch: pytest.MonkeyPatch) -> None:
    """What reports show is tested elsewhere."""

    def write(out: Path, subject: str, *told: Any, **options: Any) -> Path:
        page = out / f"sub-{subject}.html"
        page.write_text(f'<meta name="generator" content="chi33">{told[0] if isinstance(told[0], str) else ""}')
        return page

    monkeypatch.setattr(report, "write_subject_report", write)
    monkeypatch.setattr(report, "write_error_report", write, raising=False)


def _run(raw: Path, out: Path, config: RunConfig = FIELDS, **options: Any) -> list[str]:
    lines: list[str] = []
    run_participants(raw, out, config=config, n_procs=1, announce=lines.append, **options)
    return lines


def _rename(folder: Path, change: Callable[[Path], Path]) -> None:
    """Rename the files of a turning head and of its truth."""
    for root in (folder / "derivatives" / "truth", folder):
        for path in sorted(root.glob("sub-*/anat/*")):
            new = change(path)
            new.parent.mkdir(parents=True, exist_ok=True)
            path.rename(new)


def _second_subject(folder: Path, label: str = "02") -> None:
    """Copy sub-01 with its truth to another label."""
    for root in (folder / "derivatives" / "truth", folder):
        for path in sorted(root.glob("sub-01/anat/*")):
            new = Path(str(path).replace("sub-01", f"sub-{label}"))
            new.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(path, new)


@pytest.fixture
def head(make_head: Callable, tmp_path: Path) -> Any:
    """Two scans, to spoil or rename."""
    return make_head(tmp_path / "raw", turns=((0, 0), (25, 10)))


def test_one_subject_that_fails_stops_no_other(head: Any, use_fsl: Callable, tmp_path: Path) -> None:
    _second_subject(head.folder)
    stand_ins = use_fsl(head)
    flirt = stand_ins.record.parent / "bin" / "flirt"
    whole = flirt.read_text()
    fail = "#!/bin/sh\ncase \"$*\" in *sub-01*) echo 'no licence for this head' >&2; exit 3 ;; esac"
    flirt.write_text(whole.replace("#!/bin/sh", fail, 1))
    out, lines = tmp_path / "out", []
    with pytest.raises(
        StepError, match=r"^1 of 2 subjects failed: sub-01, step registration_acq_ori02_wf\.flirt: flirt failed: no"
    ):
        run_participants(head.folder, out, config=FIELDS, n_procs=1, announce=lines.append)
    assert any(
        line.startswith("failed: sub-01, step registration_acq_ori02_wf.flirt: flirt failed: no") for line in lines
    )
    assert (out / "sub-02/anat/sub-02_acq-ori02_desc-local_fieldmap.nii.gz").is_file()
    assert "flirt failed: no licence for this head" in (out / "sub-01.html").read_text()
    index = (out / "index.html").read_text()
    assert "sub-01.html" in index
    assert "sub-02.html" in index
    assert "flirt failed: no licence for this head" in read_json(out / "logs" / "sub-01_provenance.json")["error"]
    failed, fine = (read_manifest(out, label) for label in ("01", "02"))
    assert failed is not None
    assert fine is not None
    assert not failed.files
    assert "sub-02.html" in fine.files
    flirt.write_text(whole)
    lines = _run(head.folder, out)
    assert lines[0] == f"sub-02: finished before, nothing to do (report: {out / 'sub-02.html'})"
    assert lines[-1] == f"report: {out / 'sub-01.html'}"


def test_failures_of_several_subjects_are_listed(
    head: Any, use_fsl: Callable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever goes wrong, also where nobody foresaw it."""
    _second_subject(head.folder)
    use_fsl(head)

    def fail(workflow: Any, clock: Any, resources: Any, crash_dir: Path, subject: str) -> None:
        if subject == "02":
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "/scratch/x")
        raise ZeroDivisionError("of all things")

    monkeypatch.setattr("chi33.workflows.engine.participant.execute", fail)
    with pytest.raises(StepError) as stop:
        _run(head.folder, tmp_path / "out")
    head_line, first, second = str(stop.value).splitlines()
    assert head_line == "2 of 2 subjects failed:"
    assert first == (
        f"- sub-01: ZeroDivisionError: of all things (details: {tmp_path / 'out' / 'logs' / 'sub-01.log'})."
    )
    assert second == "- sub-02: /scratch/x: the disk is full; free some space and repeat the command."
    assert "Traceback" in (tmp_path / "out" / "logs" / "sub-01.log").read_text()


def test_bad_input_stops_a_run_before_work_and_names_who_is_fine(head: Any, tmp_path: Path) -> None:
    for label in ("02", "03"):
        _second_subject(head.folder, label)
    bad = head.folder / "sub-02/anat/sub-02_acq-ori02_echo-2_part-phase_MEGRE.nii.gz"
    image = nib.load(bad)
    nib.save(nib.Nifti1Image(np.zeros(image.shape, np.float32), image.affine), bad)
    with pytest.raises(InputError) as stop:
        _run(head.folder, tmp_path / "out", RunConfig(backend="builtin"))
    assert str(stop.value) == (
        f"{bad} is 0 everywhere: give the phase image. sub-01, sub-03 have no such problem: --participant-label 01 03 "
        "runs them alone."
    )
    (head.folder / "sub-03/anat/sub-03_acq-ori01_echo-1_part-phase_MEGRE.nii.gz").unlink()
    image = nib.load(head.raw(1))
    nib.save(nib.Nifti1Image(np.zeros((3, 3, 3), np.float32), image.affine), head.raw(1))
    with pytest.raises(InputError) as stop:  # of names, and what the headers of the others say
        _run(head.folder, tmp_path / "out", RunConfig(backend="builtin"))
    first, *listed, last = str(stop.value).splitlines()
    assert first == "The input has 2 problems:"
    assert {("sub-03" in line, "has shape (3, 3, 3)" in line) for line in listed} == {(True, False), (False, True)}
    assert last == "sub-02 has no such problem: --participant-label 02 runs it alone."
    assert not (tmp_path / "out").exists()


def test_a_reference_that_a_subject_lacks_is_said_before_work(head: Any, tmp_path: Path) -> None:
    _second_subject(head.folder)
    for path in head.folder.glob("sub-02/anat/*acq-ori02*"):
        path.rename(path.with_name(path.name.replace("acq-ori02", "acq-ori09")))
    with pytest.raises(
        InputError, match=r"reference ori02 is no scan of sub-02: choose one of acq-ori01, acq-ori09\. s"
    ):
        _run(head.folder, tmp_path / "out", RunConfig(backend="builtin", reference="ori02"))
    assert not (tmp_path / "out").exists()


def test_uncompressed_images_give_the_same_maps(head: Any, use_fsl: Callable, tmp_path: Path) -> None:
    """Raw .nii files, whose magnitude is exported under a compressed name."""
    for path in head.folder.glob("sub-*/anat/*.nii.gz"):
        path.with_suffix("").write_bytes(gzip.decompress(path.read_bytes()))
        path.unlink()
    use_fsl(head)
    _run(head.folder, tmp_path / "out", CLOSED)
    maps = tmp_path / "out" / "sub-01" / "anat"
    exported = read_image(maps / "sub-01_acq-ori02_desc-magnitude_MEGRE.nii.gz")
    raw = read_image(head.raw(2, part="mag", ext=".nii"))
    for one, other in zip(exported, raw, strict=True):
        np.testing.assert_array_equal(one, other)
    chi33, _ = read_image(maps / "sub-01_acq-ori02_desc-chi33_Chimap.nii.gz")
    assert chi33.std() > 0
    before = (maps / "sub-01_acq-ori02_desc-magnitude_MEGRE.nii.gz").stat().st_mtime_ns
    head.raw(1, ext=".nii").touch()
    _run(head.folder, tmp_path / "out", CLOSED)
    assert (maps / "sub-01_acq-ori02_desc-magnitude_MEGRE.nii.gz").stat().st_mtime_ns == before


def test_sessions_alone_tell_scans_apart(head: Any, use_fsl: Callable, tmp_path: Path) -> None:
    def into_session(path: Path) -> Path:
        number = int(re.search(r"acq-ori(\d+)", path.name)[1])  # type: ignore[index]
        name = path.name.replace(f"_acq-ori{number:02d}", f"_ses-{number}")
        return path.parent.parent / f"ses-{number}" / "anat" / name

    _rename(head.folder, into_session)
    use_fsl(head)
    _run(head.folder, tmp_path / "out", CLOSED)
    manifest = read_manifest(tmp_path / "out", "01")
    assert manifest is not None
    for name in (
        "sub-01/anat/sub-01_space-subject_desc-tensor_Chimap.nii.gz",
        "sub-01/ses-1/anat/sub-01_ses-1_desc-chi33_Chimap.nii.gz",
        "sub-01/ses-2/anat/sub-01_ses-2_desc-chi33_Chimap.nii.gz",
        "sub-01/ses-2/anat/sub-01_ses-2_from-orig_to-subject_mode-image_xfm.txt",
    ):
        assert name in manifest.files
        assert (tmp_path / "out" / name).is_file()


def test_one_plain_scan_comes_to_its_fields(make_head: Callable, use_fsl: Callable, tmp_path: Path) -> None:
    head = make_head(tmp_path / "raw", turns=((0, 0),))
    _rename(head.folder, lambda path: path.with_name(path.name.replace("_acq-ori01", "")))
    use_fsl(head)
    _run(head.folder, tmp_path / "out")
    names = {path.name for path in (tmp_path / "out/sub-01/anat").glob("*.nii.gz")}
    assert {"sub-01_desc-brain_mask.nii.gz", "sub-01_desc-local_fieldmap.nii.gz"} <= names


@pytest.mark.parametrize(("out", "work"), [
    ("/data/out", "/data/out-work"),
    ("/data/study/derivatives/chi33", "/data/study-chi33-work"),
    ("/data/study/derivatives/chi33/closed", "/data/study-chi33-closed-work"),
    ("/data/study/derivatives", "/data/study-work"),
    ("/data/study-out", "/data/study-out-work"),
])  # fmt: skip
def test_the_working_folder_is_never_in_the_data_set(out: str, work: str) -> None:
    assert default_work_dir(Path("/data/study"), Path(out)) == Path(work)


def test_a_folder_reached_through_a_link_is_known_as_the_data_sets(tmp_path: Path) -> None:
    (tmp_path / "study").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "study")
    assert default_work_dir(tmp_path / "study", tmp_path / "link/derivatives/chi33") == tmp_path / "study-chi33-work"


def test_derivatives_in_the_data_set_keep_their_working_folder_outside(
    make_head: Callable, use_fsl: Callable, tmp_path: Path
) -> None:
    head = make_head(tmp_path / "raw", turns=((0, 0),))
    use_fsl(head)
    lines = _run(head.folder, head.folder / "derivatives" / "chi33")
    assert f"working folder: {tmp_path / 'raw-chi33-work'}" in lines
    assert sorted(path.name for path in (head.folder / "derivatives").iterdir()) == ["chi33", "truth"]


@pytest.fixture
def refuses(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[str, int], None]]:
    """Makes the system refuse what a function does."""

    def refuse(name: str, number: int) -> None:
        def fail(*arguments: object, **options: object) -> None:
            raise OSError(number, os.strerror(number), "/nfs/file")

        monkeypatch.setattr(name, fail)

    return refuse


@pytest.mark.parametrize(("name", "number", "said"), [
    ("chi33.workflows.run.find_subjects", errno.ESTALE, "the file server lost it (stale handle); repeat the"),
    ("chi33.workflows.run.write_dataset_description", errno.EROFS, "the file system is read-only; choose another"),
    ("chi33.workflows.engine.participant.begin_outputs", errno.EDQUOT, "a disk quota is reached; free some"),
    ("chi33.workflows.report.page.write_group_index", errno.EIO, "reading or writing failed (input/output error)"),
])  # fmt: skip
def test_what_the_system_refuses_is_a_sentence(
    make_head: Callable, use_fsl: Callable, tmp_path: Path, refuses: Callable, name: str, number: int, said: str
) -> None:
    head = make_head(tmp_path / "raw", turns=((0, 0),))
    use_fsl(head)
    refuses(name, number)
    with pytest.raises(StepError) as stop:
        _run(head.folder, tmp_path / "out")
    assert f"/nfs/file: {said}" in str(stop.value)
    assert "\n" not in str(stop.value)


def test_a_dry_run_checks_what_the_run_checks(head: Any, tmp_path: Path) -> None:
    builtin = RunConfig(backend="builtin")
    for out, options, said in (
        (head.folder, {}, "is also the input dataset"),
        (tmp_path / "raw" / "sub-01" / "x", {}, "lies inside the input dataset"),
        (tmp_path / "out", {"config": RunConfig(backend="builtin", device="cuda:63")}, "device 'cuda:63'"),
        (
            tmp_path / "out",
            {"config": RunConfig(backend="builtin", masks=str(tmp_path / "raw" / "sub-01"))},
            "holds 0 files named",
        ),
        (
            tmp_path / "out",
            {"work_dir": head.raw(1)},
            "cannot be written (it is a file): choose another folder with -w",
        ),
    ):
        with pytest.raises(InputError, match=re.escape(said)):
            _run(head.folder, out, **{"config": builtin, **options}, dry_run=True)
    image = nib.load(head.raw(2))
    nib.save(nib.Nifti1Image(image.get_fdata(dtype=np.float32) * 1000, image.affine), head.raw(2))
    sidecar = head.raw(2, ext=".json")
    sidecar.write_text(json.dumps(json.loads(sidecar.read_text()) | {"Units": "arbitrary"}))
    with pytest.raises(InputError, match=r"holds phase from .* outside -pi"):
        _run(head.folder, tmp_path / "out", builtin, dry_run=True)
    assert [path.name for path in tmp_path.iterdir()] == ["raw"]
