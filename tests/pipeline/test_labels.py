from __future__ import annotations

import itertools
from collections.abc import Callable

import numpy as np
import pytest
from chi33.files.errors import InputError
from chi33.pipeline.frames import b0_direction_from_affine, b0_direction_in_subject_frame
from chi33.pipeline.images.spline_maps import evaluate, spline_maps
from chi33.pipeline.labels import Labels, reference_to_mask, scan_deviations, scan_labels
from chi33.pipeline.physics.tensor_field import delta_b_prime, dipole_field, tensor_field
from chi33.pipeline.physics.tensors import (
    chi33,
    from_matrix,
    isotropic,
    mms,
    rotate_components,
    rotation_of_components,
)
from numpy.typing import ArrayLike, NDArray
from scipy.ndimage import binary_dilation, gaussian_filter
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


def voxel_means(function: Callable[[NDArray], NDArray], affine: NDArray, shape: tuple[int, ...]) -> NDArray:
    """The means over the voxels of a scan's grid of a map of subject points."""
    total = 0.0
    offsets = (np.arange(4) - 1.5) / 4
    for offset in itertools.product(offsets, offsets, offsets):
        moved = affine.copy()
        moved[:3, 3] += affine[:3, :3] @ offset
        total = total + function(head_points(moved, shape, POSE if affine is SCAN_AFFINE else np.eye(4)))
    return np.asarray(total / 64, np.float32)


TENSOR = voxel_means(subject_tensor, AFFINE, SHAPE)
SCAN_TENSOR = voxel_means(subject_tensor, SCAN_AFFINE, SCAN_SHAPE)  # components along the subject's axes


def make_labels(local_field: NDArray | None = None, **options: ArrayLike) -> Labels:
    field = np.zeros(SCAN_SHAPE) if local_field is None else local_field
    return scan_labels(
        TENSOR, mms(TENSOR), AFFINE, SCAN_AFFINE, SCAN_SHAPE, TRANSFORM, field,
        ball(SCAN_AFFINE, SCAN_SHAPE), **options,
    )  # fmt: skip


def test_chi33_of_a_turned_oblique_scan_is_that_of_the_tensor_along_its_b0() -> None:
    # In subject axes the scan's B0 is R z, whatever the array's axes are called.
    expected = chi33(SCAN_TENSOR, b0_direction_in_subject_frame(TRANSFORM))
    found = make_labels().chi33
    inside = ball(SCAN_AFFINE, SCAN_SHAPE)
    np.testing.assert_allclose(found[inside], expected[inside], atol=1e-3 * float(np.abs(expected).max()))
    assert found.dtype == np.float32
    # Turning against the motion instead would be far off.
    wrong = chi33(SCAN_TENSOR, b0_direction_in_subject_frame(POSE))
    assert np.abs(wrong - expected)[inside].max() > 0.05 * np.abs(expected).max()


def test_cosmos_is_moved_as_a_scalar() -> None:
    expected, inside = mms(SCAN_TENSOR), ball(SCAN_AFFINE, SCAN_SHAPE)
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
    frame = SCAN_AFFINE[:3, :3] / np.linalg.norm(SCAN_AFFINE[:3, :3], axis=0)
    own_axes = rotate_components(SCAN_TENSOR, frame.T @ POSE[:3, :3])
    field = tensor_field(own_axes, (1.8, 2.2, 2.6), b0_direction_from_affine(SCAN_AFFINE))
    prime = delta_b_prime(own_axes, (1.8, 2.2, 2.6), b0_direction_from_affine(SCAN_AFFINE))
    inside = ball(SCAN_AFFINE, SCAN_SHAPE)
    labels = make_labels(field)
    assert np.abs(labels.residual).max() < 5e-3 * np.abs(field).max()
    np.testing.assert_allclose(labels.delta_b[inside], prime[inside], atol=1e-2 * float(np.abs(prime).max()))


BLOCKS = {"as fine": (1, 1, 1), "thick slices": (1, 1, 4), "half as fine": (2, 2, 2)}


def rough_head(shape: tuple[int, int, int], radius: float) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
    """A tensor of little more than noise, but smooth enough for splines, in a ball about the middle of a grid."""
    axes = np.meshgrid(*(np.arange(n) - (n - 1) / 2 for n in shape), indexing="ij")
    mask = sum(axis**2 for axis in axes) < radius**2
    noise = np.random.default_rng(0).standard_normal((6, *shape)).astype(np.float32)
    return 0.1 * gaussian_filter(noise, (0, 1, 1, 1)) * mask, mask


def rotated_about_middle(shape: tuple[int, int, int]) -> NDArray[np.float64]:
    """A transform from a scan to the subject, both on a grid of 1 mm, and its inverse."""
    transform, middle = rigid((20, -15, 10), (0, 0, 0)), (np.array(shape) - 1) / 2
    transform[:3, 3] = middle - transform[:3, :3] @ middle
    return transform


