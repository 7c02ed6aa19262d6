"""Whether given transforms bring scans onto one another, and what they look like where they do not.

A transform file does not say what it means: world to world, FLIRT's millimetres, ITK's LPS, or the way back. The scans
say it: moved onto one another, masks of one head overlap, and fields have their veins and nuclei in the same places.
What is compared is the file as given and what it would be under each mistake, at points 3 mm apart.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import map_coordinates

from ...files.errors import InputError
from ...pipeline.frames import voxel_frame, voxel_size
from ...pipeline.images.fine_structure import fine_structure
from ...pipeline.images.morphology import bounding_box
from ...pipeline.registration.check import Misplacement, misplaced
from ...pipeline.registration.refinement import Side, side
from ..interfaces.flirt import flirt_to_world

_STEP = 3.0  # mm
_MARGIN = 20.0  # mm around the first scan's mask
_FEWEST_POINTS = 50
_CLIP = 4.0  # times the median of |fine structure|: what is left of a background at the edge counts no more
_LPS = np.diag([-1.0, -1.0, 1.0, 1.0])

# Chosen on one simulator's heads, held on another's: right transforms correlate 0.5 to 0.97, wrong ones below 0.4.
_BETTER_CORRELATION = 0.1
_BETTER_RATIO = 1.25
_BETTER_DICE = 0.05
_WORSE_DICE = 0.02
_CHANCE = 0.05  # of correlations between fields that are mostly noise
_SAME_HEAD = 0.93  # Dice, of two masks of one head
_CANNOT_BE_BETTERED = 1 / _BETTER_RATIO
_PLACED = 0.5  # correlation from which on the transform of another scan would do no harm
_CONTAINED = 0.8  # of the smaller mask in the larger
_NEAR = 35.0  # degrees between two B0, up to which fields look alike
_UNRELATED = 0.15  # correlation of fields that have nothing to do with one another
# Fields differ with B0, so that they fit best off the right place: heads of two simulators by 0.6 mm at 19 degrees and
# by 1.4 to 2 mm at 35, where transforms 4 degrees off moved by 2.6 to 3.8 mm and by 3.9 mm or more.
_LARGEST_SHIFT = (1.0, 0.045)  # mm, and mm a degree between two B0
_COARSEST = 5.0  # mm: coarser voxels do not tell
_RESOLUTION = 4.0  # mm

Matrix = NDArray[np.float64]
Points = NDArray[np.float64]


@dataclass(frozen=True)
class PlacedScan:
    """A scan as given: field and mask (x, y, z), affine voxel to world, transform (4, 4) scan to reference.

    b0_direction: unit vector (3,) in the voxel frame.
    """

    path: Path
    field: NDArray[np.float32]
    mask: NDArray[np.bool_]
    affine: Matrix
    b0_direction: Matrix
    transform: Matrix
    transform_path: Path | None = None

    @property
    def b0_in_reference(self) -> Matrix:
        """B0 (3,) in the reference's world, as far as the transform is a rotation and a scale."""
        h = self.transform[:3, :3] @ voxel_frame(self.affine) @ self.b0_direction
        return h / np.linalg.norm(h)


@dataclass(frozen=True)
class Agreement:
    """How two scans agree in their common field of view.

    dice: of the masks; contained: share of the smaller mask in the larger; correlation: of the fields' fine structure.
    """

    dice: float
    contained: float
    correlation: float

    def is_distinctly_worse_than(self, other: Agreement) -> bool:
        """Tell whether another way to place the scans is so much better that this one cannot be right."""
        gain = other.correlation - self.correlation
        if gain >= _BETTER_CORRELATION and other.correlation >= max(_BETTER_RATIO * self.correlation, _UNRELATED):
            return other.dice >= self.dice - _WORSE_DICE
        covers = other.dice >= max(self.dice + _BETTER_DICE, _SAME_HEAD)
        return covers and gain >= -_CHANCE and self.correlation < _UNRELATED

    @property
    def is_unrelated(self) -> bool:
        """Tell whether hardly anything of two scans that overlap agrees."""
        return self.dice > 0 and self.contained < _CONTAINED and abs(self.correlation) < _UNRELATED

    @property
    def words(self) -> str:
        """Overlap and correlation in words."""
        return f"masks overlap by {self.dice:.2f} and fields correlate by {self.correlation:.2f}"


