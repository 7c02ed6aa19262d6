from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from chi33.files.errors import InputError
from chi33.workflows.figures.registration import Head, registration_figure, write_registration_figure
from PIL import Image
from scipy import ndimage

SHAPE = (40, 44, 36)


def head(shift: int, turned: bool = False) -> Head:
    """A brighter right half in a ball, `shift` voxels of 4 mm to the right; turned: stored from right to left."""
    index = np.indices(SHAPE)
    ball = ((index - np.array(SHAPE)[:, None, None, None] / 2) ** 2).sum(axis=0) < 14**2
    image = ndimage.shift((ball * (1 + (index[0] > 20))).astype(np.float32), (shift, 0, 0), order=0)
    affine = np.diag([4.0, 4, 4, 1])
    if turned:
        image, affine = (
            image[::-1],
            affine @ np.array([[-1, 0, 0, SHAPE[0] - 1], [0, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]]),
        )
    return Head(image, affine)


def move(shift: float) -> np.ndarray:
    matrix = np.eye(4)
    matrix[0, 3] = shift
    return matrix


def picture(path: Path, moving: Head, shift: float) -> np.ndarray:
    figure = registration_figure(moving, head(0), move(shift), title="a to b: quality 0.4", names=("a", "b"))
    return np.asarray(Image.open(write_registration_figure(path, figure)).convert("RGB"), float)


def test_a_registered_scan_runs_on_across_the_tiles_and_the_axes_of_its_array_do_not_matter(tmp_path: Path) -> None:
    still = picture(tmp_path / "still.png", head(0), 0.0)
    fits = picture(tmp_path / "fits.png", head(4, turned=True), -16.0)
    wrong = picture(tmp_path / "wrong.png", head(4), -48.0)
    below = slice(still.shape[0] // 2 + 20, -40)
    assert still.max() > 200
    assert np.abs(fits[below] - still[below]).mean() < 1
    assert np.abs(wrong[below] - still[below]).mean() > 5
    above = slice(60, still.shape[0] // 2 - 20)
    np.testing.assert_array_equal(fits[above].shape, still[above].shape)
    assert np.abs(fits[above] - still[above]).mean() > 2


def test_an_affine_that_is_none_is_refused() -> None:
    with pytest.raises(InputError, match="affine is singular"):
        registration_figure(Head(head(0).magnitude, np.zeros((4, 4))), head(0), np.eye(4))
