"""Registration of two scans of one head with 7 degrees of freedom (rotation, translation, one scale)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace

import numpy as np
import SimpleITK as sitk
from numpy.typing import ArrayLike, NDArray
from scipy import ndimage
from scipy.spatial.transform import Rotation

from ...files.errors import InputError, StepError
from ..frames import check_affine, rotation_and_scale, voxel_size
from ..images.resample import resample
from .check import LARGEST_SHIFT, LARGEST_SPREAD, misplacement, spread
from .images import without_shading
from .refinement import Side, agreement, refine, side

# Three simulated heads: right transforms 0.95 or more; 5 degrees or 2 mm off 0.84-0.95, which passes but is noticed
# (registration_check); 10 degrees off 0.69-0.81, 5 mm off 0.50-0.73, 20 degrees off and wrong optima 0.65 or less,
# another head 0.69. With the distortions, ringing and noise of a living head right ones have 0.78-0.89: below
# MINIMUM_QUALITY the halves of the brain must agree where it lies (registration_check.spread).
MINIMUM_QUALITY = 0.8
LEAST_QUALITY = 0.5  # however well the halves agree
_RAS_TO_LPS = np.diag([-1.0, -1.0, 1.0, 1.0])
_TILTS = (-35.0, 0.0, 35.0)  # degrees about x and y, tried on the coarsest level
_MORE_TILTS = (-60.0, -30.0, 0.0, 30.0, 60.0)  # where these fail
_FOLLOWED = (1, 4)  # starts followed beyond the coarsest level, of the tilts and of more tilts
_BINS = 50
_SAMPLES = 300_000
_MASK_MARGIN = 4.0  # mm
SPACINGS = (8.0, 4.0)  # mm, of the levels of mutual information
_AS_GOOD = 0.02  # of the quality, which shading moves more than a millimetre does
_QUALITY_RESOLUTION = 4.0  # mm; noise, and what differs between fields of view, hardly matter there


@dataclass(frozen=True)
class Registration:
    """A world-to-world similarity (4, 4) from the moving scan to the reference, and its quality.

    mutual_information: Mattes mutual information on the 4 mm grid in nats (higher is better); correlation: of the two
    magnitudes in the head after registration; quality: correlation of the two images, without shading, in the brain
    at 4 mm, at most 1, which is near 0 where a registration failed; overlap: share of the reference's brain that the
    moving scan holds; spread: of the halves of the brain in mm (registration_check), measured where the quality is
    below MINIMUM_QUALITY, NaN elsewhere; warning: what is doubtful about it, a clause, "" for nothing.
    """

    transform: NDArray[np.float64]
    mutual_information: float
    correlation: float
    quality: float = float("nan")
    overlap: float = float("nan")
    spread: float = float("nan")
    warning: str = ""

    @property
    def trusted(self) -> bool:
        """Whether it is right: the brains agree, or agree somewhat and their halves on the place."""
        agreeing = self.quality >= LEAST_QUALITY and self.spread <= LARGEST_SPREAD
        return self.quality >= MINIMUM_QUALITY or agreeing


class RegistrationFailed(StepError):
    """A registration that must not be used; `found` holds it for a picture (None once it has left the process)."""

    def __init__(self, message: str, found: Registration | None = None) -> None:
        super().__init__(message)
        self.found = found


@dataclass(frozen=True)
class _Scan:
    """One image of a pair: its magnitude and affine, that without shading as it is and for ITK, where to compare."""

    magnitude: NDArray[np.float32]
    affine: NDArray[np.float64]
    flat: NDArray[np.float32]
    image: sitk.Image
    wanted: NDArray[np.bool_]
    centre: NDArray[np.float64] | None  # world (3,), of the brain mask

    def side(self, resolution: float, *, flat: bool) -> Side:
        image = (
            self.flat
            if flat
            else self.magnitude / np.float32(max(float(np.median(self.magnitude[self.wanted])), 1e-30))
        )
        return side(image, self.affine, self.wanted, resolution)


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


def _scan(name: str, volume: ArrayLike, affine: ArrayLike, mask: ArrayLike | None, steady: ArrayLike | None) -> _Scan:
    array = np.asarray(volume, np.float32)
    if array.ndim != 3 or not np.isfinite(array).all() or np.ptp(array) == 0:
        raise InputError(f"the {name} image (shape {array.shape}) has no contrast to register: check the magnitude.")
    matrix = check_affine(affine, f"{name}_affine")
    for kind, one in (("mask", mask), ("steady", steady)):
        if one is not None and np.shape(one) != array.shape:
            raise InputError(f"{name}_{kind} has shape {np.shape(one)}, but its image has {array.shape}.")
    size = voxel_size(matrix)
    flat = without_shading(array, size)
    if mask is None:
        near, centre = flat > 0, None
    else:
        brain = np.asarray(mask, bool)
        if not brain.any():
            raise InputError(f"{name}_mask is empty: give the brain mask of the {name} scan.")
        near = ndimage.distance_transform_edt(~brain, sampling=size) <= _MASK_MARGIN
        centre = matrix[:3, :3] @ np.argwhere(brain).mean(axis=0) + matrix[:3, 3]
    kept = near if steady is None else near & np.asarray(steady, bool)
    if kept.sum() < 0.5 * near.sum():
        kept = near
    return _Scan(array, matrix, flat, _image(flat, matrix), kept, centre)


def _metric(fixed: sitk.Image) -> sitk.ImageRegistrationMethod:
    method = sitk.ImageRegistrationMethod()
    method.SetMetricAsMattesMutualInformation(_BINS)
    method.SetMetricSamplingStrategy(method.REGULAR)
    method.SetMetricSamplingPercentage(min(1.0, _SAMPLES / float(np.prod(fixed.GetSize()))), 1)
    method.SetInterpolator(sitk.sitkLinear)
    return method


def _optimise(
    fixed: sitk.Image, moving: sitk.Image, start: sitk.Similarity3DTransform, spacing: float, iterations: int
) -> tuple[sitk.Similarity3DTransform, float]:
    """Return the transform of most mutual information near a start, and that in nats."""
    transform = sitk.Similarity3DTransform(start)
    method = _metric(fixed)
    # ITK measures a step in raw parameters, in which a rotation by 2 rad is as long as a shift by 2 mm: the first step
    # is therefore set by how far it moves voxels, or a start with no shift left is thrown off by half a turn.
    method.SetOptimizerAsRegularStepGradientDescent(
        learningRate=1.0, minStep=1e-5, numberOfIterations=iterations, relaxationFactor=0.7,
        gradientMagnitudeTolerance=1e-8, estimateLearningRate=method.Once, maximumStepSizeInPhysicalUnits=spacing / 2,
    )  # fmt: skip
    method.SetOptimizerScalesFromPhysicalShift()
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
    moving_mask: ArrayLike | None = None,
    moving_steady: ArrayLike | None = None,
    reference_steady: ArrayLike | None = None,
    minimum_quality: float = MINIMUM_QUALITY,
) -> Registration:
    """Return the similarity from the world of `moving` to the world of `reference`.

    Both magnitudes are freed of coil shading; mutual information finds the head from nine tilts on an 8 mm grid and
    follows it to 4 mm; then robust least squares in both directions (registration_refinement) compare the images in
    the brain masks and 4 mm around, so that the neck and the air sinuses, which change with the position, do not
    pull. Where that cannot be trusted, it is tried again from 25 tilts.

    moving, reference: magnitudes (x, y, z); affines: voxel-to-world (4, 4), RAS mm; masks: of the brain, on the grid
    of their image (the head where not given); steady: masks of without_decay, what they exclude is left out. One
    thread, repeatable bit by bit. Raises InputError for images without contrast, RegistrationFailed (a StepError that
    holds the registration) where the result is no head motion or its quality is below minimum_quality (0-1); down to
    LEAST_QUALITY that serves where the halves of the brain agree on the place, unless more than MINIMUM_QUALITY is
    asked for.
    """
    fixed = _scan("reference", reference, reference_affine, reference_mask, reference_steady)
    floating = _scan("moving", moving, moving_affine, moving_mask, moving_steady)
    found: list[Registration] = []
    for tilts, followed in zip((_TILTS, _MORE_TILTS), _FOLLOWED, strict=True):
        found += _attempt(fixed, floating, tilts, followed)
        best = max(found, key=lambda one: one.quality)
        if best.trusted:
            break
    return _checked(best, minimum_quality)


def assess(
    transform: ArrayLike,
    moving: ArrayLike,
    moving_affine: ArrayLike,
    reference: ArrayLike,
    reference_affine: ArrayLike,
    reference_mask: ArrayLike | None = None,
    *,
    moving_mask: ArrayLike | None = None,
    moving_steady: ArrayLike | None = None,
    reference_steady: ArrayLike | None = None,
    minimum_quality: float = MINIMUM_QUALITY,
) -> Registration:
    """Return how well a world-to-world similarity (4, 4) from elsewhere fits two scans, measured as register does.

    Where the scans fit better more than LARGEST_SHIFT away, that better similarity is returned, with a warning that
    says how far off the one given is. The other arguments and the errors are those of `register`.
    """
    fixed = _scan("reference", reference, reference_affine, reference_mask, reference_steady)
    floating = _scan("moving", moving, moving_affine, moving_mask, moving_steady)
    world = check_affine(transform, "transform")
    with _one_thread():
        sides = _coarse_sides(fixed, floating)
        given = _measured(fixed, floating, world, sides)
        better = _finished(fixed, floating, world, sides)
    # Given ones are refused by how much worse they fit than what is near, where that is right.
    least = minimum_quality * (min(better.quality, 1.0) if better.trusted else 1.0)
    if given.quality < least:
        _checked(replace(given, spread=float("inf")), minimum_quality)
    off = misplacement(world, better.transform, sides[1].points)
    if not off.exceeds(LARGEST_SHIFT) or better.quality < given.quality - _AS_GOOD:
        return _checked(replace(given, spread=better.spread), minimum_quality)
    said = f"the transform given is {off.words} from where the brains fit best: the better one is used"
    return replace(_checked(better, minimum_quality), warning=said)


def _checked(found: Registration, minimum_quality: float) -> Registration:
    problem = _problem(found, minimum_quality)
    if problem is not None:
        raise RegistrationFailed(f"registration failed: {problem}", found)
    return found


def _information(fixed: _Scan, moving: _Scan, world: NDArray[np.float64]) -> float:
    """Return the mutual information (nats) of a transform on the finest grid it is optimised on."""
    lps = _RAS_TO_LPS @ np.linalg.inv(world) @ _RAS_TO_LPS
    transform = sitk.AffineTransform(3)
    transform.SetMatrix(lps[:3, :3].ravel().tolist())
    transform.SetTranslation(lps[:3, 3].tolist())
    grid = _at_spacing(fixed.image, SPACINGS[-1])
    method = _metric(grid)
    method.SetInitialTransform(transform)
    try:
        return -float(method.MetricEvaluate(grid, _at_spacing(moving.image, SPACINGS[-1])))
    except RuntimeError:  # the images do not overlap
        return 0.0


def _attempt(fixed: _Scan, moving: _Scan, tilts: Sequence[float], followed: int) -> list[Registration]:
    """Return what the best of tilted starts lead to."""
    try:
        with _one_thread():
            return [_follow(fixed, moving, start) for start in _starts(fixed, moving, tilts)[:followed]]
    except RuntimeError as error:
        detail = str(error).strip().splitlines()[-1]
        raise StepError(f"registration failed ({detail}): check that both magnitudes show the same head.") from error


def _problem(found: Registration, minimum_quality: float) -> str | None:
    """Return why a registration must not be used, None where it may."""
    try:
        rotation_and_scale(found.transform, "the estimated transform")
    except InputError as error:
        return str(error)
    if not (found.quality >= minimum_quality or (found.trusted and minimum_quality <= MINIMUM_QUALITY)):
        return (
            f"the brains agree with a correlation of {found.quality:.2f}, less than {minimum_quality:g}: check that "
            "both magnitudes show the same head and that the brain masks fit them, or give the transform yourself."
        )
    return None


@contextmanager
def _one_thread() -> Iterator[None]:
    """Hold all of ITK to one thread: the metric's own setting leaves sums whose order, and last bits, vary."""
    before = sitk.ProcessObject.GetGlobalDefaultNumberOfThreads()
    sitk.ProcessObject.SetGlobalDefaultNumberOfThreads(1)
    try:
        yield
    finally:
        sitk.ProcessObject.SetGlobalDefaultNumberOfThreads(before)


