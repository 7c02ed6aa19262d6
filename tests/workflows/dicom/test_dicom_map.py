"""The mapping file of a conversion: what is proposed, what an edit does, and what is said of rows that cannot be."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pydicom
import pytest
from chi33.files.errors import InputError
from chi33.pipeline.phantom.acquisition import Echo, Protocol
from chi33.pipeline.phantom.poses import scan_grid
from chi33.workflows.dicom.convert import convert_dicom, plan_conversion
from chi33.workflows.dicom.map import COLUMNS
from chi33.workflows.raw.dataset import find_subjects
from chi33.workflows.simulate.dicom import ScanHeader, write_dicom_scan
from chi33.workflows.simulate.vendors import Vendor, stored_images

TIMES = (0.005, 0.012)
IMAGES = ("s2_e1", "s2_e2", "s3_e1_ph", "s3_e2_ph", "s4_e1", "s4_e2", "s5_e1_ph", "s5_e2_ph")
Edit = Callable[[dict[str, dict[str, str]]], None]


def _write_scan(folder: Path, number: int, oblique: float, vendor: Vendor = "siemens") -> None:
    grid = scan_grid((2, 2, 2), (0, 0, 0), matrix=(12, 10, 8), oblique=oblique)
    x, y, z = (axis.astype(np.float32) for axis in np.meshgrid(*(np.arange(n) for n in grid.shape), indexing="ij"))
    images = []
    for echo, time in enumerate(TIMES, start=1):
        phase = np.angle(np.exp(1j * echo * (0.3 * x + 0.2 * y - 0.1 * z + number))).astype(np.float32)
        images += stored_images(Echo(echo, time, 1 + x / 20, phase), vendor)
    write_dicom_scan(folder, ScanHeader(vendor, "01", 0, number, grid, Protocol(echo_times=TIMES)), images)


@pytest.fixture(scope="module")
def dicom(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two scans of two echoes; magnitude in series 2 and 4, phase in 3 and 5."""
    folder = tmp_path_factory.mktemp("map") / "dicom"
    for number, oblique in enumerate((0, 10)):
        _write_scan(folder, number, oblique)
    return folder


def _read(path: Path) -> dict[str, dict[str, str]]:
    header, *lines = path.read_text().splitlines()
    rows = [dict(zip(header.split("\t"), line.split("\t"), strict=True)) for line in lines]
    return {row["image"]: row for row in rows}


def _edited(dicom: Path, tmp_path: Path, edit: Edit) -> Path:
    """Plan, and let edit change the rows (by image)."""
    path = tmp_path / "scans.tsv"
    plan_conversion(dicom, tmp_path / "bids", subject="01", map_path=path)
    rows = _read(path)
    edit(rows)
    lines = ["\t".join(row.values()) for row in rows.values()]
    path.write_text("\n".join(["\t".join(COLUMNS), *lines]) + "\n")
    return path


def test_the_plan_lists_every_image_and_writes_nothing_else(dicom: Path, tmp_path: Path) -> None:
    path = tmp_path / "scans.tsv"
    plan = plan_conversion(dicom, tmp_path / "bids", subject="01", map_path=path)
    assert [found.name for found in tmp_path.iterdir()] == ["scans.tsv"]
    rows = _read(path)
    assert tuple(rows) == IMAGES
    assert tuple(plan.rows) == tuple(rows.values())
    assert rows["s3_e2_ph"] == {
        "image": "s3_e2_ph", "series": "3", "description": "GRE orientation 1", "start": "9:00:00",
        "matrix": "12x10x8", "voxel_mm": "2x2x2", "part": "phase", "echo_ms": "12", "session": "", "acq": "ori01",
        "note": "",
    }  # fmt: skip
    assert [row["acq"] for row in rows.values()] == ["ori01"] * 4 + ["ori02"] * 4


