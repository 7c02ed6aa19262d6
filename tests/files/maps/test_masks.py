"""Masks of zeros and ones, and what else is given as masks."""

from __future__ import annotations

import numpy as np
import pytest
from chi33.files.errors import InputError
from chi33.files.maps.masks import inside_of
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter

AXES = np.meshgrid(*(np.linspace(-1, 1, n) for n in (20, 24, 18)), indexing="ij")
BRAIN = np.sqrt(sum(axis**2 for axis in AXES)) < 0.7


@pytest.mark.parametrize(("values", "remark"), [
    (BRAIN * 1.0, ""),
    (BRAIN * 255.0, ""),
    (np.where(gaussian_filter(BRAIN * 1.0, 1) >= 0.5, 0.25, 0), ""),
    (gaussian_filter(BRAIN * 1.0, 1), "the mask m holds values from 0 to 1: taken from 0.5 on."),
    (1.2 * gaussian_filter(BRAIN * 1.0, 1) - 0.1, "the mask m holds values from -0.1 to 1.1: taken from 0.5 on."),
    (BRAIN * (1.0 + (AXES[0] > 0) + 2 * (AXES[1] > 0)), "the mask m holds 4 labels up to 4: all are taken as inside."),
    (np.ones(BRAIN.shape), ""),
])  # fmt: skip
def test_what_can_be_a_mask_is_one(values: NDArray[np.float64], remark: str) -> None:
    inside, said = inside_of(values.astype(np.float32), "the mask m")
    assert said == remark
    if not (values == 1).all():
        assert 2 * (inside & BRAIN).sum() / (inside.sum() + BRAIN.sum()) > 0.95


@pytest.mark.parametrize(("values", "sentence"), [
    (np.where(BRAIN, 1, np.nan), r"the mask m holds \d+ values that are not finite: give a mask of zeros and ones"),
    (0.0 * BRAIN, "the mask m is empty: give a mask of ones in the brain"),
    (-1.0 * BRAIN, r"the mask m is empty \(its values go from -1 to 0\)"),
    (0.3 * gaussian_filter(BRAIN * 1.0, 1), r"the mask m is empty \(no value reaches 0.5\)"),
    (2.0 * BRAIN - 1, "the mask m holds 2 different values from -1 to 1, so it is no mask"),
    (1.0 + BRAIN, "the mask m holds 2 different values from 1 to 2, so it is no mask"),
    (100 * gaussian_filter(BRAIN * 1.0, 1), r"the mask m holds \d+ different values from .* so it is no mask"),
    (1.0 - BRAIN, r"the mask m covers the border of its grid and leaves out \d+% in the middle, so it looks inverted"),
])  # fmt: skip
def test_what_is_no_mask_is_refused(values: NDArray[np.float64], sentence: str) -> None:
    with pytest.raises(InputError, match=sentence):
        inside_of(values.astype(np.float32), "the mask m")


def test_a_slab_through_the_brain_is_not_inverted() -> None:
    slab = np.sqrt(AXES[0] ** 2 + AXES[1] ** 2) < 0.95  # touches both ends, but not the corners
    assert inside_of(slab.astype(np.float32), "m")[0].sum() == slab.sum()
