"""Turned splines keep what lies on the grid, reach the edge of a mask without ringing, and come back by the inverse."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
from chi33.files.errors import InputError
from chi33.pipeline.images.morphology import dice
from chi33.pipeline.images.resample import resample
from chi33.pipeline.images.spline_maps import MARGIN, box_samples, evaluate, mask_on, spline_maps, values_in
from chi33.pipeline.physics.tensors import (
    eigenvalues,
    msa,
    principal_eigenvector,
    rotate_components,
    rotation_of_components,
)
from numpy.typing import NDArray
from scipy.ndimage import binary_erosion, gaussian_filter
from scipy.spatial.transform import Rotation

SHAPE = (40, 44, 36)


def ball(shape: tuple[int, int, int] = SHAPE, radius: float = 16.0) -> NDArray[np.bool_]:
    grids = np.meshgrid(*(np.arange(n) - (n - 1) / 2 for n in shape), indexing="ij")
    return sum(g**2 for g in grids) < radius**2


def about_centre(rotation: NDArray, affine: NDArray, shape: tuple[int, int, int] = SHAPE) -> NDArray:
    centre = affine[:3, :3] @ ((np.array(shape) - 1) / 2) + affine[:3, 3]
    transform = np.eye(4)
    transform[:3, :3] = rotation
    transform[:3, 3] = centre - rotation @ centre
    return transform


def white_matter(shape: tuple[int, int, int] = SHAPE) -> NDArray[np.float32]:
    """Fibres that bend over some ten voxels, of the anisotropy of white matter, on a smooth isotropic part in ppm."""
    rng = np.random.default_rng(4)
    bend = gaussian_filter(rng.standard_normal((2, *shape)), (0, 5, 5, 5))
    bend *= 0.8 / bend.std()
    axis = np.stack([np.cos(bend[0]), np.sin(bend[0]) * np.cos(bend[1]), np.sin(bend[0]) * np.sin(bend[1])])
    tensor = np.stack([axis[i] * axis[j] - (i == j) / 3 for i, j in ((0, 0), (0, 1), (0, 2), (1, 1), (1, 2), (2, 2))])
    isotropic = gaussian_filter(rng.standard_normal(shape), 3)
    tensor *= 0.018 * (1 + 0.3 * gaussian_filter(rng.standard_normal(shape), 4) / 0.05)
    tensor[[0, 3, 5]] += 0.02 * isotropic / isotropic.std() - 0.03
    return tensor.astype(np.float32)


@pytest.mark.parametrize("axis", ["x", "y", "z"])
def test_a_quarter_turn_of_rough_maps_is_exact(axis: str) -> None:
    shape, affine = (24, 24, 24), np.diag([1.3, 1.3, 1.3, 1.0])
    mask = np.zeros(shape, bool)
    mask[:20, 3:, 4:19] = True  # touches two faces of the grid
    maps = np.random.default_rng(0).standard_normal((2, *shape)).astype(np.float32)
    rotation = Rotation.from_euler(axis, 90, degrees=True).as_matrix()
    values, inside = evaluate(spline_maps(maps, mask, affine), affine, shape, about_centre(rotation, affine, shape))
    planes = {"x": (1, 2), "y": (2, 0), "z": (0, 1)}[axis]
    np.testing.assert_array_equal(inside, np.rot90(mask, 1, planes))
    expected = np.rot90(maps * mask, 1, tuple(plane + 1 for plane in planes))
    assert np.abs(values - expected).max() < 1e-6 * np.ptp(maps)


def test_a_uniform_tensor_stays_uniform_up_to_the_edge() -> None:
    affine, mask = np.eye(4), ball()
    uniform = np.array([0.3, 0.1, -0.2, -0.1, 0.05, -0.2], np.float32)
    rotation = Rotation.from_rotvec([0.3, -0.4, 0.2]).as_matrix()
    place = (affine, SHAPE, about_centre(rotation, affine))
    maps = spline_maps(uniform[:, None, None, None] * mask, mask, affine)
    values, inside = evaluate(maps.mixed(rotation_of_components(rotation)), *place)
    expected = rotate_components(uniform[:, None, None, None] * np.ones(SHAPE, np.float32), rotation) * inside
    np.testing.assert_allclose(values, expected, atol=1e-6)
    stepping = rotate_components(resample(uniform[:, None, None, None] * mask, affine, *place), rotation)
    assert np.abs(stepping * inside - expected).max() > 0.1  # what a step to zero at the edge does


def test_the_mask_turns_with_the_head_and_follows_no_stairs() -> None:
    rotation, axes = Rotation.from_rotvec([0.3, 0.4, -0.2]).as_matrix(), np.array([15.0, 10.0, 13.0])
    grid = np.indices(SHAPE).reshape(3, -1) - (np.array(SHAPE)[:, None] - 1) / 2
    given, exact = (
        (np.sum((points / axes[:, None]) ** 2, axis=0) < 1).reshape(SHAPE) for points in (grid, rotation.T @ grid)
    )
    affine = np.eye(4)
    place = (affine, SHAPE, about_centre(rotation, affine))
    _, inside = evaluate(spline_maps(given.astype(np.float32), given, affine), *place)
    assert dice(inside, exact) > 0.985
    assert 1 - dice(inside, exact) < 0.8 * (
        1 - dice(resample(given.astype(np.float32), affine, *place, order=1) >= 0.5, exact)
    )
    assert inside.sum() == pytest.approx(exact.sum(), rel=0.005)


def directions_apart(one: NDArray, other: NDArray, where: NDArray) -> float:
    """The largest angle in degrees between the principal eigenvectors of two tensors."""
    cosine = np.abs((principal_eigenvector(one) * principal_eigenvector(other)).sum(axis=0)[where])
    return float(np.degrees(np.arccos(np.clip(cosine, 0, 1))).max())


@pytest.mark.parametrize("degrees", [8.0, 30.0])
def test_a_turn_and_its_inverse_return_the_tensor(degrees: float) -> None:
    affine, mask, tensor = np.eye(4), ball(), white_matter()
    rotation = Rotation.from_rotvec(np.radians(degrees) * np.array([0.6, -0.48, 0.64])).as_matrix()
    there, back = (about_centre(one, affine) for one in (rotation, rotation.T))
    turned, inside = evaluate(
        spline_maps(tensor, mask, affine).mixed(rotation_of_components(rotation)), affine, SHAPE, there
    )
    returned, _ = evaluate(
        spline_maps(turned, inside, affine).mixed(rotation_of_components(rotation.T)), affine, SHAPE, back
    )
    fibres = binary_erosion(mask, iterations=3) & (msa(tensor) > 0.01)
    given, found = eigenvalues(tensor)[:, fibres], eigenvalues(returned)[:, fibres]
    assert fibres.sum() > 3000
    assert np.abs(found - given).max() < 0.01 * np.abs(given).max()
    assert directions_apart(tensor, returned, fibres) < 1
    assert directions_apart(tensor, rotate_components(returned, rotation), fibres) > 0.8 * degrees  # not turned back


def test_a_spline_keeps_what_linear_interpolation_blurs() -> None:
    affine, mask = np.eye(4), np.ones(SHAPE, bool)
    grid = np.indices(SHAPE).reshape(3, -1) - (np.array(SHAPE)[:, None] - 1) / 2
    rotation = Rotation.from_rotvec([0.2, 0.3, -0.25]).as_matrix()
    wave = np.pi * 0.45 * np.array([0.6, -0.48, 0.64])  # at 45 % of the Nyquist frequency
    given, exact = (np.cos(wave @ points).reshape(SHAPE) for points in (grid, rotation.T @ grid))
    values, _ = evaluate(spline_maps(given, mask, affine), affine, SHAPE, about_centre(rotation, affine))
    core = ball(radius=10)
    kept = (values[0][core] @ exact[core]) / (exact[core] @ exact[core])
    assert kept == pytest.approx(1, abs=0.02)
    assert np.linalg.norm((values[0] - exact)[core]) < 0.03 * np.linalg.norm(exact[core])


def coarser(affine: NDArray, factors: Sequence[int]) -> NDArray:
    """The affine of a grid whose voxels are blocks of another's, from its first voxel on."""
    count = np.asarray(factors)
    blocks = affine.copy()
    blocks[:3, :3] = affine[:3, :3] * count
    blocks[:3, 3] += affine[:3, :3] @ ((count - 1) / 2)
    return blocks


