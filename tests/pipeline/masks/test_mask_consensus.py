from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from chi33.files.errors import InputError
from chi33.pipeline.images.morphology import dice
from chi33.pipeline.masks.consensus import DICE_LIMIT, ScanMask, consensus_masks
from numpy.typing import NDArray
from synthetic_head import brain, grid_affine, head_points, rigid

SHAPES = [(50, 56, 50), (60, 56, 34), (48, 60, 52), (56, 56, 50)]
AFFINES = [
    grid_affine(SHAPES[0], (3, 3, 3)),
    grid_affine(SHAPES[1], (2.6, 3, 5), (6, -10, 4), mirrored=True),
    grid_affine(SHAPES[2], (3.2, 3, 3)),
    grid_affine(SHAPES[3], (3, 3.2, 3.2), (0, 12, 0)),
]
POSES = [np.eye(4), rigid((25, 0, 5), (4, -3, 2)), rigid((-10, 20, 0), (0, 5, -4)), rigid((0, -25, 6), (-5, 0, 3))]
TRUE = [brain(head_points(*one)) for one in zip(AFFINES, SHAPES, POSES, strict=True)]


def scans(**masks: NDArray) -> list[ScanMask]:
    """Four scans of one head, whose masks are those given (by number) or the true ones."""
    return [ScanMask(masks.get(f"scan{i}", TRUE[i]), AFFINES[i], np.linalg.inv(POSES[i])) for i in range(len(POSES))]


def test_masks_that_agree_stay_as_they_are() -> None:
    for verdict, true in zip(consensus_masks(scans()), TRUE, strict=True):
        np.testing.assert_array_equal(verdict.mask, true)
        assert (verdict.repaired, verdict.reason) == (False, "")
        assert verdict.dice > 0.97


def test_one_bad_mask_becomes_what_the_others_say_on_its_own_grid() -> None:
    bad = TRUE[1].copy()
    bad[:, :22] = False
    verdicts = consensus_masks(scans(scan1=bad))
    assert [one.repaired for one in verdicts] == [False, True, False, False]
    assert verdicts[1].reason == f"Dice {verdicts[1].dice:.3f} with the consensus, below {DICE_LIMIT:g}"
    assert verdicts[1].dice < 0.9
    assert dice(verdicts[1].mask, TRUE[1]) > 0.96


def test_islands_are_taken_off_without_touching_the_outline() -> None:
    bad = TRUE[2].copy()
    bad[1:3, 1:3, 1:3] = True
    bad[24, 30, 26] = False
    verdict = consensus_masks(scans(scan2=bad))[2]
    assert verdict.repaired
    assert verdict.reason == "1 island, 1 enclosed voxel"
    assert not verdict.mask[1:3, 1:3, 1:3].any()
    assert verdict.mask[24, 30, 26]
    assert dice(verdict.mask, TRUE[2]) > 0.99


def test_what_a_field_of_view_does_not_hold_is_no_vote_against_the_brain() -> None:
    whole = scans()
    cut = [ScanMask(one.mask[:, :, one.mask.shape[2] // 3 :], _shifted(one), one.transform) for one in whole[:3]]
    verdicts = consensus_masks([*cut, whole[3]])
    assert not any(one.repaired for one in verdicts)
    assert min(one.dice for one in verdicts) > 0.96


def _shifted(scan: ScanMask) -> NDArray[np.float64]:
    affine = scan.affine.copy()
    affine[:3, 3] += (scan.mask.shape[2] // 3) * affine[:3, 2]
    return affine


def test_two_scans_have_no_majority() -> None:
    bad = np.zeros_like(TRUE[0])
    bad[:3] = True
    for verdict, given in zip(consensus_masks(scans(scan0=bad)[:2]), (bad, TRUE[1]), strict=True):
        np.testing.assert_array_equal(verdict.mask, given)
        assert not verdict.repaired
        assert np.isnan(verdict.dice)


def moved(transform: NDArray) -> list[ScanMask]:
    return [*scans()[:3], ScanMask(TRUE[3], AFFINES[3], transform)]


@pytest.mark.parametrize(("call", "message"), [
    (lambda: consensus_masks(scans(), dice_limit=1.5), "dice_limit must lie between 0 and 1, got 1.5"),
    (lambda: consensus_masks(scans(scan2=0 * TRUE[2])), r"the mask of scan 3 \(shape \(48, 60, 52\)\) is empty"),
    (lambda: consensus_masks(scans(scan2=TRUE[2][0])), r"the mask of scan 3 \(shape \(60, 52\)\) is empty or has not"),
    (lambda: consensus_masks(moved(np.diag([-1.0, 1, 1, 1]))), "the transform of scan 4 has determinant"),
    (lambda: consensus_masks(moved(rigid((0, 0, 0), (300, 0, 0)))), "the brains of the scans span 4.. mm"),
])  # fmt: skip
def test_masks_without_a_consensus_are_refused(call: Callable[[], object], message: str) -> None:
    with pytest.raises(InputError, match=message):
        call()