@dataclass(frozen=True)
class _Samples:
    """What a scan has at points: whether they are in its field of view and mask, and its fine structure there."""

    seen: NDArray[np.bool_]
    inside: NDArray[np.bool_]
    fine: NDArray[np.float32]


class _Scan:
    """A scan prepared for sampling."""

    def __init__(self, scan: PlacedScan) -> None:
        self.scan = scan
        fine = fine_structure(scan.field, scan.mask, voxel_size(scan.affine))
        limit = _CLIP * float(np.median(np.abs(fine[scan.mask])))
        self.fine = np.clip(fine, -limit, limit)
        self.mask = scan.mask.astype(np.float32)
        self.to_voxels = np.linalg.inv(scan.affine)

    def side(self) -> Side:
        """Return the fine structure, to be fitted."""
        coarse = max(_RESOLUTION, float(voxel_size(self.scan.affine).max()))
        return side(self.fine, self.scan.affine, self.scan.mask, coarse)

    def at(self, points: Points, placed: Matrix) -> _Samples:
        """Return what lies at points (4, n) of the reference, for a transform scan to reference."""
        voxels = (self.to_voxels @ np.linalg.inv(placed) @ points)[:3]
        last = np.array(self.mask.shape)[:, None] - 0.5
        return _Samples(
            np.all((voxels >= -0.5) & (voxels <= last), axis=0),
            map_coordinates(self.mask, voxels, order=1) > 0.5,
            map_coordinates(self.fine, voxels, order=1),
        )


def agreement_of(one: _Samples, other: _Samples) -> Agreement:
    """Return how two scans agree at the points that both see."""
    seen = one.seen & other.seen
    first, second = one.inside & seen, other.inside & seen
    both = first & second
    common, sizes = int(both.sum()), (int(first.sum()), int(second.sum()))
    correlation = 0.0
    if common >= _FEWEST_POINTS and min(one.fine[both].std(), other.fine[both].std()) > 0:
        correlation = float(np.corrcoef(one.fine[both], other.fine[both])[0, 1])
    return Agreement(2 * common / max(sum(sizes), 1), common / max(min(sizes), 1), correlation)


@dataclass(frozen=True)
class _Mistake:
    """What transforms may be instead of what they should be; advice: how they look and what to do."""

    advice: str
    matrices: tuple[Matrix, ...]


def check_placed(scans: Sequence[PlacedScan]) -> list[str]:
    """Raise InputError where transforms do not bring scans onto the first one, with what they look like instead.

    Returned are sentences on scans that overlap the first one, but whose fields have next to nothing in common with it,
    or fit it better some millimetres from where they are placed.
    Compared are masks and fields in the common field of view: as given, and as they would lie if the files were the
    inverse, FLIRT matrices, ITK matrices (LPS), transposed, of another scan, or not needed. One of these has to be
    distinctly better for a file to be refused; where none is, the scans must share hardly anything.
    """
    compared = _Comparison(scans)
    given = [scan.transform for scan in scans]
    mistakes = _mistakes(scans)
    problems: list[str] = []
    doubts: list[str] = []
    explained: list[float] = []
    for index in range(1, len(scans)):
        found = compared.agreement(index, given)
        if found.correlation >= _CANNOT_BE_BETTERED:
            doubts += _shifted(compared, index)
            continue
        others = {one.advice: compared.agreement(index, one.matrices) for one in mistakes}
        if found.correlation < _PLACED:
            others |= _exchanged(compared, given, index)
        problem = _problem(scans[index], scans[0], found, others)
        if problem:
            problems.append(problem)
        if problem or found.dice == 0:
            explained.append(max(one.correlation for one in others.values()))
        doubts += _doubt(scans[index], scans[0], found) or _shifted(compared, index)
    if len(explained) == len(scans) - 1 > 1:  # is it the first one that lies elsewhere?
        _check_first(compared.scans, given, max(explained))
    if problems:
        raise InputError(problems[0])
    return doubts


