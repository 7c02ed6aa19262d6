"""B0 in an array: by hand, else by the sidecar, else by the affine."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
from chi33.files.b0_direction import b0_direction_of
from chi33.files.errors import InputError
from chi33.files.nifti import NiftiVolume, read_volume

COS, SIN = np.cos(np.radians(30)), np.sin(np.radians(30))
AFFINE = np.array([[2.0, 0, 0, 0], [0, 2 * COS, -2 * SIN, 0], [0, 2 * SIN, 2 * COS, 0], [0, 0, 0, 1]])
IMAGE = NiftiVolume(Path("f.nii.gz"), np.zeros((2, 2, 2), np.float32), AFFINE, oriented=True)


def test_by_hand_then_by_sidecar_then_by_affine() -> None:
    stated = {"B0_dir": [0, 0, 1]}
    np.testing.assert_allclose(b0_direction_of(IMAGE, {})[0], [0, SIN, COS], atol=1e-12)
    assert b0_direction_of(IMAGE, stated)[0].tolist() == [0, 0, 1]
    h, said = b0_direction_of(IMAGE, stated, (0, 0.6, 0.8), "--b0-directions")
    assert h.tolist() == [0, 0.6, 0.8]
    assert said == (
        "--b0-directions is 36.9 degrees from the B0_dir that the sidecar of f.nii.gz states: --b0-directions is used."
    )
    assert b0_direction_of(IMAGE, stated, (0, 0, 1))[1] == ""
    assert b0_direction_of(IMAGE, {}, (0, 0.6, 0.8))[1] == ""


def test_matrices_that_contradict_one_another_need_a_stated_direction(tmp_path: Path) -> None:
    image = nib.Nifti1Image(IMAGE.values, AFFINE)
    image.set_qform(np.diag([2.0, 2, 2, 1]), code=1)
    image.set_sform(AFFINE, code=1)
    nib.save(image, tmp_path / "f.nii")
    found = read_volume(tmp_path / "f.nii")
    with pytest.raises(InputError, match=r"f.nii has a sform and a qform that differ by a rotation of 30.0 degrees"):
        b0_direction_of(found, {})
    assert b0_direction_of(found, {"B0_dir": [0, 0, 1]})[0].tolist() == [0, 0, 1]


@pytest.mark.parametrize(("sidecar", "sentence"), [
    ({}, r"f.nii.gz has no orientation \(sform and qform codes are 0\): set its sform, or B0_dir in its sidecar"),
    ({"B0_dir": [0, 0, 2]}, "B0_dir of f.json must be a unit vector"),
    ({"B0_dir": [0, 1]}, "B0_dir of f.json must be three finite numbers"),
    ({"B0_dir": "z"}, "f.json states B0_dir 'z': give three numbers"),
    ({"B0_dir": [[0, 1], 1]}, "f.json states B0_dir .*: give three numbers"),
])  # fmt: skip
def test_directions_that_cannot_be(sidecar: dict[str, Any], sentence: str) -> None:
    with pytest.raises(InputError, match=sentence):
        b0_direction_of(replace(IMAGE, oriented=False), sidecar)
