from __future__ import annotations

import numpy as np
from chi33.pipeline.masks import clean_mask, largest_component
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
