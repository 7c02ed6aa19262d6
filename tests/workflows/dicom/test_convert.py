"""DICOM conversion: scanner files written here with pydicom, as vendors store them, and the real Philips scan."""

from __future__ import annotations

import json
import shutil
from dataclasses import dataclass
from pathlib import Path

import nibabel as nib
import numpy as np
import pydicom
import pytest
from chi33.files.errors import InputError, StepError
from chi33.workflows.dicom.conversion import run_dcm2niix
from chi33.workflows.dicom.convert import convert_dicom, plan_conversion
from chi33.workflows.raw.dataset import check_raw, find_subjects, load_phase
from pydicom.dataset import FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian, MRImageStorage, generate_uid

PHILIPS = Path(__file__).resolve().parents[4] / "shared" / "data" / "philips-gre-dicom"
SHAPE = (12, 10, 8)  # columns, rows, slices
SPACING = (1.5, 1.25, 2.0)
TIMES = (0.005, 0.0125)
STUDY = generate_uid(entropy_srcs=["chi33 test study"])


@dataclass(frozen=True)
class Series:
    """How a vendor stores one series."""

    number: int
    kind: tuple[str, ...] = ("M",)
    manufacturer: str = "SIEMENS"
    slope: float | None = None
    intercept: float | None = None
    clock: str = "101500.0"
    angle: float = 0.0  # degrees of obliquity about x


def _write(folder: Path, series: Series, codes: np.ndarray, echo_time: float, echo: int, **tags: object) -> None:
    """Write codes (x, y, z), DICOM patient axes LPS at angle 0, as one classic file a slice."""
    folder.mkdir(parents=True, exist_ok=True)
    c, s = np.cos(np.radians(series.angle)), np.sin(np.radians(series.angle))
    for z in range(codes.shape[2]):
        ds = pydicom.Dataset()
        ds.file_meta = FileMetaDataset()
        ds.file_meta.MediaStorageSOPClassUID = ds.SOPClassUID = MRImageStorage
        uid = generate_uid(entropy_srcs=[f"{series} {echo} {z} {tags}"])
        ds.file_meta.MediaStorageSOPInstanceUID = ds.SOPInstanceUID = uid
        ds.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
        ds.Modality, ds.Manufacturer, ds.ManufacturerModelName = "MR", series.manufacturer, "test"
        ds.StudyInstanceUID = STUDY
        ds.SeriesInstanceUID = generate_uid(entropy_srcs=[f"series {series.number} {series.clock}"])
        ds.FrameOfReferenceUID = STUDY
        ds.PatientName, ds.PatientID, ds.PatientBirthDate = "Secret^Person", "secret-id", "19700101"
        ds.StudyDate = ds.SeriesDate = ds.AcquisitionDate = "20240301"
        ds.StudyTime = ds.SeriesTime = ds.AcquisitionTime = ds.ContentTime = series.clock
        ds.SeriesNumber, ds.AcquisitionNumber = series.number, 1
        ds.InstanceNumber = (echo - 1) * codes.shape[2] + z + 1
        ds.SeriesDescription = ds.ProtocolName = "gre"
        ds.ImageType = ["ORIGINAL", "PRIMARY", *series.kind]
        ds.ScanningSequence, ds.SequenceVariant, ds.MRAcquisitionType = "GR", "SP", "3D"
        ds.EchoTime, ds.EchoNumbers, ds.RepetitionTime, ds.FlipAngle = 1000 * echo_time, echo, 40, 15
        ds.MagneticFieldStrength, ds.ImagingFrequency = 3, 123.25
        ds.PixelSpacing, ds.SliceThickness = [SPACING[1], SPACING[0]], SPACING[2]
        ds.SpacingBetweenSlices = SPACING[2]
        ds.ImageOrientationPatient = [1, 0, 0, 0, c, s]
        ds.ImagePositionPatient = [-9, -6 - s * z * SPACING[2], 4 + c * z * SPACING[2]]
        ds.Rows, ds.Columns = codes.shape[1], codes.shape[0]
        ds.SamplesPerPixel, ds.PhotometricInterpretation = 1, "MONOCHROME2"
        signed = codes.min() < 0
        ds.BitsAllocated, ds.BitsStored, ds.HighBit = 16, (16 if signed else 12), (15 if signed else 11)
        ds.PixelRepresentation = int(signed)
        if series.slope is not None:
            ds.RescaleSlope, ds.RescaleIntercept, ds.RescaleType = series.slope, series.intercept, "US"
        for name, value in tags.items():
            setattr(ds, name, value)
        ds.PixelData = codes[:, :, z].T.astype("<i2" if signed else "<u2").tobytes()
        ds.save_as(folder / f"{series.number}_{echo}_{z}_{uid[-8:]}.dcm", enforce_file_format=True)


