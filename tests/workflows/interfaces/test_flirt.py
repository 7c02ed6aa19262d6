"""FLIRT matrices: fixtures are computed here from FSL's documented convention, not with the code under test."""

from __future__ import annotations

from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from chi33.files.derivatives import write_transform
from chi33.files.errors import InputError
from chi33.pipeline.frames import rotation_and_scale, rotation_angle
from chi33.workflows.interfaces.flirt import flirt_to_world, world_to_flirt
from scipy.spatial.transform import Rotation

# shape, voxel size (mm), obliquity (degrees about x, y, z), mirrored array axis: the determinant's sign
GRIDS = {
    "positive determinant": ((40, 50, 30), (1.0, 1.0, 1.0), (0, 0, 0), None),
    "negative determinant": ((40, 50, 30), (1.0, 1.0, 1.0), (0, 0, 0), 0),
    "anisotropic, negative": ((64, 48, 33), (0.86, 0.86, 2.0), (0, 0, 0), 0),
    "anisotropic, oblique, positive": ((64, 48, 33), (0.86, 0.9, 2.0), (12, -7, 21), None),
    "anisotropic, oblique, negative by y": ((61, 45, 34), (1.1, 0.7, 1.9), (-9, 15, 4), 1),
}


def _grid(name: str) -> nib.Nifti1Image:
    shape, size, angles, mirrored = GRIDS[name]
    axes = np.diag(size)
    if mirrored is not None:
        axes[mirrored, mirrored] *= -1
    affine = np.eye(4)
    affine[:3, :3] = Rotation.from_euler("xyz", angles, degrees=True).as_matrix() @ axes
    affine[:3, 3] = -affine[:3, :3] @ (np.array(shape) / 2) + [3.0, -8.0, 5.0]
    image = nib.Nifti1Image(np.zeros(shape, np.float32), affine)
    image.set_qform(affine, code=1)
    image.set_sform(affine, code=1)
    return image


def _voxel_to_fsl(image: nib.Nifti1Image, *, flip: bool = True) -> np.ndarray:
    """FLIRT's coordinates by FSL's FAQ: voxel times pixdim; x runs from the other end where det(affine) > 0."""
    size = np.sqrt((image.affine[:3, :3] ** 2).sum(axis=0))
    matrix = np.diag([*size, 1.0])
    if flip and np.linalg.det(image.affine[:3, :3]) > 0:
        matrix[0, 0] *= -1
        matrix[0, 3] = (image.shape[0] - 1) * size[0]
    return matrix


def _recorded_flirt(moving: nib.Nifti1Image, reference: nib.Nifti1Image, world: np.ndarray, **how: bool) -> np.ndarray:
    """The matrix FLIRT reports for a known world-to-world transform."""
    to_fsl = _voxel_to_fsl(reference, **how) @ np.linalg.inv(reference.affine)
    from_fsl = moving.affine @ np.linalg.inv(_voxel_to_fsl(moving, **how))
    return to_fsl @ world @ from_fsl


def _world_transform() -> np.ndarray:
    world = np.eye(4)
    world[:3, :3] = 1.004 * Rotation.from_euler("zyx", [25, -13, 31], degrees=True).as_matrix()
    world[:3, 3] = [7.5, -11.0, 3.25]
    return world


@pytest.mark.parametrize("reference", GRIDS)
@pytest.mark.parametrize("moving", GRIDS)
def test_flirt_matrix_gives_known_rotation(moving: str, reference: str) -> None:
    images = _grid(moving), _grid(reference)
    world = _world_transform()
    recovered = flirt_to_world(_recorded_flirt(*images, world), *images)
    np.testing.assert_allclose(recovered, world, atol=1e-4)
    rotation, scale = rotation_and_scale(recovered)
    np.testing.assert_allclose(rotation, world[:3, :3] / 1.004, atol=1e-4)
    assert scale == pytest.approx(1.004, abs=1e-4)


@pytest.mark.parametrize("moving", GRIDS)
def test_world_to_flirt_is_the_recorded_matrix(moving: str) -> None:
    images = _grid(moving), _grid("anisotropic, oblique, positive")
    world = _world_transform()
    np.testing.assert_allclose(world_to_flirt(world, *images), _recorded_flirt(*images, world), atol=1e-4)


def test_wrong_ways_are_far_off() -> None:
    """What the conversion guards against: a transposed matrix, a forgotten flip, the raw matrix's polar factor."""
    moving, reference = _grid("anisotropic, oblique, positive"), _grid("anisotropic, oblique, negative by y")
    world = _world_transform()
    truth = world[:3, :3] / 1.004

    def error(rotation: np.ndarray) -> float:
        return rotation_angle(rotation @ truth.T)

    recorded = _recorded_flirt(moving, reference, world)
    assert error(rotation_and_scale(flirt_to_world(recorded, moving, reference))[0]) < 0.01
    assert error(rotation_and_scale(flirt_to_world(recorded, moving, reference))[0].T) > 30
    unflipped = _recorded_flirt(moving, moving, world, flip=False)
    assert error(rotation_and_scale(flirt_to_world(unflipped, moving, moving))[0]) > 10
    swapped = np.linalg.inv(flirt_to_world(np.linalg.inv(recorded), moving, reference))
    assert error(rotation_and_scale(swapped)[0]) > 5
    raw, _ = rotation_and_scale(_recorded_flirt(moving, moving, world))
    assert error(raw) > 10


def test_b0_direction_error_of_forgotten_flip_is_large() -> None:
    grid = _grid("positive determinant")
    world = _world_transform()
    recorded = _recorded_flirt(grid, grid, world)
    right = rotation_and_scale(flirt_to_world(recorded, grid, grid))[0][:, 2]
    forgotten = rotation_and_scale(recorded)[0][:, 2]
    assert np.degrees(np.arccos(np.clip(right @ forgotten, -1, 1))) > 10


def test_reads_matrix_and_images_from_files(tmp_path: Path) -> None:
    moving, reference = _grid("negative determinant"), _grid("anisotropic, oblique, positive")
    nib.save(moving, tmp_path / "moving.nii.gz")
    nib.save(reference, tmp_path / "reference.nii.gz")
    world = _world_transform()
    np.savetxt(tmp_path / "flirt.mat", _recorded_flirt(moving, reference, world), fmt="%.8f")
    recovered = flirt_to_world(tmp_path / "flirt.mat", tmp_path / "moving.nii.gz", str(tmp_path / "reference.nii.gz"))
    np.testing.assert_allclose(recovered, world, atol=1e-4)
    write_transform(tmp_path / "world.txt", world)
    back = world_to_flirt(tmp_path / "world.txt", tmp_path / "moving.nii.gz", tmp_path / "reference.nii.gz")
    np.testing.assert_allclose(back, _recorded_flirt(moving, reference, world), atol=1e-4)


def test_refuses_other_shapes() -> None:
    grid = _grid("negative determinant")
    with pytest.raises(InputError, match="4x4"):
        flirt_to_world(np.eye(3), grid, grid)
    with pytest.raises(InputError, match="finite"):
        world_to_flirt(np.full((4, 4), np.nan), grid, grid)


def test_refuses_pixdim_that_disagrees_with_the_affine() -> None:
    grid = _grid("negative determinant")
    grid.header["pixdim"][3] = 2.5
    with pytest.raises(InputError, match=r"2\.5.*by its pixdim.*repair the header"):
        flirt_to_world(np.eye(4), grid, _grid("positive determinant"))