def _starts(fixed: _Scan, moving: _Scan, tilts: Sequence[float]) -> list[sitk.Similarity3DTransform]:
    """Return what tilted starts come to on the coarsest level, the one of most mutual information first."""
    pair = _at_spacing(fixed.image, SPACINGS[0]), _at_spacing(moving.image, SPACINGS[0])
    centred = sitk.Similarity3DTransform(
        sitk.CenteredTransformInitializer(
            *pair, sitk.Similarity3DTransform(), sitk.CenteredTransformInitializerFilter.MOMENTS
        )
    )
    if fixed.centre is not None and moving.centre is not None:
        centred.SetCenter((fixed.centre * [-1, -1, 1]).tolist())
        centred.SetTranslation(((moving.centre - fixed.centre) * [-1, -1, 1]).tolist())
    found = [_optimise(*pair, _tilted(centred, pitch, roll), SPACINGS[0], 60) for pitch in tilts for roll in tilts]
    plausible = [one for one in found if abs(np.log(one[0].GetScale())) < 0.1] or found
    return [one for one, _ in sorted(plausible, key=lambda one: -one[1])]


def _follow(fixed: _Scan, moving: _Scan, start: sitk.Similarity3DTransform) -> Registration:
    """Return the registration that a start on the coarsest level leads to."""
    transform = start
    for spacing in SPACINGS:
        pair = _at_spacing(fixed.image, spacing), _at_spacing(moving.image, spacing)
        transform, _ = _optimise(*pair, transform, spacing, 240)
    return _finished(fixed, moving, _to_world(transform), _coarse_sides(fixed, moving))


