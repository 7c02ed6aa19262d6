"""DICOM of the simulator: valid files of every vendor, which convert to the very scans that the NIfTI files hold."""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, get_args

import nibabel as nib
import numpy as np
import pydicom
import pytest
from chi33.files.derivatives import Derivatives, read_json, sidecar_path
from chi33.files.errors import InputError
from chi33.pipeline.frames import voxel_size
from chi33.pipeline.masks.reliability import reliable_mask
from chi33.pipeline.phantom.acquisition import Echo, Protocol
from chi33.pipeline.phantom.poses import ScanGrid, scan_grid
from chi33.pipeline.phase.alternating import alternating_axes
from chi33.pipeline.phase.echoes import combine_echoes
from chi33.pipeline.phase.phase_offset import remove_phase_offset
from chi33.pipeline.phase.unwrap import unwrap_romeo
from chi33.workflows.dicom.convert import Conversion, convert_dicom
from chi33.workflows.raw.dataset import RawScan, find_subjects, load_magnitude, load_phase
from chi33.workflows.simulate import scans as simulate_scans
from chi33.workflows.simulate.dataset import Simulation
from chi33.workflows.simulate.dicom import ScanHeader, write_dicom_scan
from chi33.workflows.simulate.options import simulation_from_text
from chi33.workflows.simulate.vendors import VENDORS, Vendor, digitised, phase_sign_of, stored_images
from pydicom.uid import EnhancedMRImageStorage, MRImageStorage

PHILIPS = Path(__file__).resolve().parents[4] / "shared" / "data" / "philips-gre-dicom"
TIMES = (0.004, 0.009, 0.015)


@dataclass(frozen=True)
class RoundTrip:
    """Scans as NIfTI, and what their DICOM converts to."""

    nifti: tuple[RawScan, ...]
    converted: tuple[RawScan, ...]
    conversion: Conversion
    dicom: Path


def _echoes(scan: RawScan, sign: int, unit: float = 1000) -> list[Echo]:
    """The echoes of a NIfTI scan with the polarity of a vendor, magnitudes in a unit: the brain's mean."""
    return [
        Echo(
            number + 1,
            time,
            load_magnitude(scan, number) / np.float32(unit),
            np.float32(sign) * load_phase(scan, number),
        )
        for number, time in enumerate(scan.echo_times)
    ]


def _write(
    folder: Path, vendor: Vendor, grid: ScanGrid, echoes: list[Echo], number: int = 0, subject: str = "01"
) -> None:
    header = ScanHeader(vendor, subject, 0, number, grid, Protocol(echo_times=tuple(e.echo_time for e in echoes)))
    write_dicom_scan(folder, header, [image for echo in echoes for image in stored_images(echo, vendor)])


@pytest.fixture(scope="module")
def round_trip(simulated: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[[Vendor], RoundTrip]]:
    """Gives the scans of a simulated head through the DICOM of a vendor; read only."""
    folder = tmp_path_factory.mktemp("dicom")
    made: dict[Vendor, RoundTrip] = {}

    def make(vendor: Vendor) -> RoundTrip:
        if vendor not in made:
            # one file a slice: Philips needs most of them, and two scans tell as much
            scans = find_subjects(simulated)[0].scans[: 2 if vendor.startswith("philips") else 3]
            dicom, bids = folder / vendor / "dicom", folder / vendor / "bids"
            for number, scan in enumerate(scans):
                image = nib.load(scan.magnitude[0])
                grid = ScanGrid(image.shape, image.affine)
                _write(dicom, vendor, grid, _echoes(scan, phase_sign_of(vendor)), number)
            conversion = convert_dicom(dicom, bids, subject="01")
            made[vendor] = RoundTrip(scans, find_subjects(bids)[0].scans, conversion, dicom)
        return made[vendor]

    yield make
    shutil.rmtree(folder, ignore_errors=True)


