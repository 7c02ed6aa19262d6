from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
from chi33.files.errors import Chi33Warning, InputError
from chi33.workflows.raw.dataset import check_raw, check_scan_data, find_subjects, load_magnitude, load_phase
from chi33.workflows.raw.sidecars import PhaseScale

SHAPE = (6, 5, 4)
TIMES = (0.004, 0.011)
AFFINE = np.diag([-1.0, 1.0, 2.0, 1.0])


def _volume(seed: int) -> np.ndarray:
    return np.random.default_rng(seed).uniform(-np.pi, np.pi, SHAPE).astype(np.float32)


def _write(path: Path, volume: np.ndarray, affine: np.ndarray = AFFINE, sidecar: dict[str, Any] | None = None) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    nib.save(nib.Nifti1Image(volume, affine), path)
    if sidecar is not None:
        path.with_name(path.name.split(".")[0] + ".json").write_text(json.dumps(sidecar))


def _scan(folder: Path, prefix: str, *, suffix: str = "MEGRE", ext: str = ".nii.gz", **keys: Any) -> None:
    for echo, time in enumerate(TIMES, start=1):
        stated = {"EchoTime": time, "MagneticFieldStrength": 3, **keys}
        name = f"{prefix}_echo-{echo}_part-{{}}_{suffix}{ext}"
        _write(folder / name.format("mag"), np.abs(_volume(echo)), sidecar=stated)
        _write(folder / name.format("phase"), _volume(10 + echo), sidecar={**stated, "Units": "rad"})


@pytest.fixture
def bids(tmp_path: Path) -> Path:
    """Two orientations of two echoes, complete and correct."""
    for label in ("acq-ori01", "acq-ori02"):
        _scan(tmp_path / "bids" / "sub-01" / "anat", f"sub-01_{label}")
    return tmp_path / "bids"


def _file(bids: Path, *, ori: int = 1, echo: int = 1, part: str = "phase", ext: str = ".nii.gz") -> Path:
    return bids / "sub-01" / "anat" / f"sub-01_acq-ori{ori:02d}_echo-{echo}_part-{part}_MEGRE{ext}"


def _state(path: Path, **keys: Any) -> None:
    """Change keys of a sidecar; None removes one."""
    content = json.loads(path.read_text()) | keys
    path.write_text(json.dumps({key: value for key, value in content.items() if value is not None}))


def test_finds_scans_with_echoes_in_order(bids: Path) -> None:
    (subject,) = find_subjects(bids)
    check_raw([subject])
    assert subject.label == "01"
    assert [scan.label for scan in subject.scans] == ["acq-ori01", "acq-ori02"]
    scan = subject.scans[0]
    assert scan.phase == (_file(bids), _file(bids, echo=2))
    assert scan.magnitude == (_file(bids, part="mag"), _file(bids, part="mag", echo=2))
    assert scan.echo_times == TIMES
    assert scan.field_strength == 3.0
    assert (scan.session, scan.phase_sign, scan.b0_direction) == (None, 1, None)
    np.testing.assert_array_equal(load_magnitude(scan, 1), np.abs(_volume(2)))
    np.testing.assert_allclose(load_phase(scan, 0), _volume(11), atol=1e-6)


def test_ten_echoes_sort_by_number(tmp_path: Path) -> None:
    folder = tmp_path / "sub-01" / "anat"
    for echo in range(1, 12):
        for part in ("mag", "phase"):
            sidecar = {"EchoTime": 0.003 * echo, "MagneticFieldStrength": 7}
            _write(folder / f"sub-01_acq-a_echo-{echo}_part-{part}_MEGRE.nii", _volume(echo), sidecar=sidecar)
    (subject,) = find_subjects(tmp_path)
    assert subject.scans[0].echo_times == pytest.approx([0.003 * echo for echo in range(1, 12)])


