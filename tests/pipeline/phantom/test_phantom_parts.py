from __future__ import annotations

import numpy as np
import pytest
from chi33.files.errors import InputError
from chi33.pipeline.frames import b0_direction_from_affine, rotation_and_scale, rotation_angle
from chi33.pipeline.orientations.conditioning import assess_orientations
from chi33.pipeline.phantom.acquisition import Protocol
from chi33.pipeline.phantom.background import free_space_field, polynomial_coordinates, shim_field
from chi33.pipeline.phantom.poses import head_orientations, scan_grid
from chi33.pipeline.phantom.sampling import sample_grid, sample_points, smooth_noise, spline_coefficients
from chi33.pipeline.phantom.shapes import Superellipsoid, draw_tubes
from chi33.pipeline.phantom.subjects import IRON_ORDER, LITERATURE_CHI, HeadParameters
from chi33.pipeline.physics.harmonics import solid_harmonics


def test_every_head_stays_within_the_stated_variation() -> None:
    for seed in range(40):
        parameters = HeadParameters.from_seed((seed, 1))
        assert all(0.93 * 0.939 < s < 0.93 * 1.061 for s in parameters.scale)
        for name, value in LITERATURE_CHI.items():
            assert abs(parameters.chi[name] / value - 1) < 0.1501
        ranked = [parameters.chi[name] for name in IRON_ORDER]
        assert ranked == sorted(ranked, reverse=True)


def test_parameters_follow_the_seed() -> None:
    assert HeadParameters.from_seed(5) == HeadParameters.from_seed((5,))
    assert HeadParameters.from_seed(5) != HeadParameters.from_seed(6)
    assert HeadParameters.from_seed(5).isotropic().anisotropy == 0


@pytest.mark.parametrize("n", [6, 7, 12, 17])
@pytest.mark.parametrize("max_angle", [20.0, 35.0, 45.0])
def test_poses_reach_the_largest_angle_and_determine_a_tensor(n: int, max_angle: float) -> None:
    poses = head_orientations(n, max_angle, seed=(3, n))
    angles = [rotation_angle(pose.rotation) for pose in poses]
    assert angles[0] == 0
    assert max(angles) == pytest.approx(max_angle, abs=1e-6)
    directions = np.array([pose.b0_direction_in_head for pose in poses])
    report = assess_orientations(directions)
    assert report.sti_rank == 6
    assert np.ptp(directions[:, 0]) > 0.2
    assert np.ptp(directions[:, 1]) > 0.2


def test_a_transform_takes_a_head_point_from_one_world_to_the_other() -> None:
    reference, moving = head_orientations(2, 30.0, seed=1)
    point = np.array([12.0, -40.0, 25.0, 1.0])
    np.testing.assert_allclose(moving.transform_to(reference) @ (moving.matrix @ point), reference.matrix @ point)
    rotation, scale = rotation_and_scale(moving.transform_to(reference))
    assert scale == pytest.approx(1)
    np.testing.assert_allclose(rotation[:, 2], reference.rotation @ moving.b0_direction_in_head, atol=1e-12)


@pytest.mark.parametrize(("n", "angle", "message"), [
    (0, 30, "number of orientations must be at least 1, got 0"),
    (6, 61, "at most 60 degrees.*got 61"),
    (6, 0, "max_angle must be above 0"),
    (6, float("nan"), "max_angle"),
])  # fmt: skip
def test_impossible_poses_are_refused(n: int, angle: float, message: str) -> None:
    with pytest.raises(InputError, match=message):
        head_orientations(n, angle)


def test_default_grid_is_the_full_size_matrix() -> None:
    grid = scan_grid((1, 1, 1), (3.0, -20.0, 7.0))
    assert grid.shape == (210, 224, 160)
    middle = grid.affine @ [*((np.array(grid.shape) - 1) / 2), 1]
    np.testing.assert_allclose(middle[:3], [3, -20, 7])


@pytest.mark.parametrize("axcodes", ["RAS", "LAS", "LPS", "PSR", "SRA", "AIL"])
def test_oblique_slices_tilt_b0_in_any_array_order(axcodes: str) -> None:
    import nibabel as nib

    plain = scan_grid((1, 1.5, 2), (0, 0, 0), axcodes=axcodes)
    assert "".join(nib.aff2axcodes(plain.affine)) == axcodes
    oblique = scan_grid((1, 1.5, 2), (0, 0, 0), oblique=12, oblique_azimuth=40, axcodes=axcodes)
    cosine = b0_direction_from_affine(oblique.affine) @ b0_direction_from_affine(plain.affine)
    assert np.degrees(np.arccos(cosine)) == pytest.approx(12, abs=1e-6)


@pytest.mark.parametrize(("change", "message"), [
    ({"voxel": (1, 1)}, "voxel must be three sizes"),
    ({"voxel": (0.1, 1, 1)}, "between 0.4 and 8 mm"),
    ({"matrix": (64, 64)}, "matrix must be three whole numbers"),
    ({"matrix": (64, 64, 2)}, "at least 8 voxels"),
    ({"oblique": 60}, "oblique must lie within 45 degrees, got 60"),
    ({"axcodes": "RAR"}, "axcodes must name"),
    ({"axcodes": "RA"}, "axcodes must name"),
])  # fmt: skip
def test_impossible_grids_are_refused(change: dict, message: str) -> None:
    with pytest.raises(InputError, match=message):
        scan_grid(**{"voxel": (1, 1, 1), "centre": (0, 0, 0), **change})