def _doubt(scan: PlacedScan, first: PlacedScan, found: Agreement) -> list[str]:
    """Return a sentence where a scan's field should look like the first one's (B0 is nearly the same) but does not."""
    angle = _angle(scan, first)
    if found.dice == 0 or found.correlation >= _UNRELATED or angle > _NEAR:
        return []
    return [
        f"{scan.path} has little in common with {first.path.name} where it is placed ({found.words}, with B0 only "
        f"{angle:.0f} degrees apart in the head): check its registration, and that field and mask are of this scan."
    ]


def _angle(scan: PlacedScan, first: PlacedScan) -> float:
    """Degrees between B0 in the head in two scans."""
    return float(np.degrees(np.arccos(np.clip(scan.b0_in_reference @ first.b0_in_reference, -1, 1))))


def _shifted(compared: _Comparison, index: int) -> list[str]:
    """Return a sentence where a scan's field fits the first one distinctly better some mm from where it is placed."""
    scan, first = compared.scans[index].scan, compared.scans[0].scan
    angle = _angle(scan, first)
    edge = max(float(voxel_size(one.affine).max()) for one in (scan, first))
    if angle > _NEAR or edge > _COARSEST:
        return []
    off = compared.misplaced(index)
    if off is None or not off.exceeds(_LARGEST_SHIFT[0] + _LARGEST_SHIFT[1] * angle):
        return []
    return [
        f"{scan.path} lies {off.words} from where its field fits {first.path.name} best: check "
        f"{scan.transform_path or 'its registration'}."
    ]


def _problem(scan: PlacedScan, first: PlacedScan, found: Agreement, others: Mapping[str, Agreement]) -> str:
    """Return what is wrong with a scan's transform, in a sentence, or nothing."""
    does_not = f"{scan.transform_path} does not bring {scan.path.name} onto {first.path.name} ({found.words})"
    better = {advice: one for advice, one in others.items() if found.is_distinctly_worse_than(one)}
    if better:
        advice = max(better, key=lambda one: (better[one].correlation, better[one].dice))
        return f"{does_not}, but would as {advice} ({better[advice].words})."
    if not found.is_unrelated:
        return ""
    return (
        f"{does_not}: check that it is world to world (RAS, mm), from this scan to the first, and that mask and field "
        "belong to it."
    )


def _check_first(prepared: Sequence[_Scan], given: Sequence[Matrix], best: float) -> None:
    """Raise InputError where the second and a later scan agree as they are given, so that the first is the odd one.

    best: the correlation with the first scan that a mistake in the others would explain.
    """
    points = given[1] @ _points(prepared[1].scan)
    second = prepared[1].at(points, given[1])
    pairs = (agreement_of(second, later.at(points, own)) for later, own in zip(prepared[2:], given[2:], strict=True))
    found = max(pairs, key=lambda pair: pair.correlation)
    if found.contained >= _CONTAINED and found.correlation >= max(best + _BETTER_CORRELATION, _UNRELATED):
        first = prepared[0].scan
        raise InputError(
            f"{first.transform_path} does not bring {first.path.name} onto the other scans, which lie on one another "
            f"({found.words}): it is the identity where the first field is the reference."
        )


def check_one_frame(scans: Sequence[PlacedScan]) -> list[str]:
    """Raise InputError where fields that are said to lie in one frame share hardly anything with the first one.

    Returned are sentences as those of check_placed.
    """
    doubts: list[str] = []
    compared = _Comparison(scans)
    for index in range(1, len(scans)):
        found = compared.agreement(index, [np.eye(4)] * len(scans))
        if found.is_unrelated:
            raise InputError(
                f"{scans[index].path} does not lie in one frame with {scans[0].path.name} ({found.words}): register "
                "and resample it, or give --transform."
            )
        doubts += _doubt(scans[index], scans[0], found)
    return doubts


