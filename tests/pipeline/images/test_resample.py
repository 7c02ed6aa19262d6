from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from chi33.files.errors import InputError
from chi33.pipeline.frames import voxel_mapping
from chi33.pipeline.images.resample import resample, resample_inside
from numpy.typing import NDArray
from scipy import ndimage
from scipy.spatial.transform import Rotation

SHAPE = (40, 44, 36)


def grid(
    angles: tuple[float, float, float] = (0, 0, 0), size: tuple[float, ...] = (2, 2, 2), mirrored: bool = False
) -> NDArray[np.float64]:
    """An affine whose grid of SHAPE voxels is centred on the world's origin."""
    affine = np.eye(4)
    axes = Rotation.from_euler("xyz", angles, degrees=True).as_matrix() * size
    affine[:3, :3] = axes @ np.diag([-1, 1, 1]) if mirrored else axes
    affine[:3, 3] = -affine[:3, :3] @ ((np.array(SHAPE) - 1) / 2)
    return affine


def world_points(affine: NDArray, shape: tuple[int, ...] = SHAPE) -> NDArray[np.float64]:
    index = np.indices(shape).astype(float)
    return np.tensordot(affine[:3, :3], index, axes=1) + affine[:3, 3][:, None, None, None]


def smooth_map(x: NDArray) -> NDArray[np.float64]:
    """A smooth map of world millimetres without any symmetry."""
    centre, width = np.array([5.0, -6, 4]), np.array([14.0, 10, 18])
    bump = np.exp(-((((x.T - centre) / width) ** 2).sum(axis=-1)).T / 2)
    return bump * (1 + 0.3 * np.sin(x[0] / 9) - 0.2 * np.cos(x[1] / 11 + x[2] / 13))


def motion(angles: tuple[float, float, float], shift: tuple[float, float, float], scale: float = 1.0) -> NDArray:
    matrix = np.eye(4)
    matrix[:3, :3] = scale * Rotation.from_euler("zxy", angles, degrees=True).as_matrix()
    matrix[:3, 3] = shift
    return matrix


CASES = [
    pytest.param(grid(), grid((0, 0, 0), (1.5, 1.8, 2.2)), None, id="finer anisotropic"),
    pytest.param(grid((10, -20, 30)), grid((0, 5, 0), (2, 1.7, 2), True), None, id="oblique to left-handed"),
    pytest.param(grid(mirrored=True), grid((12, 0, 0)), motion((35, -10, 5), (6, -3, 2)), id="rotation"),
    pytest.param(
        grid((5, 5, 5)), grid((0, 0, -9), (2, 2, 1.6)), motion((-20, 15, 0), (0, 4, 1), 1.02), id="similarity"
    ),
]


@pytest.mark.parametrize(("source", "target", "transform"), CASES)
def test_a_smooth_map_is_the_same_map_on_another_grid(
    source: NDArray, target: NDArray, transform: NDArray | None
) -> None:
    sampled = smooth_map(world_points(source))
    moved = resample(sampled, source, target, SHAPE, transform)
    x = world_points(target)
    back = np.eye(4) if transform is None else np.linalg.inv(transform)
    in_source = np.tensordot(back[:3, :3], x, axes=1) + back[:3, 3][:, None, None, None]
    voxel = np.tensordot(np.linalg.inv(source)[:3, :3], in_source - source[:3, 3][:, None, None, None], axes=1)
    seen = ((voxel > 6) & (voxel < np.array(SHAPE)[:, None, None, None] - 7)).all(axis=0)
    assert seen.mean() > 0.2
    np.testing.assert_allclose(moved[seen], smooth_map(in_source)[seen], atol=5e-4 * float(sampled.max()))
    assert moved.dtype == np.float32


def test_the_same_grid_gives_the_same_numbers() -> None:
    noise = np.random.default_rng(0).standard_normal((2, *SHAPE)).astype(np.float32)
    affine = grid((10, 20, 30), (1, 2, 1.5))
    np.testing.assert_array_equal(resample(noise, affine, affine, SHAPE), noise)
    np.testing.assert_array_equal(resample(noise[0], affine, affine, SHAPE, np.eye(4)), noise[0])


def test_whole_voxel_shifts_are_exact_and_outside_is_zero() -> None:
    noise = np.random.default_rng(0).standard_normal(SHAPE).astype(np.float32)
    shifted = resample(noise, grid(), grid(), SHAPE, motion((0, 0, 0), (6.0, 0, 0)), order=1)  # 3 voxels along +x
    np.testing.assert_allclose(shifted[3:], noise[:-3], atol=1e-6)
    np.testing.assert_array_equal(shifted[:3], 0)


def test_the_transform_takes_the_source_world_to_the_target_world() -> None:
    transform = motion((35, -10, 5), (6, -3, 2), 1.01)
    source, target = grid((10, -20, 30)), grid((0, 5, 0), (2, 1.7, 2), True)
    voxel = np.array([7.0, 8.0, 9.0, 1.0])
    in_target_world = transform @ (source @ voxel)
    np.testing.assert_allclose(
        voxel_mapping(source, target, transform) @ np.linalg.solve(target, in_target_world), voxel, atol=1e-9
    )


def in_ball(affine: NDArray, radius: float = 22.0) -> NDArray[np.bool_]:
    return np.asarray((world_points(affine) ** 2).sum(axis=0) < radius**2)


