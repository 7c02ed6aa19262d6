"""White-matter maps and fibre maps as users give them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
from chi33.files.errors import InputError
from chi33.workflows.tissue_files import TissueFiles, fibre_on, white_matter_on
from numpy.typing import NDArray

SHAPE = (10, 12, 8)
BRAIN = np.zeros(SHAPE, bool)
BRAIN[2:-2, 2:-2, 2:-2] = True


def oblique() -> NDArray[np.float64]:
    """Voxels of 2 x 2 x 3 mm, the array's axes turned by 30 degrees about z and its x running to the left."""
    angle = np.deg2rad(30)
    turn = np.array([[np.cos(angle), -np.sin(angle), 0], [np.sin(angle), np.cos(angle), 0], [0, 0, 1]])
    affine = np.eye(4)
    affine[:3, :3] = turn @ np.diag([-2.0, 2.0, 3.0])
    affine[:3, 3] = (5, -7, 11)
    return affine


AFFINE = oblique()


def ramp(affine: NDArray, shape: tuple[int, ...]) -> NDArray[np.float32]:
    """A probability that rises linearly along the world's x."""
    points = np.einsum("ij,j...->i...", affine[:3, :3], np.indices(shape)) + affine[:3, 3].reshape(3, 1, 1, 1)
    return np.clip(0.5 + points[0] / 80, 0, 1).astype(np.float32)


def vectors(x: float, y: float, z: float) -> NDArray[np.float32]:
    return np.broadcast_to(np.array([x, y, z], np.float32)[:, None, None, None], (3, *SHAPE)).copy()


def save(tmp_path: Path, values: NDArray, affine: NDArray = AFFINE) -> Path:
    stored = np.moveaxis(values, 0, -1) if values.ndim == 4 else values
    nib.save(nib.Nifti1Image(stored, affine), tmp_path / "map.nii.gz")
    return tmp_path / "map.nii.gz"


def test_a_white_matter_map_on_another_grid_is_resampled_by_the_world(tmp_path: Path) -> None:
    other = np.diag([1.5, 1.5, 1.5, 1.0])
    other[:3, 3] = (-40, -40, -10)
    path = save(tmp_path, ramp(other, (50, 50, 40)), other)
    found = white_matter_on(path, BRAIN, AFFINE)
    np.testing.assert_allclose(found[BRAIN], ramp(AFFINE, SHAPE)[BRAIN], atol=0.01)


def test_fibres_are_read_along_the_world_and_returned_along_the_array(tmp_path: Path) -> None:
    for world in ((1.0, 0.0, 0.0), (0.6, 0.0, 0.8)):
        found = fibre_on(save(tmp_path, vectors(*world)), BRAIN, AFFINE)
        axes = AFFINE[:3, :3] / np.linalg.norm(AFFINE[:3, :3], axis=0)
        np.testing.assert_allclose(axes @ found[:, 4, 4, 4], world, atol=1e-6)


def test_voxels_without_a_direction_stay_without(tmp_path: Path) -> None:
    given = vectors(0, 0, 1)
    given[:, :5] = 0
    found = fibre_on(save(tmp_path, given), BRAIN, AFFINE)
    np.testing.assert_array_equal(found[:, :5], 0)
    np.testing.assert_allclose(np.abs(found[2, 5:]), 1)


def test_a_nifti_vector_image_of_five_axes_is_taken(tmp_path: Path) -> None:
    values = np.moveaxis(vectors(0, 1, 0), 0, -1)[:, :, :, None]
    nib.save(nib.Nifti1Image(values, AFFINE), tmp_path / "v1.nii.gz")
    assert fibre_on(tmp_path / "v1.nii.gz", BRAIN, AFFINE).shape == (3, *SHAPE)


FAR = AFFINE + np.array([[0, 0, 0, 500.0], [0, 0, 0, 0], [0, 0, 0, 0], [0, 0, 0, 0]])


@pytest.mark.parametrize(
    ("values", "affine", "message"),
    [
        (100 * ramp(AFFINE, SHAPE), AFFINE, r"holds .* to .*: give probabilities from 0 to 1"),
        (ramp(AFFINE, SHAPE) - 0.5, AFFINE, "give probabilities from 0 to 1"),
        (ramp(AFFINE, SHAPE) * np.nan, AFFINE, "holds values that are not finite"),
        (0 * ramp(AFFINE, SHAPE), AFFINE, "is 0 everywhere"),
        (0.5 * ~BRAIN, AFFINE, "is 0 in the whole brain"),
        (ramp(AFFINE, SHAPE), FAR, "shows 0% of the subject's brain: give a map in the world of the reference scan"),
    ],
)
def test_a_white_matter_map_that_cannot_be_is_refused(
    values: NDArray, affine: NDArray, message: str, tmp_path: Path
) -> None:
    with pytest.raises(InputError, match=message):
        white_matter_on(save(tmp_path, np.asarray(values, np.float32), affine), BRAIN, AFFINE)


def test_a_map_without_an_orientation_is_taken_on_the_same_grid_and_refused_on_another(tmp_path: Path) -> None:
    for shape, fits in ((SHAPE, True), ((9, 12, 8), False)):
        image = nib.Nifti1Image(np.full(shape, 0.3, np.float32), None)
        nib.save(image, tmp_path / "map.nii.gz")
        if fits:
            np.testing.assert_allclose(white_matter_on(tmp_path / "map.nii.gz", BRAIN, AFFINE), 0.3)
        else:
            with pytest.raises(InputError, match="states no orientation and has shape"):
                white_matter_on(tmp_path / "map.nii.gz", BRAIN, AFFINE)


@pytest.mark.parametrize(
    ("values", "affine", "message"),
    [
        (vectors(0.3, 0, 0), AFFINE, "holds vectors of length 0.3 to 0.3 in 100% of its voxels: give unit vectors"),
        (vectors(0, 0, 0), AFFINE, "holds no directions"),
        (vectors(1, 0, 0) * np.nan, AFFINE, "holds no directions, or values that are not finite"),
        (vectors(1, 0, 0) * ~BRAIN, AFFINE, "holds no direction inside the brain"),
        (vectors(1, 0, 0), FAR, "lies on another grid"),
        (vectors(1, 0, 0)[:, :9], AFFINE, "lies on another grid"),
        (vectors(1, 0, 0)[:2], AFFINE, r"give unit vectors, \(x, y, z, 3\)"),
        (vectors(1, 0, 0)[0], AFFINE, r"give unit vectors, \(x, y, z, 3\)"),
    ],
)
def test_a_fibre_map_that_cannot_be_is_refused(values: NDArray, affine: NDArray, message: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=message):
        fibre_on(save(tmp_path, np.asarray(values, np.float32), affine), BRAIN, AFFINE)


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({"white_matter": "here.nii.gz"}, "--white-matter goes with --fit masked or single-step, got --fit closed"),
        ({"fibre": "here.nii.gz"}, "--fibre goes with --fit masked or single-step, got --fit closed"),
        ({"correlation": -2.0}, "correlation of the prior must be 0 mm or more"),
    ],
)
def test_what_the_closed_form_cannot_use_is_refused(files: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        TissueFiles(**files).check("closed")


def test_a_file_that_is_not_there_is_refused_before_the_work(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="does not exist"):
        TissueFiles(white_matter=str(tmp_path / "wm.nii.gz")).check("masked")
