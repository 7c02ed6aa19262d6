from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from chi33.pipeline.errors import InputError, StepError
from chi33.pipeline.frames import rotation_and_scale, rotation_angle
from chi33.pipeline.registration import Registration, register
from numpy.typing import NDArray
from synthetic_head import brain, grid_affine, head_points, magnitude, rigid

SHAPE, SIZE = (66, 78, 68), (2.5, 2.5, 2.5)
AFFINE = grid_affine(SHAPE, SIZE)


def scan(
    affine: NDArray, shape: tuple[int, ...], pose: NDArray, seed: int, shading: float = 0.0
) -> NDArray[np.float32]:
    image = magnitude(head_points(affine, shape, pose))
    image *= 1 + shading * np.linspace(-1, 1, shape[2], dtype=np.float32)
    return image + 0.02 * np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def errors(found: NDArray, truth: NDArray) -> tuple[float, float]:
    """The angle in degrees and the largest displacement in mm over the brain's extent between two transforms."""
    rotation = rotation_and_scale(found)[0] @ rotation_and_scale(truth)[0].T
    points = np.array([[x, y, z, 1.0] for x in (-60, 0, 60) for y in (-75, 0, 75) for z in (-60, 0, 60)]).T
    displacement = np.linalg.norm(((found - truth) @ points)[:3], axis=0)
    return rotation_angle(rotation), float(np.mean(displacement))


@pytest.fixture(scope="module")
def reference() -> NDArray[np.float32]:
    return scan(AFFINE, SHAPE, np.eye(4), 1)


MOVING = [
    pytest.param(((66, 80, 72), SIZE, (0, 0, 0), False), rigid((30, 0, 0), (5, -8, 3)), id="30 degrees about x"),
    pytest.param(((84, 90, 64), (2, 2, 2.8), (8, -12, 5), True), rigid((-18, 24, 10), (-6, 4, 9)), id="oblique, left"),
]


@pytest.mark.parametrize(("frame", "pose"), MOVING)
def test_a_known_motion_is_found(reference: NDArray, frame: tuple, pose: NDArray) -> None:
    shape, size, oblique, mirrored = frame
    affine = grid_affine(shape, size, oblique, mirrored)
    moving = scan(affine, shape, pose, 2, shading=0.15)
    found = register(moving, affine, reference, AFFINE, brain(head_points(AFFINE, SHAPE, np.eye(4))))
    angle, distance = errors(found.transform, np.linalg.inv(pose))  # moving world -> reference world
    assert angle < 0.2
    assert distance < 0.3
    assert rotation_and_scale(found.transform)[1] == pytest.approx(1, abs=2e-3)
    assert found.correlation > 0.8
    assert found.mutual_information > 0.3


def small(pose: NDArray, scale: float = 1.0) -> tuple[NDArray[np.float32], NDArray[np.float64]]:
    shape = (32, 38, 34)
    affine = grid_affine(shape, (5.2, 5.2, 5.2))
    return scan(affine, shape, pose @ np.diag([scale, scale, scale, 1.0]), 3), affine


def test_the_same_scans_give_the_same_bits_and_a_scan_fits_itself() -> None:
    fixed, moving = small(np.eye(4)), small(rigid((-12, 5, 0), (3, 0, 2)))
    one, two = (register(*moving, *fixed) for _ in range(2))
    assert isinstance(one, Registration)
    np.testing.assert_array_equal(one.transform, two.transform)
    assert (one.mutual_information, one.correlation) == (two.mutual_information, two.correlation)
    itself = register(*fixed, *fixed)
    angle, distance = errors(itself.transform, np.eye(4))
    assert angle < 0.02
    assert distance < 0.03


def test_a_head_of_another_size_is_refused_with_its_scale() -> None:
    with pytest.raises(StepError, match=r"registration failed: the estimated transform scales by 0.9[12]\d\d"):
        register(*small(np.eye(4), scale=1.09), *small(np.eye(4)))


IMAGE = np.random.default_rng(0).uniform(size=(20, 20, 20)).astype(np.float32)
FLAT = np.ones((20, 20, 20), np.float32)


@pytest.mark.parametrize(("call", "message"), [
    (lambda: register(FLAT, AFFINE, IMAGE, AFFINE), r"the moving image \(shape \(20, 20, 20\)\) has no contrast"),
    (lambda: register(IMAGE, AFFINE, FLAT, AFFINE), "the reference image .* has no contrast"),
    (lambda: register(IMAGE[0], AFFINE, IMAGE, AFFINE), r"the moving image \(shape \(20, 20\)\)"),
    (lambda: register(IMAGE + np.nan, AFFINE, IMAGE, AFFINE), "the moving image .* has no contrast"),
    (lambda: register(IMAGE, np.zeros((4, 4)), IMAGE, AFFINE), "moving_affine is singular"),
    (lambda: register(IMAGE, AFFINE, IMAGE, np.zeros((4, 4))), "reference_affine is singular"),
    (lambda: register(IMAGE, AFFINE, IMAGE, AFFINE, FLAT[:5]), r"reference_mask has shape \(5, 20, 20\), but"),
    (lambda: register(IMAGE, AFFINE, IMAGE, AFFINE, 0 * FLAT), "reference_mask is empty: give the brain mask"),
    (lambda: register(IMAGE, AFFINE, IMAGE, AFFINE, moving_steady=FLAT[0]), r"moving_steady has shape \(20, 20\), but"),
    (lambda: register(IMAGE, AFFINE, IMAGE, AFFINE, reference_steady=FLAT[:2]), "reference_steady has shape"),
])  # fmt: skip
def test_images_that_cannot_be_registered_are_refused(call: Callable[[], object], message: str) -> None:
    with pytest.raises(InputError, match=message):
        call()


def test_a_failure_inside_the_optimiser_is_a_failed_step() -> None:
    thin = np.random.default_rng(0).uniform(size=(30, 30, 2)).astype(np.float32)
    with pytest.raises(StepError, match="registration failed"):
        register(thin, np.eye(4), thin, np.eye(4))