def test_on_its_own_grid_a_field_known_in_a_mask_is_itself_there_and_0_elsewhere() -> None:
    noise, affine = np.random.default_rng(0).standard_normal(SHAPE).astype(np.float32), grid((10, 20, 30), (1, 2, 1.5))
    mask = np.random.default_rng(1).random(SHAPE) < 0.6
    for transform in (None, np.eye(4)):
        field, known = resample_inside(noise, mask, affine, affine, SHAPE, transform)
        np.testing.assert_array_equal(known, mask)
        np.testing.assert_array_equal(field, np.where(mask, noise, 0))
        assert (field.dtype, known.dtype) == (np.float32, bool)


@pytest.mark.parametrize(("source", "target", "transform"), CASES)
def test_the_edge_of_the_mask_pulls_nothing_to_zero(
    source: NDArray, target: NDArray, transform: NDArray | None
) -> None:
    """A constant that is known in a ball: it is that constant up to the edge, whatever lies outside."""
    mask = in_ball(source)
    constant = np.where(mask, 3, np.nan)
    field, known = resample_inside(constant, mask, source, target, SHAPE, transform)
    np.testing.assert_allclose(field[known], 3, atol=1e-4)
    np.testing.assert_array_equal(field[~known], 0)
    plain = resample(np.where(mask, 3, 0), source, target, SHAPE, transform)
    assert plain[known].min() < 2.7
    moved = resample(mask.astype(np.float32), source, target, SHAPE, transform, order=1) >= 0.5
    assert 0.8 * moved.sum() < known.sum() < moved.sum()
    assert not (known & ~moved).any()


@pytest.mark.parametrize(("source", "target", "transform"), CASES)
def test_a_smooth_field_known_in_a_mask_is_interpolated_by_cubic_splines(
    source: NDArray, target: NDArray, transform: NDArray | None
) -> None:
    mask = in_ball(source)
    field, known = resample_inside(
        np.where(mask, smooth_map(world_points(source)), 50), mask, source, target, SHAPE, transform
    )
    back = np.eye(4) if transform is None else np.linalg.inv(transform)
    in_source = np.tensordot(back[:3, :3], world_points(target), axes=1) + back[:3, 3][:, None, None, None]
    truth = smooth_map(in_source)
    size, scale = np.linalg.norm(target[:3, :3], axis=0), float(truth.max())
    depth = ndimage.distance_transform_edt(known, sampling=size)
    deep, rim = depth > 10, known & (depth <= 10)
    assert deep.sum() > 500
    np.testing.assert_allclose(field[deep], truth[deep], atol=1e-3 * scale)
    assert np.sqrt(((field - truth)[rim] ** 2).mean()) < 0.02 * scale
    linear = resample(smooth_map(world_points(source)), source, target, SHAPE, transform, order=1)
    assert np.abs(linear - truth)[deep].max() > 5e-3 * scale


@pytest.mark.parametrize(("shift", "edge_is_known"), [(0.0, True), (0.2, True), (0.3, False), (0.8, False)])
def test_a_voxel_is_known_where_three_quarters_of_it_are(shift: float, edge_is_known: bool) -> None:
    mask = np.zeros(SHAPE, bool)
    mask[10:20] = True
    noise = np.random.default_rng(2).standard_normal(SHAPE).astype(np.float32)
    _, known = resample_inside(noise, mask, grid(), grid(), SHAPE, motion((0, 0, 0), (2 * shift, 0, 0)))
    assert known[11:20, 5:-5, 5:-5].all()
    assert known[10, 5:-5, 5:-5].all() == known[10].any() == edge_is_known
    assert not known[:10].any()


def test_beyond_the_grid_nothing_is_known() -> None:
    field, known = resample_inside(
        np.ones(SHAPE), np.ones(SHAPE, bool), grid(), grid(), SHAPE, motion((0, 0, 0), (20, 0, 0))
    )
    assert not known[:10].any()
    assert not field[:10].any()
    assert known[10:].all()
    np.testing.assert_allclose(field[10:], 1, atol=1e-5)


@pytest.mark.parametrize(("call", "message"), [
    (lambda v: resample(v[0], grid(), grid(), SHAPE), r"volume must have 3 or 4 axes, got shape \(44, 36\)"),
    (lambda v: resample(v, np.diag([1, 0, 1, 1.0]), grid(), SHAPE), "affine is singular"),
    (lambda v: resample(v, grid(), np.diag([1, 0, 1, 1.0]), SHAPE), "target_affine is singular"),
    (lambda v: resample(v, grid(), grid(), SHAPE, np.zeros((4, 4))), "transform must be an invertible 4x4 matrix"),
    (lambda v: resample(v, grid(), grid(), SHAPE, np.full((4, 4), np.nan)), "transform must be an invertible 4x4"),
    (lambda v: resample(v, grid(), grid(), SHAPE, np.eye(3)), r"transform must be an invertible 4x4.*\(3, 3\)"),
    (lambda v: resample_inside(v, v, grid(), grid(), SHAPE), "the mask is empty: give a mask of where"),
    (lambda v: resample_inside(v, v[0], grid(), grid(), SHAPE), "do not fit a mask of shape"),
])  # fmt: skip
def test_what_cannot_be_resampled_is_refused(call: Callable[[NDArray], object], message: str) -> None:
    with pytest.raises(InputError, match=message):
        call(np.zeros(SHAPE, np.float32))