@pytest.mark.parametrize("vendor", VENDORS)
def test_dicom_converts_to_the_scans_of_the_nifti_files(
    vendor: Vendor, round_trip: Callable[[Vendor], RoundTrip]
) -> None:
    found = round_trip(vendor)
    assert [scan.label for scan in found.converted] == [scan.label for scan in found.nifti]
    assert found.conversion.unplaced == ()
    for nifti, converted in zip(found.nifti, found.converted, strict=True):
        assert converted.echo_times == pytest.approx(nifti.echo_times, abs=1e-9)
        assert converted.field_strength == nifti.field_strength
        assert converted.phase_sign == phase_sign_of(vendor)
        for echo in range(len(nifti.echo_times)):
            image, expected = nib.load(converted.phase[echo]), nib.load(nifti.phase[echo])
            assert image.shape == expected.shape
            np.testing.assert_allclose(image.affine, expected.affine, atol=1e-4)
            magnitude = load_magnitude(nifti, echo)
            np.testing.assert_array_equal(load_magnitude(converted, echo), magnitude)
            error = np.abs(np.angle(np.exp(1j * (load_phase(converted, echo) - load_phase(nifti, echo)))))
            step: float | np.ndarray = np.pi / {"siemens": 4096}.get(vendor, 4095)
            if vendor == "ge":
                error, step = error[magnitude > 20], np.sqrt(0.5) / 4 / magnitude[magnitude > 20]
            assert (error <= 1.02 * step + 1e-5).all()


def test_polarity_is_kept_and_recorded(round_trip: Callable[[Vendor], RoundTrip], tmp_path: Path) -> None:
    found = round_trip("ge")
    stored = nib.load(found.converted[0].phase[0]).get_fdata()
    truth = nib.load(found.nifti[0].phase[0]).get_fdata()
    bright = load_magnitude(found.nifti[0], 0) > 300
    assert np.abs(np.angle(np.exp(1j * (stored + truth))))[bright].max() < 2e-3
    assert read_json(sidecar_path(found.converted[0].phase[0]))["PhaseSign"] == -1
    assert all("PhaseSign -1 as of GE (else --phase-sign 1)" in scan.notes for scan in found.conversion.scans)
    one = convert_dicom(found.dicom, tmp_path / "bids", subject="01", phase_sign=1)
    assert find_subjects(tmp_path / "bids")[0].scans[0].phase_sign == 1
    assert not any("PhaseSign" in note for note in one.scans[0].notes)
    np.testing.assert_array_equal(nib.load(one.scans[0].files[1]).get_fdata(), stored)


def _total_field(scan: RawScan, mask: np.ndarray) -> np.ndarray:
    """The field within a mask, ppm; nan where it is not to be trusted."""
    size = voxel_size(nib.load(scan.phase[0]).affine)
    magnitude = np.stack([load_magnitude(scan, echo) for echo in range(len(scan.echo_times))])
    phase = np.stack([load_phase(scan, echo) for echo in range(len(scan.echo_times))])
    phase = remove_phase_offset(phase, magnitude, scan.echo_times, mask, size)
    unwrapped = unwrap_romeo(phase, magnitude, scan.echo_times, mask)
    found = combine_echoes(unwrapped, magnitude, scan.echo_times, scan.field_strength, mask, size)
    return np.where(reliable_mask(mask, found, size), found.field, np.nan)


def test_total_field_from_dicom_is_that_from_nifti(simulated: Path, round_trip: Callable[[Vendor], RoundTrip]) -> None:
    mask_path = Derivatives(simulated / "derivatives" / "truth", "01").path("acq-ori01", suffix="mask", desc="brain")
    mask = nib.load(mask_path).get_fdata() > 0
    nifti = round_trip("siemens").nifti[0]
    expected = _total_field(nifti, mask)
    assert np.nanstd(expected) > 0.02
    with_signal = np.min([load_magnitude(nifti, echo) for echo in range(4)], axis=0) > 20  # 2 % of the brain's mean
    for vendor in VENDORS:
        difference = np.abs(_total_field(round_trip(vendor).converted[0], mask) - expected)
        both = np.isfinite(difference)
        assert both.sum() > 0.999 * np.isfinite(expected).sum()
        assert np.sqrt(np.mean(difference[both] ** 2)) < 1e-4, vendor
        assert np.quantile(difference[both & with_signal], 0.9999) < 1e-3, vendor
        assert difference[both & with_signal].max() < 0.02, vendor  # a voxel may lose a cycle of one echo


