"""Of a subject with a manifest its files are read and no stale ones; without one, whatever is named right."""

from __future__ import annotations

import json
import os
import shutil
import warnings
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from chi33.datasets.build import tasks as build_tasks
from chi33.datasets.build.build import BuildConfig, build_store
from chi33.datasets.build.derivatives_finder import find_derivatives
from chi33.datasets.build.derivatives_reader import read_scan, read_tensor
from chi33.datasets.export.export import export_store
from chi33.datasets.store.schema import open_store
from chi33.files.errors import Chi33Warning, InputError, StepError
from chi33.files.manifest import Manifest, manifest_path

AFFINE = np.array([[-2.0, 0, 0, 25], [0, 2, 0, -30], [0, 0, 2, -20], [0, 0, 0, 1]])
CONFIG = BuildConfig(patch_size=10, patches_per_scan=5)


def write_manifest(folder: Path, subject: str, *, fit: str = "masked", leave_out: str = "") -> Path:
    """List a subject's files as a run does: all, or all but those whose names hold leave_out."""
    files = [path for path in (folder / f"sub-{subject}").rglob("*") if path.is_file()]
    listed = [path for path in files if not leave_out or leave_out not in path.name]
    path = manifest_path(folder, subject)
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps(Manifest.of(folder, subject, listed, {"Fit": fit}).content))
    return path


def names(folder: Path) -> list[str]:
    return [scan.id for subject in find_derivatives(folder) for scan in subject.scans]


def test_maps_of_a_scan_that_was_taken_away_are_not_read(make_derivatives, tmp_path: Path) -> None:
    folder = make_derivatives(2, 3)
    write_manifest(folder, "01", leave_out="acq-ori02")
    assert names(folder) == [
        "sub-01/acq-ori01", "sub-01/acq-ori03", "sub-02/acq-ori01", "sub-02/acq-ori02", "sub-02/acq-ori03"
    ]  # fmt: skip
    build_store(folder, tmp_path / "s.h5", CONFIG)
    assert "sub-01/acq-ori02" not in [volume.id for volume in open_store(tmp_path / "s.h5").volumes]


def test_a_label_or_tensor_of_an_earlier_fit_is_not_read(make_derivatives) -> None:
    folder = make_derivatives(1, 2)
    write_manifest(folder, "01", leave_out="desc-tensor")
    assert set(find_derivatives(folder)[0].space) == {"cosmos", "mask"}
    write_manifest(folder, "01", leave_out="desc-chi33_")
    with pytest.raises(InputError, match=r"lacks sub-01_acq-ori01_desc-chi33_Chimap.nii.gz: repeat `chi33 run`"):
        find_derivatives(folder)


def test_a_subject_that_was_run_without_a_fit_has_no_labels(make_derivatives) -> None:
    folder = make_derivatives(3)
    write_manifest(folder, "02", fit="none")
    with pytest.warns(Chi33Warning, match=r"Left out, sub-02 in .* has no labels, as the last `chi33 run` was with"):
        found = find_derivatives(folder)
    assert [subject.subject for subject in found] == ["01", "03"]
    for subject in ("01", "03"):
        write_manifest(folder, subject, fit="none")
    with pytest.raises(InputError, match=r"^sub-01, sub-02, sub-03 in .* have no labels, .* --fit none: repeat it"):
        find_derivatives(folder)


def test_a_subject_whose_last_run_did_not_end_is_left_out(make_derivatives) -> None:
    folder = make_derivatives(2)
    write_manifest(folder, "02", leave_out="sub-")  # as while it is at work, or when it was killed
    with pytest.warns(Chi33Warning, match=r"Left out, sub-02 in .* has no labels, as the last `chi33 run` did not end"):
        found = find_derivatives(folder)
    assert [subject.subject for subject in found] == ["01"]
    write_manifest(folder, "01", fit="none")
    with pytest.raises(InputError, match=r"sub-01 in .* was with --fit none: .*; sub-02 in .* did not end: repeat it."):
        find_derivatives(folder)


