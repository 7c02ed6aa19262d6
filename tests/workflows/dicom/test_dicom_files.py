"""What lies in real DICOM folders: lost times and series, second exports, names in any script, litter, field maps."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import nibabel as nib
import numpy as np
import pydicom
import pytest
from chi33.files.derivatives import read_json, sidecar_path
from chi33.files.errors import InputError, StepError
from chi33.pipeline.phantom.acquisition import Echo, Protocol
from chi33.pipeline.phantom.poses import scan_grid
from chi33.workflows.dicom import conversion as dicom
from chi33.workflows.dicom.convert import convert_dicom, plan_conversion
from chi33.workflows.simulate.dicom import ScanHeader, write_dicom_scan
from chi33.workflows.simulate.vendors import VENDORS, Vendor, stored_images
from pydicom.uid import generate_uid

DATA = Path(__file__).resolve().parents[4] / "shared" / "data"
MAGNITUDES, DIFFERENCE, XA30 = (
    DATA / name for name in ("siemens-gre-2echo", "siemens-gre-2echo-phase", "siemens-xa30-fieldmap")
)
real_data = pytest.mark.skipif(
    not MAGNITUDES.is_dir(), reason=f"the real scan {MAGNITUDES.name} is not in ../shared/data"
)
TIMES = (0.005, 0.012)
GRID = scan_grid((2, 2, 2), (0, 0, 0), matrix=(12, 10, 8))
X, Y, Z = (axis.astype(np.float32) for axis in np.meshgrid(*(np.arange(n) for n in GRID.shape), indexing="ij"))


def _phase(number: int, echo: int) -> np.ndarray:
    return np.angle(np.exp(1j * echo * (0.3 * X + (0.2 + 0.3 * number) * Y - 0.1 * Z))).astype(np.float32)


def _write_scan(folder: Path, number: int = 0, vendor: Vendor = "siemens") -> None:
    """A scan on the grid that all share; Siemens' series are 2 and 3, 4 and 5, …; the phase tells the number."""
    images = [
        image
        for echo, time in enumerate(TIMES, start=1)
        for image in stored_images(Echo(echo, time, 1 + X / 20 + number * Y / 9, _phase(number, echo)), vendor)
    ]
    write_dicom_scan(folder, ScanHeader(vendor, "01", 0, number, GRID, Protocol(echo_times=TIMES)), images)


def _edit(folder: Path, edit: Callable[[pydicom.Dataset], object], pattern: str = "*.dcm") -> None:
    for path in sorted(folder.glob(pattern)):
        ds = pydicom.dcmread(path)
        edit(ds)
        ds.save_as(path)


def _blank_times(ds: pydicom.Dataset) -> None:
    for name in ("AcquisitionDate", "AcquisitionTime", "SeriesTime", "ContentTime", "StudyTime"):
        setattr(ds, name, "")


def _again(folder: Path, series: int, new: int, edit: Callable[[pydicom.Dataset], object]) -> None:
    """Write a series once more under another number."""
    for path in sorted(folder.glob(f"s{series:03d}_*.dcm")):
        ds = pydicom.dcmread(path)
        ds.SeriesNumber, ds.SeriesInstanceUID = new, generate_uid(entropy_srcs=[ds.SeriesInstanceUID, str(new)])
        ds.SOPInstanceUID = ds.file_meta.MediaStorageSOPInstanceUID = generate_uid(
            entropy_srcs=[ds.SOPInstanceUID, str(new)]
        )
        edit(ds)
        ds.save_as(folder / f"s{new:03d}_{path.name.split('_')[1]}")


def _convert(folder: Path) -> dict[tuple[int, ...], int]:
    """Convert; return for each scan, by its series, the number that its phase tells."""
    bids = folder.with_name(f"{folder.name}-bids")
    found = {}
    for scan in convert_dicom(folder, bids, subject="01").scans:
        phase = nib.load(scan.files[1]).get_fdata()
        errors = [np.abs(np.angle(np.exp(1j * (phase - _phase(number, 1))))).max() for number in range(3)]
        assert min(errors) < 5e-3
        found[scan.series] = int(np.argmin(errors))
    shutil.rmtree(bids)
    return found


