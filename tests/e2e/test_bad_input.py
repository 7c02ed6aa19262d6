"""Bad input to `chi33 run`: exit code 2 (1 for a step that fails), one sentence, nothing half-written."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import nibabel as nib
import numpy as np
import pytest


def _state(head: Any, **keys: Any) -> None:
    """Change keys of the sidecar of scan 2, echo 1, phase; None removes one."""
    path = head.raw(2, ext=".json")
    content = json.loads(path.read_text()) | keys
    path.write_text(json.dumps({key: value for key, value in content.items() if value is not None}))


def _replace(head: Any, change: Callable[[np.ndarray], np.ndarray], part: str = "phase") -> None:
    path = head.raw(2, part=part)
    image = nib.load(path)
    nib.save(nib.Nifti1Image(change(image.get_fdata(dtype=np.float32)), image.affine), path)


def _set_affine(head: Any, affine: np.ndarray) -> None:
    """Give scan 2 an affine that nibabel would not write by itself."""
    for echo in (1, 2):
        for part in ("mag", "phase"):
            path = head.raw(2, echo, part)
            image = nib.load(path)
            data = np.asarray(image.dataobj, np.float32)
            header = nib.Nifti1Image(data, None).header
            for row, values in zip(("srow_x", "srow_y", "srow_z"), affine, strict=False):
                header[row] = values
            header["sform_code"], header["qform_code"] = 1, 0
            path.with_suffix("").write_bytes(header.binaryblock + b"\0" * 4 + data.tobytes(order="F"))
            path.unlink()


def _remove(head: Any, scan: int, part: str) -> None:
    for path in head.folder.rglob(f"*acq-ori{scan:02d}*part-{part}*"):
        path.unlink()


def _nan(volume: np.ndarray) -> np.ndarray:
    volume[3, 4, 5] = np.nan
    return volume


def _exchange(head: Any) -> None:
    for echo in (1, 2):
        magnitude, phase = (head.raw(2, echo, part) for part in ("mag", "phase"))
        held = magnitude.read_bytes()
        magnitude.write_bytes(phase.read_bytes())
        phase.write_bytes(held)


def _cut(head: Any) -> None:
    path = head.raw(2)
    path.write_bytes(path.read_bytes()[:-2000])


def _damage(head: Any) -> None:
    path = head.raw(2, part="mag")
    content = bytearray(path.read_bytes())
    content[len(content) // 2 : len(content) // 2 + 40] = bytes(40)
    path.write_bytes(bytes(content))


def _duplicate(head: Any) -> None:
    for path in head.folder.rglob("sub-01_acq-ori02*MEGRE*"):
        shutil.copy(path, path.with_name(path.name.replace("acq-ori02", "acq-ori02_run-1")))


SINGULAR = np.diag([6.0, 6.0, 0.0, 1.0])
SHEAR = np.array([[6.0, 2, 0, 0], [0, 6, 0, 0], [0, 0, 7, 0], [0, 0, 0, 1]])


def _unstated(head: Any) -> None:
    _replace(head, lambda volume: volume * 1000)
    _state(head, Units="arbitrary")


FAULTS: dict[str, tuple[Callable[[Any], None], str]] = {
    "no phase": (lambda head: _remove(head, 2, "phase"), "sub-01 acq-ori02 has no phase"),
    "phase of another shape": (lambda head: _replace(head, lambda v: v[:-1]), "has shape (23, 26, 20) but"),
    "no echo time": (
        lambda head: _state(head, EchoTime=None),
        "has no EchoTime in its sidecar: add it, in s, or give --te.",
    ),
    "no field strength": (lambda head: _state(head, MagneticFieldStrength=None), "has no MagneticFieldStrength"),
    "phase without a scale": (
        _unstated,
        "outside -pi...pi, without a stated scale: add PhaseRange",
    ),
    "one orientation": (
        lambda head: [_remove(head, scan, part) for scan in (2, 3) for part in ("mag", "phase")] and None,
        "sub-01 has 1 head orientation (acq-ori01), but COSMOS and STI need several",
    ),
    "duplicate labels": (_duplicate, "labelled acq-ori02 and acq-ori02_run-1, duplicates of one label"),
    "singular affine": (lambda head: _set_affine(head, SINGULAR), "is singular"),
    "shearing affine": (lambda head: _set_affine(head, SHEAR), "shears"),
    "NaN": (lambda head: _replace(head, _nan), "holds 1 NaN or infinite values"),
    "empty magnitude": (lambda head: _replace(head, lambda v: v * 0, "mag"), "is 0 everywhere"),
    "empty phase": (lambda head: _replace(head, lambda v: v * 0), "is 0 everywhere: give the phase image"),
    "magnitude and phase exchanged": (_exchange, "magnitude and phase may be exchanged"),
    "a file that ends early": (_cut, "part-phase_MEGRE.nii.gz"),
    "a damaged gzip": (_damage, "part-mag_MEGRE.nii.gz"),
    "echoes in a fourth dimension": (
        lambda head: _replace(head, lambda v: np.stack([v, v], axis=-1)),
        "give one 3-D image an echo, magnitude and",
    ),
    "no data set": (lambda head: shutil.rmtree(head.folder), "is not a folder"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_bad_raw_data_stop_a_run_before_it_begins(
    make_head: Callable, command: Callable[..., Any], tmp_path: Path, fault: str
) -> None:
    head = make_head(tmp_path / "raw")
    spoil, sentence = FAULTS[fault]
    spoil(head)
    before = sorted(tmp_path.rglob("*"))
    ended = command("run", head.folder, tmp_path / "out", "--backend", "builtin")
    assert ended.code == 2
    assert sentence in ended.err
    assert ended.err.startswith("chi33: ")
    errors = [line for line in ended.err.splitlines() if not line.startswith(("- ", "chi33: The input has "))]
    assert len(errors) <= 1  # several files of one fault are listed below a headline
    assert sorted(tmp_path.rglob("*")) == before


def test_an_unknown_key_stops_a_run(turning_head: Any, command: Callable[..., Any], tmp_path: Path) -> None:
    (tmp_path / "run.toml").write_text("vsharp_radius = 12\n")
    ended = command("run", turning_head.folder, tmp_path / "out", "--config", tmp_path / "run.toml")
    assert ended.code == 2
    assert "unknown key vsharp_radius: did you mean vsharp_" in ended.err
    assert [path.name for path in tmp_path.iterdir()] == ["run.toml"]


def test_a_full_disk_stops_a_run(
    turning_head: Any, command: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(free=0))
    ended = command("run", turning_head.folder, tmp_path / "out", "--backend", "builtin")
    assert ended.code == 2
    assert "out has 0.0 MB free but about" in ended.err
    assert list(tmp_path.iterdir()) == []


def _unfinished(out: Path) -> None:
    """Whatever a failed run leaves is whole: no temporary names, every map with its sidecar, and a report."""
    files = [path for path in out.rglob("*") if path.is_file()]
    assert {path.name for path in files if path.name.startswith(".")} <= {".bidsignore", ".index.lock", ".sub-01.lock"}
    for path in files:
        if path.name.endswith(".nii.gz"):
            assert np.isfinite(nib.load(path).get_fdata()).all()
            assert json.loads(path.with_name(path.name.replace(".nii.gz", ".json")).read_text())
    assert {path.name for path in out.glob("*.html")} == {"index.html", "sub-01.html"}
    assert "failed" in (out / "sub-01.html").read_text(encoding="utf-8")


def _one_sentence(ended: Any, step: str, said: str) -> Path:
    """Check the sentence, and return the crash file it names."""
    assert ended.err.count("\n") == 1
    assert ended.err.startswith(f"chi33: sub-01, step {step}: ")
    assert said in ended.err
    crash = Path(ended.err.rpartition("(details: ")[2].strip().rstrip(")"))
    assert crash.suffix == ".pklz"
    assert crash.is_file()
    return crash


def test_directions_within_five_degrees_stop_the_fit(
    make_head: Callable, use_fsl: Callable, command: Callable[..., Any], tmp_path: Path
) -> None:
    head = make_head(tmp_path / "raw", turns=((0, 0), (2, 3)))
    use_fsl(head)
    ended = command("run", head.folder, tmp_path / "out", "--n-procs", "1", "--mask-method", "bet")
    assert ended.code == 2
    crash = _one_sentence(ended, "fit_wf.fit", "All B0 directions lie within 3.6 degrees of one another")
    assert crash.parent == tmp_path / "out-work" / "crash" / "sub-01"
    _unfinished(tmp_path / "out")
    assert not list((tmp_path / "out").rglob("*Chimap*"))


def test_a_magnitude_without_contrast_stops_the_brain_extraction(
    make_head: Callable, command: Callable[..., Any], tmp_path: Path
) -> None:
    head = make_head(tmp_path / "raw", turns=((0, 0), (25, 0)))
    for scan in (1, 2):
        path = head.raw(scan, part="mag")
        image = nib.load(path)
        nib.save(nib.Nifti1Image(np.full(image.shape, 7, np.float32), image.affine), path)
    words = ("run", head.folder, tmp_path / "out", "-w", tmp_path / "elsewhere", "--backend", "builtin")
    ended = command(*words, "--n-procs", "1", "--mask-method", "bet")
    assert ended.code == 2
    crash = _one_sentence(ended, "mask_acq_ori01_wf.bet", "has no contrast, so no brain can be found")
    assert crash.parent == tmp_path / "elsewhere" / "crash" / "sub-01"
    _unfinished(tmp_path / "out")


def test_an_empty_brain_mask_stops_its_scan(
    make_head: Callable, use_fsl: Callable, command: Callable[..., Any], tmp_path: Path
) -> None:
    head = make_head(tmp_path / "raw", turns=((0, 0), (25, 0)))
    stand_ins = use_fsl(head)
    for answer in stand_ins.record.parent.glob("answers/*acq-ori02*.nii.gz"):
        image = nib.load(answer)
        nib.save(nib.Nifti1Image(np.zeros(image.shape, np.uint8), image.affine), answer)
    ended = command("run", head.folder, tmp_path / "out", "--n-procs", "1", "--mask-method", "bet")
    assert ended.code == 2
    _one_sentence(ended, "scan_acq_ori02_wf.total_field", "the mask is empty")
    _unfinished(tmp_path / "out")


def test_a_scan_that_was_placed_elsewhere_is_refused(
    make_head: Callable, use_fsl: Callable, command: Callable[..., Any], tmp_path: Path
) -> None:
    head = make_head(tmp_path / "raw", turns=((0, 0), (25, 0)))
    stand_ins = use_fsl(head)
    for answer in stand_ins.record.parent.glob("answers/*.mat"):
        matrix = np.eye(4)
        matrix[0, 3] = 400.0
        np.savetxt(answer, matrix)
    ended = command("run", head.folder, tmp_path / "out", "--n-procs", "1", "--mask-method", "bet")
    assert ended.code == 1
    _one_sentence(ended, "registration_acq_ori02_wf.assess", "agree with a correlation of 0.00, less than 0.8")
    _unfinished(tmp_path / "out")


def test_a_registration_that_grows_the_head_is_refused(
    make_head: Callable, use_fsl: Callable, command: Callable[..., Any], tmp_path: Path
) -> None:
    head = make_head(tmp_path / "raw", turns=((0, 0), (25, 0)))
    stand_ins = use_fsl(head)
    for answer in stand_ins.record.parent.glob("answers/*.mat"):
        np.savetxt(answer, np.diag([1.1, 1.1, 1.1, 1.0]))
    ended = command("run", head.folder, tmp_path / "out", "--n-procs", "1", "--mask-method", "bet")
    assert ended.code in (1, 2)
    _one_sentence(ended, "registration_acq_ori02_wf.assess", "scales by 1.1")
