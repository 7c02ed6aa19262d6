from __future__ import annotations

import pickle
import re
from collections.abc import Callable

import numpy as np
import pytest
from chi33.files.errors import InputError, StepError
from chi33.pipeline.frames import rotation_and_scale, rotation_angle
from chi33.pipeline.registration.images import without_decay
from chi33.pipeline.registration.similarity import Registration, RegistrationFailed, assess, register
from numpy.typing import NDArray
from scipy import ndimage
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


@pytest.fixture(scope="module")
def pair() -> tuple[NDArray, NDArray, NDArray, NDArray]:
    return *small(rigid((14, -8, 3), (2, 1, -3))), *small(np.eye(4))


@pytest.fixture(scope="module")
def found(pair: tuple) -> Registration:
    return register(*pair)


def test_the_same_scans_give_the_same_bits(pair: tuple, found: Registration) -> None:
    again = register(*pair)
    np.testing.assert_array_equal(found.transform, again.transform)
    for name in ("mutual_information", "correlation", "quality", "overlap"):
        assert getattr(found, name) == getattr(again, name)


def test_a_scan_fits_itself() -> None:
    fixed = small(np.eye(4))
    itself = register(*fixed, *fixed)
    angle, distance = errors(itself.transform, np.eye(4))
    assert angle < 0.02
    assert distance < 0.03


def test_a_head_of_another_size_is_refused_with_its_scale() -> None:
    with pytest.raises(StepError, match=r"registration failed: the estimated transform scales by 0.9[12]\d\d"):
        register(*small(np.eye(4), scale=1.09), *small(np.eye(4)))


def test_strong_shading_a_cut_neck_and_thick_slices_do_not_pull() -> None:
    shapes, sizes = ((64, 72, 60), (66, 74, 34)), ((2.6, 2.6, 2.6), (2.5, 2.5, 4.0))
    poses = np.eye(4), rigid((35, 0, 6), (4, -6, 3))
    pair = []
    for number, (shape, size, pose) in enumerate(zip(shapes, sizes, poses, strict=True)):
        affine = grid_affine(shape, size)
        image = scan(affine, shape, pose, number, shading=0.6 if number else -0.6)
        mask = brain(head_points(affine, shape, pose))
        if number:
            image, mask = image[:, :, 6:], mask[:, :, 6:]
            affine[:3, 3] += 6 * affine[:3, 2]
        pair.append((image, affine, mask))
    (fixed, fixed_affine, fixed_mask), (moving, moving_affine, moving_mask) = pair
    found = register(moving, moving_affine, fixed, fixed_affine, fixed_mask, moving_mask=moving_mask)
    angle, distance = errors(found.transform, np.linalg.inv(poses[1]))
    assert angle < 0.2
    assert distance < 0.3
    assert found.quality > 0.9
    assert 0.5 < found.overlap < 0.97


def test_two_scans_registered_either_way_give_inverse_transforms(pair: tuple, found: Registration) -> None:
    back = register(*pair[2:], *pair[:2])
    angle, distance = errors(found.transform, np.linalg.inv(back.transform))
    assert angle < 0.02
    assert distance < 0.05


def test_what_is_no_pair_of_one_head_is_refused_and_keeps_what_was_found() -> None:
    fixed, affine = small(np.eye(4))
    rubbish = ndimage.gaussian_filter(np.random.default_rng(0).uniform(size=fixed.shape), 2).astype(np.float32)
    with pytest.raises(RegistrationFailed, match="registration failed: ") as raised:
        register(rubbish, affine, fixed, affine)
    assert isinstance(raised.value, StepError)
    assert raised.value.found is not None
    assert raised.value.found.transform.shape == (4, 4)
    assert raised.value.found.quality < 0.8
    again = pickle.loads(pickle.dumps(raised.value))
    assert str(again) == str(raised.value)