def test_sessions_runs_suffixes_and_single_echo(tmp_path: Path) -> None:
    _scan(tmp_path / "sub-02" / "ses-a" / "anat", "sub-02_ses-a_acq-ori01", ext=".nii")
    _scan(tmp_path / "sub-02" / "ses-b" / "anat", "sub-02_ses-b_acq-ori01", suffix="T2starw")
    _scan(tmp_path / "sub-02" / "ses-b" / "anat", "sub-02_ses-b_run-2", suffix="GRE")
    folder = tmp_path / "sub-02" / "ses-b" / "anat"
    for part in ("mag", "phase"):
        sidecar = {"EchoTime": 0.02, "MagneticFieldStrength": 7}
        _write(folder / f"sub-02_ses-b_acq-x_run-1_part-{part}_GRE.nii", np.abs(_volume(1)), sidecar=sidecar)
    _write(folder / "sub-02_ses-b_T1w.nii.gz", _volume(1))
    _write(folder / "sub-02_ses-b_acq-plain_T2starw.nii.gz", _volume(1))  # a picture, no phase meant
    (subject,) = find_subjects(tmp_path, ["sub-02"])
    names = ["ses-a_acq-ori01", "ses-b_acq-ori01", "ses-b_acq-x_run-1", "ses-b_run-2"]
    assert [scan.name for scan in subject.scans] == names
    assert [len(scan.phase) for scan in subject.scans] == [2, 2, 1, 2]
    said = r"mixes echo times or field strengths \(.* ms at 3 T in ses-a_acq-ori01, .*; 20 ms at 7 T in ses-b_acq-x"
    with pytest.warns(Chi33Warning, match=said):
        check_raw([subject])


def test_sidecars_are_inherited_and_the_nearest_wins(bids: Path) -> None:
    for path in bids.rglob("*.json"):
        _state(path, MagneticFieldStrength=None)
        if "_echo-2_" in path.name:
            path.unlink()
    (bids / "MEGRE.json").write_text('{"MagneticFieldStrength": 7, "PhaseSign": 1}')
    (bids / "part-phase_MEGRE.json").write_text('{"PhaseSign": -1, "Units": "rad"}')
    (bids / "echo-2_MEGRE.json").write_text('{"EchoTime": 0.009}')
    (bids / "sub-01" / "sub-01_echo-2_MEGRE.json").write_text('{"EchoTime": 0.012}')
    (bids / "sub-01" / "anat" / "sub-01_acq-ori02_MEGRE.json").write_text('{"B0_dir": [0, 0.6, 0.8]}')
    (subject,) = find_subjects(bids)
    assert [scan.echo_times for scan in subject.scans] == [(0.004, 0.012)] * 2
    assert [scan.field_strength for scan in subject.scans] == [7.0, 7.0]
    assert [scan.phase_sign for scan in subject.scans] == [-1, -1]
    assert [scan.b0_direction for scan in subject.scans] == [None, (0.0, 0.6, 0.8)]


@pytest.mark.parametrize(
    ("keys", "to_stored"),
    [
        ({"Units": "arbitrary", "PhaseRange": [-4096, 4096]}, lambda phase: phase * 4096 / np.pi),
        ({"Units": "arbitrary", "PhaseRange": [0, 4096]}, lambda phase: (phase / np.pi + 1) * 2048),
        ({"Units": "arbitrary", "PhaseScale": 0.001}, lambda phase: phase * 1000),
        ({"Units": "mrad"}, lambda phase: phase * 1000),
        ({"Units": "rad"}, lambda phase: np.where(phase < 0, phase + 2 * np.pi, phase)),
    ],
)
def test_stated_scales_become_radians(bids: Path, keys: dict[str, Any], to_stored: Callable[..., np.ndarray]) -> None:
    for echo in (1, 2):
        truth = _volume(10 + echo)
        _write(_file(bids, echo=echo), to_stored(truth).astype(np.float32))
        _state(_file(bids, echo=echo, ext=".json"), Units=None)
        _state(_file(bids, echo=echo, ext=".json"), **keys, PhaseSign=-1)
    scan = find_subjects(bids)[0].scans[0]
    check_scan_data(scan)
    phase = load_phase(scan, 0)
    assert phase.dtype == np.float32
    assert np.abs(phase).max() <= np.float32(np.pi)
    np.testing.assert_allclose(phase, -_volume(11), atol=2e-6)


