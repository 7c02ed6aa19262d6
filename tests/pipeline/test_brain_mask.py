from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from chi33.pipeline import brain_mask as module
from chi33.pipeline.brain_mask import brain_mask
from chi33.pipeline.errors import InputError, StepError
from synthetic_head import brain, grid_affine, head_points, magnitude, rigid

SHAPE, SIZE = (92, 96, 56), (2.0, 2.1, 3.2)
AFFINE = grid_affine(SHAPE, SIZE, (9, -6, 4), mirrored=True)
# The head lies 14 mm to one side, turned, so that the scalp nearly leaves the grid.
POSE = rigid((15, -8, 5), (14, -6, 4))


def test_the_brain_is_found_off_centre_on_an_anisotropic_oblique_grid_under_shading() -> None:
    x = head_points(AFFINE, SHAPE, POSE)
    image = magnitude(x) * (1 + 0.35 * np.linspace(-1, 1, SHAPE[1])[None, :, None])
    image += 0.02 * np.random.default_rng(0).standard_normal(SHAPE)
    found, truth = brain_mask(1000 * image, AFFINE), brain(x)
    assert found.dtype == bool
    assert 2 * (found & truth).sum() / (found.sum() + truth.sum()) > 0.93


def test_an_image_that_holds_no_brain_is_a_failed_step() -> None:
    tiny = grid_affine((24, 24, 24), (1.0, 1.0, 1.0))
    index = np.indices((24, 24, 24)) - 11.5
    with pytest.raises(StepError, match=r"brain extraction (found \d+ ml, less than any brain|failed \(exit code)"):
        brain_mask(((index**2).sum(axis=0) < 64).astype(np.float32), tiny)


RUBBISH = np.random.default_rng(0).uniform(size=(16, 16, 16))


def test_a_crash_and_a_hang_of_the_extraction_are_failed_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_RUN", "import sys; print('index 99 is out of bounds', file=sys.stderr); sys.exit(7)")
    with pytest.raises(StepError, match=r"brain extraction failed \(exit code 7: index 99 is out of bounds\)"):
        brain_mask(RUBBISH, np.diag([8.0, 8, 8, 1]))
    monkeypatch.setattr(module, "_RUN", "import os; os.abort()")
    with pytest.raises(StepError, match=r"brain extraction failed \(exit code -6: no message\)"):
        brain_mask(RUBBISH, np.diag([8.0, 8, 8, 1]))
    monkeypatch.setattr(module, "_RUN", "import time; time.sleep(60)")
    with pytest.raises(StepError, match="brain extraction did not end within 0 s: give masks yourself"):
        brain_mask(RUBBISH, np.diag([8.0, 8, 8, 1]), timeout=0.2)


@pytest.mark.parametrize(("call", "message"), [
    (lambda: brain_mask(np.zeros((8, 8, 8)), np.eye(4)), r"the magnitude \(shape \(8, 8, 8\)\) has no contrast"),
    (lambda: brain_mask(RUBBISH[0], np.eye(4)), r"the magnitude \(shape \(16, 16\)\) has no contrast"),
    (lambda: brain_mask(RUBBISH + np.nan, np.eye(4)), "has no contrast"),
    (lambda: brain_mask(RUBBISH, np.diag([1, 1, 0, 1.0])), "affine is singular"),
    (lambda: brain_mask(RUBBISH, np.eye(4), fractional_threshold=1.0), "fractional_threshold must lie .* got 1.0"),
    (lambda: brain_mask(RUBBISH, np.eye(4), fractional_threshold=np.nan), "fractional_threshold must lie"),
])  # fmt: skip
def test_images_without_a_brain_to_look_for_are_refused(call: Callable[[], object], message: str) -> None:
    with pytest.raises(InputError, match=message):
        call()


def test_rounding_of_headers_changes_no_voxel() -> None:
    image = magnitude(head_points(AFFINE, SHAPE, POSE))
    again = brain_mask(image, AFFINE * (1 + 1e-7) + 1e-5 * np.eye(4))
    np.testing.assert_array_equal(again, brain_mask(image, AFFINE))