@pytest.mark.parametrize("named", [True, False])
def test_a_series_lost_without_times_makes_no_wrong_pair(tmp_path: Path, named: bool) -> None:
    whole = tmp_path / "whole"
    for number in (0, 1):
        _write_scan(whole, number)
    _edit(whole, _blank_times)
    if not named:
        _edit(whole, lambda ds: [setattr(ds, name, "gre") for name in ("SeriesDescription", "ProtocolName")])
    assert _convert(whole) == {(2, 3): 0, (4, 5): 1}
    for lost in (2, 3, 4, 5):
        folder = tmp_path / f"without{lost}"
        shutil.copytree(whole, folder, ignore=shutil.ignore_patterns(f"s{lost:03d}_*"))
        if named:
            assert _convert(folder) == ({(4, 5): 1} if lost < 4 else {(2, 3): 0})
            continue
        with pytest.raises(
            InputError, match=r"neither starts, names nor series .*: place it with --plan --map FILE\.$"
        ):
            _convert(folder)
        plan = plan_conversion(folder, tmp_path / "bids", subject="01")
        assert all("place it with --plan --map FILE" in row["note"] for row in plan.rows)


def test_a_second_export_is_no_second_orientation(tmp_path: Path) -> None:
    folder = tmp_path / "dicom"
    _write_scan(folder)

    def correct(ds: pydicom.Dataset) -> None:
        ds.ImageType = [*ds.ImageType[:3], "DIS2D"]

    _again(folder, 2, 12, correct)
    _again(folder, 3, 13, correct)
    assert _convert(folder) == {(2, 3): 0}
    conversion = convert_dicom(folder, tmp_path / "bids", subject="01")
    assert {one.series.split()[1] for one in conversion.unplaced} == {"12", "13"}
    assert all("with distortion correction (DIS2D)" in one.reason for one in conversion.unplaced)
    for path in folder.glob("s003_*"):
        path.unlink()
    assert _convert(folder) == {(12, 13): 0}
    (scan,) = convert_dicom(folder, tmp_path / "corrected", subject="01").scans
    assert scan.notes == ("corrected for distortion (DIS2D): wraps of the phase were interpolated",)
    for path in folder.glob("s012_*"):
        path.unlink()
    with pytest.raises(
        InputError, match=r"distortion in part only \(series 13\).*: export magnitude and phase without"
    ):
        _convert(folder)


CHARACTER_SETS = {
    "Korean": (["", "ISO 2022 IR 149"], "머리 방향 기울임"),
    "Japanese": (["", "ISO 2022 IR 87"], "頭部 唖漲 GRE"),
    "Chinese": ("GB18030", "头部 磁化率 乗"),
    "Chinese, Unicode": ("ISO_IR 192", "头部 磁化率"),
    "Cyrillic": ("ISO_IR 144", "голова"),
    "German": ("ISO_IR 100", "Kopf schräg"),
}


@pytest.mark.parametrize("language", CHARACTER_SETS)
def test_names_in_any_script(tmp_path: Path, language: str) -> None:
    character_set, name = CHARACTER_SETS[language]
    folder = tmp_path / "스캔 頭"
    _write_scan(folder)

    def rename(ds: pydicom.Dataset) -> None:
        ds.SpecificCharacterSet = character_set
        ds.PatientName = ds.SeriesDescription = ds.ProtocolName = name

    _edit(folder, rename)
    conversion = convert_dicom(folder, tmp_path / "bids", subject="01")
    assert read_json(sidecar_path(conversion.scans[0].files[0]))["SeriesDescription"] == name
    assert plan_conversion(folder, tmp_path / "bids", subject="01").rows[0]["description"] == name


def test_names_in_another_character_set_than_stated_do_not_stop_a_conversion(tmp_path: Path) -> None:
    _write_scan(tmp_path / "dicom")

    def rename(ds: pydicom.Dataset) -> None:
        ds.SpecificCharacterSet = ["", "ISO 2022 IR 149"]
        ds.PatientName = ds.SeriesDescription = "홍^길동"

    _edit(tmp_path / "dicom", rename)
    for path in (tmp_path / "dicom").iterdir():
        path.write_bytes(path.read_bytes().replace(b"\\ISO 2022 IR 149", b"ISO_IR 100      "))
    assert _convert(tmp_path / "dicom") == {(2, 3): 0}