def block_means(values: NDArray, factors: Sequence[int]) -> NDArray:
    x, y, z = (n // f for n, f in zip(values.shape, factors, strict=True))
    cut = values[: x * factors[0], : y * factors[1], : z * factors[2]]
    return cut.reshape(x, factors[0], y, factors[1], z, factors[2]).mean(axis=(1, 3, 5))


@pytest.mark.parametrize("factors", [(1, 1, 4), (2, 2, 2), (3, 1, 2), (1, 5, 1)])
def test_a_coarser_voxel_has_the_mean_of_the_voxels_that_it_covers(factors: tuple[int, int, int]) -> None:
    """Of noise, as rough as a map can be, to rounding; a sample at its centre would be far from it."""
    affine = np.diag([1.0, 1.0, 1.0, 1.0])
    affine[:3, :3] = Rotation.from_euler("xyz", [20, -10, 35], degrees=True).as_matrix() * (1.0, 1.2, 0.9)
    noise = np.random.default_rng(0).standard_normal(SHAPE).astype(np.float32)
    expected = block_means(noise, factors)
    values, inside = evaluate(spline_maps(noise, np.ones(SHAPE), affine), coarser(affine, factors), expected.shape)
    assert inside.all()
    np.testing.assert_allclose(values[0], expected, atol=1e-5)


@pytest.mark.parametrize("factors", [(1, 1, 4), (2, 2, 2)])
def test_a_coarser_rotated_voxel_has_the_mean_over_its_own_box(factors: tuple[int, int, int]) -> None:
    affine, mask, shape = np.eye(4), ball(), (40, 40, 40)
    rough = gaussian_filter(np.random.default_rng(1).standard_normal(SHAPE), 1.0).astype(np.float32)
    maps = spline_maps(rough, mask, affine)
    transform = about_centre(Rotation.from_rotvec([0.3, -0.4, 0.2]).as_matrix(), affine)
    blocks = coarser(affine, factors)
    fine, there = evaluate(maps, affine, shape, transform)
    whole = block_means(there.astype(np.float32), factors) == 1
    values, inside = evaluate(maps, blocks, whole.shape, transform)
    assert inside[whole].all()
    expected = block_means(fine[0], factors)[whole]
    assert np.abs(values[0][whole] - expected).max() < 1e-5 * np.ptp(expected)
    linear = resample(rough, affine, blocks, whole.shape, transform)[whole]
    assert np.sqrt(((linear - expected) ** 2).mean()) > 0.2 * expected.std()  # what a sample at the centre errs by


@pytest.mark.parametrize(("source", "target", "angles", "count"), [
    ((1, 1, 1), (1, 1, 1), (20, 30, 10), 1),
    ((2, 2, 2), (1, 1.5, 2.1), (20, 30, 10), 1),
    ((1, 1, 3), (1, 1, 3), (15, 0, 0), 1),
    ((1, 1, 1), (1.5, 1, 1), (20, 30, 10), 2),
    ((1, 1, 1), (1, 1, 4), (20, 30, 10), 4),
    ((1, 1, 4), (1, 4, 1), (90, 0, 0), 1),
    ((1, 1, 4), (1, 1, 4), (90, 0, 0), 4),
    ((1.2, 1.2, 1.2), (2, 2, 2), (0, 0, 0), 8),
])  # fmt: skip
def test_samples_have_the_second_moment_that_the_source_lacks(
    source: tuple[float, ...], target: tuple[float, ...], angles: tuple[float, ...], count: int
) -> None:
    transform = np.eye(4)
    transform[:3, :3] = Rotation.from_euler("xyz", angles, degrees=True).as_matrix()
    samples = box_samples(np.diag([*source, 1.0]), np.diag([*target, 1.0]), transform)
    assert samples.shape == (count, 3)
    np.testing.assert_allclose(samples.mean(axis=0), 0, atol=1e-12)
    in_target = (transform[:3, :3] @ (np.array(source) * samples).T).T  # mm along the axes of the target
    own = np.diag(transform[:3, :3] @ np.diag(np.array(source) ** 2) @ transform[:3, :3].T) / 12
    for axis, edge in enumerate(target):
        has = own[axis] + (in_target[:, axis] ** 2).mean()
        assert has == pytest.approx(edge**2 / 12) or (edge**2 / 12 < 1.1**2 * own[axis] and has == own[axis])


@pytest.mark.parametrize("target", [(1, 1, 1), (0.7, 0.7, 0.7), (1, 1, 4), (2, 1.5, 1.7)])
def test_a_constant_stays_constant_up_to_the_edge_on_any_grid(target: tuple[float, ...]) -> None:
    affine, mask = np.eye(4), ball()
    maps = spline_maps(np.where(mask, np.float32(0.05), np.nan), mask, affine)
    transform = about_centre(Rotation.from_rotvec([0.3, -0.4, 0.2]).as_matrix(), affine)
    values, inside = evaluate(maps, np.diag([*target, 1.0]), (60, 64, 56), transform)
    assert inside.sum() * np.prod(target) == pytest.approx(mask.sum(), rel=0.02)
    np.testing.assert_allclose(values[0][inside], 0.05, atol=1e-7)
    assert not values[0][~inside].any()
    everywhere = values_in(maps, np.ones((60, 64, 56), bool), np.diag([*target, 1.0]), transform)
    np.testing.assert_allclose(everywhere, 0.05, atol=1e-7)  # also past the box


@pytest.mark.parametrize("factors", [(1, 1, 1), (1, 1, 3)])
def test_any_number_of_threads_gives_the_same_bits(
    factors: tuple[int, int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    affine, mask = np.eye(4), ball()
    rough = np.random.default_rng(1).standard_normal((2, *SHAPE)).astype(np.float32)
    place = (
        coarser(affine, factors),
        (41, 39, 37),
        about_centre(Rotation.from_rotvec([0.3, 0, 0.2]).as_matrix(), affine),
    )
    found = []
    for threads in (1, 3):
        monkeypatch.setattr("chi33.pipeline.images.spline_maps.fft_workers", lambda threads=threads: threads)
        found.append(evaluate(spline_maps(rough, mask, affine), *place))
    np.testing.assert_array_equal(found[0][0], found[1][0])
    np.testing.assert_array_equal(found[0][1], found[1][1])
    np.testing.assert_array_equal(mask_on(spline_maps(rough, mask, affine), *place), found[0][1])


def test_the_box_holds_the_mask_and_a_margin() -> None:
    affine = np.diag([2.0, 2.0, 3.0, 1.0])
    mask = np.zeros((30, 30, 30), bool)
    mask[5:9, 10:20, 0:4] = True
    maps = spline_maps(np.ones((3, *mask.shape)), mask, affine)
    assert maps.coefficients.shape == (3, 4 + 2 * MARGIN, 10 + 2 * MARGIN, 4 + 2 * MARGIN)
    np.testing.assert_allclose(maps.affine[:3, 3], [2 * (5 - MARGIN), 2 * (10 - MARGIN), -3 * MARGIN])
    np.testing.assert_allclose(maps.coefficients, 1, atol=1e-6)


def test_unfit_maps_are_refused() -> None:
    with pytest.raises(InputError, match=r"maps of shape \(6, 4, 4, 5\) do not fit a mask of shape \(4, 4, 4\)"):
        spline_maps(np.zeros((6, 4, 4, 5)), np.ones((4, 4, 4)), np.eye(4))
    with pytest.raises(InputError, match="the mask is empty: give a mask of where the maps are known"):
        spline_maps(np.zeros((4, 4, 4)), np.zeros((4, 4, 4)), np.eye(4))