def test_scale_wraps_beyond_a_turn() -> None:
    radians = PhaseScale(0, 4096, stated=True).to_radians(np.array([0, 2048, 4096, 6144], np.float32))
    np.testing.assert_allclose(np.exp(1j * radians), np.exp(1j * np.array([-np.pi, 0, np.pi, 2 * np.pi])), atol=1e-6)


def _remove(path: Path) -> None:
    path.unlink()
    path.with_name(path.name.replace(".nii.gz", ".json")).unlink()


def _drop_part(part: str) -> Callable[[Path], None]:
    return lambda bids: [_remove(_file(bids, echo=echo, part=part)) for echo in (1, 2)] and None


def _sidecar(**keys: Any) -> Callable[[Path], None]:
    return lambda bids: _state(_file(bids, ext=".json"), **keys)


NAME_FAULTS: dict[str, tuple[Callable[[Path], None], str]] = {
    "no phase": (_drop_part("phase"), r"sub-01 acq-ori01 has no phase .*: add its part-phase images"),
    "no magnitude": (_drop_part("mag"), r"sub-01 acq-ori01 has no magnitude"),
    "phase of one echo": (
        lambda bids: _remove(_file(bids, echo=2)),
        r"magnitude of echoes \[1, 2\] but phase of echoes \[1\]",
    ),
    "no echo time": (_sidecar(EchoTime=None), r"echo-1_part-phase_MEGRE.nii.gz has no EchoTime in its sidecar.*in s"),
    "no field strength": (_sidecar(MagneticFieldStrength=None), r"has no MagneticFieldStrength in its sidecar.*in T"),
    "echo time in ms": (_sidecar(EchoTime=4.6), r"states EchoTime 4\.6: give a number between 0 and 0\.5 s"),
    "echo time as text": (_sidecar(EchoTime="0.004"), "states EchoTime '0.004'"),
    "field strength in gauss": (_sidecar(MagneticFieldStrength=30000), "states MagneticFieldStrength 30000"),
    "echo times of magnitude and phase": (_sidecar(EchoTime=0.005), "for magnitude but .* for phase"),
    "field strengths differ": (_sidecar(MagneticFieldStrength=7), "field strengths from 3.0 to 7.0 T"),
    "echo times fall": (
        lambda bids: [_state(_file(bids, part=part, ext=".json"), EchoTime=0.02) for part in ("mag", "phase")] and None,
        r"echo times \[0\.02, 0\.011\] s, which do not rise",
    ),
    "both .nii and .nii.gz": (
        lambda bids: _write(_file(bids, ext=".nii"), _volume(1)),
        r"has 2 part-phase files of echo 1 \(.*MEGRE.nii and .*MEGRE.nii.gz\): keep one",
    ),
    "two suffixes": (
        lambda bids: _write(_file(bids).with_name(_file(bids).name.replace("MEGRE", "GRE")), _volume(1)),
        "has 2 part-phase files of echo 1",
    ),
    "acq with and without run": (
        lambda bids: _scan(_file(bids).parent, "sub-01_acq-ori01_run-2"),
        "labelled acq-ori01 and acq-ori01_run-2, duplicates of one label",
    ),
    "run-1 and run-01": (
        lambda bids: [_scan(_file(bids).parent, f"sub-01_run-{run}") for run in ("1", "01")] and None,
        "labelled run-01 and run-1, duplicates",
    ),
    "real part": (
        lambda bids: _write(_file(bids, part="real"), _volume(1)),
        "part-real .*: give part-mag and part-phase",
    ),
    "other subject's name": (
        lambda bids: _write(bids / "sub-01" / "anat" / "sub-02_acq-a_part-mag_GRE.nii", _volume(1)),
        "names another subject or session than its folder",
    ),
    "echo without number": (
        lambda bids: _write(bids / "sub-01" / "anat" / "sub-01_acq-a_echo-x_part-mag_GRE.nii", _volume(1)),
        "echo-x, which is no number",
    ),
    "no BIDS name": (
        lambda bids: _write(bids / "sub-01" / "anat" / "sub-01_acq-ori_01_part-mag_MEGRE.nii", _volume(1)),
        "is no BIDS name",
    ),
    "broken JSON": (lambda bids: _file(bids, ext=".json").write_text("{") and None, "cannot be read as JSON"),
    "unknown units": (_sidecar(Units="Hz"), "states Units 'Hz'"),
    "bad PhaseRange": (_sidecar(PhaseRange=[4096, 0]), r"states PhaseRange \[4096, 0\]: give \[low, high\]"),
    "bad PhaseScale": (_sidecar(PhaseScale=-1), "states PhaseScale -1"),
    "bad PhaseSign": (_sidecar(PhaseSign=2), "states PhaseSign 2: give 1 or -1"),
    "signs differ": (_sidecar(PhaseSign=-1), "states both PhaseSign"),
    "B0_dir no unit vector": (_sidecar(B0_dir=[0, 0, 2]), "B0_dir of .* must be a unit vector"),
    "B0_dir of two numbers": (_sidecar(B0_dir=[0, 1]), r"states B0_dir \[0, 1\]"),
    "directions differ": (
        lambda bids: (
            [_state(_file(bids, echo=1 + axis, ext=".json"), B0_dir=np.eye(3)[axis].tolist()) for axis in (0, 1)]
            and None
        ),
        "2 different B0_dir",
    ),
}