def test_what_macos_and_windows_leave_in_a_folder_does_not_matter(tmp_path: Path) -> None:
    folder = tmp_path / "dicom"
    _write_scan(folder)
    before = sorted(path.name for path in folder.iterdir())
    apple_double = b"\x00\x05\x16\x07\x00\x02\x00\x00Mac OS X        " + bytes(200)
    for name in before:
        (folder / f"._{name}").write_bytes(apple_double)
    cut = (folder / before[0]).read_bytes()[:-100]
    (folder / "._copy.dcm").write_bytes(cut)
    for name in (".DS_Store", "Thumbs.db", "notes.txt"):
        (folder / name).write_bytes(b"\x00\x00\x00\x01Bud1" + bytes(500))
    assert _convert(folder) == {(2, 3): 0}


def test_a_picture_in_colour_does_not_stop_a_conversion(tmp_path: Path) -> None:
    folder = tmp_path / "dicom"
    _write_scan(folder)

    def paint(ds: pydicom.Dataset) -> None:
        ds.SamplesPerPixel, ds.PhotometricInterpretation, ds.PlanarConfiguration = 3, "RGB", 0
        ds.BitsAllocated, ds.BitsStored, ds.HighBit, ds.PixelRepresentation = 8, 8, 7, 0
        ds.PixelData = bytes(3 * ds.Rows * ds.Columns)

    _again(folder, 2, 99, paint)
    assert _convert(folder) == {(2, 3): 0}
    unplaced = convert_dicom(folder, tmp_path / "bids", subject="01").unplaced
    assert [one.reason for one in unplaced] == ["is a picture in colour"]


def test_a_missing_slice_is_named_and_no_other_advice_given(tmp_path: Path) -> None:
    folder = tmp_path / "dicom"
    _write_scan(folder)
    for series in (2, 3):  # of the first echo, in magnitude and phase: the shapes agree
        (folder / f"s{series:03d}_00004.dcm").unlink()
    (scan,) = convert_dicom(folder, tmp_path / "bids", subject="01").scans
    assert scan.echo_times == TIMES[1:]
    for path in folder.glob("s003_0001*"):  # and the second echo of the phase
        path.unlink()
    with pytest.raises(InputError) as raised:
        convert_dicom(folder, tmp_path / "none", subject="01")
    assert "between s002_00003.dcm and s002_00005.dcm" in str(raised.value)
    assert "copy them from the scanner" in str(raised.value)
    assert "export the phase" not in str(raised.value)


def test_ge_without_its_private_tags_is_explained(tmp_path: Path) -> None:
    _write_scan(tmp_path / "dicom", vendor="ge")
    _edit(tmp_path / "dicom", lambda ds: ds.remove_private_tags())
    with pytest.raises(InputError) as raised:
        convert_dicom(tmp_path / "dicom", tmp_path / "bids", subject="01")
    assert "holds 3 images of each slice, as GE stores magnitude, phase, real and imaginary" in str(raised.value)
    assert str(raised.value).endswith(": export it again with private tags kept.")


@pytest.mark.parametrize("together", [True, False])
def test_coil_elements_are_named_and_the_combined_scan_taken(tmp_path: Path, together: bool) -> None:
    folder = tmp_path / "dicom"
    _write_scan(folder)
    for coil in (1, 2, 3):

        def of_coil(ds: pydicom.Dataset, coil: int = coil) -> None:
            ds.private_block(0x0051, "SIEMENS MR HEADER", create=True).add_new(0x0F, "LO", f"H{coil}")
            if together:
                ds.SeriesNumber, ds.InstanceNumber = ds.SeriesNumber % 10 + 50, ds.InstanceNumber + 100 * coil
                ds.SeriesInstanceUID = generate_uid(entropy_srcs=["together", str(ds.SeriesNumber)])

        _again(folder, 2, 20 + 10 * coil, of_coil)
        _again(folder, 3, 21 + 10 * coil, of_coil)
    assert _convert(folder) == {(2, 3): 0}
    unplaced = convert_dicom(folder, tmp_path / "bids", subject="01").unplaced
    assert unplaced
    assert all("coil element" in one.reason and "adaptive combine" in one.remedy for one in unplaced)
    for path in [*folder.glob("s002*"), *folder.glob("s003*")]:
        path.unlink()
    with pytest.raises(InputError, match=r"coil element.*: combine the coils on the scanner \(adaptive combine\), or"):
        convert_dicom(folder, tmp_path / "none", subject="01")


