from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from chi33.files.errors import InputError, StepError
from chi33.pipeline.masks import bet as module
from chi33.pipeline.masks.bet import brain_mask
from synthetic_head import brain, grid_affine, head_points, magnitude, rigid

PHILIPS = Path(__file__).resolve().parents[4] / "shared" / "data" / "philips-gre-dicom"
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


@pytest.mark.parametrize("flip", [1, -1])
def test_a_mask_with_a_neck_is_tried_again_from_the_top_of_the_head(monkeypatch: pytest.MonkeyPatch, flip: int) -> None:
    """The extraction finds all of a tall box at first, then the ball that it is started from."""
    shape = (90, 90, 120)  # voxels of 2 mm
    asked: list[tuple[float, tuple[float, ...]]] = []

    def extract(volume: np.ndarray, threshold: float, timeout: float, sphere: tuple[float, ...] = ()) -> np.ndarray:
        asked.append((threshold, sphere))
        if not sphere:
            return np.pad(np.ones(shape, bool), 30)
        apart = np.indices(volume.shape) - np.array(sphere[:3])[:, None, None, None]
        return (apart**2).sum(axis=0) < sphere[3] ** 2

    monkeypatch.setattr(module, "_extract", extract)
    image = np.random.default_rng(1).uniform(1, 2, shape)
    mask = brain_mask(image, np.diag([2.0, 2.0, 2.0 * flip, 1.0]))
    assert [threshold for threshold, _ in asked] == pytest.approx([0.5, 0.55])
    assert mask.sum() * 8 / 1000 == pytest.approx(1600, rel=0.02)
    reached = np.argwhere(mask)[:, 2]
    assert (reached.max() >= 110) if flip == 1 else (reached.min() <= 9)


def test_a_brain_that_stays_too_large_is_given_up_on_after_some_attempts(monkeypatch: pytest.MonkeyPatch) -> None:
    thresholds = []

    def extract(volume: np.ndarray, threshold: float, *_: object) -> np.ndarray:
        thresholds.append(threshold)
        return np.ones(volume.shape, bool)

    monkeypatch.setattr(module, "_extract", extract)
    image = np.random.default_rng(1).uniform(1, 2, (80, 80, 80))
    assert brain_mask(image, np.diag([2.0, 2, 2, 1]), fractional_threshold=0.8).mean() > 0.98
    assert thresholds == pytest.approx([0.8, 0.85])


@pytest.mark.skipif(not PHILIPS.is_dir(), reason=f"the real scan {PHILIPS.name} is not in ../shared/data")
def test_a_real_head_with_its_neck_gives_a_brain_of_a_brains_size(tmp_path: Path) -> None:
    from chi33.workflows.dicom.convert import convert_dicom
    from chi33.workflows.raw.dataset import find_subjects

    convert_dicom(PHILIPS, tmp_path, subject="01")
    (scan,) = find_subjects(tmp_path)[0].scans
    image = nib.load(scan.magnitude[0])
    mask = brain_mask(image.get_fdata(dtype=np.float32), image.affine)
    assert 1300 < mask.sum() * 27 / 1000 < 1950
    low = np.argwhere(mask)[:, 2].min()
    assert mask[:, :, low : low + 4].sum() * 27 / 1000 < 60  # a stub of the brain stem, not a neck


def test_rounding_of_headers_changes_no_voxel() -> None:
    image = magnitude(head_points(AFFINE, SHAPE, POSE))
    again = brain_mask(image, AFFINE * (1 + 1e-7) + 1e-5 * np.eye(4))
    np.testing.assert_array_equal(again, brain_mask(image, AFFINE))
