"""A reference that favours no scan: the mean of all, in the mean of their frames."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.spatial.transform import Rotation

from ...files.errors import InputError
from ..frames import check_affine, rotation_and_scale, voxel_size
from ..images.resample import resample
from .similarity import Registration, register

ROUNDS = 1
_LEAST_VIEWS = 0.5  # of the scans that must see a place
_PERCENTILE = 99.0

Register = Callable[..., Registration]


@dataclass(frozen=True)
class ReferenceScan:
    """A scan that goes into the mean: magnitude (x, y, z), affine, transform (4, 4) to one of the scans.

    mask, steady: of the brain, and of without_decay, on the scan's grid.
    """

    magnitude: NDArray[np.float32]
    affine: NDArray[np.float64]
    transform: NDArray[np.float64]
    mask: NDArray[np.bool_] | None = None
    steady: NDArray[np.bool_] | None = None


@dataclass(frozen=True)
class MeanReference:
    """The mean magnitude (x, y, z), its voxel-to-world affine, the brain (share of masks), and where the scans lie.

    transforms: world of each scan to the mean frame (4, 4), s R; B0 of a scan there is R z
    (frames.b0_direction_in_subject_frame). brain is None without masks. qualities: of the registrations to the mean,
    empty after no round.
    """

    magnitude: NDArray[np.float32]
    affine: NDArray[np.float64]
    brain: NDArray[np.bool_] | None
    transforms: tuple[NDArray[np.float64], ...]
    qualities: tuple[float, ...] = ()


def mean_transform(transforms: Sequence[ArrayLike], centre: ArrayLike = (0.0, 0.0, 0.0)) -> NDArray[np.float64]:
    """Return the mean of similarities (4, 4): of rotations on the sphere, of log scales, of where they put a point.

    centre: (3,) in mm, the point; rotations: the chordal mean (Markley 2007). Raises InputError for none.
    """
    if not len(transforms):
        raise InputError("the mean of no transforms was asked for: give one at least.")
    parts = [rotation_and_scale(one) for one in transforms]
    rotation = Rotation.from_matrix(np.stack([one for one, _ in parts])).mean().as_matrix()
    scale = float(np.exp(np.mean([np.log(one) for _, one in parts])))
    point = np.asarray(centre, np.float64)
    moved = np.mean(
        [np.asarray(one, np.float64)[:3, :3] @ point + np.asarray(one)[:3, 3] for one in transforms], axis=0
    )
    result = np.eye(4)
    result[:3, :3] = scale * rotation
    result[:3, 3] = moved - result[:3, :3] @ point
    return result


def to_mean_frame(transforms: Sequence[ArrayLike], centre: ArrayLike) -> tuple[NDArray[np.float64], ...]:
    """Return transforms (4, 4) to one scan's world as transforms to the mean frame, which lies among all scans.

    The mean of what takes the mean frame to the scans is then the identity about `centre` (3,) mm, a point of the
    head in that scan's world. Which scan that was matters no more.
    """
    to_scans = [np.linalg.inv(np.asarray(one, np.float64)) for one in transforms]
    back = np.linalg.inv(mean_transform(to_scans, centre))
    return tuple(np.linalg.inv(one @ back) for one in to_scans)


def mean_reference(
    scans: Sequence[ReferenceScan], *, rounds: int = ROUNDS, registration: Register = register
) -> MeanReference:
    """Return the mean image of scans (two at least) in their mean frame, and the transforms to it.

    The mean frame starts from the transforms given; in each round every scan is registered to the mean image and the
    frame is centred again. The grid has the smallest voxel edge of the scans along every axis. rounds: 0 to 3;
    registration: a function like registration.register. Raises InputError on input that fits not together,
    StepError (RegistrationFailed) where a scan cannot be registered to the mean.
    """
    if len(scans) < 2:
        raise InputError(f"a mean reference needs at least 2 scans, got {len(scans)}.")
    if rounds not in range(4):
        raise InputError(f"rounds must be 0, 1, 2 or 3, got {rounds}.")
    for number, scan in enumerate(scans, start=1):
        _check(scan, number)
    scaled = [_scaled(scan) for scan in scans]
    centre = np.mean([_centre(scan) for scan in scans], axis=0)
    transforms = to_mean_frame([scan.transform for scan in scans], centre)
    mean = _mean(scans, scaled, transforms)
    for _ in range(rounds):
        found = [
            registration(
                scan.magnitude, scan.affine, mean.magnitude, mean.affine, mean.brain,
                moving_mask=scan.mask, moving_steady=scan.steady,
            )
            for scan in scans
        ]  # fmt: skip
        centre = np.mean(
            [_place(_centre_of(scan), one.transform) for scan, one in zip(scans, found, strict=True)], axis=0
        )
        transforms = to_mean_frame([one.transform for one in found], centre)
        mean = _mean(scans, scaled, transforms, tuple(one.quality for one in found))
    for number, one in enumerate(transforms, start=1):
        rotation_and_scale(one, f"the transform of scan {number} to the mean frame")
    return mean


def _check(scan: ReferenceScan, number: int) -> None:
    image = np.asarray(scan.magnitude)
    if image.ndim != 3 or not np.isfinite(image).all() or np.ptp(image) == 0:
        raise InputError(f"the magnitude of scan {number} (shape {image.shape}) has no contrast: check it.")
    for name, mask in (("mask", scan.mask), ("steady", scan.steady)):
        if mask is not None and (np.shape(mask) != image.shape or not np.any(mask)):
            raise InputError(
                f"{name} of scan {number} (shape {np.shape(mask)}) is empty or does not fit its image {image.shape}."
            )
    check_affine(scan.affine, f"the affine of scan {number}")
    rotation_and_scale(scan.transform, f"the transform of scan {number}")


def _scaled(scan: ReferenceScan) -> NDArray[np.float32]:
    """Return a magnitude whose median in the brain, or 99th percentile, is 1."""
    image = np.asarray(scan.magnitude, np.float32)
    bright = np.percentile(image, _PERCENTILE) if scan.mask is None else np.median(image[np.asarray(scan.mask, bool)])
    return image / np.float32(max(float(bright), 1e-30))


def _centre_of(scan: ReferenceScan) -> NDArray[np.float64]:
    """Return the centre (3,) of a scan's brain, or grid, in its own world."""
    shape = np.array(np.shape(scan.magnitude))
    voxel = (shape - 1) / 2 if scan.mask is None else np.argwhere(scan.mask).mean(axis=0)
    return _place(voxel, np.asarray(scan.affine, np.float64))