def test_an_unedited_map_converts_as_without_one(dicom: Path, tmp_path: Path) -> None:
    path = _edited(dicom, tmp_path, lambda rows: None)
    by_map = convert_dicom(dicom, tmp_path / "bids", subject="01", map_path=path)
    alone = convert_dicom(dicom, tmp_path / "alone", subject="01")
    assert by_map.unplaced == alone.unplaced == ()
    for one, other in zip(by_map.scans, alone.scans, strict=True):
        assert (one.label, one.series, one.notes) == (other.label, other.series, other.notes)
        for file, same in zip(one.files, other.files, strict=True):
            assert file.name == same.name
            assert file.read_bytes() == same.read_bytes()


def test_labels_parts_sessions_and_what_to_ignore_can_be_edited(dicom: Path, tmp_path: Path) -> None:
    def edit(rows: dict[str, dict[str, str]]) -> None:
        for name, row in rows.items():
            row |= {"session": "a", "acq": "neutral" if name in IMAGES[:4] else "acq-tilt", "echo_ms": row["echo_ms"]}
        rows["s4_e2"]["acq"] = rows["s5_e2_ph"]["acq"] = "Ignore"
        rows["s4_e2"]["note"] = "moved"
        for row in rows.values():
            row["part"] = row["part"].upper()

    path = _edited(dicom, tmp_path, edit)
    conversion = convert_dicom(dicom, tmp_path / "bids", subject="01", map_path=path)
    assert [(scan.label, scan.echo_times) for scan in conversion.scans] == [
        ("acq-neutral", TIMES),
        ("acq-tilt", TIMES[:1]),
    ]
    assert [one.reason for one in conversion.unplaced] == [
        "is ignored in scans.tsv (moved)",
        "is ignored in scans.tsv",
    ]
    (subject,) = find_subjects(tmp_path / "bids")
    assert [scan.name for scan in subject.scans] == ["ses-a_acq-neutral", "ses-a_acq-tilt"]


def test_rows_taken_out_are_images_ignored(dicom: Path, tmp_path: Path) -> None:
    def edit(rows: dict[str, dict[str, str]]) -> None:
        for name in IMAGES[4:]:
            del rows[name]

    path = _edited(dicom, tmp_path, edit)
    conversion = convert_dicom(dicom, tmp_path / "bids", subject="01", map_path=path)
    assert [scan.label for scan in conversion.scans] == ["acq-ori01"]
    assert {one.reason for one in conversion.unplaced} == {"is not listed in scans.tsv"}


def test_a_spreadsheet_may_save_it(dicom: Path, tmp_path: Path) -> None:
    path = _edited(dicom, tmp_path, lambda rows: rows["s2_e1"].update(echo_ms="5,0", description='"GRE, 1"'))
    text = path.read_text().replace("\n", "\t\t\r\n")
    path.write_bytes(b"\xef\xbb\xbf" + f"{text}\r\n\t\t\r\n".encode())
    assert len(convert_dicom(dicom, tmp_path / "bids", subject="01", map_path=path).scans) == 2


def test_a_map_can_place_what_headers_do_not_tell(tmp_path: Path) -> None:
    _write_scan(tmp_path / "dicom", 0, 0)
    for path in (tmp_path / "dicom").iterdir():
        ds = pydicom.dcmread(path)
        ds.ImageType = ["ORIGINAL", "PRIMARY", "M", "ND"]  # an export that calls all images magnitude
        if ds.EchoNumbers == 2:
            ds.EchoTime = None
        ds.save_as(path)
    with pytest.raises(InputError, match="holds no GRE scan with magnitude and phase"):
        convert_dicom(tmp_path / "dicom", tmp_path / "bids", subject="01")
    asked: dict[str, dict[str, str]] = {}

    def edit(rows: dict[str, dict[str, str]]) -> None:
        asked.update({name: dict(row) for name, row in rows.items()})
        for row in rows.values():
            row |= {
                "acq": "ori01",
                "part": "phase" if row["series"] == "3" else "mag",
                "echo_ms": row["echo_ms"] or "12",
            }

    path = _edited(tmp_path / "dicom", tmp_path, edit)
    assert {row["acq"] for row in asked.values()} == {"ignore"}
    assert {row["note"] for row in asked.values()} == {
        "has no phase image of the same grid and acquisition time: export the phase images too, or the real and "
        "imaginary ones",
        "states no echo time",
    }
    convert_dicom(tmp_path / "dicom", tmp_path / "bids", subject="01", map_path=path)
    (scan,) = find_subjects(tmp_path / "bids")[0].scans
    assert scan.echo_times == TIMES