def test_labels_from_dicom_are_those_from_nifti(
    simulated: Path,
    fsl: Any,
    chi33: Callable[..., Any],
    round_trip: Callable[[Vendor], RoundTrip],
    tmp_path: Path,
) -> None:
    """With the same masks and transforms: what estimates them may differ more than the scans do."""
    for name, bids in (("nifti", simulated), ("dicom", round_trip("ge").dicom.parent / "bids")):
        words = ("--participant-label", "01", "--fit", "closed", "--backend", "fsl", "--n-procs", 2)
        ended = chi33("run", bids, tmp_path / name, *words, environment=fsl.environment)
        assert ended.code == 0, ended.err
    nifti, dicom = (Derivatives(tmp_path / name, "01") for name in ("nifti", "dicom"))
    for scan in ("acq-ori01", "acq-ori02", "acq-ori03"):
        for desc, suffix in (("chi33", "Chimap"), ("cosmos", "Chimap"), ("deltab", "fieldmap")):
            expected, label = (
                nib.load(files.path(scan, suffix=suffix, desc=desc)).get_fdata() for files in (nifti, dicom)
            )
            assert np.abs(expected).max() > 1e-3
            np.testing.assert_allclose(label, expected, atol=1e-3)


def _synthetic(grid: ScanGrid) -> list[Echo]:
    x, y, z = (axis.astype(np.float32) for axis in np.meshgrid(*(np.arange(n) for n in grid.shape), indexing="ij"))
    magnitude = 1 + 0.3 * np.sin(x / 4) + 0.02 * y
    ramp = 0.2 * x + 0.1 * y - 0.15 * z + 0.01 * x * y
    return [
        Echo(number, time, magnitude * np.float32(np.exp(-time / 0.02)), np.angle(np.exp(1j * number * ramp)))
        for number, time in enumerate(TIMES, start=1)
    ]


@pytest.mark.parametrize("axcodes", ["RAS", "LPS", "LPI", "PSR", "RSA", "AIL"])
@pytest.mark.parametrize("vendor", VENDORS)
def test_any_slice_direction_keeps_voxels_in_place(tmp_path: Path, vendor: Vendor, axcodes: str) -> None:
    grid = scan_grid(
        (1.5, 1.25, 2), (3.3, -7.1, 11.9), matrix=(12, 16, 10), oblique=13, oblique_azimuth=40, axcodes=axcodes
    )
    echoes = _synthetic(grid)
    _write(tmp_path / "dicom", vendor, grid, echoes)
    (scan,) = convert_dicom(tmp_path / "dicom", tmp_path / "bids", subject="01").scans
    assert scan.echo_times == TIMES
    turns = []
    for echo, magnitude_path, phase_path in zip(echoes, scan.files[::2], scan.files[1::2], strict=True):
        magnitude, phase = (
            nib.as_closest_canonical(nib.Nifti1Image(volume, grid.affine)) for volume in (echo.magnitude, echo.phase)
        )
        np.testing.assert_allclose(nib.load(magnitude_path).affine, magnitude.affine, atol=1e-4)
        stored = nib.load(magnitude_path).get_fdata() / 1000
        np.testing.assert_allclose(stored, magnitude.get_fdata(), atol=1e-3)
        difference = np.exp(1j * (nib.load(phase_path).get_fdata() - phase.get_fdata()))
        turns.append(difference[0, 0, 0])
        assert np.abs(np.angle(difference * np.conj(turns[-1]))).max() < 4e-3
    assert np.abs(np.angle(np.array(turns) * np.conj(turns[0]))).max() < 4e-3
    if vendor != "ge":  # which of GE's slices were negative is a sign common to all
        assert abs(np.angle(turns[0])) < 4e-3


def _frames(folder: Path) -> Iterator[tuple[pydicom.Dataset, pydicom.Dataset, np.ndarray]]:
    """For each slice of a folder: what holds its position, its file, and its pixels (rows, columns)."""
    for path in sorted(folder.glob("*.dcm")):
        ds = pydicom.dcmread(path)
        if ds.SOPClassUID == MRImageStorage:
            yield ds, ds, ds.pixel_array
            continue
        assert ds.SOPClassUID == EnhancedMRImageStorage
        for frame, pixels in zip(ds.PerFrameFunctionalGroupsSequence, ds.pixel_array, strict=True):
            yield frame, ds, pixels