@pytest.mark.parametrize(("change", "message"), [
    ({"echo_times": ()}, "echo times must rise"),
    ({"echo_times": (0.01, 0.005)}, "echo times must rise"),
    ({"echo_times": (5.0, 10.0)}, "at most 0.2 s"),
    ({"echo_times": (0.01, 0.05)}, "must come before the repetition time"),
    ({"b0": 0}, "field strength must lie between"),
    ({"snr": 0}, "snr must be above 0"),
    ({"phase_sign": 2}, "phase_sign must be 1 or -1, got 2"),
])  # fmt: skip
def test_impossible_protocols_are_refused(change: dict, message: str) -> None:
    with pytest.raises(InputError, match=message):
        Protocol(**change)


@pytest.mark.parametrize("direction", [(0, 0, 1), (0.6, 0, 0.8), (0.36, 0.48, 0.8)])
def test_free_space_field_of_a_ball_is_a_dipole(direction: tuple[float, float, float]) -> None:
    radius, n = 8.0, 48
    x, y, z = (np.arange(n) - 20.0 for _ in range(3))
    fine = (np.arange(4) - 1.5) / 4
    squares = [((a[:, None] + fine) ** 2) for a in (x, y, z)]
    inside = np.zeros((n, n, n))
    for i in range(4):
        for j in range(4):
            for k in range(4):
                r2 = squares[0][:, None, None, i] + squares[1][None, :, None, j] + squares[2][None, None, :, k]
                inside += r2 < radius**2
    field = free_space_field((inside / 64).astype(np.float32), np.array(direction))
    gx, gy, gz = np.meshgrid(x, y, z, indexing="ij")
    r = np.sqrt(gx**2 + gy**2 + gz**2)
    cosine = (direction[0] * gx + direction[1] * gy + direction[2] * gz) / np.maximum(r, 1e-6)
    expected = (radius / np.maximum(r, 1)) ** 3 / 3 * (3 * cosine**2 - 1)
    outside = r > radius + 2
    assert np.abs(field - expected)[outside].max() < 0.01
    assert np.abs(field[r < radius - 2]).max() < 0.01  # Lorentz sphere: none inside


def test_shim_takes_out_every_second_order_term() -> None:
    grid = scan_grid((8, 8, 8), (10, 0, -5), oblique=10)
    rng = np.random.default_rng(0)
    field = sum(w * h for w, h in zip(rng.normal(size=9), solid_harmonics(polynomial_coordinates(grid)), strict=True))
    mask = rng.random(grid.shape) < 0.3
    assert np.abs(field).max() > 0.5
    np.testing.assert_allclose(shim_field(field, mask, grid), field, atol=1e-4)


def test_smooth_noise_is_standard_smooth_and_seeded() -> None:
    noise = smooth_noise(np.random.default_rng(1), (40, 50, 30), 10.0)
    assert noise.shape == (40, 50, 30)
    assert noise.mean() == pytest.approx(0, abs=1e-4)
    assert noise.std() == pytest.approx(1, abs=1e-3)
    assert np.abs(np.diff(noise, axis=1)).max() < 0.5
    np.testing.assert_array_equal(noise, smooth_noise(np.random.default_rng(1), (40, 50, 30), 10.0))


@pytest.mark.parametrize("order", [1, 3])
def test_sampling_reproduces_a_linear_map_and_averages_within_voxels(order: int) -> None:
    x, y, z = np.meshgrid(*(np.arange(24.0) for _ in range(3)), indexing="ij")
    coefficients = spline_coefficients(2 * x - y + 0.5 * z, order)
    points = np.random.default_rng(2).uniform(6, 17, (3, 50))
    expected = 2 * points[0] - points[1] + 0.5 * points[2]
    np.testing.assert_allclose(sample_points(coefficients, points, order=order), expected, atol=2e-3)
    mapping = np.diag([1.0, 1.0, 2.0, 1.0])
    mapping[:3, 3] = (6, 6, 6)
    block = sample_grid(coefficients, mapping, (5, 4, 3), order=order, subsamples=(1, 1, 2))
    i, j, k = np.meshgrid(np.arange(5), np.arange(4), np.arange(3), indexing="ij")
    np.testing.assert_allclose(block, 2 * (6 + i) - (6 + j) + 0.5 * (6 + 2 * k), atol=2e-3)


def test_superellipsoid_has_its_semi_axes_and_tubes_their_radius() -> None:
    shape = Superellipsoid((10.0, 0.0, 0.0), (3.0, 5.0, 7.0), (0.0, 0.0, 90.0))
    surface = [np.array([10.0, 10.0, 10.0, 15.0]), np.array([0.0, 3.0, 0.0, 0.0]), np.array([0.0, 0.0, 7.0, 0.0])]
    np.testing.assert_allclose(shape.distance(surface), [-3, 0, 0, 0], atol=1e-5)
    line = np.stack([np.full(200, 10.0), np.full(200, 10.0), np.linspace(0, 20, 200)], axis=1)
    volume = draw_tubes(np.zeros((21, 21, 21), np.float32), (0, 0, 0), line, np.full(200, 2.0))
    assert volume[:, :, 10].sum() == pytest.approx(np.pi * 4, rel=0.1)
