"""Registration of two scans of one head with 7 degrees of freedom (rotation, translation, one scale)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import SimpleITK as sitk
from numpy.typing import ArrayLike, NDArray
from scipy import ndimage
from scipy.spatial.transform import Rotation

from .echoes import smooth_inside
from .errors import InputError, StepError
from .frames import check_affine, rotation_and_scale, voxel_size

_RAS_TO_LPS = np.diag([-1.0, -1.0, 1.0, 1.0])
_START_TILTS = (-35.0, 0.0, 35.0)  # degrees about x and y, tried on the coarsest level
_BINS = 50
_SAMPLES = 300_000
_SHADING_WIDTH = 15.0  # mm
_MASK_MARGIN = 4.0  # mm
SPACINGS = (8.0, 4.0, 2.0, 1.0)  # mm, of the levels; never finer than the voxels


@dataclass(frozen=True)
class Registration:
    """A world-to-world similarity (4, 4) from the moving scan to the reference, and its quality.

    mutual_information: Mattes mutual information of the finest level in nats (higher is better);
    correlation: of the two magnitudes in the head after registration.
    """

    transform: NDArray[np.float64]
    mutual_information: float
    correlation: float


def without_decay(magnitude: ArrayLike, echo_times: Sequence[float]) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
    """Return the magnitude (x, y, z) extrapolated to echo time 0, and where it decays no faster than tissue.

    magnitude: (echo, x, y, z); echo_times in s. Signal lost to strong field gradients depends on the position of the
    head and pulls a registration; the extrapolation restores the weak loss, the mask (False near air, in veins and
    iron) leaves the strong one out. A single echo comes back as it is, with a mask that is True everywhere.
    """
    echoes = np.asarray(magnitude, np.float32)
    times = np.asarray(echo_times, np.float64)
    if echoes.ndim != 4 or times.shape != (len(echoes),) or (np.diff(times) <= 0).any() or times[0] <= 0:
        raise InputError(
            f"magnitude {echoes.shape} must be (echo, x, y, z) with one ascending echo time each, got {times}."
        )
    if len(times) == 1:
        return echoes[0], np.ones(echoes.shape[1:], bool)
    later = int(np.argmin(np.abs(times - 2.3 * times[0])[1:])) + 1
    smooth = [ndimage.gaussian_filter(echoes[index], 0.7) for index in (0, later)]
    head = smooth[0] > 0.1 * np.percentile(smooth[0], 99)
    rate = np.zeros(head.shape, np.float32)
    rate[head] = np.log(smooth[0][head] / np.maximum(smooth[1][head], 1e-3 * smooth[0][head])) / (
        times[later] - times[0]
    )
    usual = float(np.median(rate[head])) if head.any() else 0.0
    fast = ndimage.binary_dilation(ndimage.binary_opening(rate > usual + max(0.5 * usual, 5.0)), iterations=2)
    gain = (echoes[0] / np.maximum(echoes[1], 0.3 * echoes[0] + 1e-30)) ** (times[0] / (times[1] - times[0]))
    return (echoes[0] * np.clip(gain, 1, 3)).astype(np.float32), ~fast


def _image(volume: NDArray[np.float32], affine: NDArray[np.float64]) -> sitk.Image:
    """Return an ITK image (LPS) of a volume with a RAS affine; the array is made right-handed first."""
    lps = _RAS_TO_LPS @ affine
    if np.linalg.det(lps[:3, :3]) < 0:
        flip = np.diag([-1.0, 1.0, 1.0, 1.0])
        flip[0, 3] = volume.shape[0] - 1
        volume, lps = volume[::-1], lps @ flip
    size = voxel_size(lps)
    image = sitk.GetImageFromArray(np.ascontiguousarray(volume.T))
    image.SetSpacing(size.tolist())
    image.SetOrigin(lps[:3, 3].tolist())
    image.SetDirection((lps[:3, :3] / size).ravel().tolist())
    return image


def _at_spacing(image: sitk.Image, spacing: float) -> sitk.Image:
    """Return the image smoothed and resampled to at least `spacing` mm along every axis."""
    old = np.array(image.GetSpacing())
    new = np.maximum(old, spacing)
    if np.allclose(old, new, rtol=0.05):
        return image
    sigma = np.sqrt(np.maximum(new**2 - old**2, 1e-6)) / 2.355
    smooth = sitk.SmoothingRecursiveGaussian(image, np.maximum(sigma, 1e-3).tolist())
    count = np.maximum(np.ceil(np.array(image.GetSize()) * old / new).astype(int), 4)
    return sitk.Resample(
        smooth, count.tolist(), sitk.Transform(), sitk.sitkLinear, image.GetOrigin(), new.tolist(),
        image.GetDirection(), 0.0, sitk.sitkFloat32,
    )  # fmt: skip


def _without_shading(volume: NDArray[np.float32], size: NDArray[np.float64]) -> NDArray[np.float32]:
    """Return a magnitude divided by its local mean over the head, which leaves the coil's shading behind."""
    bright = max(float(np.percentile(volume, 99)), 1e-30)
    head = volume > 0.1 * bright
    local = smooth_inside(volume, head, size, _SHADING_WIDTH)
    flat = volume / np.maximum(local, 0.05 * bright)
    flat[local == 0] = 0
    return np.clip(flat / np.percentile(flat, 99.5), 0, 1).astype(np.float32)


