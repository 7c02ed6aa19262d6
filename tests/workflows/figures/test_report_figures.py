from __future__ import annotations

import base64
import io
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from chi33.workflows.figures.echo import EchoSlices, shown_echo, write_echo_figure
from chi33.workflows.figures.maps import GreyScale, Planes, b0_figure, planes_figure, symmetric_scale
from chi33.workflows.figures.tensor import direction_colours, direction_figure, full_brightness
from chi33.workflows.report.view import View
from PIL import Image
from scipy.spatial.transform import Rotation


def _decoded(uri: str) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(uri.split(",", 1)[1]))))


@pytest.mark.parametrize("code", ["RAS", "LPS", "PSR", "SAL", "IRP"])
def test_slices_show_the_world_whatever_the_order_of_the_axes(code: str) -> None:
    shape, affine = (20, 24, 28), np.diag([2.0, 3.0, 4.0, 1.0])
    mask = np.zeros(shape, bool)
    mask[2:18, 3:21, 4:25] = True
    volume = np.zeros(shape, np.float32)
    volume[14:17, 17:20, :] = 1  # right and in front, at every height
    turn = nib.orientations.ornt_transform(
        nib.orientations.axcodes2ornt("RAS"), nib.orientations.axcodes2ornt(tuple(code))
    )
    turned = affine @ nib.orientations.inv_ornt_aff(turn, shape)
    view = View.of(nib.orientations.apply_orientation(mask.astype(np.uint8), turn) > 0, turned)
    cuts = view.cut(nib.orientations.apply_orientation(volume, turn))
    planes = cuts[1]
    assert planes.voxel_size == (2.0, 3.0, 4.0)
    straight = View.of(mask, affine).cut(volume)
    for one, other in zip(cuts, straight, strict=True):
        np.testing.assert_array_equal(one.axial, other.axial)
    x, y = np.argwhere(planes.axial > 0).mean(axis=0) / planes.axial.shape
    assert x > 0.6
    assert y > 0.6


def test_slices_of_a_vector_image_keep_their_components() -> None:
    mask = np.ones((6, 7, 8), bool)
    vectors = np.stack([np.full(mask.shape, value, np.float32) for value in (1, 2, 3)])
    planes = View.of(mask, np.diag([-1.0, 1, 1, 1])).cut(vectors)[1]
    assert planes.sagittal.shape == (7, 8, 3)
    assert planes.component(1).coronal.tolist() == np.full((6, 8), 2).tolist()


def test_slices_lie_below_in_and_above_the_middle_of_the_brain() -> None:
    mask = np.zeros((40, 50, 60), bool)
    mask[5:35, 10:40, 20:50] = True
    heights = np.broadcast_to(np.arange(60, dtype=np.float32), mask.shape)
    shown = [float(one.axial[10, 10]) for one in View.of(mask, np.eye(4)).cut(heights)]
    np.testing.assert_allclose(shown, [26, 34.5, 43], atol=1.01)