def test_a_new_label_replaces_the_scan_under_its_old_one(dicom: Path, tmp_path: Path) -> None:
    convert_dicom(dicom, tmp_path / "bids", subject="01")
    path = _edited(dicom, tmp_path, lambda rows: [rows[name].update(acq="left") for name in IMAGES[:4]])
    with pytest.raises(InputError, match=r"holds acq-ori01 already: pass --overwrite to replace it\."):
        convert_dicom(dicom, tmp_path / "bids", subject="01", map_path=path)
    convert_dicom(dicom, tmp_path / "bids", subject="01", map_path=path, overwrite=True)
    (subject,) = find_subjects(tmp_path / "bids")
    assert [scan.label for scan in subject.scans] == ["acq-left", "acq-ori02"]


def _set(name: str, /, **cells: str) -> Edit:
    return lambda rows: rows[name].update(cells)


BAD = {
    "unknown image": (
        _set("s2_e2", image="s9_e1"),
        r"scans.tsv line 3: there is no image 's9_e1' in this DICOM folder",
    ),
    "image twice": (_set("s2_e2", image="s2_e1"), "line 3: s2_e1 is in line 2 already: take one of them out"),
    "other series": (_set("s2_e2", series="7"), "line 3: s2_e2 is of series 2, not 7: plan anew"),
    "no part": (_set("s3_e1_ph", part="angle"), "line 4: part must be one of mag, phase, real, imag, got 'angle'"),
    "bad label": (_set("s3_e1_ph", acq="a b"), r"line 4: acq must be letters and digits only, got 'a b' \(or ignore\)"),
    "no label": (_set("s3_e1_ph", acq=""), "line 4: acq must be letters and digits only, got ''"),
    "bad session": (_set("s3_e1_ph", session="a_1"), "line 4: session must be letters and digits only, got 'a_1'"),
    "bad echo time": (_set("s2_e1", echo_ms="five"), "line 2: echo_ms must be milliseconds above 0, got 'five'"),
    "other echo time": (
        _set("s2_e1", echo_ms="6"),
        "line 2: echo_ms is 6, but the DICOM states 5: keep what it states",
    ),
    "two magnitudes": (
        _set("s3_e1_ph", part="mag"),
        "lines 2 and 4: acq-ori01 has two mag images at 5 ms: give one another acq, or ignore",
    ),
    "no phase": (_set("s3_e1_ph", acq="ignore"), "line 2: acq-ori01 has no phase at 5 ms: place the phase image"),
    "no magnitude": (_set("s2_e1", acq="ignore"), "line 4: acq-ori01 has no magnitude at 5 ms: place the magnitude"),
    "other grid": (
        lambda rows: [rows[name].update(acq="one") for name in ("s2_e1", "s5_e1_ph")],
        "lines 2 and 8: acq-one has images of different grids: give them different acq",
    ),
    "session of some": (
        lambda rows: [rows[name].update(session="b") for name in IMAGES[:4]],
        "names a session for some scans only: name one for all of them, or for none",
    ),
    "nothing": (
        lambda rows: [row.update(acq="ignore") for row in rows.values()],
        "scans.tsv ignores every image: give those of one scan an acq label",
    ),
}


@pytest.mark.parametrize("case", BAD)
def test_rows_that_cannot_be_followed_are_told(dicom: Path, tmp_path: Path, case: str) -> None:
    edit, message = BAD[case]
    path = _edited(dicom, tmp_path, edit)
    with pytest.raises(InputError, match=message):
        convert_dicom(dicom, tmp_path / "bids", subject="01", map_path=path)
    assert not (tmp_path / "bids").exists()


