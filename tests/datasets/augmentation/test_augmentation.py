"""Turned copies obey the physics exactly, and a turn that maps the grid onto itself loses nothing."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from chi33.datasets.augmentation.rotation import (
    draw_scale,
    draw_snr,
    outline,
    random_rotation,
    reorient,
    rotate_scalar_image,
    rotate_tensor_image,
    rotated_grid,
    vary,
)
from chi33.datasets.build.build import BuildConfig, build_store
from chi33.datasets.store.schema import open_store
from chi33.datasets.store.volume import Geometry, ScalarVolume, TensorVolume, Volume
from chi33.files.errors import InputError
from chi33.pipeline.frames import b0_direction_from_affine, rotation_angle, voxel_frame
from chi33.pipeline.images.resample import resample
from chi33.pipeline.labels import reference_to_mask
from chi33.pipeline.physics.tensor_field import dipole_field, tensor_field
from chi33.pipeline.physics.tensors import chi33, rotate_components
from scipy.ndimage import gaussian_filter
from scipy.spatial.transform import Rotation

B0 = np.array([0.0, 0, 1])


def smooth(seed: int, mask: np.ndarray, sigma: float = 2.0) -> np.ndarray:
    noise = np.random.default_rng(seed).standard_normal((6, *mask.shape))
    return (0.2 * gaussian_filter(noise, (0, sigma, sigma, sigma)) * mask).astype(np.float32)


def brain(shape: tuple[int, int, int] = (21, 21, 21), radius: float = 8) -> np.ndarray:
    grids = np.meshgrid(*(np.arange(n) - (n - 1) / 2 for n in shape), indexing="ij")
    return (sum(g**2 for g in grids) < radius**2).astype(np.uint8)


def head(affine: np.ndarray, shape: tuple[int, int, int] = (21, 21, 21), seed: int = 0) -> TensorVolume:
    mask = brain(shape)
    chi = reference_to_mask(smooth(seed, mask), mask)
    return TensorVolume("01", chi, mask, Geometry(affine, b0_direction_from_affine(affine), 3.0))


def oblique(degrees: float, sizes: tuple[float, float, float]) -> np.ndarray:
    affine = np.eye(4)
    affine[:3, :3] = Rotation.from_euler("xz", [degrees, 7], degrees=True).as_matrix() @ np.diag(sizes)
    affine[:3, 3] = [4, -9, 30]
    return affine


def consistency(channels, size, h: np.ndarray = B0) -> float:
    predicted = dipole_field(channels["chi33"], size, h) + channels["deltab"]
    return float(np.abs(channels["field"] - predicted).max() / np.abs(channels["field"]).max())


def turned_kind(kind: str) -> Volume:
    tensor = head(oblique(12, (1.0, 1.3, 2.0)))
    rotation = Rotation.from_rotvec([0.3, -0.2, 0.25]).as_matrix()
    if kind == "reoriented":
        return reorient(tensor, [0.48, -0.6, 0.64], "b0-001")
    if kind == "cosmos":
        scalar = ScalarVolume("sub-01", "01", tensor.chi[0], tensor.mask, tensor.geometry)
        return rotate_scalar_image(scalar, rotation, "aug-001", labels=("chi33", "deltab", "cosmos"))
    return rotate_tensor_image(tensor, rotation, "aug-001")


@pytest.mark.parametrize("kind", ["tensor", "cosmos", "reoriented"])
def test_every_kind_is_consistent_also_when_scaled(kind: str) -> None:
    volume = turned_kind(kind)
    size, h = volume.geometry.voxel_size, volume.geometry.b0_direction
    assert consistency(volume.channels, size, h) < 1e-5
    assert consistency(vary(volume, snr=None, scale=1.7, rng=np.random.default_rng(0)).channels, size, h) < 1e-5
    assert (np.abs(volume.channels["deltab"]).max() > 1e-3) == (kind != "cosmos")


def test_reorienting_turns_b0_and_interpolates_nothing() -> None:
    affine = oblique(12, (1.0, 1.3, 2.0))
    tensor, h = head(affine), np.array([0.48, -0.6, 0.64])
    volume = reorient(tensor, h, "b0-001")
    frame = voxel_frame(affine)
    np.testing.assert_allclose(frame @ volume.geometry.b0_direction, h, atol=1e-12)
    np.testing.assert_array_equal(volume.geometry.affine, affine)
    np.testing.assert_allclose(volume.channels["chi33"], chi33(tensor.chi, h), atol=1e-6)
    expected = tensor_field(rotate_components(tensor.chi, frame.T), (1.0, 1.3, 2.0), frame.T @ h)
    assert np.abs(volume.channels["field"] - expected).max() < 2e-6 * np.ptp(expected)
    assert volume.id == "sub-01/b0-001"
    assert volume.parent == "/tensors/sub-01"
    with pytest.raises(InputError, match=r"b0_direction must be a unit vector, got \|h\| = 2"):
        reorient(tensor, [0, 0, 2], "b0-001")


@pytest.mark.parametrize("axis", ["x", "y", "z"])
def test_a_quarter_turn_of_a_rough_tensor_is_exact(axis: str) -> None:
    mask = brain()
    chi = (np.random.default_rng(3).standard_normal((6, *mask.shape)) * mask).astype(np.float32)
    tensor = TensorVolume("01", reference_to_mask(chi, mask), mask, Geometry(np.diag([2.0, 2, 2, 1]), B0, 3.0))
    rotation = Rotation.from_euler(axis, 90, degrees=True).as_matrix()
    volume = rotate_tensor_image(tensor, rotation, "aug-001")
    planes = {"x": (2, 3), "y": (3, 1), "z": (1, 2)}[axis]
    expected = rotate_components(np.rot90(tensor.chi, 1, planes), rotation)[5]
    assert np.abs(volume.channels["chi33"] - expected).max() < 1e-6 * np.ptp(expected)
    field = tensor_field(rotate_components(np.rot90(tensor.chi, 1, planes), rotation), (2, 2, 2), B0)
    assert np.abs(volume.channels["field"] - field).max() < 2e-6 * np.ptp(field)


def test_noise_has_the_given_ratio_inside_the_mask() -> None:
    volume = turned_kind("tensor")
    noisy = vary(volume, snr=12.5, scale=1.0, rng=np.random.default_rng(0))
    mask, added = volume.mask, noisy.channels["field"] - volume.channels["field"]
    assert not added[~mask].any()
    level = np.sqrt(np.mean(volume.channels["field"][mask] ** 2))
    assert level / added[mask].std() == pytest.approx(12.5, rel=4 / np.sqrt(2 * mask.sum()))
    assert abs(added[mask].mean()) < 4 * level / 12.5 / np.sqrt(mask.sum())
    for name in ("chi33", "deltab", "mask"):
        np.testing.assert_array_equal(noisy.channels[name], volume.channels[name])
    assert (noisy.snr, noisy.susceptibility_scale) == (12.5, 1.0)
    again = vary(volume, snr=12.5, scale=1.0, rng=np.random.default_rng(0))
    np.testing.assert_array_equal(again.channels["field"], noisy.channels["field"])


def test_scale_multiplies_susceptibilities_and_field_together() -> None:
    volume = turned_kind("cosmos")
    before = {name: values.copy() for name, values in volume.channels.items()}
    scaled = vary(volume, snr=np.inf, scale=2.5, rng=np.random.default_rng(0))
    for name in ("field", "chi33", "deltab", "cosmos"):
        np.testing.assert_allclose(scaled.channels[name], 2.5 * before[name], rtol=1e-6)
        np.testing.assert_array_equal(volume.channels[name], before[name])  # the original is left alone
    np.testing.assert_array_equal(scaled.channels["mask"], before["mask"])
    assert (scaled.snr, scaled.susceptibility_scale) == (np.inf, 2.5)
    assert vary(scaled, snr=None, scale=2.0, rng=np.random.default_rng(0)).susceptibility_scale == 5
    noisy = vary(volume, snr=4, scale=2.5, rng=np.random.default_rng(0)).channels["field"]
    added = (noisy - scaled.channels["field"])[volume.mask]  # the ratio is that of the scaled field
    expected = np.sqrt(np.mean(scaled.channels["field"][volume.mask] ** 2)) / 4
    assert added.std() == pytest.approx(expected, rel=4 / np.sqrt(2 * added.size))


def test_scales_are_drawn_evenly_between_half_and_double() -> None:
    rng = np.random.default_rng(0)
    scales = np.array([draw_scale((0.5, 2.0), rng) for _ in range(2000)])
    assert 0.5 <= scales.min() < 0.51
    assert 1.97 < scales.max() <= 2.0
    assert (scales < 1).mean() == pytest.approx(0.5, abs=0.05)
    assert draw_scale((3.0, 3.0), rng) == 3.0
    assert 5 <= draw_snr((5, 40), rng) <= 40


@pytest.mark.parametrize("bounds", [(0, 2), (2, 1), (1, np.inf), (np.nan, 2)])
def test_unfit_bounds_are_refused(bounds: tuple[float, float]) -> None:
    for draw, option in ((draw_scale, "--augment-scale"), (draw_snr, "--augment-snr")):
        with pytest.raises(InputError, match=f"{option} must be two rising numbers above 0, LOW,HIGH, got"):
            draw(bounds, np.random.default_rng(0))


def test_unfit_variations_are_refused() -> None:
    volume, rng = turned_kind("cosmos"), np.random.default_rng(0)
    for scale in (0, -1, np.nan, np.inf):
        with pytest.raises(InputError, match=f"scale must be a finite number above 0, got {scale:g}"):
            vary(volume, snr=None, scale=scale, rng=rng)
    for snr in (0, -3, np.nan):
        with pytest.raises(InputError, match=f"snr must be above 0, got {snr:g}: give None for no noise"):
            vary(volume, snr=snr, scale=1, rng=rng)


def test_an_empty_mask_has_no_head_to_turn() -> None:
    with pytest.raises(InputError, match="the mask is empty: there is no head to turn"):
        outline(np.zeros((4, 4, 4)))


def test_an_outline_reaches_as_far_as_its_mask() -> None:
    mask = np.random.default_rng(0).random((9, 8, 7)) < 0.1
    for direction in np.random.default_rng(1).standard_normal((50, 3)):
        assert (outline(mask) @ direction).max() == (np.argwhere(mask) @ direction).max()


def test_every_augmented_volume_in_a_store_is_consistent(derivatives: Path, tmp_path: Path) -> None:
    config = BuildConfig(patch_size=10, patches_per_scan=2, augment=2, max_angle=25, val_subjects=("03",))
    build_store(derivatives, tmp_path / "s.h5", config)
    store = open_store(tmp_path / "s.h5")
    turned = [volume for volume in store.volumes if volume.source == "augmented"]
    assert [v.id for v in turned] == [f"sub-0{s}/aug-00{n}" for s in (1, 2) for n in (1, 2)]
    with store.open() as handle:
        for volume in turned:
            assert volume.rotation is not None
            assert 0 < rotation_angle(volume.rotation) <= 25
            assert volume.split == "train"
            np.testing.assert_array_equal(volume.geometry.b0_direction, B0)
            maps = {name: handle[f"volumes/{volume.id}/{name}"][()] for name in volume.channels}
            assert consistency(maps, volume.geometry.voxel_size) < 1e-5
            assert np.abs(maps["deltab"]).max() > 1e-3
            assert set(maps) == {"field", "chi33", "deltab", "cosmos", "mask"}


@pytest.mark.parametrize("affine", [np.diag([2.0, 2, 2, 1]), oblique(12, (1.0, 1.0, 2.0)), oblique(90, (1, 1.5, 2))])
def test_turned_tensor_is_consistent_on_any_grid(affine: np.ndarray) -> None:
    rotation = Rotation.from_rotvec([0.3, -0.2, 0.25]).as_matrix()
    volume = rotate_tensor_image(head(affine), rotation, "aug-001")
    assert consistency(volume.channels, volume.geometry.voxel_size) < 1e-5
    np.testing.assert_allclose(b0_direction_from_affine(volume.geometry.affine), B0)


def test_a_quarter_turn_about_x_puts_another_component_along_b0() -> None:
    tensor = head(np.diag([2.0, 2, 2, 1]))
    rotation = Rotation.from_euler("x", 90, degrees=True).as_matrix()  # (x, y, z) -> (x, -z, y)
    volume = rotate_tensor_image(tensor, rotation, "aug-001")
    assert volume.channels["mask"].shape == (21, 21, 21)
    moved = np.flip(np.swapaxes(tensor.chi, 2, 3), 2)  # voxel (x, y, z) goes to (x, -z, y)
    expected = rotate_components(moved, rotation)
    np.testing.assert_array_equal(volume.channels["mask"], np.flip(np.swapaxes(tensor.mask, 1, 2), 1))
    np.testing.assert_allclose(volume.channels["chi33"], expected[5], atol=2e-6)
    np.testing.assert_allclose(volume.channels["chi33"], moved[3], atol=2e-6)  # yy lies along B0 now
    field = tensor_field(tensor.chi, (2, 2, 2), (0, 1, 0))  # the same head, B0 along its y
    np.testing.assert_allclose(volume.channels["field"], np.flip(np.swapaxes(field, 1, 2), 1), atol=2e-5)


def test_a_quarter_turn_about_b0_turns_the_field_with_the_head() -> None:
    tensor = head(np.diag([2.0, 2, 2, 1]))
    rotation = Rotation.from_euler("z", 90, degrees=True).as_matrix()  # (x, y, z) -> (-y, x, z)
    volume = rotate_tensor_image(tensor, rotation, "aug-001")
    field = tensor_field(tensor.chi, (2, 2, 2), B0)
    np.testing.assert_allclose(volume.channels["field"], np.flip(np.swapaxes(field, 0, 1), 0), atol=2e-5)


def test_no_turn_changes_nothing() -> None:
    tensor = head(np.diag([2.0, 2, 2, 1]), (21, 24, 20))
    volume = rotate_tensor_image(tensor, np.eye(3), "aug-001")
    np.testing.assert_allclose(volume.channels["chi33"], tensor.chi[5], atol=1e-6)
    np.testing.assert_array_equal(volume.channels["mask"], tensor.mask)


def test_labels_are_relative_to_the_mean_over_the_brain() -> None:
    tensor = head(np.diag([2.0, 2, 2, 1]))
    shifted = tensor.chi.copy()
    shifted[[0, 3, 5]] += 0.3
    rotation = Rotation.from_rotvec([0.2, 0.1, 0]).as_matrix()
    plain, moved = (
        rotate_tensor_image(replace(tensor, chi=chi), rotation, "a").channels for chi in (tensor.chi, shifted)
    )
    for name in ("chi33", "field", "deltab"):
        np.testing.assert_allclose(moved[name], plain[name], atol=1e-6)


def test_the_field_of_a_small_turn_is_that_of_a_turned_b0() -> None:
    tensor = head(np.diag([2.0, 2, 2, 1]), (29, 29, 29))
    tensor = replace(tensor, chi=reference_to_mask(smooth(1, tensor.mask, sigma=3.0), tensor.mask))
    rotation = Rotation.from_euler("y", 20, degrees=True).as_matrix()
    volume = rotate_tensor_image(tensor, rotation, "aug-001")
    back = np.linalg.inv(rotated_grid(tensor.mask, tensor.geometry, rotation)[2])
    place = (volume.geometry.affine, tensor.geometry.affine, tensor.mask.shape, back)
    returned = resample(volume.channels["field"], *place)
    expected = tensor_field(tensor.chi, (2, 2, 2), rotation.T @ B0)
    inside = brain((29, 29, 29), 6) > 0
    error = np.linalg.norm((returned - expected)[inside]) / np.linalg.norm(expected[inside])
    change = tensor_field(tensor.chi, (2, 2, 2), B0) - expected
    assert error < 0.12
    assert error < 0.4 * np.linalg.norm(change[inside]) / np.linalg.norm(expected[inside])


def test_nothing_of_a_turned_head_is_cut_off() -> None:
    affine = np.diag([2.0, 2, 2, 1])
    mask = np.pad(np.ones((30, 8, 8), np.uint8), 1)
    geometry = Geometry(affine, B0, 3.0)
    rotation = Rotation.from_euler("y", 60, degrees=True).as_matrix()
    chi = np.ones(mask.shape, np.float32)
    volume = rotate_scalar_image(ScalarVolume("sub-01", "01", chi, mask, geometry), rotation, "a", labels=("cosmos",))
    turned = volume.channels["mask"]
    assert turned.shape[2] > mask.shape[2]
    assert turned.sum() == pytest.approx(mask.sum(), rel=0.1)
    assert turned[:, :, [0, -1]].sum() == turned[:, [0, -1]].sum() == turned[[0, -1]].sum() == 0


def test_a_sagittal_grid_is_turned_upright() -> None:
    affine = np.zeros((4, 4))
    affine[1, 0], affine[2, 1], affine[0, 2], affine[3, 3] = -1.0, -1.5, 2.0, 1  # array axes: -y, -z, x
    tensor = head(affine, (22, 24, 20))
    volume = rotate_tensor_image(tensor, np.eye(3), "aug-001")
    np.testing.assert_allclose(volume.geometry.voxel_size, [2.0, 1.0, 1.5])
    upright = np.flip(np.transpose(tensor.mask, (2, 0, 1)), (1, 2))
    assert volume.channels["mask"].sum() == tensor.mask.sum()
    np.testing.assert_array_equal(volume.channels["mask"], upright)


def test_rotations_are_random_within_the_angle_and_repeatable() -> None:
    angles = [rotation_angle(random_rotation("01", n, max_angle=30, seed=0)) for n in range(200)]
    assert max(angles) <= 30
    assert max(angles) > 28
    assert np.mean(angles) == pytest.approx(15, abs=2)
    np.testing.assert_array_equal(
        random_rotation("01", 3, max_angle=30, seed=0), random_rotation("01", 3, max_angle=30, seed=0)
    )
    assert not np.allclose(
        random_rotation("02", 3, max_angle=30, seed=0), random_rotation("01", 3, max_angle=30, seed=0)
    )
    with pytest.raises(InputError, match="--max-angle must be above 0"):
        random_rotation("01", 1, max_angle=0, seed=0)


@pytest.mark.parametrize("labels", [True, False])
def test_without_a_tensor_cosmos_is_turned_as_a_scalar(make_derivatives, tmp_path: Path, labels: bool) -> None:
    folder = make_derivatives(2, 1, tensor=False, labels=labels)
    build_store(folder, tmp_path / "s.h5", BuildConfig(patch_size=10, patches_per_scan=2, augment=1))
    store = open_store(tmp_path / "s.h5")
    acquired, turned = store.of_split("train")
    assert turned.parent == "/volumes/sub-01/acq-ori01"
    assert set(turned.channels) == set(acquired.channels)
    with store.open() as handle:
        group = handle[f"volumes/{turned.id}"]
        field, chi = group["field"][()], group["cosmos"][()]
        assert np.abs(field - dipole_field(chi, turned.geometry.voxel_size, B0)).max() < 1e-5 * np.abs(field).max()
        if labels:
            np.testing.assert_array_equal(group["chi33"][()], chi)
            assert not group["deltab"][()].any()


def test_nothing_to_turn_is_refused(make_derivatives, tmp_path: Path) -> None:
    folder = make_derivatives(2, 1, tensor=False)
    for file in folder.rglob("*cosmos*"):
        file.unlink()
    with pytest.raises(InputError, match="sub-01 has neither a tensor nor a COSMOS map to turn"):
        build_store(folder, tmp_path / "s.h5", BuildConfig(patch_size=10, patches_per_scan=2, augment=1))