def _place(point: NDArray[np.float64], matrix: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.asarray(matrix[:3, :3] @ point + matrix[:3, 3], np.float64)


def _centre(scan: ReferenceScan) -> NDArray[np.float64]:
    return _place(_centre_of(scan), np.asarray(scan.transform, np.float64))


def _mean(
    scans: Sequence[ReferenceScan],
    scaled: Sequence[NDArray[np.float32]],
    transforms: tuple[NDArray[np.float64], ...],
    qualities: tuple[float, ...] = (),
) -> MeanReference:
    """Return the mean of scaled magnitudes, each voxel over the scans that see it, 0 where fewer than half do."""
    spacing = float(min(np.cbrt(np.prod(voxel_size(scan.affine))) for scan in scans))
    shape, affine = _grid(scans, transforms, spacing)
    views = _views(scans, transforms, affine, shape)
    seen = views >= _LEAST_VIEWS * len(scans)
    total, brain = np.zeros(shape, np.float32), np.zeros(shape, np.float32)
    for scan, image, transform in zip(scans, scaled, transforms, strict=True):
        total += np.maximum(resample(image, scan.affine, affine, shape, transform), 0)
        if scan.mask is not None:
            brain += resample(np.asarray(scan.mask, np.float32), scan.affine, affine, shape, transform, order=1)
    mean = np.divide(total, views, out=np.zeros_like(total), where=seen)
    masked = sum(scan.mask is not None for scan in scans)
    inside = None if masked < len(scans) else seen & (brain > 0.5 * np.maximum(views, 1))
    return MeanReference(mean, affine, inside, transforms, qualities)


def _views(
    scans: Sequence[ReferenceScan],
    transforms: Sequence[NDArray[np.float64]],
    affine: NDArray[np.float64],
    shape: Sequence[int],
) -> NDArray[np.float32]:
    """Return how many scans' fields of view hold each voxel (x, y, z) of a grid."""
    views = np.zeros(tuple(shape), np.float32)
    for scan, transform in zip(scans, transforms, strict=True):
        views += resample(np.ones(np.shape(scan.magnitude), np.float32), scan.affine, affine, shape, transform, order=1)
    return views


def _grid(
    scans: Sequence[ReferenceScan], transforms: Sequence[NDArray[np.float64]], spacing: float
) -> tuple[list[int], NDArray[np.float64]]:
    """Return the shape and affine of isotropic voxels along the mean frame's axes, where half of the scans see."""
    corners = []
    for scan, transform in zip(scans, transforms, strict=True):
        edges = np.array(np.meshgrid(*[(0, n - 1) for n in np.shape(scan.magnitude)])).reshape(3, -1)
        to_mean = transform @ np.asarray(scan.affine, np.float64)
        corners.append(to_mean[:3, :3] @ edges + to_mean[:3, 3:])
    low, high = np.hstack(corners).min(axis=1), np.hstack(corners).max(axis=1)
    coarse = np.diag([4 * spacing] * 3 + [1.0])
    coarse[:3, 3] = low
    views = _views(scans, transforms, coarse, np.ceil((high - low) / (4 * spacing)).astype(int).tolist())
    held = np.argwhere(views >= _LEAST_VIEWS * len(scans))
    if not len(held):
        raise InputError("no place is seen by half of the scans: check the transforms.")
    affine = np.diag([spacing] * 3 + [1.0])
    affine[:3, 3] = low + 4 * spacing * held.min(axis=0)
    return (4 * (held.max(axis=0) - held.min(axis=0)) + 1).tolist(), affine
