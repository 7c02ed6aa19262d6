from __future__ import annotations

import errno
import json
import os
import resource
import shutil
from collections import namedtuple
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from chi33.files import derivatives
from chi33.files.derivatives import (
    Derivatives,
    bids_keys,
    check_free_space,
    check_output_folder,
    is_complete,
    read_image,
    read_json,
    read_transform,
    sidecar_path,
    write_dataset_description,
    write_image,
    write_json,
    write_transform,
)
from chi33.files.errors import InputError, StepError
from scipy.spatial.transform import Rotation


def _oblique_affine(mirror: float = 1.0) -> np.ndarray:
    affine = np.eye(4)
    affine[:3, :3] = Rotation.from_euler("xyz", [12, -5, 8], degrees=True).as_matrix() @ np.diag([mirror, 0.9, 2.0])
    affine[:3, 3] = [-11.5, 4.25, 30.0]
    return affine


@pytest.fixture
def volume() -> np.ndarray:
    return np.random.default_rng(1).normal(size=(5, 6, 7)).astype(np.float32)


@pytest.mark.parametrize(
    ("arguments", "name"),
    [
        ({"label": "acq-ori01", "desc": "brain", "suffix": "mask"}, "sub-01_acq-ori01_desc-brain_mask.nii.gz"),
        ({"label": "acq-ori01", "desc": "local", "suffix": "fieldmap"}, "sub-01_acq-ori01_desc-local_fieldmap.nii.gz"),
        ({"space": "subject", "desc": "tensor", "suffix": "Chimap"}, "sub-01_space-subject_desc-tensor_Chimap.nii.gz"),
        (
            {"label": "acq-a_run-2", "desc": "chi33sd", "suffix": "Chimap", "ext": ".json"},
            "sub-01_acq-a_run-2_desc-chi33sd_Chimap.json",
        ),
    ],
)
def test_names_of_the_design(arguments: dict[str, str], name: str) -> None:
    assert Derivatives(Path("OUT"), "01").path(**arguments) == Path("OUT/sub-01/anat") / name


def test_names_with_session_transform_and_report() -> None:
    files = Derivatives(Path("OUT"), "01", "a")
    expected = "OUT/sub-01/ses-a/anat/sub-01_ses-a_acq-ori01_from-orig_to-subject_mode-image_xfm.txt"
    assert files.transform("acq-ori01") == Path(expected)
    assert files.report == Path("OUT/sub-01.html")


@pytest.mark.parametrize("mirror", [1.0, -1.0])
def test_image_round_trip_keeps_values_affine_and_header(tmp_path: Path, volume: np.ndarray, mirror: float) -> None:
    affine = _oblique_affine(mirror)
    path = write_image(tmp_path / "new" / "a_Chimap.nii.gz", volume, affine, {"Units": "ppm", "B0_dir": affine[2, :3]})
    read, read_affine = read_image(path)
    np.testing.assert_array_equal(read, volume)
    assert read.dtype == np.float32
    np.testing.assert_allclose(read_affine, affine, atol=1e-5)
    header = nib.load(path).header
    assert header.get_xyzt_units()[0] == "mm"
    assert int(header["qform_code"]) == int(header["sform_code"]) == 1
    np.testing.assert_allclose(nib.load(path).get_qform(), affine, atol=1e-4)
    assert read_json(sidecar_path(path)) == {"Units": "ppm", "B0_dir": affine[2, :3].tolist()}
    assert is_complete(path)
    assert sorted(p.name for p in path.parent.iterdir()) == ["a_Chimap.json", "a_Chimap.nii.gz"]


def test_components_are_last_on_disk_and_first_in_memory(tmp_path: Path) -> None:
    tensor = np.arange(6 * 3 * 4 * 5, dtype=np.float32).reshape(6, 3, 4, 5)
    path = write_image(tmp_path / "tensor.nii.gz", tensor, np.eye(4), {})
    assert nib.load(path).shape == (3, 4, 5, 6)
    np.testing.assert_array_equal(read_image(path)[0], tensor)


def test_mask_is_stored_as_bytes(tmp_path: Path, volume: np.ndarray) -> None:
    path = write_image(tmp_path / "mask.nii.gz", volume > 0, np.eye(4), {}, dtype=np.uint8)
    assert nib.load(path).get_data_dtype() == np.uint8
    np.testing.assert_array_equal(read_image(path)[0] > 0, volume > 0)


def test_same_input_gives_the_same_bytes(tmp_path: Path, volume: np.ndarray) -> None:
    first = write_image(tmp_path / "a.nii.gz", volume, np.eye(4), {}).read_bytes()
    second = write_image(tmp_path / "a.nii.gz", volume, np.eye(4), {}).read_bytes()
    assert first == second