def _method(spacing: float, iterations: int, samples: float, metric: str) -> sitk.ImageRegistrationMethod:
    method = sitk.ImageRegistrationMethod()
    if metric == "correlation":
        method.SetMetricAsCorrelation()
    else:
        method.SetMetricAsMattesMutualInformation(_BINS)
    method.SetMetricSamplingStrategy(method.REGULAR)
    method.SetMetricSamplingPercentage(samples, 1)
    method.SetInterpolator(sitk.sitkLinear)
    # ITK measures a step in raw parameters, in which a rotation by 2 rad is as long as a shift by 2 mm: the first step
    # is therefore set by how far it moves voxels, or a start with no shift left is thrown off by half a turn.
    method.SetOptimizerAsRegularStepGradientDescent(
        learningRate=1.0, minStep=1e-5, numberOfIterations=iterations, relaxationFactor=0.7,
        gradientMagnitudeTolerance=1e-8, estimateLearningRate=method.Once, maximumStepSizeInPhysicalUnits=spacing / 2,
    )  # fmt: skip
    method.SetOptimizerScalesFromPhysicalShift()
    return method


def _optimise(
    fixed: sitk.Image,
    moving: sitk.Image,
    start: sitk.Similarity3DTransform,
    spacing: float,
    iterations: int,
    metric: str = "mutual information",
    masks: tuple[sitk.Image | None, sitk.Image | None] = (None, None),
) -> tuple[sitk.Similarity3DTransform, float]:
    transform = sitk.Similarity3DTransform(start)
    samples = min(1.0, _SAMPLES / float(np.prod(fixed.GetSize())))
    method = _method(spacing, iterations, samples, metric)
    if masks[0] is not None:
        method.SetMetricFixedMask(masks[0])
    if masks[1] is not None:
        method.SetMetricMovingMask(masks[1])
    method.SetInitialTransform(transform, inPlace=True)
    method.Execute(fixed, moving)
    return transform, -float(method.GetMetricValue())


def _tilted(start: sitk.Similarity3DTransform, pitch: float, roll: float) -> sitk.Similarity3DTransform:
    turned = sitk.Similarity3DTransform(start)
    quaternion = Rotation.from_euler("xy", [pitch, roll], degrees=True).as_quat()
    turned.SetRotation([float(q) for q in quaternion])
    return turned


def _to_world(transform: sitk.Similarity3DTransform) -> NDArray[np.float64]:
    """Return the RAS 4x4 from moving to reference of an ITK transform (reference to moving, LPS)."""
    matrix = np.array(transform.GetMatrix()).reshape(3, 3)
    center, shift = np.array(transform.GetCenter()), np.array(transform.GetTranslation())
    lps = np.eye(4)
    lps[:3, :3] = matrix
    lps[:3, 3] = center + shift - matrix @ center
    return np.asarray(np.linalg.inv(_RAS_TO_LPS @ lps @ _RAS_TO_LPS), np.float64)


def register(
    moving: ArrayLike,
    moving_affine: ArrayLike,
    reference: ArrayLike,
    reference_affine: ArrayLike,
    reference_mask: ArrayLike | None = None,
    *,
    moving_steady: ArrayLike | None = None,
    reference_steady: ArrayLike | None = None,
) -> Registration:
    """Return the similarity from the world of `moving` to the world of `reference`.

    Both magnitudes are freed of coil shading; mutual information finds the head from nine tilts on an 8 mm grid and
    follows it down to the voxels, where correlation, which has no bias for images of one contrast, finishes. With
    reference_mask (the brain, x, y, z) the levels below 4 mm look only at it and 4 mm around, so that the neck and the
    air sinuses, which change with the position, do not pull; moving_steady and reference_steady (masks of
    without_decay) leave out what they exclude.

    moving, reference: magnitudes (x, y, z); affines: voxel-to-world (4, 4), RAS mm. One thread, repeatable bit by
    bit. Raises InputError for images without contrast, StepError where the result is no head motion.
    """
    images = []
    for name, volume, affine in (("moving", moving, moving_affine), ("reference", reference, reference_affine)):
        array = np.asarray(volume, np.float32)
        if array.ndim != 3 or not np.isfinite(array).all() or np.ptp(array) == 0:
            raise InputError(
                f"the {name} image (shape {array.shape}) has no contrast to register: check the magnitude."
            )
        checked = check_affine(affine, f"{name}_affine")
        images.append(_image(_without_shading(array, voxel_size(checked)), checked))
    moving_image, fixed_image = images
    _check_masks(reference, reference_mask=reference_mask, reference_steady=reference_steady)
    _check_masks(moving, moving_steady=moving_steady)
    masks = _fine_masks(reference_mask, reference_steady, reference_affine, moving_steady, moving_affine)
    finest = max(1.0, float(min(*fixed_image.GetSpacing(), *moving_image.GetSpacing())))
    levels = [s for s in SPACINGS if s > 1.2 * finest] + [finest]
    try:
        with _one_thread():
            transform, value = _coarse_start(fixed_image, moving_image, levels[0])
            for spacing in levels[1:]:
                pair = _at_spacing(fixed_image, spacing), _at_spacing(moving_image, spacing)
                around = masks if spacing < 4 else (None, None)
                transform, value = _optimise(*pair, transform, spacing, 240, masks=around)
            transform, _ = _optimise(*pair, transform, levels[-1], 200, "correlation", masks)
    except RuntimeError as error:
        detail = str(error).strip().splitlines()[-1]
        raise StepError(f"registration failed ({detail}): check that both magnitudes show the same head.") from error
    world = _to_world(transform)
    _check_motion(world)
    return Registration(world, value, _correlation(moving, moving_affine, reference, reference_affine, world))


