from __future__ import annotations

from pathlib import Path

import cyclopts
import pytest
from chi33.cli.convert import convert
from chi33.files.maps.field_strength import FieldStrength
from chi33.workflows.dicom import convert as conversion
from chi33.workflows.dicom.conversion import Unplaced
from chi33.workflows.dicom.convert import Conversion, ConversionPlan, ConvertedScan
from chi33.workflows.dicom.map import COLUMNS

PHILIPS = Path(__file__).resolve().parents[3] / "shared" / "data" / "philips-gre-dicom"


@pytest.fixture
def app() -> cyclopts.App:
    app = cyclopts.App(name="chi33", result_action="return_value")
    app.command(convert)
    return app


def test_options_reach_the_conversion_and_its_outcome_is_printed(
    app: cyclopts.App, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    calls = []

    def record(*folders: Path, **options: object) -> Conversion:
        calls.append((folders, options))
        field = FieldStrength(6.98, 7.0, "ImagingFrequency")
        file = Path("sub-01_acq-ori01_part-mag_MEGRE.nii.gz")
        scan = ConvertedScan("acq-ori01", (file,), (3, 4), (8, 9, 10), (1.0, 1.0, 2.0), (0.005,), field, ("a note",))
        return Conversion(
            (scan,), (Unplaced("series 1 (scout)", "has no phase image", "export it too"),), ("Warning: look here",)
        )

    monkeypatch.setattr(conversion, "convert_dicom", record)
    app(["convert", "DICOM", "BIDS", "--subject", "01", "--phase-range", "-4096,4096", "--phase-sign", "-1"])
    ((folders, options),) = calls
    assert folders == (Path("DICOM"), Path("BIDS"))
    assert options == {
        "subject": "01",
        "session": None,
        "acq": None,
        "map_path": None,
        "phase_range": (-4096.0, 4096.0),
        "phase_sign": -1,
        "overwrite": False,
    }
    printed = capsys.readouterr().out
    assert (
        "acq-ori01, series: 3, 4, matrix: 8x9x10, voxel (mm): 1x1x2, echo times (ms): 5, B0 (T): 6.98 (nominal 7)"
        in printed
    )
    assert "Not placed: series: series 1 (scout), reason: has no phase image: export it too" in printed
    assert "dcm2niix: Warning: look here" in printed
    assert "1 images of 1 scans written to BIDS" in printed


def test_a_plan_is_shown_and_nothing_converted(
    app: cyclopts.App, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    calls = []

    def record(*folders: Path, **options: object) -> ConversionPlan:
        calls.append((folders, options))
        row = {**dict.fromkeys(COLUMNS, ""), "image": "s1", "part": "mag", "acq": "ignore", "note": "has no phase"}
        return ConversionPlan((row,), ("Warning: look here",))

    monkeypatch.setattr(conversion, "plan_conversion", record)
    monkeypatch.setattr(conversion, "convert_dicom", None)
    app(["convert", "DICOM", "BIDS", "--subject", "01", "--map", "scans.tsv", "--plan", "--overwrite"])
    ((folders, options),) = calls
    assert folders == (Path("DICOM"), Path("BIDS"))
    assert options == {
        "subject": "01", "session": None, "acq": None, "map_path": Path("scans.tsv"), "overwrite": True,
    }  # fmt: skip
    printed = capsys.readouterr().out
    assert "Planned: image: s1, part: mag, acq: ignore, note: has no phase" in printed
    assert "dcm2niix: Warning: look here" in printed
    assert "1 images listed in scans.tsv: edit part, session and acq, then convert with --map scans.tsv" in printed
    app(["convert", "DICOM", "BIDS", "--subject", "01", "--plan"])
    assert "listed" not in capsys.readouterr().out


def test_help_names_every_option(app: cyclopts.App, capsys: pytest.CaptureFixture[str]) -> None:
    app(["convert", "--help"])
    text = capsys.readouterr().out
    for option in (
        "--subject",
        "--session",
        "--acq",
        "--map",
        "--plan",
        "--phase-range",
        "--phase-sign",
        "--overwrite",
    ):
        assert option in text


@pytest.mark.skipif(not PHILIPS.is_dir(), reason=f"the real scan {PHILIPS.name} is not in ../shared/data")
def test_a_real_scan_by_its_map(app: cyclopts.App, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["convert", str(PHILIPS), str(tmp_path / "bids"), "--subject", "01", "--map", str(tmp_path / "scans.tsv")]
    app([*words, "--plan"])
    assert "4 images listed in" in capsys.readouterr().out
    table = (tmp_path / "scans.tsv").read_text()
    assert "s2001_e2_ph\t2001\tfcMRI Field Mapping\t" in table
    (tmp_path / "scans.tsv").write_text(table.replace("ori01", "neutral"))
    app(words)
    assert "Converted: scan: acq-neutral, series: 2001, matrix: 80x80x53" in capsys.readouterr().out
    assert len(list((tmp_path / "bids" / "sub-01" / "anat").glob("*acq-neutral*.nii.gz"))) == 4


@pytest.mark.skipif(not PHILIPS.is_dir(), reason=f"the real scan {PHILIPS.name} is not in ../shared/data")
def test_real_scan(app: cyclopts.App, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    app(["convert", str(PHILIPS), str(tmp_path / "bids"), "--subject", "01", "--session", "a", "--acq", "neutral"])
    names = sorted(path.name for path in (tmp_path / "bids" / "sub-01" / "ses-a" / "anat").glob("*.nii.gz"))
    stem = "sub-01_ses-a_acq-neutral_echo-{}_part-{}_MEGRE.nii.gz"
    assert names == [stem.format(echo, part) for echo in (1, 2) for part in ("mag", "phase")]
    assert "echo times (ms): 2.3, 4.6, B0 (T): 3" in capsys.readouterr().out