def _phase(echo: int) -> np.ndarray:
    x, y, z = np.meshgrid(*(np.arange(n) for n in SHAPE), indexing="ij")
    return np.angle(np.exp(1j * echo * (0.5 * x + 0.3 * y - 0.4 * z + 0.02 * x * y)))


def _magnitude(echo: int) -> np.ndarray:
    x, y, z = np.meshgrid(*(np.arange(n) for n in SHAPE), indexing="ij")
    return np.round(400 + 20 * x + 9 * y + 5 * z) // echo


def _siemens(folder: Path, first: int = 2, clock: str = "101500.0", angle: float = 0.0, **tags: object) -> None:
    """Magnitude in one series, phase in the next: a turn in codes 0...4095, slope 2, intercept -4096."""
    for echo, time in enumerate(TIMES, start=1):
        _write(folder, Series(first, ("M", "ND"), clock=clock, angle=angle), _magnitude(echo), time, echo, **tags)
        codes = np.clip(np.round((_phase(echo) / np.pi + 1) * 2048), 0, 4095)
        series = Series(first + 1, ("P", "ND"), slope=2, intercept=-4096, clock=clock, angle=angle)
        _write(folder, series, codes, time, echo, **tags)


def _at_dicom_voxels(path: Path, angle: float = 0.0) -> np.ndarray:
    """Sample a NIfTI at the DICOM's own voxels, by world position: independent of how dcm2niix orders the axes."""
    image = nib.load(path)
    grid = np.stack(np.meshgrid(*(np.arange(n) for n in SHAPE), indexing="ij"), axis=-1)
    c, s = np.cos(np.radians(angle)), np.sin(np.radians(angle))
    steps = np.array([[SPACING[0], 0, 0], [0, c * SPACING[1], s * SPACING[1]], [0, -s * SPACING[2], c * SPACING[2]]])
    lps = grid @ steps + [-9, -6, 4]
    voxels = nib.affines.apply_affine(np.linalg.inv(image.affine), lps * [-1, -1, 1])
    indices = np.round(voxels).astype(int)
    np.testing.assert_allclose(indices, voxels, atol=1e-3)
    return image.get_fdata()[tuple(np.moveaxis(indices, -1, 0))]


def _wrapped(difference: np.ndarray) -> float:
    return float(np.abs(np.angle(np.exp(1j * difference))).max())