def test_echo_times_and_field_strength_may_be_given(bids: Path) -> None:
    """They fill in what sidecars leave out and overrule nothing."""
    stated = find_subjects(bids)[0].scans[0]
    for path in bids.rglob("*echo-2*.json"):
        _state(path, EchoTime=None, MagneticFieldStrength=None)
    found = find_subjects(bids, echo_times=(0.099, 0.125), field_strength=3.0)[0].scans[0]
    assert found.echo_times == (stated.echo_times[0], 0.125)
    assert found.field_strength == 3.0
    with pytest.raises(InputError, match="holds 2 part-mag echoes of one scan, but 3 echo times were given"):
        find_subjects(bids, echo_times=(0.004, 0.008, 0.012))
    with pytest.raises(InputError, match=r"states field strengths from 3\.0 to 7\.0 T"):
        find_subjects(bids, echo_times=(0.099, 0.125), field_strength=7.0)


@pytest.mark.parametrize("fault", NAME_FAULTS)
def test_faults_of_names_and_sidecars(bids: Path, fault: str) -> None:
    find_subjects(bids)
    cause, message = NAME_FAULTS[fault]
    cause(bids)
    with pytest.raises(InputError, match=message) as error:
        find_subjects(bids)
    assert "\n" not in str(error.value)  # one fault, one sentence


def _replace(volume: np.ndarray, affine: np.ndarray = AFFINE, **which: Any) -> Callable[[Path], None]:
    return lambda bids: _write(_file(bids, **which), volume, affine)


def _with(value: float) -> np.ndarray:
    volume = _volume(3)
    volume[1, 2, 3] = value
    return volume


SHEAR = AFFINE + np.array([[0, 0.3, 0, 0], [0] * 4, [0] * 4, [0] * 4])
SHIFTED = AFFINE + np.array([[0, 0, 0, 0.5], [0] * 4, [0] * 4, [0] * 4])
SINGULAR = np.diag([1.0, 1.0, 0.0, 1.0])


def _raw_affine(affine: np.ndarray) -> Callable[[Path], None]:
    """Write an affine that nibabel itself would refuse to derive a qform from."""

    def write(bids: Path) -> None:
        image = nib.Nifti1Image(_volume(3), None)
        for row, values in zip(("srow_x", "srow_y", "srow_z"), affine, strict=False):
            image.header[row] = values
        image.header["sform_code"] = 1
        image.header["qform_code"] = 0
        path = _file(bids)
        data = image.header.binaryblock + b"\0" * 4 + _volume(3).tobytes(order="F")
        path.with_name(path.name[:-3]).write_bytes(data)
        path.unlink()

    return write