def _finished(fixed: _Scan, moving: _Scan, world: NDArray[np.float64], sides: tuple[Side, Side]) -> Registration:
    """Return the registration of a transform within some millimetres, refined."""
    world = refine(*sides, world, degree=2, tolerance=0.03)
    finest = _finest(fixed, moving)
    world = refine(moving.side(finest, flat=False), fixed.side(finest, flat=False), world)
    found = _measured(fixed, moving, world, sides)
    return found if found.quality >= MINIMUM_QUALITY else replace(found, spread=spread(*sides, world))


def _finest(fixed: _Scan, moving: _Scan) -> float:
    """Return the largest voxel edge of both, in mm: finer than that no comparison goes."""
    return float(max(*voxel_size(fixed.affine), *voxel_size(moving.affine)))


def _coarse_sides(fixed: _Scan, moving: _Scan) -> tuple[Side, Side]:
    """Return the moving and the fixed image, without shading, at the resolution of the quality."""
    coarse = max(_QUALITY_RESOLUTION, _finest(fixed, moving))
    return moving.side(coarse, flat=True), fixed.side(coarse, flat=True)


def _measured(fixed: _Scan, moving: _Scan, world: NDArray[np.float64], coarse_sides: tuple[Side, Side]) -> Registration:
    quality, overlap = agreement(*coarse_sides, world)
    information = _information(fixed, moving, world)
    return Registration(world, information, _correlation(moving, fixed, world), quality, overlap)


def _correlation(moving: _Scan, fixed: _Scan, world: NDArray[np.float64]) -> float:
    moved = resample(moving.magnitude, moving.affine, fixed.affine, fixed.magnitude.shape, world, order=1)
    seen = (moved > 0) & (fixed.magnitude > 0.1 * np.percentile(fixed.magnitude, 99))
    return float(np.corrcoef(moved[seen], fixed.magnitude[seen])[0, 1]) if seen.sum() > 100 else 0.0