class _Comparison:
    """Scans prepared to be held against the first one, wherever matrices place them."""

    def __init__(self, scans: Sequence[PlacedScan]) -> None:
        self.scans = [_Scan(scan) for scan in scans]
        self._points = _points(scans[0])  # in the world of the first, before its own transform
        self._first = self.scans[0].at(self._points, np.eye(4))

    def agreement(self, index: int, matrices: Sequence[Matrix]) -> Agreement:
        """How a scan agrees with the first one; matrices: (4, 4) a scan, its world to the reference's."""
        return agreement_of(self._first, self.scans[index].at(matrices[0] @ self._points, matrices[index]))

    def misplaced(self, index: int) -> Misplacement | None:
        """How far a scan lies from where its fine structure fits that of the first one best, None for no distance."""
        one, first = self.scans[index], self.scans[0]
        world = np.linalg.inv(first.scan.transform) @ one.scan.transform
        return misplaced(one.side(), first.side(), world)


def _points(scan: PlacedScan) -> Points:
    """Points (4, n) about 3 mm apart in and around a scan's mask, in its world."""
    size = voxel_size(scan.affine)
    box = bounding_box(scan.mask, np.ceil(_MARGIN / size).astype(int))
    axes = [np.arange(part.start, part.stop, max(_STEP / edge, 1.0)) for part, edge in zip(box, size, strict=True)]
    grid = np.stack(np.meshgrid(*axes, indexing="ij")).reshape(3, -1)
    return scan.affine @ np.vstack([grid, np.ones(grid.shape[1])])


def _mistakes(scans: Sequence[PlacedScan]) -> list[_Mistake]:
    given = [scan.transform for scan in scans]
    reference = next((scan for scan in scans if np.allclose(scan.transform, np.eye(4), atol=1e-6)), scans[0])
    inverse: tuple[Matrix, ...] = tuple(np.asarray(np.linalg.inv(one), np.float64) for one in given)

    def from_flirt(matrices: Sequence[Matrix]) -> tuple[Matrix, ...]:
        return tuple(flirt_to_world(m, s.path, reference.path) for m, s in zip(matrices, scans, strict=True))

    def from_lps(matrices: Sequence[Matrix]) -> tuple[Matrix, ...]:
        return tuple(_LPS @ one @ _LPS for one in matrices)

    convert = "convert it with chi33.workflows.interfaces.flirt.flirt_to_world(matrix, moving_image, reference_image)"
    mirror = "mirror x and y before and after it, diag(-1, -1, 1, 1) M diag(-1, -1, 1, 1)"
    found = [
        _Mistake("the inverse, from the first scan to this one: invert it", inverse),
        _Mistake(f"an ITK matrix (LPS, from the first scan to this one): invert it and {mirror}", from_lps(inverse)),
        _Mistake(f"a matrix in LPS: {mirror}", from_lps(given)),
        _Mistake("one with its rotation transposed: transpose the 3x3 part", tuple(_transposed(one) for one in given)),
        _Mistake(
            "no transform at all, so the fields seem to lie in one frame already: give --b0-directions instead, or "
            "repeat the registration",
            tuple(np.eye(4) for _ in given),
        ),
    ]
    with suppress(InputError):  # headers whose voxel sizes FLIRT could not have used
        found.append(_Mistake(f"a FLIRT matrix: {convert}", from_flirt(given)))
        found.append(_Mistake(f"the inverse of a FLIRT matrix: invert it and {convert}", from_flirt(inverse)))
    return found


def _transposed(matrix: Matrix) -> Matrix:
    result = matrix.copy()
    result[:3, :3] = matrix[:3, :3].T
    return result


def _exchanged(compared: _Comparison, given: Sequence[Matrix], index: int) -> dict[str, Agreement]:
    """How a scan agrees with the first under the transforms of the others."""
    found = {}
    for other in range(1, len(given)):
        if other != index and not np.allclose(given[other], given[index], atol=1e-6):
            matrices = [*given]
            matrices[index] = given[other]
            name = compared.scans[other].scan.transform_path
            found[f"{name}: give fields, masks and transforms in one order"] = compared.agreement(index, matrices)
    return found