@pytest.mark.parametrize("vendor", VENDORS)
def test_headers_place_every_pixel(tmp_path: Path, vendor: Vendor) -> None:
    grid = scan_grid((1.5, 1.25, 2), (3.3, -7.1, 11.9), matrix=(12, 16, 10), oblique=20, oblique_azimuth=70)
    index = np.arange(np.prod(grid.shape)).reshape(grid.shape)
    echo = Echo(1, 0.005, (index / 1000).astype(np.float32), np.zeros(grid.shape, np.float32))
    _write(tmp_path, vendor, grid, [echo])
    seen = []
    for position, ds, pixels in _frames(tmp_path):
        magnitude = {"siemens": "M" in ds.ImageType, "ge": ds.get((0x0043, 0x102F)) and ds[0x0043, 0x102F].value == 0}
        if ds is not position:
            kind = position.MRImageFrameTypeSequence[0].ComplexImageComponent
            orientation = ds.SharedFunctionalGroupsSequence[0].PlaneOrientationSequence[0].ImageOrientationPatient
            spacing = ds.SharedFunctionalGroupsSequence[0].PixelMeasuresSequence[0].PixelSpacing
            origin = position.PlanePositionSequence[0].ImagePositionPatient
            is_magnitude = kind == "MAGNITUDE"
        else:
            orientation, spacing, origin = ds.ImageOrientationPatient, ds.PixelSpacing, ds.ImagePositionPatient
            is_magnitude = magnitude.get(vendor, "M" in ds.ImageType)
        if not is_magnitude:
            continue
        along_row, down_column = np.array(orientation, float).reshape(2, 3)
        rows, columns = np.mgrid[: pixels.shape[0], : pixels.shape[1]]
        lps = np.array(origin, float) + (
            columns[..., None] * float(spacing[1]) * along_row + rows[..., None] * float(spacing[0]) * down_column
        )
        voxels = nib.affines.apply_affine(np.linalg.inv(grid.affine), lps * [-1, -1, 1])
        nearest = np.rint(voxels).astype(int)
        np.testing.assert_allclose(voxels, nearest, atol=1e-5)
        scale = pixels.max() / index[tuple(np.moveaxis(nearest, -1, 0))].max()
        np.testing.assert_allclose(pixels, scale * index[tuple(np.moveaxis(nearest, -1, 0))], atol=1.6)
        assert along_row[0] > 0.9  # columns run to the left, rows to the back, as in a scanner's axial slices
        assert down_column[1] > 0.9
        seen.append(tuple(nearest[0, 0]))
    assert len(set(seen)) == grid.shape[2]


def test_philips_states_display_and_precise_values(tmp_path: Path) -> None:
    grid = scan_grid((2, 2, 2), (0, 0, 0), matrix=(12, 12, 8))
    echo = _synthetic(grid)[0]
    _write(tmp_path, "philips", grid, [echo])
    for path in sorted(tmp_path.glob("*.dcm")):
        ds = pydicom.dcmread(path)
        z = (int(ds.InstanceNumber) - 1) % grid.shape[2]
        slope, intercept = ds[0x2005, 0x100E].value, ds[0x2005, 0x100D].value
        precise = (ds.pixel_array - intercept) / slope
        if "P" in ds.ImageType:
            display = ds.pixel_array * float(ds.RescaleSlope) + float(ds.RescaleIntercept)
            np.testing.assert_allclose(precise[::-1, ::-1].T, echo.phase[..., z], atol=1e-3)
            np.testing.assert_allclose(display / 1000, precise, atol=1e-3)
        else:
            np.testing.assert_allclose(precise[::-1, ::-1].T, 1000 * echo.magnitude[..., z], atol=0.3)