@pytest.mark.parametrize("factors", BLOCKS.values(), ids=BLOCKS)
def test_contracting_the_tensor_first_changes_nothing_but_rounding(factors: tuple[int, int, int]) -> None:
    """chi33 and delta B' are those of six components, resampled and rotated one by one, and averaged over voxels."""
    shape = (32, 36, 32)
    tensor, mask = rough_head(shape, 12.0)
    transform, h = rotated_about_middle(shape), np.array([0.36, -0.48, 0.8])
    affine, (x, y, z) = np.diag([*factors, 1.0]), (n // f for n, f in zip(shape, factors, strict=True))
    affine[:3, 3] = (np.array(factors) - 1) / 2
    no_field = np.zeros((x, y, z), np.float32)
    found = scan_labels(tensor, tensor[0], np.eye(4), affine, (x, y, z), transform, no_field, no_field, b0_direction=h)

    back = np.linalg.inv(transform)
    rotation = rotation_of_components(back[:3, :3])
    maps = spline_maps(tensor, mask, np.eye(4)).mixed(rotation)
    fine, _ = evaluate(maps, np.eye(4), shape, back)
    coarse, inside = evaluate(maps, affine, (x, y, z), back)
    expected = chi33(coarse, h)
    assert np.abs(found.chi33 - expected).max() < 2e-6 * np.ptp(expected)
    across = delta_b_prime(fine, (1, 1, 1), h)
    means = across.reshape(x, factors[0], y, factors[1], z, factors[2]).mean(axis=(1, 3, 5)) * inside
    assert np.abs(found.delta_b - means).max() < 1e-5 * np.ptp(means)
    np.testing.assert_array_equal(found.chi33 != 0, inside)


@pytest.mark.parametrize("size", [(1.0, 1.0, 1.0), (1.0, 1.0, 4.0), (0.8, 1.3, 1.7)])
def test_a_uniform_head_has_uniform_labels_in_every_voxel_called_valid(size: tuple[float, float, float]) -> None:
    shape = (36, 36, 36)
    mask = rough_head(shape, 13.0)[1]
    scan_shape = tuple(int(36 / edge) for edge in size)
    affine, transform = np.diag([*size, 1.0]), rotated_about_middle(shape)
    points = head_points(affine, scan_shape, np.eye(4))
    middle = (np.array(shape) - 1) / 2
    valid = ((points.T - middle) ** 2).sum(axis=-1).T < 13.5**2  # half a voxel past the tensor's
    tensor = isotropic(np.where(mask, np.float32(0.05), np.float32(0)))
    field = np.zeros(scan_shape, np.float32)
    labels = scan_labels(tensor, tensor[0], np.eye(4), affine, scan_shape, transform, field, valid)
    for values in (labels.chi33, labels.cosmos):
        np.testing.assert_allclose(values[valid], 0.05, atol=1e-6)
        assert set(np.unique(values.round(5))) == {np.float32(0), np.float32(0.05)}
    assert np.abs(labels.delta_b).max() < 1e-6
    deviations = scan_deviations(np.stack([tensor[0], 2 * tensor[0]]), np.eye(4), affine, transform, valid)
    np.testing.assert_allclose(deviations[0], labels.chi33, atol=1e-6)
    np.testing.assert_allclose(deviations[1], 2 * labels.chi33, atol=1e-6)


def test_what_is_exactly_0_in_the_brain_stays_0() -> None:
    """A ball of 0.05 ppm in a larger brain of 0: next to it nothing is continued where the brain is given."""
    shape = (36, 36, 36)
    ball_mask, brain = rough_head(shape, 6.0)[1], rough_head(shape, 14.0)[1]
    tensor, field = isotropic(np.where(ball_mask, np.float32(0.05), np.float32(0))), np.zeros(shape, np.float32)
    place = (np.eye(4), np.eye(4), shape, np.eye(4), field, brain)
    given = scan_labels(tensor, tensor[0], *place, brain=brain).chi33
    np.testing.assert_allclose(given, tensor[0], atol=1e-7)
    assert scan_labels(tensor, tensor[0], *place).chi33[~ball_mask].max() > 0.04


def test_far_from_the_brain_of_the_fit_there_is_no_label() -> None:
    shape = (36, 36, 36)
    tensor, mask = rough_head(shape, 10.0)
    everywhere, field = np.ones(shape, bool), np.full(shape, 0.01, np.float32)
    labels = scan_labels(tensor, tensor[0], np.eye(4), np.eye(4), shape, np.eye(4), field, everywhere)
    near = binary_dilation(mask, iterations=2)
    np.testing.assert_array_equal(labels.chi33 != 0, near)
    np.testing.assert_allclose(labels.chi33[mask], tensor[5][mask], atol=1e-6)
    assert labels.residual[~near].all()
    nothing = scan_labels(0 * tensor, tensor[0], np.eye(4), np.eye(4), shape, np.eye(4), field, everywhere)
    np.testing.assert_array_equal(nothing.residual, field)
    assert not any(values.any() for values in (nothing.chi33, nothing.delta_b, nothing.cosmos))


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
    (lambda: make_labels(brain=np.ones((3, 3, 3))), r"tensor .*, cosmos .* and brain \(3, 3, 3\) must be on one grid"),
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