def test_noise_that_hides_the_contrast_leaves_a_transform_trusted() -> None:
    pose = rigid((12, -8, 3), (2, 1, -3))
    images = []
    for seed, one in enumerate((pose, np.eye(4))):
        rough = np.random.default_rng(seed).standard_normal(SHAPE).astype(np.float32)
        images.append(scan(AFFINE, SHAPE, one, 5 + seed) + np.float32(0.25) * rough)
    mask = brain(head_points(AFFINE, SHAPE, np.eye(4)))
    found = assess(np.linalg.inv(pose), images[0], AFFINE, images[1], AFFINE, mask)
    angle, distance = errors(found.transform, np.linalg.inv(pose))
    assert 0.5 < found.quality < 0.8
    assert found.spread < 1.5
    assert angle < 1
    assert distance < found.spread


def test_a_quality_that_is_asked_for_and_not_reached_is_named(pair: tuple) -> None:
    with pytest.raises(RegistrationFailed, match=r"the brains agree with a correlation of 0\.9\d, less than 1: check"):
        register(*pair, minimum_quality=1.0)


def test_without_decay_restores_an_exponential_and_leaves_out_what_is_lost() -> None:
    truth = 1 + np.linspace(0, 1, 20)[:, None, None] * np.ones((20, 20, 20))
    rate = np.full(truth.shape, 20.0)
    rate[12:, 12:, 12:] = 150.0
    times = [0.008, 0.013, 0.018]
    image, steady = without_decay(np.stack([truth * np.exp(-rate * t) for t in times]), times)
    inner = np.s_[4:8, 4:8, 4:8]
    np.testing.assert_allclose(image[inner], truth[inner], rtol=0.02)
    assert steady[inner].all()
    assert not steady[14:18, 14:18, 14:18].any()


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
    (lambda: register(IMAGE, AFFINE, IMAGE, AFFINE, moving_mask=FLAT[2:]), r"moving_mask has shape \(18, 20, 20\)"),
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


@pytest.fixture(scope="module")
def shaded_pair() -> tuple[NDArray, NDArray, NDArray]:
    """A moving scan at 3.5 mm with shading and noise, its affine, and its true transform to the reference."""
    shape, size, pose = (48, 56, 50), (3.5, 3.5, 3.5), rigid((17, -9, 4), (4, -6, 3))
    affine = grid_affine(shape, size)
    return scan(affine, shape, pose, 5, shading=0.6), affine, np.linalg.inv(pose)


@pytest.mark.parametrize(("angles", "shift"), [
    ((0, -4, 0), (0, 0, 0)), ((0, 0, 5), (0, 0, 0)), ((0, 0, 0), (0, -1.2, 1.8)),
])  # fmt: skip
def test_a_transform_some_degrees_or_millimetres_off_is_noticed_and_mended(
    reference: NDArray, shaded_pair: tuple, angles: tuple, shift: tuple
) -> None:
    moving, affine, truth = shaded_pair
    mask = brain(head_points(AFFINE, SHAPE, np.eye(4)))
    found = assess(rigid(angles, shift) @ truth, moving, affine, reference, AFFINE, mask)
    off = re.fullmatch(
        r"the transform given is (\d\.\d) mm and (\d\.\d) degrees from where the brains fit best: the better one is "
        r"used", found.warning,
    )  # fmt: skip
    assert off
    assert float(off[2]) == pytest.approx(np.linalg.norm(angles), abs=0.3)
    angle, distance = errors(found.transform, truth)
    assert angle < 0.2
    assert distance < 0.3


def test_a_right_transform_is_kept_to_the_bit(reference: NDArray, shaded_pair: tuple) -> None:
    moving, affine, truth = shaded_pair
    mask = brain(head_points(AFFINE, SHAPE, np.eye(4)))
    found = assess(truth, moving, affine, reference, AFFINE, mask)
    np.testing.assert_array_equal(found.transform, truth)
    assert found.warning == ""
