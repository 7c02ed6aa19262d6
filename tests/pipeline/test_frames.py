from __future__ import annotations

from itertools import permutations, product

import nibabel as nib
import numpy as np
import pytest
from chi33.files.errors import InputError
from chi33.pipeline.frames import (
    b0_direction_from_affine,
    b0_direction_in_subject_frame,
    check_affine,
    check_b0_direction,
    radians_per_ppm,
    rotation_and_scale,
    rotation_angle,
    voxel_frame,
    voxel_size,
)
from hypothesis import given
from hypothesis import strategies as st
from scipy.spatial.transform import Rotation

SIZE = np.array([0.7, 1.0, 2.5])
RAS = {"R": (1, 0, 0), "L": (-1, 0, 0), "A": (0, 1, 0), "P": (0, -1, 0), "S": (0, 0, 1), "I": (0, 0, -1)}
CODES = ["".join(c) for p in permutations(("RL", "AP", "SI")) for c in product(*p)]


def affine_of(codes: str, size: np.ndarray = SIZE) -> np.ndarray:
    """The affine of an array whose axes point as the letters say."""
    affine = np.eye(4)
    affine[:3, :3] = np.array([RAS[letter] for letter in codes]).T * size
    return affine


def oblique(angles: tuple[float, float, float], codes: str = "RAS", size: np.ndarray = SIZE) -> np.ndarray:
    turn = np.eye(4)
    turn[:3, :3] = Rotation.from_euler("xyz", angles, degrees=True).as_matrix()
    turn[:3, 3] = (-30.0, 12.5, 7.0)
    return turn @ affine_of(codes, size)


def test_there_are_48_axis_codes() -> None:
    assert len(set(CODES)) == 48


@pytest.mark.parametrize("codes", CODES)
def test_b0_lies_along_the_array_axis_that_runs_from_foot_to_head(codes: str) -> None:
    affine = affine_of(codes)
    assert "".join(nib.aff2axcodes(affine)) == codes
    expected = [{"S": 1.0, "I": -1.0}.get(letter, 0.0) for letter in codes]
    np.testing.assert_allclose(b0_direction_from_affine(affine), expected, atol=1e-12)
    np.testing.assert_allclose(voxel_size(affine), SIZE)


@pytest.mark.parametrize("codes", CODES)
def test_the_voxel_frame_keeps_handedness_and_turns_world_vectors_into_array_steps(codes: str) -> None:
    affine = oblique((12.0, -7.0, 33.0), codes)
    frame = voxel_frame(affine)
    np.testing.assert_allclose(frame.T @ frame, np.eye(3), atol=1e-12)
    assert np.sign(np.linalg.det(frame)) == np.sign(np.linalg.det(affine[:3, :3]))
    # Ten millimetres along B0 are h * 10 / size voxels.
    steps = np.linalg.solve(affine[:3, :3], [0, 0, 10.0])
    np.testing.assert_allclose(b0_direction_from_affine(affine), steps * SIZE / 10, atol=1e-12)


def test_an_oblique_scan_tilts_b0_in_its_array_by_the_opposite_angle() -> None:
    # The array is turned by +20 degrees about x, so world z is turned by -20 degrees in it.
    expected = [0, np.sin(np.radians(20)), np.cos(np.radians(20))]
    np.testing.assert_allclose(b0_direction_from_affine(oblique((20.0, 0, 0))), expected, atol=1e-12)


@given(st.tuples(*[st.floats(-180, 180)] * 3), st.sampled_from(CODES), st.tuples(*[st.floats(0.2, 5)] * 3))
def test_b0_is_a_unit_vector_that_the_frame_maps_to_world_z(
    angles: tuple[float, float, float], codes: str, size: tuple[float, float, float]
) -> None:
    affine = oblique(angles, codes, np.array(size))
    np.testing.assert_allclose(voxel_frame(affine) @ b0_direction_from_affine(affine), [0, 0, 1], atol=1e-9)


def test_rounding_of_a_nifti_header_is_no_shear() -> None:
    affine = oblique((3.0, 40.0, -71.0)).astype(np.float32)
    frame = voxel_frame(affine)
    np.testing.assert_allclose(frame.T @ frame, np.eye(3), atol=1e-12)


def sheared(degrees: float) -> np.ndarray:
    affine = np.diag([1.0, 1.0, 2.0, 1.0])
    affine[:3, 1] = [np.sin(np.radians(degrees)), np.cos(np.radians(degrees)), 0]
    return affine


@pytest.mark.parametrize(("affine", "message"), [
    (np.eye(3), r"ori02 must be a 4x4 matrix, got shape \(3, 3\)"),
    (np.diag([1, 1, np.nan, 1.0]), "ori02 holds a value that is not finite"),
    (np.diag([1, 1, 0, 1.0]), r"ori02 is singular \(column lengths \[1.0, 1.0, 0.0\] mm"),
    (np.array([[1, 1, 0, 0], [1, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1.0]]), "ori02 is singular .*determinant"),
    (sheared(3.0), "ori02 shears: its axes are 3.00 degrees from perpendicular"),
    (sheared(-0.2), "ori02 shears: its axes are 0.20 degrees from perpendicular"),
])  # fmt: skip
def test_an_affine_that_is_no_rigid_frame_is_refused(affine: np.ndarray, message: str) -> None:
    with pytest.raises(InputError, match=message):
        check_affine(affine, "ori02")


