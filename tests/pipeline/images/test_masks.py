from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from chi33.files.errors import InputError
from chi33.pipeline.images.morphology import (
    MaskFaults,
    check_given_mask,
    clean_mask,
    dice,
    largest_component,
    mask_faults,
)
from numpy.typing import NDArray


def ball(
    centre: tuple[float, ...], radius: float, size: tuple[float, ...], shape: tuple[int, ...]
) -> NDArray[np.bool_]:
    index = np.indices(shape)
    return sum(((index[a] - centre[a]) * size[a]) ** 2 for a in range(3)) < radius**2


def test_the_largest_of_touching_corners_is_kept() -> None:
    mask = np.zeros((8, 8, 8), bool)
    mask[1:4, 1:4, 1:4] = True
    mask[4:6, 4:6, 4:6] = True  # touches the first only at a corner
    kept = largest_component(mask)
    assert kept.sum() == 27
    assert kept[2, 2, 2]
    assert not largest_component(np.zeros((3, 3, 3))).any()


def test_a_mask_loses_islands_bridges_and_holes_and_keeps_its_outline_in_millimetres() -> None:
    size, shape = (1.0, 1.0, 2.0), (60, 60, 40)
    brain = ball((24, 30, 20), 16, size, shape)
    mask = brain.copy()
    mask |= ball((52, 30, 20), 6, size, shape)  # an eye
    mask[38:50, 29:32, 19:21] = True  # on a thin nerve
    mask[24:28, 28:32, 19:21] = False  # a hole
    mask[1, 1, 1] = True
    kept = clean_mask(mask, size)
    assert kept[25, 30, 20]
    assert not kept[52, 30, 20]
    assert not kept[44, 30, 20]
    assert not kept[1, 1, 1]
    assert 2 * (kept & brain).sum() / (kept.sum() + brain.sum()) > 0.985


def test_a_brain_cut_by_the_field_of_view_stays_cut_where_it_is() -> None:
    brain = ball((15, 15, 0), 12, (1, 1, 1), (31, 31, 20))
    kept = clean_mask(brain, (1, 1, 1))
    assert kept[15, 15, 0]
    assert 2 * (kept & brain).sum() / (kept.sum() + brain.sum()) > 0.97


def test_nothing_stays_of_a_mask_thinner_than_the_opening() -> None:
    sheet = np.zeros((20, 20, 20), bool)
    sheet[:, :, 9:11] = True
    assert not clean_mask(sheet, (1, 1, 1)).any()
    assert not clean_mask(np.zeros((5, 5, 5)), (1, 1, 1)).any()


def test_the_faults_of_a_mask_are_counted() -> None:
    size, shape = (1.0, 1.0, 2.0), (60, 60, 40)
    mask = ball((24, 30, 20), 16, size, shape)
    assert mask_faults(mask, size) == MaskFaults(0, 0, 0)
    assert mask_faults(mask, size).words == ""
    mask |= ball((52, 30, 20), 6, size, shape)
    mask[38:50, 29:32, 19:21] = True
    mask[24:26, 30, 20] = False
    mask[1, 1, 1] = True
    assert mask_faults(mask, size) == MaskFaults(1, 2, 1)
    assert mask_faults(mask, size).words == "1 island, 2 enclosed voxels, 1 part on a neck"
    assert mask_faults(clean_mask(mask, size), size) == MaskFaults(0, 0, 0)


def test_dice_counts_the_common_volume_twice() -> None:
    one = np.array([1, 1, 1, 0])
    assert dice(one, np.array([0, 1, 1, 1])) == pytest.approx(2 / 3)
    assert dice(one, 0 * one) == 0
    assert dice(0 * one, 0 * one) == 1


SHAPE = (12, 12, 10)
GIVEN = ball((6, 6, 5), 4, (1, 1, 1), SHAPE)
FLOATS = GIVEN.astype(np.float32)


def test_a_mask_given_with_any_one_value_is_taken() -> None:
    for values in (GIVEN, FLOATS, 255 * GIVEN.astype(np.uint8)):
        checked = check_given_mask(values, SHAPE, np.eye(4), np.eye(4) * 1.0, magnitude=FLOATS + 1)
        assert checked.dtype == bool
        np.testing.assert_array_equal(checked, GIVEN)


def off(shift: float) -> NDArray[np.float64]:
    affine = np.eye(4)
    affine[0, 3] = shift
    return affine


@pytest.mark.parametrize(("call", "message"), [
    (lambda: check_given_mask(GIVEN[1:], SHAPE, np.eye(4)), r"the mask has shape \(11, 12, 10\), but its scan has"),
    (lambda: check_given_mask(FLOATS / 0, SHAPE, np.eye(4)), "the mask holds values that are not finite"),
    (lambda: check_given_mask(np.linspace(0, 1, GIVEN.size).reshape(SHAPE), SHAPE, np.eye(4), name="m.nii"),
     r"m.nii is not binary \(values from 0 to 1\): give 0 outside"),
    (lambda: check_given_mask(-FLOATS, SHAPE, np.eye(4)), r"is not binary \(values from -1 to 0\)"),
    (lambda: check_given_mask(0 * FLOATS, SHAPE, np.eye(4)), "the mask is empty: give 1 inside the brain"),
    (lambda: check_given_mask(0 * FLOATS + 1, SHAPE, np.eye(4)), "the mask covers its whole image"),
    (lambda: check_given_mask(GIVEN, SHAPE, np.eye(4), off(3.0)), "the mask lies 3.0 mm from its scan"),
    (lambda: check_given_mask(GIVEN, SHAPE, np.eye(4), np.zeros((4, 4))), "the affine of the mask is singular"),
    (lambda: check_given_mask(GIVEN, SHAPE, np.eye(4), magnitude=1 - FLOATS), "the mask touches no head: the scan's"),
    (lambda: check_given_mask(GIVEN, SHAPE, np.eye(4), magnitude=FLOATS[1:]), r"the magnitude has shape \(11, 12"),
])  # fmt: skip
@pytest.mark.filterwarnings("ignore:(divide|invalid)")
def test_a_mask_that_does_not_fit_is_refused(call: Callable[[], object], message: str) -> None:
    with pytest.raises(InputError, match=message):
        call()