def test_refuses_to_overwrite_when_told(tmp_path: Path, volume: np.ndarray) -> None:
    path = write_image(tmp_path / "a.nii.gz", volume, np.eye(4), {})
    with pytest.raises(InputError, match=r"a\.nii\.gz exists already: pass --overwrite"):
        write_image(path, volume * 2, np.eye(4), {}, overwrite=False)
    np.testing.assert_array_equal(read_image(path)[0], volume)


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT])
def test_full_disk_is_one_sentence_and_leaves_nothing(
    tmp_path: Path, volume: np.ndarray, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    def fill(image: nib.Nifti1Image, path: Path) -> None:
        Path(path).write_bytes(b"half an image")
        raise OSError(number, "No space left on device")

    monkeypatch.setattr(derivatives.nib, "save", fill)
    with pytest.raises(StepError, match=r"a\.nii\.gz cannot be written because the disk is full.*free some space"):
        write_image(tmp_path / "a.nii.gz", volume, np.eye(4), {})
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("ext", [".nii", ".nii.gz"])
def test_write_that_the_system_cuts_short_leaves_the_old_image(tmp_path: Path, ext: str) -> None:
    old = np.zeros((4, 4, 4), np.float32)
    path = write_image(tmp_path / f"a{ext}", old, np.eye(4), {})
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, hard))
    try:
        with pytest.raises(StepError, match="disk is full or a quota is reached"):
            write_image(path, np.random.default_rng(0).normal(size=(60, 60, 60)), np.eye(4), {})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    np.testing.assert_array_equal(read_image(path)[0], old)
    assert is_complete(path)
    assert sorted(file.name for file in tmp_path.iterdir()) == ["a.json", path.name]


def test_death_between_image_and_sidecar_leaves_an_incomplete_image(
    tmp_path: Path, volume: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write_image(tmp_path / "a.nii.gz", volume, np.eye(4), {"Units": "ppm"})
    monkeypatch.setattr(derivatives, "write_json", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        write_image(path, volume * 2, np.eye(4), {"Units": "ppm"})
    assert not is_complete(path)  # the old sidecar does not vouch for the new values


def test_refuses_values_that_are_not_finite(tmp_path: Path, volume: np.ndarray) -> None:
    volume[0, 0, 0] = np.nan
    with pytest.raises(StepError, match="NaN"):
        write_image(tmp_path / "a.nii.gz", volume, np.eye(4), {})
    assert list(tmp_path.iterdir()) == []


def test_refuses_other_axes_and_unwritable_folders(tmp_path: Path, volume: np.ndarray) -> None:
    with pytest.raises(StepError, match="shape"):
        write_image(tmp_path / "a.nii.gz", volume[0], np.eye(4), {})
    (tmp_path / "plain").touch()
    with pytest.raises(StepError, match="cannot be written"):
        write_json(tmp_path / "plain" / "a.json", {})
    with pytest.raises(TypeError, match="sidecar cannot hold"):
        write_json(tmp_path / "a.json", {"x": object()})


def test_read_image_names_what_is_wrong(tmp_path: Path, volume: np.ndarray) -> None:
    with pytest.raises(InputError, match="does not exist"):
        read_image(tmp_path / "none.nii.gz")
    (tmp_path / "text.nii").write_text("no image")
    with pytest.raises(InputError, match="damaged or no NIfTI"):
        read_image(tmp_path / "text.nii")
    large = np.random.default_rng(2).normal(size=(40, 40, 40))
    whole = write_image(tmp_path / "a.nii.gz", large, np.eye(4), {}).read_bytes()
    (tmp_path / "cut.nii.gz").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(InputError, match=r"cut\.nii\.gz is damaged: its data cannot be read to the end"):
        read_image(tmp_path / "cut.nii.gz")
    nib.save(nib.Nifti1Image(volume.astype(np.complex64), np.eye(4)), tmp_path / "complex.nii")
    with pytest.raises(InputError, match=r"complex64.*magnitude and phase apart"):
        read_image(tmp_path / "complex.nii")
    nib.save(nib.Nifti1Image(volume[0], np.eye(4)), tmp_path / "flat.nii")
    with pytest.raises(InputError, match="3-D image"):
        read_image(tmp_path / "flat.nii")
    nib.save(nib.MGHImage(volume, np.eye(4)), tmp_path / "other.mgz")
    with pytest.raises(InputError, match="not NIfTI"):
        read_image(tmp_path / "other.mgz")


def test_transform_round_trip_is_exact(tmp_path: Path) -> None:
    transform = np.eye(4)
    transform[:3, :3] = 1.01 * Rotation.from_euler("xyz", [33.3, -7.77, 0.1], degrees=True).as_matrix()
    transform[:3, 3] = np.pi * np.array([1, -10, 100])
    np.testing.assert_array_equal(read_transform(write_transform(tmp_path / "xfm.txt", transform)), transform)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("1 0 0\n0 1 0\n0 0 1\n", "finite 4x4"),
        ("1 0 0 0\n0 1 0 0\n0 0 1 0\n5 6 7 1\n", "transposed"),
        ("1 0 0 nan\n0 1 0 0\n0 0 1 0\n0 0 0 1\n", "finite 4x4"),
        ("a b\n", "is no matrix"),
    ],
)
def test_read_transform_refuses(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "xfm.txt").write_text(text)
    with pytest.raises(InputError, match=message):
        read_transform(tmp_path / "xfm.txt")
    with pytest.raises(InputError, match="4x4"):
        write_transform(tmp_path / "new.txt", np.eye(3))