IMAGE_FAULTS: dict[str, tuple[Callable[[Path], None], str]] = {
    "other shape": (_replace(_volume(3)[:-1]), r"has shape \(5, 5, 4\) but .*part-mag_MEGRE.nii.gz has \(6, 5, 4\)"),
    "other affine": (_replace(_volume(3), SHIFTED), r"affines that differ by 0\.5"),
    "negative magnitude": (
        _replace(-1 - np.abs(_volume(1)), part="mag"),
        "negative in 100% of its voxels, but a magnitude never is: give",
    ),
    "4-D": (_replace(np.stack([_volume(3)] * 2, axis=-1)), r"shape \(6, 5, 4, 2\): give one 3-D image an echo"),
    "complex": (_replace(_volume(3).astype(np.complex64)), "complex64"),
    "singular": (_raw_affine(SINGULAR), "affine of .* is singular"),
    "shear": (_raw_affine(SHEAR), "affine of .* shears"),
    "NaN": (_replace(_with(np.nan)), r"echo-1_part-phase_MEGRE.nii.gz holds 1 NaN or infinite values of 120"),
    "infinite magnitude": (_replace(_with(np.inf), part="mag", echo=2), r"echo-2_part-mag.* holds 1 NaN or infinite"),
    "empty magnitude": (_replace(_volume(3) * 0, part="mag"), "is 0 everywhere"),
    "phase beyond its units": (_replace(_volume(3) * 100), "where its sidecar says .* means -pi"),
    "no gzip": (lambda bids: _file(bids).write_bytes(b"\x1f\x8bnothing") and None, "is damaged or no NIfTI"),
    "empty file": (lambda bids: _file(bids).write_bytes(b"") and None, "is damaged or no NIfTI"),
}


@pytest.mark.parametrize("fault", IMAGE_FAULTS)
def test_faults_of_images(bids: Path, fault: str) -> None:
    check_raw(find_subjects(bids))
    cause, message = IMAGE_FAULTS[fault]
    cause(bids)
    subjects = find_subjects(bids)
    with pytest.raises(InputError, match=message) as error:
        check_raw(subjects)
    assert "\n" not in str(error.value)
    with pytest.raises(InputError, match=message):
        check_scan_data(subjects[0].scans[0])