def _names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_siemens_series_become_one_scan_in_radians(tmp_path: Path) -> None:
    _siemens(tmp_path / "dicom" / "deep" / "er", angle=14)
    conversion = convert_dicom(tmp_path / "dicom", tmp_path / "bids", subject="sub-01")
    folder = tmp_path / "bids" / "sub-01" / "anat"
    stems = [f"sub-01_acq-ori01_echo-{echo}_part-{part}_MEGRE" for echo in (1, 2) for part in ("mag", "phase")]
    assert _names(folder) == sorted(stem + ext for stem in stems for ext in (".json", ".nii.gz"))
    assert _names(tmp_path / "bids") == ["dataset_description.json", "sub-01"]
    (scan,) = conversion.scans
    assert (scan.label, scan.series, scan.echo_times) == ("acq-ori01", (2, 3), TIMES)
    assert scan.field_strength.tesla == pytest.approx(123.25 / 42.577, rel=1e-4)
    assert scan.field_strength.nominal == 3
    assert conversion.unplaced == ()
    for echo, time in enumerate(TIMES, start=1):
        mag, phase = (folder / f"sub-01_acq-ori01_echo-{echo}_part-{part}_MEGRE.nii.gz" for part in ("mag", "phase"))
        np.testing.assert_allclose(_at_dicom_voxels(mag, 14), _magnitude(echo), rtol=1e-6)
        assert _wrapped(_at_dicom_voxels(phase, 14) - _phase(echo)) < 2 * np.pi / 4096
        assert nib.load(phase).get_data_dtype() == np.float32
        sidecar = json.loads(phase.with_name(phase.name[:-7] + ".json").read_text())
        assert (sidecar["EchoTime"], sidecar["MagneticFieldStrength"], sidecar["Units"]) == (time, 3, "rad")
        assert sidecar["ImagingFrequency"] == 123.25
        assert "Units" not in json.loads(mag.with_name(mag.name[:-7] + ".json").read_text())
    (subject,) = find_subjects(tmp_path / "bids")
    assert subject.scans[0].echo_times == TIMES
    assert np.abs(load_phase(subject.scans[0], 0)).max() <= np.float32(np.pi)


def test_no_patient_details_in_the_sidecars(tmp_path: Path) -> None:
    _siemens(tmp_path / "dicom")
    convert_dicom(tmp_path / "dicom", tmp_path / "bids", subject="01")
    for path in (tmp_path / "bids").rglob("*.json"):
        text = path.read_text()
        assert not any(word in text for word in ("Secret", "secret", "1970", "2024", "InstanceUID"))


def test_orientations_are_numbered_by_time_even_on_one_grid(tmp_path: Path) -> None:
    _siemens(tmp_path / "dicom", first=8, clock="101500.0")
    _siemens(tmp_path / "dicom", first=4, clock="103000.0")
    _siemens(tmp_path / "dicom", first=6, clock="102000.0", angle=10)
    conversion = convert_dicom(tmp_path / "dicom", tmp_path / "bids", subject="01")
    assert [scan.series for scan in conversion.scans] == [(8, 9), (6, 7), (4, 5)]
    assert [scan.label for scan in conversion.scans] == ["acq-ori01", "acq-ori02", "acq-ori03"]
    check_raw(find_subjects(tmp_path / "bids"))


def test_orientations_without_times_and_of_one_grid_are_told_apart_by_series(tmp_path: Path) -> None:
    _siemens(tmp_path / "dicom", first=2, AcquisitionTime="", AcquisitionDate="")
    _siemens(tmp_path / "dicom", first=4, AcquisitionTime="", AcquisitionDate="")
    conversion = convert_dicom(tmp_path / "dicom", tmp_path / "bids", subject="01")
    assert [scan.series for scan in conversion.scans] == [(2, 3), (4, 5)]


def test_second_conversion_takes_the_next_number_and_keeps_the_first(tmp_path: Path) -> None:
    _siemens(tmp_path / "one")
    _siemens(tmp_path / "two", clock="120000.0", angle=20)
    convert_dicom(tmp_path / "one", tmp_path / "bids", subject="01")
    folder = tmp_path / "bids" / "sub-01" / "anat"
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    conversion = convert_dicom(tmp_path / "two", tmp_path / "bids", subject="01")
    assert [scan.label for scan in conversion.scans] == ["acq-ori02"]
    assert {name: (folder / name).read_bytes() for name in before} == before
    conversion = convert_dicom(tmp_path / "one", tmp_path / "bids", subject="01", session="b")
    assert [scan.label for scan in conversion.scans] == ["acq-ori03"]
    assert conversion.scans[0].files[0].is_file()
    assert conversion.scans[0].files[0].parent == tmp_path / "bids" / "sub-01" / "ses-b" / "anat"


