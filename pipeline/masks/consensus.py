"""One bad brain mask among several, found and repaired by what the other scans of the head say."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ...files.errors import InputError
from ..frames import check_affine, rotation_and_scale, voxel_size
from ..images.morphology import clean_mask, dice, mask_faults
from ..images.resample import resample

LEAST_SCANS = 3
# One simulated head, 2 mm: good built-in masks 0.975 or more; all beyond 30 mm below the centre lost 0.89-0.90; a rim
# of 4 mm lost or gained 0.94. Both temporal lobes cut (0.96) or an eye kept (0.985) pass.
DICE_LIMIT = 0.95
_SPACING = 1.5  # mm, of the subject frame's grid
_MARGIN = 6.0  # mm, of that grid around the brains
_WIDEST_GRID = 400.0  # mm


@dataclass(frozen=True)
class ScanMask:
    """A brain mask (x, y, z) of a scan, its voxel-to-world affine, and the transform (4, 4) to the subject frame."""

    mask: NDArray[np.bool_]
    affine: NDArray[np.float64]
    transform: NDArray[np.float64]


@dataclass(frozen=True)
class MaskVerdict:
    """What the consensus says of one mask.

    mask: (x, y, z), repaired or as it was; dice: of the mask given with the consensus on its grid (nan without one);
    repaired: whether it was cleaned or replaced; reason: why, in words, "" where it stays.
    """

    mask: NDArray[np.bool_]
    dice: float
    repaired: bool
    reason: str


def consensus_masks(scans: Sequence[ScanMask], *, dice_limit: float = DICE_LIMIT) -> list[MaskVerdict]:
    """Return for each scan its brain mask, cleaned where it has faults, and replaced where it disagrees with the rest.

    Each mask votes in the subject frame where its scan's field of view reaches; the consensus is what more than half
    of those that see a place say. A mask with islands, holes or parts on necks is cleaned; one whose Dice with the
    consensus, on its own grid, stays below dice_limit (0-1) becomes the consensus. The others stay as they are. Fewer
    than three scans come back unchanged. Raises InputError for a mask that is empty or not (x, y, z), for affines and
    transforms that are none, and for scans whose brains lie far apart.
    """
    if not 0 <= dice_limit <= 1:
        raise InputError(f"dice_limit must lie between 0 and 1, got {dice_limit}.")
    if len(scans) < LEAST_SCANS:
        return [MaskVerdict(np.asarray(scan.mask, bool), float("nan"), False, "") for scan in scans]
    given = [_checked(scan, number) for number, scan in enumerate(scans, start=1)]
    cleaned = [_cleaned(scan) for scan in given]
    share, affine = _consensus([scan for scan, _ in cleaned])
    return [
        _verdict(one, scan, faults, share, affine, dice_limit)
        for one, (scan, faults) in zip(given, cleaned, strict=True)
    ]


def _checked(scan: ScanMask, number: int) -> ScanMask:
    mask = np.asarray(scan.mask, bool)
    if mask.ndim != 3 or not mask.any():
        raise InputError(
            f"the mask of scan {number} (shape {mask.shape}) is empty or has not three axes: draw it again."
        )
    rotation_and_scale(scan.transform, f"the transform of scan {number}")
    return ScanMask(mask, check_affine(scan.affine, f"the affine of scan {number}"), np.asarray(scan.transform, float))


def _cleaned(scan: ScanMask) -> tuple[ScanMask, str]:
    """Return a mask without faults, and these in words."""
    size = voxel_size(scan.affine)
    faults = mask_faults(scan.mask, size).words
    better = clean_mask(scan.mask, size) if faults else scan.mask
    return ScanMask(better if better.any() else scan.mask, scan.affine, scan.transform), faults


def _consensus(scans: Sequence[ScanMask]) -> tuple[NDArray[np.float32], NDArray[np.float64]]:
    """Return the share of votes (x, y, z) for the brain among the scans that see a place, and the grid's affine."""
    corners = np.stack([_extent(scan) for scan in scans])
    low, high = corners[:, 0].min(axis=0) - _MARGIN, corners[:, 1].max(axis=0) + _MARGIN
    if (high - low).max() > _WIDEST_GRID:
        raise InputError(
            f"the brains of the scans span {(high - low).max():.0f} mm in the subject frame, more than any head: check "
            "the masks and the transforms."
        )
    affine = np.diag([_SPACING] * 3 + [1.0])
    affine[:3, 3] = low
    shape = np.ceil((high - low) / _SPACING).astype(int).tolist()
    votes, views = np.zeros(shape, np.float32), np.zeros(shape, np.float32)
    for scan in scans:
        votes += resample(scan.mask.astype(np.float32), scan.affine, affine, shape, scan.transform, order=1)
        views += resample(np.ones(scan.mask.shape, np.float32), scan.affine, affine, shape, scan.transform, order=1)
    return np.divide(votes, views, out=np.zeros_like(votes), where=views > 0.5), affine


def _extent(scan: ScanMask) -> NDArray[np.float64]:
    """Return the lowest and highest subject coordinates (2, 3) in mm of a mask's voxels."""
    voxels = np.argwhere(scan.mask)
    to_subject = scan.transform @ scan.affine
    world = voxels @ to_subject[:3, :3].T + to_subject[:3, 3]
    return np.stack([world.min(axis=0), world.max(axis=0)])


def _verdict(
    given: ScanMask,
    cleaned: ScanMask,
    faults: str,
    share: NDArray[np.float32],
    affine: NDArray[np.float64],
    dice_limit: float,
) -> MaskVerdict:
    to_scan = np.linalg.inv(given.transform)
    majority = resample(share, affine, given.affine, given.mask.shape, to_scan, order=1) > 0.5
    before, after = dice(given.mask, majority), dice(cleaned.mask, majority)
    if after < dice_limit:
        better = clean_mask(majority, voxel_size(given.affine))
        if not better.any():
            raise InputError("the scans' brain masks have no majority anywhere: check the masks and the transforms.")
        reason = f"Dice {before:.3f} with the consensus, below {dice_limit:g}"
        return MaskVerdict(better, before, True, f"{reason}; {faults}" if faults else reason)
    if faults:
        return MaskVerdict(cleaned.mask, before, True, faults)
    return MaskVerdict(given.mask, before, False, "")