def similarity(angles: tuple[float, float, float], scale: float = 1.0) -> np.ndarray:
    matrix = np.eye(4)
    matrix[:3, :3] = scale * Rotation.from_euler("zyx", angles, degrees=True).as_matrix()
    matrix[:3, 3] = (4.0, -9.0, 2.0)
    return matrix


@pytest.mark.parametrize("scale", [0.975, 1.0, 1.025])
@pytest.mark.parametrize("angles", [(0, 0, 0), (10, -35, 50), (180, 5, -90)])
def test_a_similarity_splits_into_its_rotation_and_its_scale(angles: tuple[float, ...], scale: float) -> None:
    rotation, found = rotation_and_scale(similarity(angles, scale))
    np.testing.assert_allclose(rotation, Rotation.from_euler("zyx", angles, degrees=True).as_matrix(), atol=1e-12)
    assert found == pytest.approx(scale)


def test_b0_in_the_subject_frame_turns_with_the_motion_not_against_it() -> None:
    # moving -> reference turns by +30 degrees about x: the field, z in the moving world, points to -y of the subject.
    h = b0_direction_in_subject_frame(similarity((0, 0, 30), 1.01))
    np.testing.assert_allclose(h, [0, -0.5, np.sqrt(3) / 2], atol=1e-12)


@pytest.mark.parametrize(("transform", "message"), [
    (np.eye(3), r"xfm must be a finite 4x4 matrix, got shape \(3, 3\)"),
    (np.full((4, 4), np.inf), "xfm must be a finite 4x4 matrix"),
    (np.diag([-1.0, 1, 1, 1]), "xfm has determinant -1, but a head cannot be mirrored"),
    (np.diag([1.0, 1, 0, 1]), "xfm has determinant 0, but a head cannot be mirrored or flattened"),
    (similarity((5, 0, 0), 1.031), "xfm scales by 1.0310, more than 3% from 1"),
    (similarity((5, 0, 0), 0.969), "xfm scales by 0.9690, more than 3% from 1"),
    (similarity((5, 0, 0), 0.9705), "xfm scales by 0.9705, more than 3% from 1 one way or back"),
    (np.diag([1.02, 0.98, 1, 1]), "xfm is no rotation times one scale .departs by 0.02."),
])  # fmt: skip
def test_a_transform_that_is_no_head_motion_is_refused_with_its_numbers(transform: np.ndarray, message: str) -> None:
    with pytest.raises(InputError, match=message):
        rotation_and_scale(transform, "xfm")


@pytest.mark.parametrize("scale", [0.96, 0.9705, 0.971, 1 / 1.03, 0.99, 1.0, 1.02, 1.0299, 1.03, 1.0305, 1.04])
def test_a_transform_and_its_inverse_are_both_accepted_or_both_refused(scale: float) -> None:
    def accepted(transform: np.ndarray) -> bool:
        try:
            rotation_and_scale(transform)
        except InputError:
            return False
        return True

    forth = similarity((10, -35, 50), scale)
    assert accepted(forth) == accepted(np.linalg.inv(forth))
    for stretch in (1.006, 1.0095, 1.011):
        uneven = similarity((10, -35, 50)) @ np.diag([stretch, 1 / stretch, 1, 1])
        assert accepted(uneven) == accepted(np.linalg.inv(uneven)) == (stretch < 1.01)


@pytest.mark.parametrize("degrees", [0.0, 1e-5, 0.1, 89.0, 179.0, 180.0])
def test_rotation_angle_is_exact_for_tiny_and_large_angles(degrees: float) -> None:
    axis = np.array([1.0, 2, -2]) / 3
    matrix = Rotation.from_rotvec(np.radians(degrees) * axis).as_matrix()
    assert rotation_angle(matrix) == pytest.approx(degrees, abs=1e-9)


@pytest.mark.parametrize(("direction", "message"), [
    ((0, 0.5, 0.78), r"h must be a unit vector, got \|h\| = 0.9265: normalise it"),
    ((0, 0, 0), r"got \|h\| = 0"),
    ((0, 1), r"h must be three finite numbers, got \[0, 1\]"),
    ((0, np.nan, 1), "h must be three finite numbers"),
])  # fmt: skip
def test_a_direction_that_is_no_unit_vector_is_refused(direction: tuple[float, ...], message: str) -> None:
    with pytest.raises(InputError, match=message):
        check_b0_direction(direction, "h")


def test_a_direction_rounded_in_a_sidecar_is_normalised() -> None:
    assert np.linalg.norm(check_b0_direction([0.3421, 0, 0.9397])) == pytest.approx(1, abs=1e-15)


def test_one_ppm_at_3_tesla_is_128_hertz() -> None:
    # 3 T * 42.577478518 Hz/uT = 127.732435554 Hz per ppm; 20 ms of it are 2.55464871108 cycles.
    assert radians_per_ppm(3.0, 0.020) == pytest.approx(2 * np.pi * 2.55464871108, rel=1e-12)