def test_repeated_conversion_is_refused_and_overwrite_replaces(tmp_path: Path) -> None:
    _siemens(tmp_path / "dicom")
    convert_dicom(tmp_path / "dicom", tmp_path / "bids", subject="01")
    with pytest.raises(InputError, match=r"holds acq-ori01 already: pass --overwrite to replace it\."):
        convert_dicom(tmp_path / "dicom", tmp_path / "bids", subject="01")
    stale = tmp_path / "bids" / "sub-01" / "anat" / "sub-01_acq-ori01_echo-3_part-mag_MEGRE.nii.gz"
    stale.touch()
    conversion = convert_dicom(tmp_path / "dicom", tmp_path / "bids", subject="01", overwrite=True, phase_sign=-1)
    assert [scan.label for scan in conversion.scans] == ["acq-ori01"]
    assert not stale.exists()
    assert find_subjects(tmp_path / "bids")[0].scans[0].phase_sign == -1


@pytest.mark.parametrize(("manufacturer", "sign"), [("GE MEDICAL SYSTEMS", -1), ("SIEMENS", 1), ("Philips", 1)])
def test_polarity_is_recorded_by_vendor(tmp_path: Path, manufacturer: str, sign: int) -> None:
    _other_vendor(tmp_path / "dicom", manufacturer, np.round(_phase(1) * 1000), slope=1, intercept=-0.0)
    for settings, expected in (({}, sign), ({"phase_sign": 1}, 1), ({"phase_sign": -1}, -1)):
        bids = tmp_path / f"bids{len(settings)}{expected}"
        conversion = convert_dicom(
            tmp_path / "dicom", bids, subject="01", phase_range=(-1000 * np.pi, 1000 * np.pi), **settings
        )
        phase = conversion.scans[0].files[1]
        assert _wrapped(_at_dicom_voxels(phase) - _phase(1)) < 4e-3
        assert json.loads(phase.with_name(phase.name[:-7] + ".json").read_text())["PhaseSign"] == expected
        assert any("PhaseSign -1 as of GE" in note for note in conversion.scans[0].notes) == (
            sign == -1 and not settings
        )


def test_named_orientation(tmp_path: Path) -> None:
    _siemens(tmp_path / "one")
    _siemens(tmp_path / "two", clock="120000.0")
    convert_dicom(tmp_path / "one", tmp_path / "bids", subject="01", acq="left")
    with pytest.raises(InputError, match=r"holds acq-left already: pass --overwrite .* or choose another --acq"):
        convert_dicom(tmp_path / "two", tmp_path / "bids", subject="01", acq="left")
    _siemens(tmp_path / "two", first=8, clock="130000.0")
    with pytest.raises(InputError, match="acq 'right' names one scan, but there are 2"):
        convert_dicom(tmp_path / "two", tmp_path / "bids", subject="01", acq="right")


def _other_vendor(folder: Path, manufacturer: str, codes: np.ndarray, **scale: float) -> None:
    _write(folder, Series(5, ("M", "FFE"), manufacturer), _magnitude(1), TIMES[0], 1)
    _write(folder, Series(6, ("P", "FFE"), manufacturer, **scale), codes, TIMES[0], 1)


TWELVE_BIT = np.clip(np.round((_phase(1) / np.pi + 1) * 2047.5), 0, 4095)
STORED = {
    "Philips display, milliradians": ("Philips", TWELVE_BIT, {"slope": 3142 / 2047.5, "intercept": -3142}),
    "Philips display, old codes": ("Philips", TWELVE_BIT, {"slope": 500 / 2047.5, "intercept": -500}),
    "Siemens without a scale": ("SIEMENS", TWELVE_BIT, {}),
    "Siemens, signed codes": ("SIEMENS", np.round(_phase(1) / np.pi * 4095), {}),
    "GE milliradians": ("GE MEDICAL SYSTEMS", np.round(_phase(1) * 1000), {}),
}


@pytest.mark.parametrize("case", STORED)
def test_how_vendors_store_phase(tmp_path: Path, case: str) -> None:
    manufacturer, codes, scale = STORED[case]
    _other_vendor(tmp_path / "dicom", manufacturer, codes, **scale)
    conversion = convert_dicom(tmp_path / "dicom", tmp_path / "bids", subject="01")
    assert _wrapped(_at_dicom_voxels(conversion.scans[0].files[1]) - _phase(1)) < 4e-3