def test_a_listed_map_that_is_missing_is_named(make_derivatives) -> None:
    folder = make_derivatives(1, 2)
    listed = write_manifest(folder, "01")
    gone = folder / "sub-01/anat/sub-01_acq-ori02_desc-deltab_fieldmap.nii.gz"
    gone.unlink()
    with pytest.raises(
        InputError, match=rf"^{gone} is missing, though {listed} lists it: repeat `chi33 run` for sub-01"
    ):
        find_derivatives(folder)
    (folder / "sub-01/anat/sub-01_acq-ori02_desc-total_fieldmap.nii.gz").unlink()  # no map of a store
    shutil.copy(folder / "sub-01/anat/sub-01_acq-ori01_desc-deltab_fieldmap.nii.gz", gone)
    assert len(names(folder)) == 2


def test_a_damaged_manifest_is_refused(make_derivatives) -> None:
    folder = make_derivatives(1)
    write_manifest(folder, "01").write_text('{"Version": 1')
    with pytest.raises(InputError, match=r"sub-01_manifest.json is no manifest of a run .* repeat `chi33 run`"):
        find_derivatives(folder)


def test_files_that_macos_leaves_beside_maps_are_no_maps(make_derivatives, tmp_path: Path) -> None:
    folder = make_derivatives(2)
    build_store(folder, tmp_path / "plain.h5", CONFIG)
    for path in list(folder.rglob("*.nii.gz")) + list(folder.rglob("*.json")):
        path.with_name(f"._{path.name}").write_bytes(b"\x00\x05\x16\x07" + bytes(60))
    (folder / "._sub-01").write_bytes(bytes(10))
    hidden = folder / "sub-01/.cache"
    shutil.copytree(folder / "sub-01/anat", hidden)
    build_store(folder, tmp_path / "s.h5", CONFIG)
    assert open_store(tmp_path / "s.h5").content_hash == open_store(tmp_path / "plain.h5").content_hash


def test_sessions_may_be_the_head_orientations(make_derivatives) -> None:
    folder = make_derivatives(1)
    for path in sorted((folder / "sub-01/anat").glob("*acq-ori*")):
        number = path.name.partition("acq-ori0")[2][0]
        moved = folder / f"sub-01/ses-{number}/anat"
        moved.mkdir(parents=True, exist_ok=True)
        path.rename(moved / path.name.replace("acq-ori0", "ses-"))
    assert names(folder) == ["sub-01/ses-1", "sub-01/ses-2"]


def test_a_scan_without_a_name_of_its_own_survives_store_and_export(make_derivatives, tmp_path: Path) -> None:
    folder = make_derivatives(2, 1)
    for path in sorted(folder.rglob("*_acq-ori01*")):
        path.rename(path.with_name(path.name.replace("_acq-ori01", "")))
    assert names(folder) == ["sub-01/scan", "sub-02/scan"]
    build_store(folder, tmp_path / "s.h5", CONFIG)
    export_store(open_store(tmp_path / "s.h5"), tmp_path / "bids", "bids")
    again = read_scan(find_derivatives(tmp_path / "bids")[0].scans[0])
    np.testing.assert_array_equal(
        again.channels["chi33"], read_scan(find_derivatives(folder)[0].scans[0]).channels["chi33"]
    )
    (folder / "sub-01/anat/sub-01_desc-deltab_fieldmap.nii.gz").unlink()
    with pytest.raises(InputError, match=r"lacks sub-01_desc-deltab_fieldmap.nii.gz"):
        find_derivatives(folder)


def test_a_mask_of_another_image_of_the_subject_is_no_scan(make_derivatives) -> None:
    folder = make_derivatives(1)
    anat = folder / "sub-01/anat"
    for name in ("sub-01_desc-brain_mask", "sub-01_ses-1_desc-brain_mask"):
        shutil.copy(anat / "sub-01_acq-ori01_desc-brain_mask.nii.gz", anat / f"{name}.nii.gz")
    assert names(folder) == ["sub-01/acq-ori01", "sub-01/acq-ori02"]


