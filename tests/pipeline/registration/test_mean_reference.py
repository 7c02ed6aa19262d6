from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest
from chi33.files.errors import InputError
from chi33.pipeline.frames import b0_direction_in_subject_frame, rotation_and_scale, rotation_angle
from chi33.pipeline.registration.mean_reference import ReferenceScan, mean_reference, mean_transform, to_mean_frame
from chi33.pipeline.registration.similarity import Registration
from numpy.typing import NDArray
from synthetic_head import brain, grid_affine, head_points, magnitude, rigid

SHAPE = (40, 46, 42)
AFFINE = grid_affine(SHAPE, (4.4, 4.4, 4.4))
POSES = [np.eye(4), rigid((20, 4, 0), (3, -2, 1)), rigid((-8, 18, 3), (-2, 4, 0)), rigid((5, -22, -4), (0, 1, 5))]


def scan(pose: NDArray, reference: NDArray, gain: float = 1.0) -> ReferenceScan:
    x = head_points(AFFINE, SHAPE, pose)
    return ReferenceScan(gain * magnitude(x), AFFINE, reference @ np.linalg.inv(pose), brain(x))


SCANS = [scan(pose, POSES[0], gain) for pose, gain in zip(POSES, (1.0, 40.0, 3.0, 0.2), strict=True)]


def test_the_mean_frame_lies_among_the_scans_whichever_was_the_reference() -> None:
    frames = []
    for reference in (POSES[0], POSES[2]):
        given = [reference @ np.linalg.inv(pose) for pose in POSES]
        frames.append(to_mean_frame(given, reference[:3, 3]))
    for one, other in zip(*frames, strict=True):
        np.testing.assert_allclose(one, other, atol=1e-9)
    back = mean_transform([np.linalg.inv(one) for one in frames[0]], frames[0][0][:3, 3])
    assert rotation_angle(rotation_and_scale(back)[0]) < 1e-6
    for one, pose in zip(frames[0], POSES, strict=True):  # the head is at one place in all
        np.testing.assert_allclose(one @ pose, frames[0][0] @ POSES[0], atol=1e-9)


def test_the_mean_of_opposite_turns_scales_and_shifts_is_none() -> None:
    turn = rigid((0, 30, 0), (4, 0, 0))
    turn[:3, :3] *= 1.02
    back = rigid((0, -30, 0), (-4, 0, 0))
    back[:3, :3] /= 1.02
    np.testing.assert_allclose(mean_transform([turn, back]), np.eye(4), atol=1e-12)


def test_b0_follows_the_transforms_and_its_differences_stay() -> None:
    mean = mean_reference(SCANS, rounds=0)
    found = np.stack([b0_direction_in_subject_frame(one) for one in mean.transforms])
    true = np.stack([pose[:3, :3].T[:, 2] for pose in POSES])
    np.testing.assert_allclose(found @ found.T, true @ true.T, atol=1e-12)


def test_the_mean_image_is_the_head_whatever_the_scans_gains() -> None:
    mean = mean_reference(SCANS, rounds=0)
    head_to_mean = mean.transforms[0] @ POSES[0]
    x = head_points(mean.affine, mean.magnitude.shape, head_to_mean)
    inside = brain(x)
    assert mean.brain is not None
    assert 2 * (mean.brain & inside).sum() / (mean.brain.sum() + inside.sum()) > 0.97
    assert np.corrcoef(mean.magnitude[inside], magnitude(x)[inside])[0, 1] > 0.93  # 4.4 mm voxels
    assert np.median(mean.magnitude[inside]) == pytest.approx(1, abs=0.05)


def test_a_round_replaces_transforms_that_were_off() -> None:
    off = [SCANS[0], *(ReferenceScan(s.magnitude, s.affine, rigid((3, 0, 0), (2, 0, 0)) @ s.transform, s.mask)
                       for s in SCANS[1:])]  # fmt: skip
    asked: list[dict[str, Any]] = []

    def exact(
        moving: NDArray, _a: NDArray, reference: NDArray, _b: NDArray, mask: NDArray, **more: Any
    ) -> Registration:
        assert reference.shape == mask.shape
        asked.append(more)
        number = next(i for i, one in enumerate(SCANS) if one.magnitude is moving)
        return Registration(rigid((1, 2, 3), (9, 9, 9)) @ np.linalg.inv(POSES[number]), 1.0, 1.0, 0.9, 1.0)

    mean = mean_reference(off, rounds=1, registration=exact)
    assert mean.qualities == (0.9,) * 4
    assert [one["moving_mask"] is not None for one in asked] == [True] * 4
    for one, pose in zip(mean.transforms, POSES, strict=True):
        np.testing.assert_allclose(one @ pose, mean.transforms[0] @ POSES[0], atol=1e-9)


def test_registered_to_the_mean_the_scans_lie_on_one_another() -> None:
    off = [SCANS[0], *(ReferenceScan(s.magnitude, s.affine, rigid((1, 0, 1), (1, 0, 0)) @ s.transform, s.mask)
                       for s in SCANS[1:2])]  # fmt: skip
    mean = mean_reference(off)
    heads = [one @ pose for one, pose in zip(mean.transforms, POSES[:2], strict=True)]
    before = 1.41  # degrees; each scan is a part of the mean, which pulls it
    for head in heads[1:]:
        error = head @ np.linalg.inv(heads[0])
        assert rotation_angle(rotation_and_scale(error)[0]) < before / 3
    assert min(mean.qualities) > 0.9


def changed(**what: Any) -> list[ReferenceScan]:
    first = {"magnitude": SCANS[0].magnitude, "affine": AFFINE, "transform": np.eye(4), **what}
    return [ReferenceScan(**first), SCANS[1]]


APART = [changed(transform=rigid((0, 0, 0), (999 * i, 0, 0)))[0] for i in range(3)]


@pytest.mark.parametrize(("call", "message"), [
    (lambda: mean_reference(SCANS[:1]), "a mean reference needs at least 2 scans, got 1"),
    (lambda: mean_reference(SCANS, rounds=4), "rounds must be 0, 1, 2 or 3, got 4"),
    (lambda: mean_reference(changed(magnitude=np.ones((4, 4, 4)))), r"the magnitude of scan 1 \(shape \(4, 4, 4\)\)"),
    (lambda: mean_reference(changed(mask=np.ones((4, 4, 4)))), r"mask of scan 1 \(shape \(4, 4, 4\)\) is empty or"),
    (lambda: mean_reference(changed(affine=np.zeros((4, 4)))), "the affine of scan 1 is singular"),
    (lambda: mean_reference(changed(transform=np.diag([-1, 1, 1, 1]))), "the transform of scan 1 has determinant"),
    (lambda: mean_reference(APART, rounds=0), "no place is seen by half of the scans"),
    (lambda: mean_transform([]), "the mean of no transforms was asked for"),
])  # fmt: skip
def test_scans_without_a_mean_are_refused(call: Callable[[], Sequence[Any]], message: str) -> None:
    with pytest.raises(InputError, match=message):
        call()