def test_phase_of_unknown_scale_needs_its_range(tmp_path: Path) -> None:
    _other_vendor(tmp_path / "dicom", "Unknown", np.round((_phase(1) / np.pi + 1) * 500))
    with pytest.raises(InputError, match=r"series 6 \(gre\) holds 6 to 1000, of no stated scale: give --phase-range"):
        convert_dicom(tmp_path / "dicom", tmp_path / "bids", subject="01")
    assert not (tmp_path / "bids").exists()
    with pytest.raises(InputError, match="beyond --phase-range 0 500"):
        convert_dicom(tmp_path / "dicom", tmp_path / "bids", subject="01", phase_range=(0, 500))
    conversion = convert_dicom(tmp_path / "dicom", tmp_path / "bids", subject="01", phase_range=(0, 1000))
    assert _wrapped(_at_dicom_voxels(conversion.scans[0].files[1]) - _phase(1)) < 7e-3


@pytest.mark.parametrize("alternate", [False, True])
def test_ge_real_and_imaginary_with_and_without_alternating_slices(tmp_path: Path, alternate: bool) -> None:
    signal = _magnitude(1) * np.exp(1j * _phase(1))
    stored = signal * (-1) ** np.arange(SHAPE[2]) if alternate else signal
    for number, (kind, values) in enumerate({"REAL": stored.real, "IMAGINARY": stored.imag}.items(), start=7):
        series = Series(number, (kind,), "GE MEDICAL SYSTEMS")
        _write(tmp_path / "dicom", series, np.round(values), TIMES[0], 1)
    (scan,) = convert_dicom(tmp_path / "dicom", tmp_path / "bids", subject="01").scans
    assert ("sign of every second slice restored" in scan.notes) == alternate
    assert "phase from real and imaginary" in scan.notes
    np.testing.assert_allclose(_at_dicom_voxels(scan.files[0]), _magnitude(1), atol=1)
    error = np.exp(1j * (_at_dicom_voxels(scan.files[1]) - _phase(1)))
    error *= np.conj(error[0, 0, 0]) if alternate else 1  # which slices were negative is a sign common to all
    assert np.abs(np.angle(error)).max() < 5e-3
    assert np.abs(nib.load(scan.files[1]).get_fdata()).max() <= np.float32(np.pi)


def test_alternation_is_decided_once_for_all_echoes(tmp_path: Path) -> None:
    for echo, time in enumerate(TIMES, start=1):
        x, _, z = np.meshgrid(*(np.arange(n) for n in SHAPE), indexing="ij")
        phase = (0.6 if echo == 1 else 1.5) * z + 0.1 * x  # the second echo dephases too fast to tell
        stored = _magnitude(echo) * np.exp(1j * phase) * (-1) ** np.arange(SHAPE[2])
        for part, (kind, values) in enumerate({"REAL": stored.real, "IMAGINARY": stored.imag}.items()):
            _write(tmp_path / "dicom", Series(7 + part, (kind,), "GE MEDICAL SYSTEMS"), np.round(values), time, echo)
    (scan,) = convert_dicom(tmp_path / "dicom", tmp_path / "bids", subject="01").scans
    for slope, file in ((0.6, scan.files[1]), (1.5, scan.files[3])):
        steps = np.diff(_at_dicom_voxels(file), axis=2)
        assert _wrapped(steps - slope) < 1e-2


def test_what_cannot_be_placed_is_told(tmp_path: Path) -> None:
    _siemens(tmp_path / "dicom")
    _write(tmp_path / "dicom", Series(9, clock="090000.0"), _magnitude(1)[:, :, :3], 0.003, 1)
    conversion = convert_dicom(tmp_path / "dicom", tmp_path / "bids", subject="01")
    assert len(conversion.scans) == 1
    (one,) = conversion.unplaced
    assert one.series == "series 9 (gre)"
    assert one.reason == "has no phase image of the same grid and acquisition time"