@pytest.mark.parametrize(
    ("stated", "expected"),
    [
        ({"MagneticFieldStrength": 3, "ImagingFrequency": 123.255}, 2.894844),
        ({"MagneticFieldStrength": 3.0, "ImagingFrequency": 51.7}, 3.0),  # of another nucleus
        ({"MagneticFieldStrength": 2.894844, "MagneticFieldStrengthSource": "ImagingFrequency"}, 2.894844),
        ({"MagneticFieldStrength": None}, float("nan")),
    ],
)
def test_the_field_strength_is_the_one_that_the_scanner_ran_at(make_derivatives, stated: dict, expected: float) -> None:
    folder = make_derivatives(1, 2)
    for name in ("acq-ori01_desc-local_fieldmap", "space-subject_desc-tensor_Chimap"):
        (folder / f"sub-01/anat/sub-01_{name}.json").write_text(json.dumps({"Units": "ppm", **stated}))
    found = find_derivatives(folder)[0]
    np.testing.assert_allclose(read_scan(found.scans[0]).geometry.b0, expected, rtol=1e-4)
    np.testing.assert_allclose(read_tensor(found).geometry.b0, expected, rtol=1e-4)
    assert read_scan(found.scans[1]).geometry.b0 == 3.0  # heads of several scanners share a store


def stop_at(step: int):
    def progress(done: int, total: int, what: str) -> None:
        if done == step:
            raise KeyboardInterrupt

    return progress


def test_a_resumed_build_notices_other_maps_of_the_same_size_and_time(
    make_derivatives, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, path = make_derivatives(2, 2), tmp_path / "s.h5"
    chi = folder / "sub-01/anat/sub-01_acq-ori01_desc-chi33_Chimap.nii"
    image = nib.Nifti1Image(np.asarray(nib.load(f"{chi}.gz").dataobj), AFFINE)
    nib.save(image, chi)
    Path(f"{chi}.gz").unlink()
    with pytest.raises(KeyboardInterrupt):
        build_store(folder, path, CONFIG, progress=stop_at(2))
    times = chi.stat().st_atime_ns, chi.stat().st_mtime_ns
    changed = np.asarray(image.dataobj) * np.float32(1.5)
    nib.save(nib.Nifti1Image(changed, AFFINE), chi)
    os.utime(chi, ns=times)
    build_store(folder, path, CONFIG)
    with open_store(path).open() as handle:
        np.testing.assert_array_equal(handle["volumes/sub-01/acq-ori01/chi33"][()], changed)


def test_a_resumed_build_notices_a_manifest(make_derivatives, tmp_path: Path) -> None:
    folder, path = make_derivatives(2, 2), tmp_path / "s.h5"
    with pytest.raises(KeyboardInterrupt):
        build_store(folder, path, CONFIG, progress=stop_at(5))
    write_manifest(folder, "01", leave_out="acq-ori02")
    build_store(folder, path, CONFIG)
    assert [v.id for v in open_store(path, verify=True).of_split("train")] == ["sub-01/acq-ori01"]


def test_maps_that_change_while_they_are_read_end_the_build(
    make_derivatives, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = make_derivatives(2, 2)
    original = build_tasks.check_finite

    def rewrite(name: str, channels) -> None:
        os.utime(folder / "sub-01/anat/sub-01_acq-ori02_desc-chi33_Chimap.nii.gz")
        original(name, channels)

    monkeypatch.setattr(build_tasks, "check_finite", rewrite)
    with warnings.catch_warnings(), pytest.raises(StepError, match="the maps of sub-01 changed while they were read"):
        build_store(folder, tmp_path / "s.h5", CONFIG)
    assert not (tmp_path / "s.h5").exists()
