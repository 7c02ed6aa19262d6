from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from chi33.pipeline.errors import InputError
from chi33.pipeline.frames import b0_direction_from_affine, b0_direction_in_subject_frame
from chi33.pipeline.labels import Labels, reference_to_mask, scan_labels
from chi33.pipeline.tensor_field import delta_b_prime, dipole_field, tensor_field
from chi33.pipeline.tensors import chi33, from_matrix, isotropic, mms, rotate_components
from numpy.typing import ArrayLike, NDArray
from synthetic_head import grid_affine, head_points, rigid

SHAPE, SCAN_SHAPE = (44, 46, 42), (50, 44, 34)
AFFINE = grid_affine(SHAPE, (2.0, 2.0, 2.0), (4, 0, -7))
SCAN_AFFINE = grid_affine(SCAN_SHAPE, (1.8, 2.2, 2.6), (11, -9, 14), mirrored=True)
POSE = rigid((25, -18, 10), (3, -4, 2))  # subject world -> scan world
TRANSFORM = np.linalg.inv(POSE)
FIXED = from_matrix(np.array([[0.05, 0.01, -0.02], [0.01, -0.01, 0.015], [-0.02, 0.015, 0.02]]))


def bump(x: NDArray) -> NDArray[np.float64]:
    """A smooth map of subject millimetres, without symmetry, that vanishes towards the edge of the grid."""
    return np.exp(-((x[0] - 4) ** 2 / 250 + (x[1] + 3) ** 2 / 180 + (x[2] - 2) ** 2 / 210)) * (
        1 + 0.3 * np.sin(x[0] / 8)
    )


def subject_tensor(x: NDArray) -> NDArray[np.float32]:
    """A tensor image in subject-world axes at subject points."""
    return (FIXED[:, None, None, None] * bump(x) + isotropic(0.08 * bump(x + 6))).astype(np.float32)


def ball(affine: NDArray, shape: tuple[int, ...]) -> NDArray[np.bool_]:
    return (head_points(affine, shape, np.eye(4)) ** 2).sum(axis=0) < 38**2


def make_labels(local_field: NDArray | None = None, **options: ArrayLike) -> Labels:
    x = head_points(AFFINE, SHAPE, np.eye(4))
    field = np.zeros(SCAN_SHAPE) if local_field is None else local_field
    return scan_labels(
        subject_tensor(x), mms(subject_tensor(x)), AFFINE, SCAN_AFFINE, SCAN_SHAPE, TRANSFORM, field,
        ball(SCAN_AFFINE, SCAN_SHAPE), **options,
    )  # fmt: skip


def test_chi33_of_a_turned_oblique_scan_is_that_of_the_tensor_along_its_b0() -> None:
    x = head_points(SCAN_AFFINE, SCAN_SHAPE, POSE)
    # In subject axes the scan's B0 is R z, whatever the array's axes are called.
    expected = chi33(subject_tensor(x), b0_direction_in_subject_frame(TRANSFORM))
    found = make_labels().chi33
    inside = ball(SCAN_AFFINE, SCAN_SHAPE)
    np.testing.assert_allclose(found[inside], expected[inside], atol=1e-3 * float(np.abs(expected).max()))
    assert found.dtype == np.float32
    # Turning against the motion instead would be far off.
    wrong = chi33(subject_tensor(x), b0_direction_in_subject_frame(POSE))
    assert np.abs(wrong - expected)[inside].max() > 0.05 * np.abs(expected).max()


def test_cosmos_is_moved_as_a_scalar() -> None:
    x = head_points(SCAN_AFFINE, SCAN_SHAPE, POSE)
    expected, inside = mms(subject_tensor(x)), ball(SCAN_AFFINE, SCAN_SHAPE)
    np.testing.assert_allclose(make_labels().cosmos[inside], expected[inside], atol=1e-3 * float(expected.max()))