def test_echoes_in_series_of_their_own(tmp_path: Path) -> None:
    for echo, time in enumerate(TIMES, start=1):
        _write(tmp_path / "dicom", Series(echo), _magnitude(echo), time, echo)
        codes = np.clip(np.round((_phase(echo) / np.pi + 1) * 2048), 0, 4095)
        _write(tmp_path / "dicom", Series(10 + echo, ("P",), slope=2, intercept=-4096), codes, time, echo)
    (scan,) = convert_dicom(tmp_path / "dicom", tmp_path / "bids", subject="01").scans
    assert scan.series == (1, 2, 11, 12)
    assert scan.echo_times == TIMES


def test_other_geometry_at_the_same_time_is_another_scan(tmp_path: Path) -> None:
    _siemens(tmp_path / "dicom", first=2)
    _siemens(tmp_path / "dicom", first=4, clock="101510.0", angle=12)
    conversion = convert_dicom(tmp_path / "dicom", tmp_path / "bids", subject="01")
    assert [scan.series for scan in conversion.scans] == [(2, 3), (4, 5)]


def test_a_derived_image_is_no_magnitude(tmp_path: Path) -> None:
    _siemens(tmp_path / "dicom", first=3)
    _write(tmp_path / "dicom", Series(1, ("M", "SWI")), 2 * _magnitude(1), TIMES[0], 1)
    conversion = convert_dicom(tmp_path / "dicom", tmp_path / "bids", subject="01")
    assert [scan.series for scan in conversion.scans] == [(3, 4)]
    assert [one.reason for one in conversion.unplaced] == ["is a derived image (SWI)"]


def test_files_exported_twice_count_once(tmp_path: Path) -> None:
    _siemens(tmp_path / "dicom" / "one")
    shutil.copytree(tmp_path / "dicom" / "one", tmp_path / "dicom" / "again")
    (scan,) = convert_dicom(tmp_path / "dicom", tmp_path / "bids", subject="01").scans
    np.testing.assert_allclose(_at_dicom_voxels(scan.files[0]), _magnitude(1), rtol=1e-6)


def test_truncated_files_are_named(tmp_path: Path) -> None:
    _siemens(tmp_path / "dicom")
    files = sorted((tmp_path / "dicom").glob("2_1_*"))[:2]
    for path in files:
        path.write_bytes(path.read_bytes()[:-100])
        with pytest.raises(InputError, match=f"DICOM files? cut short .*{path.name}.*: copy what is missing"):
            convert_dicom(tmp_path / "dicom", tmp_path / "bids", subject="01")
        path.unlink()
    assert not (tmp_path / "bids").exists()


def test_missing_slices_leave_the_scan_out(tmp_path: Path) -> None:
    _siemens(tmp_path / "dicom", first=2)
    for number, (slices, message) in enumerate(
        (("3", "has slices at unequal distances: files are missing between 5_1_2_{}.dcm and 5_1_4_{}.dcm"),
         ("7", "has 12x10x7 voxels where series 4 has 12x10x8: 1 slice at the superior end is missing"))
    ):  # fmt: skip
        folder = tmp_path / f"dicom{number}"
        shutil.copytree(tmp_path / "dicom", folder)
        _siemens(folder, first=4, clock="104500.0", angle=5)
        next(iter(folder.glob(f"5_1_{slices}_*"))).unlink()
        beside = [next(iter(folder.glob(f"5_1_{z}_*"))).stem.split("_")[-1] for z in (2, 4)]
        conversion = convert_dicom(folder, tmp_path / f"bids{number}", subject="01")
        assert [scan.series for scan in conversion.scans] == [(2, 3)]
        reasons = {(one.series, one.reason) for one in conversion.unplaced}
        assert ("series 5 (gre)", message.format(*beside)) in reasons
        assert any("series 4" in series for series, _ in reasons)


def test_both_parts_of_an_echo_short_of_a_slice_are_no_scan(tmp_path: Path) -> None:
    _siemens(tmp_path / "dicom")
    for path in (tmp_path / "dicom").glob("?_2_7_*"):
        path.unlink()
    (scan,) = convert_dicom(tmp_path / "dicom", tmp_path / "bids", subject="01").scans
    assert scan.echo_times == TIMES[:1]