def test_truncated_gzip_is_found_when_data_are_read(bids: Path) -> None:
    large = np.random.default_rng(0).uniform(-3, 3, (40, 40, 40)).astype(np.float32)
    for echo in (1, 2):
        for part in ("mag", "phase"):
            _write(_file(bids, echo=echo, part=part), np.abs(large))
    whole = _file(bids).read_bytes()
    _file(bids).write_bytes(whole[: len(whole) * 2 // 3])
    subjects = find_subjects(bids)
    check_raw(subjects, data=False)
    with pytest.raises(InputError, match=r"part-phase_MEGRE\.nii\.gz is damaged: its data cannot be read to the end"):
        check_raw(subjects)


@pytest.mark.parametrize("units", [None, "arbitrary"])
def test_phase_codes_without_a_scale_are_refused(bids: Path, units: str | None) -> None:
    _write(_file(bids), (_volume(11) * 4096 / np.pi).astype(np.int16))
    _state(_file(bids, ext=".json"), Units=units)
    subjects = find_subjects(bids)
    with pytest.raises(InputError, match=r"outside -pi\.\.\.pi, without a stated scale: add PhaseRange"):
        check_raw(subjects)
    _state(_file(bids, ext=".json"), PhaseRange=[-4096, 4096])
    check_raw(find_subjects(bids))


def test_radians_without_units_are_accepted_and_tiny_ones_warned_of(bids: Path) -> None:
    for path in bids.rglob("*phase*.json"):
        _state(path, Units=None)
    check_raw(find_subjects(bids))
    _write(_file(bids), _volume(11) * 1e-3)
    with pytest.warns(Chi33Warning, match="states no Units"):
        check_raw(find_subjects(bids))


def test_header_without_orientation_needs_b0_dir(bids: Path) -> None:
    image = nib.Nifti1Image(_volume(3), None)
    for echo in (1, 2):
        for part in ("mag", "phase"):
            nib.save(image, _file(bids, echo=echo, part=part))
    with pytest.raises(InputError, match="has no orientation"):
        check_raw(find_subjects(bids), data=False)
    for path in bids.rglob("*ori01*.json"):
        _state(path, B0_dir=[0, 0, 1])
    check_raw(find_subjects(bids), data=False)


def test_one_orientation_is_refused(bids: Path) -> None:
    for path in bids.rglob("*ori02*"):
        path.unlink()
    subjects = find_subjects(bids)
    with pytest.raises(
        InputError, match=r"sub-01 has 1 head orientation \(acq-ori01\), but COSMOS and STI need several"
    ):
        check_raw(subjects)


def test_all_problems_in_one_report(bids: Path) -> None:
    _state(_file(bids, ext=".json"), EchoTime=None)
    _state(_file(bids, echo=2, ext=".json"), MagneticFieldStrength=None)
    _write(_file(bids, ori=2), _volume(3)[:-1])
    with pytest.raises(InputError) as error:
        find_subjects(bids)
    first, *lines = str(error.value).splitlines()
    assert first == "The input has 3 problems:"
    assert [any(word in line for line in lines) for word in ("EchoTime", "FieldStrength", "has shape")] == [True] * 3
    _state(_file(bids, ext=".json"), EchoTime=TIMES[0])
    _state(_file(bids, echo=2, ext=".json"), MagneticFieldStrength=3)
    _write(_file(bids), _with(np.nan))
    with pytest.raises(InputError, match=r"The input has 2 problems:\n- .*NaN.*\n- .*has shape"):
        check_raw(find_subjects(bids))


def test_subjects_are_chosen_by_label(bids: Path) -> None:
    _scan(bids / "sub-02" / "anat", "sub-02_acq-ori01")
    assert [subject.label for subject in find_subjects(bids)] == ["01", "02"]
    assert [subject.label for subject in find_subjects(bids, ["02", "sub-02"])] == ["02"]
    with pytest.raises(InputError, match=r"sub-03 is not in .*: choose from 01, 02"):
        find_subjects(bids, ["03"])


def test_no_dataset_no_subject_no_scan(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="is not a folder"):
        find_subjects(tmp_path / "none")
    with pytest.raises(InputError, match=r"holds no sub-… folder"):
        find_subjects(tmp_path)
    (tmp_path / "sub-01" / "anat").mkdir(parents=True)
    with pytest.raises(InputError, match="sub-01 has no GRE scan named like sub-01_acq-ori01_echo-1_part-mag_MEGRE"):
        find_subjects(tmp_path)


def _enlarge(
    bids: Path, change: Callable[[np.ndarray], np.ndarray], ori: tuple[int, ...] = (1, 2), **keys: Any
) -> None:
    """Give scans of 12 x 13 x 14 voxels, a wrapped phase in radians changed by `change`, and other sidecar keys."""
    for number in (1, 2):
        for echo in (1, 2):
            phase = np.random.default_rng(echo).uniform(-np.pi, np.pi, (12, 13, 14)).astype(np.float32)
            _write(_file(bids, ori=number, echo=echo, part="mag"), np.abs(phase) + 1)
            _write(_file(bids, ori=number, echo=echo), change(phase) if number in ori else phase)
            if number in ori:
                _state(_file(bids, ori=number, echo=echo, ext=".json"), **keys)


WRONG_TURNS: dict[str, tuple[Callable[[np.ndarray], np.ndarray], dict[str, Any], str]] = {
    "-3.14 to 2.277 in rad": (
        lambda phase: (phase + np.pi) * 0.8625 - np.pi,
        {"Units": "rad"},
        r"wraps at -3\.14\d? and 2\.27\d?, a turn of 5\.4\d* instead of 6\.283, and its sidecar says",
    ),
    "-1 to 1 without units": (
        lambda phase: phase / np.pi,
        {"Units": None},
        r"wraps at -0\.99\d* and 0\.99\d*, a turn of .* without stated Units, which means radians: .* PhaseRange \[",
    ),
    "0 to 1 of arbitrary units": (
        lambda phase: (phase + np.pi) / (2 * np.pi),
        {"Units": "arbitrary"},
        "states Units 'arbitrary' and no PhaseRange",
    ),
    "cycles of two turns": (lambda phase: 2 * phase, {"Units": "rad"}, "a turn of 12.5"),
    "tiny radians": (lambda phase: phase * 1.17e-3, {"Units": None}, "a turn of 0.0073"),
    "never wrapping, without units": (
        lambda phase: np.cumsum(np.full_like(phase, 0.05), axis=0) + 0.01 * phase,
        {"Units": None},
        r"states no Units and its values, .* over all echoes, never wrap: state Units 'rad'",
    ),
}


@pytest.mark.parametrize("fault", WRONG_TURNS)
def test_phase_that_is_no_full_turn_is_refused(bids: Path, fault: str) -> None:
    change, keys, message = WRONG_TURNS[fault]
    _enlarge(bids, change, ori=(2,), **keys)
    with pytest.raises(InputError, match=message) as error:
        check_raw(find_subjects(bids))
    assert "\n" not in str(error.value)
    assert "acq-ori02" in str(error.value)


@pytest.mark.parametrize(
    ("change", "keys"),
    [
        (lambda phase: phase, {"Units": None}),
        (lambda phase: phase % (2 * np.pi), {"Units": "rad"}),
        (lambda phase: np.where(np.indices(phase.shape)[0] < 4, 0, phase), {"Units": "rad"}),  # 0 outside the brain
        (lambda phase: np.cumsum(np.full_like(phase, 0.05), axis=0), {"Units": "rad"}),  # a crop that never wraps
        (lambda phase: 1000 * phase, {"Units": "mrad"}),
        (lambda phase: phase / np.pi, {"Units": None, "PhaseRange": [-1, 1]}),
    ],
)
def test_phase_that_fills_its_turn_or_never_wraps_is_taken(
    bids: Path, change: Callable[[np.ndarray], np.ndarray], keys: dict[str, Any]
) -> None:
    _enlarge(bids, change, **keys)
    subjects = find_subjects(bids)
    check_raw(subjects)
    assert np.abs(load_phase(subjects[0].scans[0], 0)).max() <= np.pi


def test_the_range_of_unscaled_phase_may_be_given(bids: Path) -> None:
    """For the scans that state none alone."""
    _enlarge(bids, lambda phase: np.round((phase + np.pi) / (2 * np.pi) * 4095), ori=(2,), Units="arbitrary")
    subjects = find_subjects(bids, phase_range=(0, 4096))
    check_raw(subjects)
    radians = np.random.default_rng(1).uniform(-np.pi, np.pi, (12, 13, 14))
    for scan in subjects[0].scans:
        np.testing.assert_allclose(load_phase(scan, 0), radians, atol=3e-3)
    with pytest.raises(InputError, match=r"a turn of 409\d instead of 8192, and --phase-range LOW,HIGH says otherwise"):
        check_raw(find_subjects(bids, phase_range=(-4096, 4096)))


def test_a_stated_phase_range_that_the_values_contradict_is_warned_of(bids: Path) -> None:
    _enlarge(bids, lambda phase: phase, Units=None, PhaseRange=[-4, 4])
    with pytest.warns(Chi33Warning, match=r"instead of 8 by its PhaseRange or PhaseScale: check them"):
        check_raw(find_subjects(bids))


def test_the_field_that_the_scanner_ran_at(bids: Path) -> None:
    for path in bids.rglob("*.json"):
        _state(path, ImagingFrequency=123.255)
    scan = find_subjects(bids)[0].scans[0]
    assert scan.field_strength == pytest.approx(2.89484, abs=1e-5)
    assert scan.field_facts["NominalMagneticFieldStrength"] == 3
    assert scan.field_facts["MagneticFieldStrengthSource"] == "ImagingFrequency"


def test_the_sign_follows_the_sidecar_then_the_manufacturer_and_the_user_overrules_both(bids: Path) -> None:
    for path in bids.rglob("*.json"):
        _state(path, Manufacturer="GE MEDICAL SYSTEMS")
    assert [scan.phase_sign for scan in find_subjects(bids)[0].scans] == [-1, -1]
    for path in bids.rglob("*ori02*phase*.json"):
        _state(path, PhaseSign=1)
    (subject,) = find_subjects(bids)
    assert [(scan.phase_sign, scan.sign_stated) for scan in subject.scans] == [(-1, False), (1, True)]
    with pytest.warns(Chi33Warning, match=r"--phase-sign -1 overrules PhaseSign 1 in the sidecars of acq-ori02"):
        (subject,) = find_subjects(bids, phase_sign=-1)
    assert [scan.phase_sign for scan in subject.scans] == [-1, -1]
    np.testing.assert_allclose(load_phase(subject.scans[0], 0), -_volume(11), atol=1e-6)


def test_matrices_that_disagree_need_b0_dir(bids: Path) -> None:
    image = nib.load(_file(bids, part="mag"))
    angle = np.radians(12)
    moved = np.eye(4)
    moved[1:3, 1:3] = [[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]]
    for path in bids.rglob("*ori01*.nii.gz"):
        image = nib.load(path)
        image.set_qform(AFFINE, code=1)
        image.set_sform(moved @ AFFINE, code=2)
        nib.save(image, path)
    with pytest.raises(InputError, match=r"differ by a rotation of 12\.0 degrees: .* state B0_dir") as error:
        check_raw(find_subjects(bids), data=False)
    assert "\n" not in str(error.value)
    for path in bids.rglob("*ori01*.json"):
        _state(path, B0_dir=[0, 0, 1])
    check_raw(find_subjects(bids), data=False)


def test_images_of_single_coils_are_named_as_such(bids: Path) -> None:
    for path in list(bids.rglob("*ori01*")):
        for coil in ("01", "02"):
            name = path.name.replace("_echo", f"_coil-{coil}_echo")
            path.with_name(name).write_bytes(path.read_bytes())
        path.unlink()
    with pytest.raises(InputError, match=r"images of 2 receive coils apart \(coil-01 …\): combine them first"):
        find_subjects(bids)


def test_files_that_macos_leaves_are_no_part_of_the_data_set(bids: Path) -> None:
    for path in list(bids.rglob("*_MEGRE.*")):
        path.with_name(f"._{path.name}").write_bytes(b"\0\5\x16\7")
    assert len(find_subjects(bids)[0].scans) == 2


@pytest.mark.parametrize(
    ("sessions", "scans", "found"),
    [
        (None, ["acq-ori02"], ["ses-a_acq-ori02", "ses-b_acq-ori02"]),
        (None, ["ori02", "!ses-b_acq-ori02"], ["ses-a_acq-ori02"]),
        (None, ["!ses-a ori01"], ["ses-a_acq-ori02", "ses-b_acq-ori01", "ses-b_acq-ori02"]),
        (["ses-b"], None, ["ses-b_acq-ori01", "ses-b_acq-ori02"]),
        (["b"], ["!acq-ori02"], ["ses-b_acq-ori01"]),
    ],
)
def test_sessions_and_scans_are_chosen_and_left_out(
    tmp_path: Path, sessions: list[str] | None, scans: list[str] | None, found: list[str]
) -> None:
    for session in ("a", "b"):
        for label in ("ori01", "ori02"):
            _scan(tmp_path / "sub-01" / f"ses-{session}" / "anat", f"sub-01_ses-{session}_acq-{label}")
    (subject,) = find_subjects(tmp_path, session_labels=sessions, scans=scans)
    assert [scan.name for scan in subject.scans] == found


def test_a_scan_that_is_left_out_is_not_looked_at_and_one_that_is_not_there_is_named(bids: Path) -> None:
    _scan(bids / "sub-01" / "anat", "sub-01_acq-ori03")
    _file(bids, ori=3).unlink()
    with pytest.raises(InputError, match="acq-ori03 has magnitude of echoes"):
        find_subjects(bids)
    assert len(find_subjects(bids, scans=["!acq-ori03"])[0].scans) == 2
    with pytest.raises(InputError, match=r"!acq-ori04 is no session or scan of these subjects: choose from acq-ori01"):
        find_subjects(bids, scans=["!acq-ori04", "!acq-ori03"])


def test_echo_times_as_a_list_are_those_of_a_4d_image(bids: Path) -> None:
    _state(_file(bids, ext=".json"), EchoTime=[0.004, 0.011])
    with pytest.raises(InputError, match=r"states 2 values of EchoTime, .*: split an image of several echoes"):
        find_subjects(bids)