def test_read_json_names_what_is_wrong(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text('{"EchoTime": ')
    with pytest.raises(InputError, match=r"a\.json cannot be read as JSON"):
        read_json(tmp_path / "a.json")
    (tmp_path / "b.json").write_text("[1, 2]")
    with pytest.raises(InputError, match="JSON object"):
        read_json(tmp_path / "b.json")


def test_dataset_description_names_its_maker(tmp_path: Path) -> None:
    from chi33 import __version__

    description = json.loads(write_dataset_description(tmp_path, source=Path("/data/raw")).read_text())
    assert description["DatasetType"] == "derivative"
    assert description["GeneratedBy"] == [{"Name": "chi33", "Version": __version__}]
    assert description["SourceDatasets"] == [{"URL": "raw"}]


def test_raw_data_sets_get_no_notes_of_derivatives(tmp_path: Path) -> None:
    write_dataset_description(tmp_path, dataset_type="raw")
    assert [path.name for path in tmp_path.iterdir()] == ["dataset_description.json"]


def test_sidecars_state_what_bids_requires_by_name() -> None:
    assert bids_keys(Path("sub-01_acq-ori01_desc-chi33_Chimap.nii.gz")) == {"SkullStripped": True}
    assert bids_keys(Path("sub-01_acq-ori01_desc-magnitude_MEGRE.nii.gz")) == {"SkullStripped": False}
    assert bids_keys(Path("sub-01_acq-ori01_desc-brain_mask.nii.gz")) == {}
    assert bids_keys(Path("sub-01_acq-ori01_from-orig_to-subject_mode-image_xfm.txt")) == {}
    assert bids_keys(Path("sub-01_space-subject_desc-local_mask.nii.gz")).keys() == {"SpatialReference"}
    assert bids_keys(Path("sub-01_space-subject_desc-tensor_Chimap.nii.gz")).keys() == {
        "SkullStripped",
        "SpatialReference",
    }


def test_free_space(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    check_free_space(tmp_path / "not" / "yet", 1)
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage(10**10, 10**10 - 10**9, 10**9))
    check_free_space(tmp_path, 10**9)
    with pytest.raises(InputError, match=r"1\.0 GB free but about 2\.0 GB are needed: free some space"):
        check_free_space(tmp_path / "out", 2 * 10**9)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage(10**10, 10**10, 0))
    with pytest.raises(InputError, match=r"out has 0\.0 MB free but about 23\.0 MB are needed"):
        check_free_space(tmp_path / "out", 23 * 10**6)


def test_output_folder_is_made_and_may_be_ours(tmp_path: Path) -> None:
    bids = tmp_path / "bids"
    bids.mkdir()
    assert check_output_folder(tmp_path / "a" / "out", bids).is_dir()
    assert check_output_folder(bids / "derivatives" / "chi33", bids).is_dir()
    write_dataset_description(tmp_path / "a" / "out")
    found = {path.name for path in check_output_folder(tmp_path / "a" / "out").iterdir()}
    assert found == {"dataset_description.json", ".bidsignore", "README"}


def test_a_read_only_output_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(path: Path, *_: object, **__: object) -> None:
        raise OSError(errno.EROFS, os.strerror(errno.EROFS), str(path))

    monkeypatch.setattr(Path, "touch", refused)
    with pytest.raises(InputError, match=r"out cannot be written \(Read-only file system\): choose another folder\.$"):
        check_output_folder(tmp_path / "out")


def test_output_folder_refusals(tmp_path: Path) -> None:
    bids = tmp_path / "data" / "bids"
    bids.mkdir(parents=True)
    with pytest.raises(InputError, match="also the input dataset"):
        check_output_folder(bids, bids)
    with pytest.raises(InputError, match=r"lies inside the input dataset: write to .*derivatives"):
        check_output_folder(bids / "out", bids)
    with pytest.raises(InputError, match="contains the input dataset"):
        check_output_folder(tmp_path / "data", bids)
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match="is a file"):
        check_output_folder(tmp_path / "file")
    with pytest.raises(InputError, match="cannot be written"):
        check_output_folder(tmp_path / "file" / "below")
    other = tmp_path / "other"
    other.mkdir()
    (other / "dataset_description.json").write_text('{"GeneratedBy": [{"Name": "fmriprep"}]}')
    with pytest.raises(InputError, match="made by fmriprep"):
        check_output_folder(other)