def test_scans_of_two_patients_are_refused(tmp_path: Path) -> None:
    _siemens(tmp_path / "dicom")
    _siemens(tmp_path / "dicom", first=4, clock="104500.0", PatientID="other")
    for act in (convert_dicom, plan_conversion):
        with pytest.raises(InputError, match="holds scans of 2 patients: convert the folder of one patient at a time"):
            act(tmp_path / "dicom", tmp_path / "bids", subject="01")


def _two_days(folder: Path) -> None:
    _siemens(folder)
    tags = {
        "AcquisitionDate": "20240308",
        "StudyDate": "20240308",
        "StudyInstanceUID": generate_uid(entropy_srcs=["another study"]),
    }
    _siemens(folder, clock="101600.0", **tags)


def test_two_days_are_refused_and_become_sessions_by_a_map(tmp_path: Path) -> None:
    _two_days(tmp_path / "dicom")
    with pytest.raises(InputError, match=r"scans of 2 days \(2024-03-01, 2024-03-08\): .* or let --plan --map FILE"):
        convert_dicom(tmp_path / "dicom", tmp_path / "bids", subject="01")
    path = tmp_path / "scans.tsv"
    plan = plan_conversion(tmp_path / "dicom", tmp_path / "bids", subject="01", map_path=path)
    assert {(row["start"], row["session"], row["acq"]) for row in plan.rows} == {
        ("day 1 10:15:00", "01", "ori01"),
        ("day 2 10:16:00", "02", "ori02"),
    }
    assert "2024" not in path.read_text()
    conversion = convert_dicom(tmp_path / "dicom", tmp_path / "bids", subject="01", map_path=path)
    folders = [scan.files[0].parent.parent.name for scan in conversion.scans]
    assert folders == ["ses-01", "ses-02"]
    (subject,) = find_subjects(tmp_path / "bids")
    assert [scan.name for scan in subject.scans] == ["ses-01_acq-ori01", "ses-02_acq-ori02"]


def test_a_session_past_midnight_is_one(tmp_path: Path) -> None:
    _siemens(tmp_path / "dicom", clock="235500.0")
    _siemens(tmp_path / "dicom", first=4, clock="000500.0", AcquisitionDate="20240302")
    conversion = convert_dicom(tmp_path / "dicom", tmp_path / "bids", subject="01")
    assert [scan.series for scan in conversion.scans] == [(2, 3), (4, 5)]


def test_phase_of_another_echo_is_no_scan(tmp_path: Path) -> None:
    _write(tmp_path / "dicom", Series(2), _magnitude(1), TIMES[0], 1)
    _write(tmp_path / "dicom", Series(2), _magnitude(2), TIMES[1], 2)
    _write(tmp_path / "dicom", Series(3, ("P",), slope=2, intercept=-4096), TWELVE_BIT, TIMES[1], 2)
    with pytest.raises(InputError, match=r"magnitude at echo times \[0\.005, 0\.0125\] s but phase at \[0\.0125\] s"):
        convert_dicom(tmp_path / "dicom", tmp_path / "bids", subject="01")


def test_no_phase_no_dicom_nothing(tmp_path: Path) -> None:
    bids = tmp_path / "bids"
    _write(tmp_path / "magnitude", Series(2), _magnitude(1), TIMES[0], 1)
    with pytest.raises(InputError, match=r"holds no GRE scan with magnitude and phase .*: export the phase images too"):
        convert_dicom(tmp_path / "magnitude", bids, subject="01")
    with pytest.raises(InputError, match="is not a folder"):
        convert_dicom(tmp_path / "none", bids, subject="01")
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match="is empty"):
        convert_dicom(tmp_path / "empty", bids, subject="01")
    (tmp_path / "empty" / "notes.txt").write_text("no DICOM here")
    with pytest.raises(InputError, match="holds no DICOM images"):
        convert_dicom(tmp_path / "empty", bids, subject="01")
    assert not bids.exists()


