"""Volumes on one grid, and the same voxels stored in another order."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from chi33.files.errors import InputError
from chi33.files.grids import on_grid_of, same_grid
from chi33.files.nifti import NiftiVolume, read_volume
from hypothesis import given
from hypothesis import strategies as st
from scipy.spatial.transform import Rotation

OBLIQUE = np.eye(4)
OBLIQUE[:3, :3] = Rotation.from_euler("xyz", (20, -15, 10), degrees=True).as_matrix() @ np.diag([1.0, 1.5, 2.0])
OBLIQUE[:3, 3] = -20, 5, 30
FIELD = NiftiVolume(Path("f.nii"), np.arange(4 * 5 * 6, dtype=np.float32).reshape(4, 5, 6), OBLIQUE, oriented=True)


@given(st.permutations([0, 1, 2]), st.tuples(*[st.sampled_from([1, -1])] * 3))
def test_the_same_voxels_in_any_order_come_back_exactly(order: list[int], senses: tuple[int, ...]) -> None:
    ornt = np.array([[axis, sense] for axis, sense in zip(order, senses, strict=True)], float)
    stored = nib.apply_orientation(FIELD.values, ornt)
    affine = FIELD.affine @ nib.orientations.inv_ornt_aff(ornt, FIELD.values.shape)
    found, said = on_grid_of(NiftiVolume(Path("m.nii"), stored, affine, oriented=True), FIELD)
    np.testing.assert_array_equal(found.values, FIELD.values)
    np.testing.assert_array_equal(found.affine, FIELD.affine)
    assert bool(said) is (tuple(order) != (0, 1, 2) or senses != (1, 1, 1))


def test_what_was_reordered_is_said() -> None:
    flipped = FIELD.affine @ np.diag([-1.0, 1, 1, 1])
    flipped[:3, 3] += FIELD.affine[:3, 0] * 3
    volume = NiftiVolume(Path("m.nii"), FIELD.values[::-1], flipped, oriented=True)
    found, said = on_grid_of(volume, FIELD)
    np.testing.assert_array_equal(found.values, FIELD.values)
    assert said == "m.nii is stored along LAS, but f.nii along RAS: its voxels were reordered."


def test_a_header_without_orientation_is_taken_on_the_field_s_grid() -> None:
    volume = NiftiVolume(Path("m.nii"), FIELD.values, np.diag([-1.0, 1.5, 2.0, 1.0]), oriented=False)
    found, said = on_grid_of(volume, FIELD)
    np.testing.assert_array_equal(found.affine, FIELD.affine)
    assert said == "m.nii states no orientation (sform and qform codes are 0): taken to lie on the grid of f.nii."


@pytest.mark.parametrize(("volume", "sentence"), [
    (replace(FIELD, values=FIELD.values[1:]), r"has shape \(3, 5, 6\), but f.nii has \(4, 5, 6\)"),
    (replace(FIELD, affine=OBLIQUE @ np.diag([1, 1, 1.1, 1])), r"lies elsewhere than f.nii \(.* up to 1 mm apart\)"),
    (replace(FIELD, affine=np.diag([1.0, 1.5, 2.0, 1.0])), "lies elsewhere than f.nii"),
    (replace(FIELD, affine=np.diag([1.0, 1.5, 0.0, 1.0])), "the affine of f.nii is singular"),
])  # fmt: skip
def test_other_voxels_are_refused(volume: NiftiVolume, sentence: str) -> None:
    with pytest.raises(InputError, match=sentence):
        on_grid_of(volume, FIELD)


def test_rounding_of_a_header_is_no_other_grid() -> None:
    assert same_grid(OBLIQUE + 1e-3, OBLIQUE, (4, 5, 6))
    assert not same_grid(OBLIQUE + np.array([[0, 0, 0, 0.3]] * 4), OBLIQUE, (4, 5, 6))


def test_one_volume_of_a_4d_file_is_read(tmp_path: Path) -> None:
    for shape in ((4, 5, 6, 1), (4, 5, 6, 1, 1)):
        nib.save(nib.Nifti1Image(FIELD.values.reshape(shape), OBLIQUE), tmp_path / "a.nii")
        found = read_volume(tmp_path / "a.nii")
        np.testing.assert_array_equal(found.values, FIELD.values)
        assert found.oriented
    for shape in ((4, 5, 3, 2), (20, 6)):
        nib.save(nib.Nifti1Image(FIELD.values.reshape(shape), OBLIQUE), tmp_path / "b.nii")
        with pytest.raises(InputError, match=r"b.nii has shape .*: give one 3-D volume"):
            read_volume(tmp_path / "b.nii")
    image = nib.Nifti1Image(FIELD.values, OBLIQUE)
    image.set_sform(OBLIQUE, code=0)
    image.set_qform(OBLIQUE, code=0)
    nib.save(image, tmp_path / "c.nii")
    assert not read_volume(tmp_path / "c.nii").oriented
