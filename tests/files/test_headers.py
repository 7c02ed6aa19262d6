from __future__ import annotations

from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from chi33.files.b0_direction import b0_direction_of
from chi33.files.errors import InputError
from chi33.files.headers import direction_problem
from chi33.files.nifti import open_image, read_image, read_volume
from scipy.spatial.transform import Rotation

AFFINE = np.diag([-1.2, 1.0, 2.0, 1.0]) + np.array([[0, 0, 0, 30], [0, 0, 0, -20], [0, 0, 0, 7.5], [0, 0, 0, 0]])
VALUES = np.arange(24, dtype=np.float32).reshape(2, 3, 4)


def image_of(affine: np.ndarray, unit: str | None = "mm") -> nib.Nifti1Image:
    image = nib.Nifti1Image(VALUES, affine)
    if unit is not None:
        image.header.set_xyzt_units(unit)
    return image


@pytest.mark.parametrize(("unit", "factor"), [("mm", 1.0), (None, 1.0), ("meter", 1e-3), ("micron", 1e3)])
@pytest.mark.parametrize("code", ["sform", "qform", "both"])
def test_lengths_are_read_in_millimetres(tmp_path: Path, unit: str | None, factor: float, code: str) -> None:
    stored = np.diag([factor] * 3 + [1.0]) @ AFFINE
    image = image_of(stored, unit)
    image.set_sform(stored, code=0 if code == "qform" else 1)
    image.set_qform(stored, code=0 if code == "sform" else 1)
    nib.save(image, tmp_path / "a.nii.gz")
    values, affine = read_image(tmp_path / "a.nii.gz")
    np.testing.assert_allclose(affine, AFFINE, atol=1e-4)
    np.testing.assert_array_equal(values, VALUES)
    opened = open_image(tmp_path / "a.nii.gz")
    np.testing.assert_allclose(opened.header.get_zooms(), (1.2, 1.0, 2.0), rtol=1e-5)
    assert opened.header.get_xyzt_units()[0] in ("mm", "unknown")
    assert (int(opened.header["sform_code"]) > 0) == (code != "qform")
    assert (int(opened.header["qform_code"]) > 0) == (code != "sform")


@pytest.mark.parametrize(
    ("edge", "unit", "words"),
    [
        (1.0, "meter", r"voxels of 1.2e\+03 x 1e\+03 x 2e\+03 mm \(its header states metres\): its numbers fit mm"),
        (1.0, "micron", r"states microns\): its numbers fit mm"),
        (0.001, "mm", r"states mm\): its numbers fit metres"),
        (1000.0, None, r"states no unit, which is read as mm\): its numbers fit microns"),
        (20.0, "mm", r"voxels of 24 x 20 x 40 mm .*: correct xyzt_units"),
    ],
)
def test_voxels_no_head_is_scanned_with_are_refused(tmp_path: Path, edge: float, unit: str | None, words: str) -> None:
    nib.save(image_of(np.diag([edge] * 3 + [1.0]) @ AFFINE, unit), tmp_path / "a.nii")
    with pytest.raises(InputError, match=words):
        read_image(tmp_path / "a.nii")


def moved(angle: float, shift: float = 0.0) -> np.ndarray:
    matrix = np.eye(4)
    matrix[:3, :3] = Rotation.from_euler("x", angle, degrees=True).as_matrix()
    matrix[:3, 3] = shift
    return matrix @ AFFINE


@pytest.mark.parametrize(("sform", "qform"), [(1, 1), (2, 1), (1, 2), (2, 2), (4, 1), (2, 0), (1, 0), (0, 1)])
def test_matrices_that_agree_are_harmless_whatever_their_codes(sform: int, qform: int) -> None:
    image = image_of(AFFINE)
    image.set_sform(moved(0.05, shift=4.0), code=sform)
    image.set_qform(AFFINE, code=qform)
    assert direction_problem(image) == ""


@pytest.mark.parametrize("angle", [2.0, -17.0, 90.0])
@pytest.mark.parametrize("codes", [(1, 1), (2, 1), (4, 1)])
def test_matrices_that_differ_by_a_rotation_do_not_tell_b0(angle: float, codes: tuple[int, int]) -> None:
    image = image_of(AFFINE)
    image.set_sform(moved(angle), code=codes[0])
    image.set_qform(AFFINE, code=codes[1])
    assert f"differ by a rotation of {abs(angle):.1f} degrees" in direction_problem(image)


def test_a_mirrored_matrix_and_a_normalised_space_alone_do_not_tell_b0() -> None:
    image = image_of(AFFINE)
    image.set_sform(AFFINE @ np.diag([-1, 1, 1, 1]), code=1)
    image.set_qform(AFFINE, code=1)
    assert "180.0 degrees" in direction_problem(image)
    image.set_sform(AFFINE, code=4)
    image.set_qform(None, code=0)
    assert "only a sform of MNI space" in direction_problem(image)


def test_b0_is_not_taken_from_matrices_that_disagree(tmp_path: Path) -> None:
    """Of a field, a local map, anything that is read with its direction; a stated direction settles it."""
    image = image_of(AFFINE)
    image.set_sform(moved(9.0), code=2)
    image.set_qform(AFFINE, code=1)
    nib.save(image, tmp_path / "field.nii.gz")
    volume = read_volume(tmp_path / "field.nii.gz")
    with pytest.raises(InputError, match=r"field\.nii\.gz has a sform and a qform that differ by a rotation of 9\.0"):
        b0_direction_of(volume, {})
    stated, _ = b0_direction_of(volume, {"B0_dir": [0, 0, 1]})
    np.testing.assert_array_equal(stated, [0, 0, 1])