def test_field_strength_and_echo_time_must_be_stated(tmp_path: Path) -> None:
    _write(tmp_path / "dicom", Series(2), _magnitude(1), TIMES[0], 1, MagneticFieldStrength=None)
    with pytest.raises(InputError, match="states no field strength"):
        convert_dicom(tmp_path / "dicom", tmp_path / "bids", subject="01")
    _write(tmp_path / "other", Series(2), _magnitude(1), 0, 1)
    with pytest.raises(InputError, match="states no echo time"):
        convert_dicom(tmp_path / "other", tmp_path / "bids", subject="01")


def test_bad_settings(tmp_path: Path) -> None:
    _siemens(tmp_path / "dicom")
    for settings, message in (
        ({"subject": "0 1"}, "subject must be letters and digits only, got '0 1'"),
        ({"subject": "01", "session": "a_b"}, "session must be letters"),
        ({"subject": "01", "acq": ""}, "acq must be letters"),
        ({"subject": "01", "phase_range": (1, 0)}, "phase_range must rise"),
        ({"subject": "01", "phase_sign": 0}, "phase_sign must be 1 or -1"),
    ):
        with pytest.raises(InputError, match=message):
            convert_dicom(tmp_path / "dicom", tmp_path / "bids", **settings)
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match="is a file: give a folder for the BIDS dataset"):
        convert_dicom(tmp_path / "dicom", tmp_path / "file", subject="01")


def test_dcm2niix_failure_is_one_sentence(tmp_path: Path) -> None:
    _siemens(tmp_path / "dicom")
    with pytest.raises(StepError, match=r"dcm2niix made no image of .* \(exit code \d+: .*\): check"):
        run_dcm2niix(tmp_path / "dicom", tmp_path / "not" / "there")


@pytest.mark.skipif(not PHILIPS.is_dir(), reason=f"the real scan {PHILIPS.name} is not in ../shared/data")
def test_real_philips_scan_agrees_with_its_dicom_tags(tmp_path: Path) -> None:
    (scan,) = convert_dicom(PHILIPS, tmp_path / "bids", subject="01").scans
    headers = [pydicom.dcmread(path) for path in sorted(PHILIPS.glob("*.dcm"))]
    assert scan.echo_times == tuple(sorted({float(ds.EchoTime) / 1000 for ds in headers})) == (0.0023, 0.0046)
    assert {scan.field_strength.nominal} == {float(ds.MagneticFieldStrength) for ds in headers} == {3.0}
    assert scan.field_strength.tesla == pytest.approx(float(headers[0].ImagingFrequency) / 42.577, rel=1e-4)
    assert len(scan.files) == 4
    images = {path.name.split("_", 2)[2]: nib.load(path) for path in scan.files}
    for echo in (1, 2):
        phase = images[f"echo-{echo}_part-phase_MEGRE.nii.gz"]
        values = phase.get_fdata()
        assert -np.float32(np.pi) <= values.min() < -3.1
        assert 3.1 < values.max() <= np.float32(np.pi)
        stored = [ds for ds in headers if "P" in ds.ImageType and int(ds.EchoNumbers) == echo]
        assert len(stored) == values.shape[2] == 53
        for ds in stored[:: len(stored) // 5]:
            assert ds.RescaleType == "mrad"
            radians = (ds.pixel_array * float(ds.RescaleSlope) + float(ds.RescaleIntercept)) / 1000
            step_along_row, step_along_column = np.reshape(np.array(ds.ImageOrientationPatient, float), (2, 3))
            rows, columns = np.mgrid[: ds.Rows, : ds.Columns]
            lps = (
                np.array(ds.ImagePositionPatient, float)
                + columns[..., None] * float(ds.PixelSpacing[1]) * step_along_row
                + rows[..., None] * float(ds.PixelSpacing[0]) * step_along_column
            )
            voxels = nib.affines.apply_affine(np.linalg.inv(phase.affine), lps * [-1, -1, 1])
            indices = np.round(voxels).astype(int)
            np.testing.assert_allclose(voxels, indices, atol=0.01)
            assert _wrapped(values[tuple(np.moveaxis(indices, -1, 0))] - radians) < 1e-3
    (subject,) = find_subjects(tmp_path / "bids")
    assert len(subject.scans[0].phase) == 2