def _check_masks(image: ArrayLike, **masks: ArrayLike | None) -> None:
    for name, mask in masks.items():
        if mask is not None and np.shape(mask) != np.shape(image):
            raise InputError(f"{name} has shape {np.shape(mask)}, but its image has {np.shape(image)}.")


def _fine_masks(
    brain: ArrayLike | None,
    reference_steady: ArrayLike | None,
    reference_affine: ArrayLike,
    moving_steady: ArrayLike | None,
    moving_affine: ArrayLike,
) -> tuple[sitk.Image | None, sitk.Image | None]:
    """Return the ITK masks of the reference (near the brain and steady) and of the moving image (steady)."""
    fixed = None if reference_steady is None else np.asarray(reference_steady, bool)
    if brain is not None:
        inside = np.asarray(brain, bool)
        if not inside.any():
            raise InputError("reference_mask is empty: give the brain mask of the reference scan.")
        size = voxel_size(check_affine(reference_affine))
        near = ndimage.distance_transform_edt(~inside, sampling=size) <= _MASK_MARGIN
        fixed = near if fixed is None or (near & fixed).sum() < 0.5 * near.sum() else near & fixed
    moving = None if moving_steady is None else np.asarray(moving_steady, bool)
    if moving is not None and moving.mean() < 0.5:
        moving = None
    return _mask_image(fixed, reference_affine), _mask_image(moving, moving_affine)


def _mask_image(mask: NDArray[np.bool_] | None, affine: ArrayLike) -> sitk.Image | None:
    if mask is None:
        return None
    return sitk.Cast(_image(mask.astype(np.float32), check_affine(affine)) > 0.5, sitk.sitkUInt8)


@contextmanager
def _one_thread() -> Iterator[None]:
    """Hold all of ITK to one thread: the metric's own setting leaves sums whose order, and last bits, vary."""
    before = sitk.ProcessObject.GetGlobalDefaultNumberOfThreads()
    sitk.ProcessObject.SetGlobalDefaultNumberOfThreads(1)
    try:
        yield
    finally:
        sitk.ProcessObject.SetGlobalDefaultNumberOfThreads(before)


def _coarse_start(fixed: sitk.Image, moving: sitk.Image, spacing: float) -> tuple[sitk.Similarity3DTransform, float]:
    """Return the best of nine tilted starts, each optimised on the coarsest level, and that one to its end."""
    pair = _at_spacing(fixed, spacing), _at_spacing(moving, spacing)
    centred = sitk.Similarity3DTransform(
        sitk.CenteredTransformInitializer(
            *pair, sitk.Similarity3DTransform(), sitk.CenteredTransformInitializerFilter.MOMENTS
        )
    )
    found = [
        _optimise(*pair, _tilted(centred, pitch, roll), spacing, 60) for pitch in _START_TILTS for roll in _START_TILTS
    ]
    plausible = [one for one in found if abs(one[0].GetScale() - 1) < 0.1] or found
    best, _ = max(plausible, key=lambda one: one[1])
    return _optimise(*pair, best, spacing, 240)


def _check_motion(world: NDArray[np.float64]) -> None:
    try:
        rotation_and_scale(world, "the estimated transform")
    except InputError as error:
        raise StepError(f"registration failed: {error}") from error


def _correlation(
    moving: ArrayLike, moving_affine: ArrayLike, reference: ArrayLike, reference_affine: ArrayLike, world: NDArray
) -> float:
    mapping = np.linalg.solve(
        np.asarray(moving_affine, np.float64), np.linalg.solve(world, np.asarray(reference_affine))
    )
    target = np.asarray(reference, np.float32)
    moved = ndimage.affine_transform(
        np.asarray(moving, np.float32), mapping, output_shape=target.shape, order=1, cval=np.nan
    )
    seen = np.isfinite(moved) & (target > 0.1 * np.percentile(target, 99))
    return float(np.corrcoef(moved[seen], target[seen])[0, 1]) if seen.sum() > 100 else 0.0