def test_every_bad_row_has_its_sentence(dicom: Path, tmp_path: Path) -> None:
    def edit(rows: dict[str, dict[str, str]]) -> None:
        rows["s2_e1"]["part"] = "?"
        rows["s5_e2_ph"]["acq"] = "a-b"

    path = _edited(dicom, tmp_path, edit)
    with pytest.raises(InputError) as raised:
        convert_dicom(dicom, tmp_path / "bids", subject="01", map_path=path)
    lines = str(raised.value).splitlines()
    assert any("line 2: part" in line for line in lines)
    assert any("line 9: acq" in line for line in lines)


def test_an_image_that_can_be_no_echo_is_told(tmp_path: Path) -> None:
    _write_scan(tmp_path / "dicom", 0, 0)
    for path in (tmp_path / "dicom").iterdir():
        ds = pydicom.dcmread(path)
        ds.MagneticFieldStrength = None
        ds.save_as(path)
    path = _edited(tmp_path / "dicom", tmp_path, lambda rows: [row.update(acq="x") for row in rows.values()])
    with pytest.raises(InputError, match="line 2: s2_e1 states no field strength: set its acq to ignore"):
        convert_dicom(tmp_path / "dicom", tmp_path / "bids", subject="01", map_path=path)


def test_files_that_are_no_map_and_contradicting_options(dicom: Path, tmp_path: Path) -> None:
    path = tmp_path / "scans.tsv"
    with pytest.raises(InputError, match=r"scans.tsv is not there: write it with --plan, or leave --map out\."):
        convert_dicom(dicom, tmp_path / "bids", subject="01", map_path=path)
    path.write_text("image,acq\n")
    with pytest.raises(InputError, match="lacks the columns image, part, echo_ms, acq in its first line"):
        convert_dicom(dicom, tmp_path / "bids", subject="01", map_path=path)
    path.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(InputError, match="cannot be read as text: give a tab-separated table in UTF-8"):
        convert_dicom(dicom, tmp_path / "bids", subject="01", map_path=path)
    for option in ("session", "acq"):
        with pytest.raises(InputError, match=f"names sessions and scans itself: leave --{option} x out, or --map"):
            convert_dicom(dicom, tmp_path / "bids", subject="01", map_path=path, **{option: "x"})
    with pytest.raises(InputError, match=r"scans.tsv is there already: pass --overwrite to plan anew, or leave --plan"):
        plan_conversion(dicom, tmp_path / "bids", subject="01", map_path=path)
    with pytest.raises(InputError, match="none is not a folder: make it first, or choose another --map"):
        plan_conversion(dicom, tmp_path / "bids", subject="01", map_path=tmp_path / "none" / "scans.tsv")
    plan_conversion(dicom, tmp_path / "bids", subject="01", map_path=path, overwrite=True)
    assert tuple(_read(path)) == IMAGES


def test_planning_a_dataset_that_is_there_goes_on_numbering(dicom: Path, tmp_path: Path) -> None:
    _write_scan(tmp_path / "other", 5, 20)
    convert_dicom(tmp_path / "other", tmp_path / "bids", subject="01")
    plan = plan_conversion(dicom, tmp_path / "bids", subject="01", session="b")
    assert {(row["acq"], row["session"]) for row in plan.rows} == {("ori02", "b"), ("ori03", "b")}
    again = plan_conversion(tmp_path / "other", tmp_path / "bids", subject="01")
    assert {row["acq"] for row in again.rows} == {"ori01"}


def test_ge_parts_are_listed(tmp_path: Path) -> None:
    _write_scan(tmp_path / "dicom", 0, 0, "ge")
    plan = plan_conversion(tmp_path / "dicom", tmp_path / "bids", subject="01")
    assert sorted(row["part"] for row in plan.rows) == ["imag", "imag", "mag", "mag", "real", "real"]
    assert {row["acq"] for row in plan.rows} == {"ori01"}