def test_the_labels_and_the_residual_add_up_to_the_local_field() -> None:
    rng = np.random.default_rng(0)
    field, inside = rng.standard_normal(SCAN_SHAPE).astype(np.float32), ball(SCAN_AFFINE, SCAN_SHAPE)
    labels = make_labels(field)
    size, h = (1.8, 2.2, 2.6), b0_direction_from_affine(SCAN_AFFINE)
    whole = dipole_field(labels.chi33, size, h) + labels.delta_b + labels.residual
    np.testing.assert_allclose(whole[inside], field[inside], atol=1e-6)
    np.testing.assert_array_equal(labels.residual[~inside], 0)


def test_a_field_that_the_tensor_explains_leaves_no_residual() -> None:
    x = head_points(SCAN_AFFINE, SCAN_SHAPE, POSE)
    frame = SCAN_AFFINE[:3, :3] / np.linalg.norm(SCAN_AFFINE[:3, :3], axis=0)
    own_axes = rotate_components(subject_tensor(x), frame.T @ POSE[:3, :3])
    field = tensor_field(own_axes, (1.8, 2.2, 2.6), b0_direction_from_affine(SCAN_AFFINE))
    prime = delta_b_prime(own_axes, (1.8, 2.2, 2.6), b0_direction_from_affine(SCAN_AFFINE))
    inside = ball(SCAN_AFFINE, SCAN_SHAPE)
    labels = make_labels(field)
    assert np.abs(labels.residual).max() < 5e-3 * np.abs(field).max()
    np.testing.assert_allclose(labels.delta_b[inside], prime[inside], atol=1e-2 * float(np.abs(prime).max()))


def test_a_stated_b0_direction_replaces_that_of_the_affine() -> None:
    h = np.array([0.0, 0.6, 0.8])
    stated = make_labels(b0_direction=h)
    assert np.abs(stated.chi33 - make_labels().chi33).max() > 1e-3
    own = make_labels(b0_direction=b0_direction_from_affine(SCAN_AFFINE))
    np.testing.assert_array_equal(own.chi33, make_labels().chi33)


def test_susceptibility_is_referenced_to_the_mean_of_the_mask(random_tensor: Callable[..., NDArray]) -> None:
    tensor, mask = random_tensor(0, SHAPE), ball(AFFINE, SHAPE)
    referenced = reference_to_mask(tensor, mask)
    assert mms(referenced)[mask].mean() == pytest.approx(0, abs=1e-6)
    np.testing.assert_array_equal(referenced[:, ~mask], 0)
    # Only an isotropic constant is taken out: anisotropy stays as it was.
    np.testing.assert_array_equal(referenced[[1, 2, 4]][:, mask], tensor[[1, 2, 4]][:, mask])
    np.testing.assert_allclose((referenced[0] - referenced[3])[mask], (tensor[0] - tensor[3])[mask], atol=1e-6)
    scalar = reference_to_mask(tensor[0], mask)
    assert scalar[mask].mean() == pytest.approx(0, abs=1e-6)


@pytest.mark.parametrize(("call", "message"), [
    (lambda: make_labels(np.zeros(SHAPE)), r"local_field \(44, 46, 42\) and local_mask \(50, 44, 34\) must both have"),
    (lambda: make_labels(b0_direction=(0, 0, 2)), r"b0_direction must be a unit vector, got \|h\| = 2"),
    (lambda: reference_to_mask(np.zeros((6, 3, 3, 3)), np.ones((3, 3, 4))), r"mask has shape \(3, 3, 4\), but the map"),
    (lambda: reference_to_mask(np.zeros((3, 3, 3)), np.zeros((3, 3, 3))), "the mask is empty: susceptibility has no"),
])  # fmt: skip
def test_labels_that_cannot_be_made_are_refused(call: Callable[[], object], message: str) -> None:
    with pytest.raises(InputError, match=message):
        call()


@pytest.mark.parametrize("transform", [np.zeros((4, 4)), np.diag([-1.0, 1, 1, 1]), np.diag([1.2, 1.2, 1.2, 1])])
def test_a_transform_that_is_no_head_motion_is_refused(transform: NDArray) -> None:
    x = np.zeros((6, *SHAPE), np.float32)
    with pytest.raises(InputError, match=r"transform (has determinant|scales by 1.2000)"):
        scan_labels(x, x[0], AFFINE, AFFINE, SHAPE, transform, x[0], x[0] == 0)