def test_rows_are_drawn_under_one_another_in_their_order() -> None:
    rows = [Planes(*(np.full((40, 40), value, np.float32) for _ in range(3)), (1.0,) * 3) for value in (0.2, 0.6, 1.0)]
    picture = _decoded(planes_figure(rows, GreyScale(0, 1))).mean(axis=2)
    column = picture[:, picture.shape[1] // 6]
    body = column[: int(len(column) * 0.85)]
    assert [float(np.median(part)) for part in np.array_split(body, 3)] == pytest.approx([51, 153, 255], abs=12)


def test_a_map_that_is_not_determined_is_faint_and_says_so_in_its_picture() -> None:
    full = np.ones((40, 40), np.float32)
    rows = [Planes(full, full, full, (1.0,) * 3)]
    shown = _decoded(planes_figure(rows, GreyScale(0, 1))).mean(axis=2)
    faint = _decoded(planes_figure(rows, GreyScale(0, 1), undetermined="not determined")).mean(axis=2)
    quarter = (shown.shape[0] // 8, shown.shape[1] // 6)
    assert shown[quarter] > 240
    assert 40 < faint[quarter] < 110
    assert (faint[: faint.shape[0] // 2] > 200).sum() > 100  # the words
    vectors = np.zeros((40, 40, 3), np.float32)
    vectors[..., 1] = 1
    coloured = direction_figure(
        [Planes(vectors, vectors, vectors, (1.0,) * 3)], rows, 1.0, undetermined="not determined"
    )
    picture = _decoded(coloured).astype(int)
    assert (picture.max(axis=2) - picture.min(axis=2)).max() < 12  # no colour


def test_picture_puts_left_on_the_left_and_front_up() -> None:
    axial = np.zeros((40, 40), np.float32)
    axial[30:, 30:] = 1  # right, in front
    planes = Planes(axial, np.zeros((40, 40), np.float32), np.zeros((40, 40), np.float32), (1.0, 1.0, 1.0))
    picture = _decoded(planes_figure([planes], GreyScale(0, 1))).mean(axis=2)
    panel = picture[: int(0.5 * picture.shape[0]), : picture.shape[1] // 3]
    rows, columns = np.nonzero(panel > 200)
    assert np.median(columns) > 0.65 * panel.shape[1]
    lower = picture[int(0.35 * picture.shape[0]) : int(0.55 * picture.shape[0]), : picture.shape[1] // 3]
    assert rows.size > 1000
    assert (lower > 200).mean() < 0.01


def test_mask_outline_is_drawn_in_its_colour() -> None:
    mask = np.zeros((40, 40), bool)
    mask[10:30, 10:30] = True
    outline = Planes(mask, mask, mask, (1.0, 1.0, 1.0))
    grey = Planes(*(np.zeros((40, 40), np.float32) for _ in range(3)), (1.0, 1.0, 1.0))
    plain = _decoded(planes_figure([grey], GreyScale(0, 1)))
    drawn = _decoded(planes_figure([grey], GreyScale(0, 1), [([outline], "#ff0000")]))
    reddish = (drawn[..., 0] > 150) & (drawn[..., 1] < 100)
    assert reddish.sum() > 500
    assert not ((plain[..., 0] > 150) & (plain[..., 1] < 100)).any()


def test_zeros_outside_the_brain_are_black_and_values_there_are_not_hidden() -> None:
    brain, values = np.zeros((40, 40), bool), np.zeros((40, 40), np.float32)
    brain[:20] = True
    values[30:] = 1.0
    shown = Planes(values, values, values, (1.0, 1.0, 1.0))
    outside = Planes(brain, brain, brain, (1.0, 1.0, 1.0))
    picture = _decoded(planes_figure([shown], GreyScale(-1, 1), brain=[outside])).mean(axis=2)
    row = picture[picture.shape[0] // 3, : picture.shape[1] // 3]
    quarters = [np.median(part) for part in np.array_split(row[8:-4], 4)]
    assert quarters == pytest.approx([127, 127, 0, 255], abs=6)


@pytest.mark.parametrize(("axis", "channel"), [(0, 0), (1, 1), (2, 2)])
def test_directions_are_red_green_blue_by_axis(axis: int, channel: int) -> None:
    vectors = np.zeros((30, 30, 3), np.float32)
    vectors[..., axis] = -1  # a direction has no sign
    full = np.ones((30, 30), np.float32)
    colour = _decoded(
        direction_figure([Planes(vectors, vectors, vectors, (1.0,) * 3)], [Planes(full, full, full, (1.0,) * 3)], 1.0)
    )
    height, width = colour.shape[:2]
    middle = colour[height // 2, width // 6].astype(int)
    assert middle[channel] > 200
    assert middle.sum() - middle[channel] < 100


def test_brightness_is_the_anisotropy_up_to_its_full_value() -> None:
    weight = np.array([0.0, 0.005, 0.01, 0.5], np.float32)
    colours = direction_colours(np.tile(np.float32([0, -0.6, 0.8]), (4, 1)), weight, 0.01)
    expected = np.outer([0, 0.5, 1, 1], [0, 0.6, 0.8])
    np.testing.assert_allclose(colours, expected, atol=1e-6)


def test_full_brightness_is_not_that_of_a_few_strong_voxels() -> None:
    values = np.full(1000, 0.004, np.float32)
    values[:20] = 1.0
    assert full_brightness(values) == pytest.approx(0.004)
    assert full_brightness(np.concatenate([values, np.zeros(5000, np.float32)])) == pytest.approx(0.004)
    assert full_brightness(np.zeros(10)) > 0


def test_colour_map_has_a_legend_of_the_half_sphere_on_black() -> None:
    nothing = np.zeros((40, 40), np.float32)
    vectors = Planes(*(np.zeros((40, 40, 3), np.float32) for _ in range(3)), (1.0,) * 3)
    picture = _decoded(direction_figure([vectors], [Planes(nothing, nothing, nothing, (1.0,) * 3)], 0.01)).astype(int)
    height, width = picture.shape[:2]
    assert np.median(picture) < 5
    left = picture[height - 90 :, : width // 9]  # the disc
    strong = [np.argwhere((left[..., c] > 180) & (left.sum(axis=2) - left[..., c] < 140)) for c in range(3)]
    assert all(len(one) > 100 for one in strong)
    red, green, blue = strong
    centre = blue.mean(axis=0)  # up-down, seen from above
    assert np.ptp(red[:, 1]) > 60 > np.ptp(red[:, 0])  # left and right ends
    assert np.ptp(green[:, 0]) > 60 > np.ptp(green[:, 1])  # front and back ends
    np.testing.assert_allclose(red.mean(axis=0), centre, atol=4)
    np.testing.assert_allclose(green.mean(axis=0), centre, atol=4)


def test_opposite_b0_directions_are_one_point() -> None:
    h = Rotation.from_euler("x", 30, degrees=True).as_matrix() @ [0, 0, 1]
    assert b0_figure([[0, 0, 1], h]) == b0_figure([[0, 0, 1], -h])
    assert b0_figure([[0, 0, 1], h]) != b0_figure([[0, 0, 1], h], dark=True)


@pytest.mark.parametrize("size", [1e-4, 0.00151, 0.02, 0.0999, 0.3, 0.1 + 1e-12, 7, 95])
def test_symmetric_scale_holds_the_values_and_wastes_little(size: float) -> None:
    scale = symmetric_scale(size)
    assert scale.low == -scale.high
    assert size * (1 - 1e-6) <= scale.high <= 1.7 * size


def test_symmetric_scale_of_an_empty_map_is_finite() -> None:
    assert symmetric_scale(0.0) == GreyScale(-1.0, 1.0)


@pytest.mark.parametrize(("echoes", "shown"), [(1, 0), (2, 1), (5, 2), (6, 3)])
def test_the_picture_of_an_echo_shows_its_wraps_its_unwrapped_phase_and_its_weight(
    tmp_path: Path, echoes: int, shown: int
) -> None:
    assert shown_echo(echoes) == shown
    mask = np.zeros((30, 34, 26), bool)
    mask[4:26, 4:30, 4:22] = True
    ramp = np.broadcast_to(np.linspace(-9, 9, 30, dtype=np.float32)[:, None, None], mask.shape)
    wrapped = np.angle(np.exp(1j * ramp)).astype(np.float32)
    echo = EchoSlices.of(mask, np.diag([2.0, 2, 2, 1]), wrapped, ramp, np.where(mask, 4.0, 0.0).astype(np.float32))
    picture = np.asarray(Image.open(write_echo_figure(tmp_path / "echo.jpg", echo)).convert("L"), float)
    rows = np.array_split(picture[:, : picture.shape[1] // 3], 3)
    edge = rows[0].shape[1] // 5  # the mask ends at 4 of 30 voxels
    middle = [row[row.shape[0] // 3, edge:-edge] for row in rows]
    jumps = [int((np.diff(line) < -60).sum()) for line in middle]
    assert jumps[0] >= 2  # wraps
    assert jumps[1] == 0
    assert np.median(middle[2]) > 220