@pytest.mark.parametrize("vendor", VENDORS)
def test_the_field_that_the_scanner_ran_at_is_kept_and_shown(tmp_path: Path, vendor: Vendor) -> None:
    _write_scan(tmp_path / "dicom", vendor=vendor)
    _edit(tmp_path / "dicom", lambda ds: setattr(ds, "ImagingFrequency", "123.255762"))
    (scan,) = convert_dicom(tmp_path / "dicom", tmp_path / "bids", subject="01").scans
    assert scan.field_strength.tesla == pytest.approx(2.895, abs=5e-4)
    assert scan.field_strength.nominal == 3
    for path in scan.files:
        sidecar = read_json(sidecar_path(path))
        assert (sidecar["MagneticFieldStrength"], sidecar["ImagingFrequency"]) == (3, 123.255762)


def test_signs_that_alternate_are_restored_whoever_made_the_scanner(tmp_path: Path) -> None:
    _write_scan(tmp_path / "dicom", vendor="ge")
    _edit(tmp_path / "dicom", lambda ds: setattr(ds, "Manufacturer", "Canon"))
    for path in (tmp_path / "dicom").glob("*.dcm"):  # Canon's headers do not tell GE's parts apart
        ds = pydicom.dcmread(path)
        part = ds[0x0043, 0x102F].value
        ds.ImageType = ["ORIGINAL", "PRIMARY", {0: "M", 2: "R", 3: "I"}[part]]
        ds.SeriesNumber = 2 + part
        ds.SeriesInstanceUID = generate_uid(entropy_srcs=["canon", str(part)])
        ds.save_as(path)
    conversion = convert_dicom(tmp_path / "dicom", tmp_path / "bids", subject="01")
    assert "sign of every second slice restored" in conversion.scans[0].notes
    phase = nib.load(conversion.scans[0].files[1]).get_fdata()
    error = np.exp(1j * (phase - _phase(0, 1)))
    assert np.abs(np.angle(error * np.conj(error[0, 0, 0]))).max() < 1e-2


@pytest.mark.parametrize(
    ("code", "output", "message"),
    [
        (-11, "", r"dcm2niix made no image of .*dicom \(exit code -11: no message\): check that the files are whole"),
        (1, "Error: out of memory", r"made no image of .*dicom \(exit code 1: Error: out of memory\): check"),
        (2, "Error: Unable to find any DICOM images", "holds no DICOM images: give the folder"),
        (2, "No valid DICOM images were found", "holds no DICOM images: give the folder"),
    ],
)
def test_whatever_ends_dcm2niix_is_one_sentence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int, output: str, message: str
) -> None:
    _write_scan(tmp_path / "dicom")

    def fail(command: Sequence[str], **options: object) -> subprocess.CompletedProcess[str]:
        return subprocess.CompletedProcess(command, code, output, "")

    monkeypatch.setattr(dicom.subprocess, "run", fail)
    with pytest.raises((InputError, StepError), match=message):
        convert_dicom(tmp_path / "dicom", tmp_path / "bids", subject="01")
    assert not (tmp_path / "bids").exists()


def test_dcm2niix_that_stops_early_or_is_not_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _write_scan(tmp_path / "dicom")
    run = subprocess.run

    def stop(command: Sequence[str], **options: object) -> subprocess.CompletedProcess[str]:
        done = run(command, **options)
        return subprocess.CompletedProcess(command, -9, done.stdout, done.stderr)

    with monkeypatch.context() as patched:
        patched.setattr(dicom.subprocess, "run", stop)
        with pytest.raises(StepError, match=r"dcm2niix stopped early in .* \(exit code -9"):
            convert_dicom(tmp_path / "dicom", tmp_path / "bids", subject="01")
    monkeypatch.setattr(dicom.dcm2niix, "bin", str(tmp_path / "none"))
    with pytest.raises(StepError, match=r"dcm2niix cannot be started \(.*No such file.*\): install chi33 anew"):
        convert_dicom(tmp_path / "dicom", tmp_path / "bids", subject="01")


@real_data
@pytest.mark.parametrize("lost", ["none", "first magnitude", "second magnitude"])
def test_a_real_phase_difference_is_no_echo(tmp_path: Path, lost: str) -> None:
    folder = tmp_path / "dicom"
    shutil.copytree(DIFFERENCE, folder)
    for path in MAGNITUDES.glob("*.dcm"):
        if (lost, path.stem.endswith("_e2")) not in (("first magnitude", False), ("second magnitude", True)):
            shutil.copyfile(path, folder / f"mag_{path.name}")
    with pytest.raises(InputError) as raised:
        convert_dicom(folder, tmp_path / "bids", subject="01")
    assert "is a phase difference of the echoes at 5.19 and 7.65 ms" in str(raised.value)
    assert str(raised.value).endswith(": export the phase of each echo.")