def test_ge_alternates_and_says_what_each_image_is(tmp_path: Path) -> None:
    grid = scan_grid((2, 2, 2), (0, 0, 0), matrix=(12, 12, 8))
    echo = _synthetic(grid)[0]
    _write(tmp_path, "ge", grid, [echo])
    volumes: dict[int, list[np.ndarray]] = {}
    for path in sorted(tmp_path.glob("*.dcm")):
        ds = pydicom.dcmread(path)
        assert list(ds.ImageType) == ["ORIGINAL", "PRIMARY", "OTHER"]
        volumes.setdefault(ds[0x0043, 0x102F].value, []).append(ds.pixel_array[::-1, ::-1].T)
    assert volumes.keys() == {0, 2, 3}
    magnitude, real, imaginary = (np.stack(slices, axis=-1) for slices in volumes.values())
    signal = (real + 1j * imaginary).astype(np.complex64)
    assert alternating_axes(signal) == (2,)
    np.testing.assert_allclose(np.abs(signal), magnitude, atol=1.5)
    signs = np.array([1, -1] * 4)
    assert np.abs(np.angle(signal * signs * np.exp(-1j * echo.phase))).max() < 1e-3


@pytest.mark.parametrize("vendor", VENDORS)
def test_one_study_scans_minutes_apart_and_every_file_unique(tmp_path: Path, vendor: Vendor) -> None:
    grid = scan_grid((2, 2, 2), (0, 0, 0), matrix=(12, 12, 8))
    for folder in ("a", "b"):
        for number in (0, 1):
            _write(tmp_path / folder, vendor, grid, _synthetic(grid), number)
    headers = [pydicom.dcmread(path, stop_before_pixels=True) for path in sorted((tmp_path / "a").glob("*.dcm"))]
    parts = 3 if vendor == "ge" else 2
    assert len(headers) == (2 if vendor == "philips-enhanced" else 2 * parts * 8 * len(TIMES))
    assert len({ds.SOPInstanceUID for ds in headers}) == len(headers)
    assert len({ds.StudyInstanceUID for ds in headers}) == len({ds.FrameOfReferenceUID for ds in headers}) == 1
    assert len({ds.SeriesInstanceUID for ds in headers}) == (4 if vendor == "siemens" else 2)
    assert {ds.AcquisitionTime for ds in headers} == {"090000.000000", "091000.000000"}
    assert {float(ds.MagneticFieldStrength) for ds in headers} == {3.0}
    for path in (tmp_path / "a").iterdir():
        assert path.read_bytes() == (tmp_path / "b" / path.name).read_bytes()


def test_the_command_writes_what_convert_reads_even_in_place(
    tmp_path: Path, command: Callable[..., object], monkeypatch: pytest.MonkeyPatch
) -> None:
    build, heads = simulate_scans.living_head, []
    monkeypatch.setattr(
        simulate_scans, "living_head", lambda *asked: (heads or heads.append(build(*asked)) or heads)[0]
    )
    options = ("--orientations", 1, "--voxel", 6, "--echo-times", "5,12", "--seed", 4, "--snr", "inf", "--vendor", "ge")
    both, alone = tmp_path / "both", tmp_path / "alone"
    command("simulate", both, *options, "--format", "both")
    command("simulate", alone, *options, "--format", "dicom")
    assert not (alone / "sub-01").exists()
    for path in (both / "sourcedata" / "sub-01").iterdir():
        assert path.read_bytes() == (alone / "sourcedata" / "sub-01" / path.name).read_bytes()
    assert "as ge, lie in sourcedata" in (alone / "README").read_text()
    (scan,) = convert_dicom(alone / "sourcedata" / "sub-01", alone, subject="01").scans
    (nifti,), (converted,) = (find_subjects(folder)[0].scans for folder in (both, alone))
    assert converted.phase_sign == nifti.phase_sign == -1
    for echo in range(2):
        np.testing.assert_array_equal(load_magnitude(converted, echo), load_magnitude(nifti, echo))
        difference = load_phase(converted, echo) - load_phase(nifti, echo)
        constant = np.median(np.abs(difference))  # pi where the other half of the slices was negative
        assert min(constant, abs(constant - np.pi)) < 1e-6
        assert np.abs(np.angle(np.exp(1j * (difference - constant)))).max() < 1e-5
    truth = Derivatives(alone / "derivatives" / "truth", "01").path("acq-ori01", suffix="mask", desc="brain")
    np.testing.assert_allclose(nib.load(scan.files[0]).affine, nib.load(truth).affine, atol=1e-4)