@real_data
def test_a_real_field_map_of_enhanced_files_is_refused(tmp_path: Path) -> None:
    with pytest.raises(
        InputError, match=r"is a phase difference of the echoes at 10 and 12.46 ms.*: export the phase of"
    ):
        convert_dicom(XA30, tmp_path / "bids", subject="01")


FINE = scan_grid((2, 2, 2), (0, 0, 0), matrix=(20, 16, 12))
FULL_TURN = "of no stated scale|instead of 6.283|never wraps"


def _write_phase(folder: Path, codes: Callable[[np.ndarray], np.ndarray], slope: float, intercept: float) -> np.ndarray:
    """Write a scan whose phase (rad, returned) is stored as codes of it, on a scale that no vendor uses."""
    x, y, z = np.meshgrid(*(np.arange(n) for n in FINE.shape), indexing="ij")
    noise = np.random.default_rng(0).normal(scale=0.2, size=FINE.shape)
    phase = np.angle(np.exp(1j * (0.9 * x + 0.5 * y - 0.3 * z + noise))).astype(np.float32)
    echo = Echo(1, TIMES[0], np.ones(FINE.shape, np.float32), phase)
    magnitude, stored = stored_images(echo, "siemens")
    stored = replace(stored, codes=codes(phase).astype(np.uint16), slope=slope, intercept=intercept)
    header = ScanHeader("siemens", "01", 0, 0, FINE, Protocol(echo_times=TIMES[:1]))
    write_dicom_scan(folder, header, [magnitude, stored])
    _edit(folder, lambda ds: setattr(ds, "Manufacturer", "Canon"))
    return phase


STRANGE_SCALES = {
    "radians of a smaller turn": (4000, 5.417 / 4000, -3.1416),
    "from 0 to 1": (4000, 1 / 4000, 0.0),
    "from -1 to 1": (4000, 2 / 4000, -1.0),
    "from -2.5 to 2.5": (1000, 5 / 1000, -2.5),
}


@pytest.mark.parametrize("case", STRANGE_SCALES)
def test_phase_that_is_no_full_turn_needs_its_range(tmp_path: Path, case: str) -> None:
    top, slope, intercept = STRANGE_SCALES[case]
    phase = _write_phase(tmp_path / "dicom", lambda p: np.rint((p / (2 * np.pi) + 0.5) * top), slope, intercept)
    with pytest.raises(InputError, match=rf"series 3 \(GRE.*({FULL_TURN}).*: give --phase-range with the values"):
        convert_dicom(tmp_path / "dicom", tmp_path / "bids", subject="01")
    assert not (tmp_path / "bids").exists()
    given = (intercept, intercept + top * slope)
    (scan,) = convert_dicom(tmp_path / "dicom", tmp_path / "bids", subject="01", phase_range=given).scans
    assert np.abs(np.angle(np.exp(1j * (nib.load(scan.files[1]).get_fdata() - phase)))).max() < 1e-2
    assert scan.notes == ()
    wide = (intercept, intercept + 2 * top * slope)
    (scan,) = convert_dicom(tmp_path / "dicom", tmp_path / "again", subject="01", phase_range=wide).scans
    assert "check --phase-range" in scan.notes[0]


def test_phase_that_never_wraps_and_states_no_scale_is_refused(tmp_path: Path) -> None:
    _write_phase(tmp_path / "dicom", lambda p: np.rint(1000 + 2000 * np.abs(p) / np.pi), 0.001, -2.0)
    with pytest.raises(InputError, match=r"to 1 over all echoes, never wraps, and no header tells its scale: give"):
        convert_dicom(tmp_path / "dicom", tmp_path / "bids", subject="01")


def test_masked_phase_in_radians_passes(tmp_path: Path) -> None:
    def masked(phase: np.ndarray) -> np.ndarray:
        codes = np.rint((phase / (2 * np.pi) + 0.5) * 4000)
        codes[:, :6] = codes[:, 12:] = 2000
        return codes

    _write_phase(tmp_path / "dicom", masked, 2 * np.pi / 4000, -np.pi)
    assert len(convert_dicom(tmp_path / "dicom", tmp_path / "bids", subject="01").scans) == 1