OPTIONS = {
    "voxel": ("2",), "matrix": None, "echoes": 4, "echo_times": None, "field_strength": 3.0, "snr": 50.0,
    "phase_sign": None, "subjects": 1, "orientations": "6", "max_angle": 30.0, "oblique": 0.0, "axcodes": "RAS",
    "isotropic": False, "seed": 0,
}  # fmt: skip


def test_polarity_follows_the_vendor_unless_given() -> None:
    def sign(**change: object) -> int:
        return simulation_from_text(**{**OPTIONS, **change}).protocol.phase_sign

    assert sign() == sign(format="dicom") == sign(format="dicom", vendor="philips") == 1
    assert sign(format="both", vendor="ge") == sign(vendor="ge") == -1
    assert sign(format="both", vendor="ge", phase_sign=1) == 1
    assert sign(format="dicom", vendor="siemens", phase_sign=-1) == -1


def test_the_writer_is_loaded_only_for_dicom() -> None:
    script = (
        "import sys, chi33.workflows.simulate.dataset as s; assert 'chi33.workflows.simulate.dicom' not in sys.modules"
    )
    subprocess.run([sys.executable, "-P", "-c", script], check=True)


@pytest.mark.parametrize("vendor", VENDORS)
def test_nifti_files_hold_a_vendors_digits(vendor: Vendor) -> None:
    rng = np.random.default_rng(3)
    signal = rng.standard_normal((5, 6, 7)) + 1j * rng.standard_normal((5, 6, 7))
    echo = Echo(1, 0.01, np.abs(signal).astype(np.float32), np.angle(signal).astype(np.float32))
    images = list(stored_images(echo, vendor))
    held = digitised(echo, images, vendor)
    np.testing.assert_array_equal(held.magnitude, images[0].codes / np.float32(4000))
    error = np.abs(np.angle(np.exp(1j * (held.phase.astype(np.float64) - echo.phase))))
    step = {"siemens": np.pi / 4096, "ge": np.sqrt(0.5) / 4000 / echo.magnitude}.get(vendor, np.pi / 4095)
    assert (error <= 1.01 * step + 1e-6).all()
    assert error.max() > 1e-5


def test_vendors_and_formats_that_are_none_are_refused() -> None:
    with pytest.raises(InputError, match="vendor must be one of siemens, ge, philips, philips-enhanced, got 'toshiba'"):
        Simulation(vendor="toshiba")
    with pytest.raises(InputError, match="format must be one of nifti, dicom, both, got 'png'"):
        Simulation(format="png")
    assert get_args(Vendor) == VENDORS


def test_dicom_needs_more_disk() -> None:
    sizes = {name: replace(Simulation(), format=name).bytes_on_disk for name in ("nifti", "dicom", "both")}
    assert sizes["nifti"] < sizes["dicom"] < sizes["both"]
    assert replace(Simulation(), format="dicom", vendor="ge").bytes_on_disk > sizes["dicom"]


@pytest.mark.skipif(not PHILIPS.is_dir(), reason=f"the real scan {PHILIPS.name} is not in ../shared/data")
def test_a_real_philips_scan_is_the_same_as_an_enhanced_file(tmp_path: Path) -> None:
    convert_dicom(PHILIPS, tmp_path / "classic", subject="01")
    (classic,) = find_subjects(tmp_path / "classic")[0].scans
    image = nib.load(classic.phase[0])
    unit = load_magnitude(classic, 0).max() / 4
    echoes = _echoes(classic, 1, unit)
    _write(tmp_path / "dicom", "philips-enhanced", ScanGrid(image.shape, image.affine), echoes)
    assert len(list((tmp_path / "dicom").iterdir())) == 1
    convert_dicom(tmp_path / "dicom", tmp_path / "enhanced", subject="01")
    (enhanced,) = find_subjects(tmp_path / "enhanced")[0].scans
    assert enhanced.echo_times == classic.echo_times
    for echo in range(2):
        np.testing.assert_allclose(nib.load(enhanced.phase[echo]).affine, image.affine, atol=1e-4)
        magnitude = load_magnitude(classic, echo) / unit * 1000
        np.testing.assert_allclose(load_magnitude(enhanced, echo), magnitude, atol=0.13)
        difference = np.exp(1j * (load_phase(enhanced, echo) - load_phase(classic, echo)))
        assert np.abs(np.angle(difference)).max() < 2e-3
