"""Images of a DICOM folder grouped into multi-echo GRE scans, one a head orientation; what belongs to none is named."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import replace
from itertools import combinations, pairwise

import nibabel as nib
import numpy as np

from .conversion import DicomImage, DicomScan, Grouping, Reason
from .kinds import is_corrected, series_words, why_derived, why_unusable
from .pairing import SAME_START_SECONDS, Pairing, pair
from .versions import copies, second_export

_SAME_SCAN_SECONDS = 20.0  # parts and echoes of one scan start together; the next scan starts a scan later
_SAME_GRID_MM = 1e-3
_SAME_DIRECTION = 1e-3
_SAME_CENTRE_MM = 5.0
_MISSING = "copy the missing files from the scanner"


def group_scans(images: Iterable[DicomImage]) -> Grouping:
    """Group images into scans; what belongs to none is named with the reason.

    Images of one grid that start within 20 s of one another are one scan. Where the same part and echo time occur more
    than once, or no start is stated, they are paired as `dicom_pairing` describes, or left out.
    """
    images = list(images)
    found = Pairing(frozenset(image.series for image in images), _echo_numbers(images))
    usable = _usable(images, found.reasons)
    scans = [scan for cluster in _clusters(_on_a_trusted_clock(usable)) for scan in pair(cluster, found)]
    scans = _without_second_exports(scans, found.reasons)
    scans.sort(key=lambda scan: min((image.seconds or 0.0, image.series) for image in scan.images))
    return Grouping(tuple(scans), found.reasons)


def _echo_numbers(images: Sequence[DicomImage]) -> dict[tuple[int, str], set[int]]:
    """Return which echoes each series holds phases of, usable or not."""
    echoes: dict[tuple[int, str], set[int]] = defaultdict(set)
    for image in images:
        if image.part == "phase":
            echoes[image.series_key].add(image.echo_number)
    return echoes


def _usable(images: Sequence[DicomImage], reasons: dict[str, Reason]) -> list[DicomImage]:
    """Return the images that may be an echo of a scan, and add why the others may not."""
    in_series: dict[object, set[float]] = defaultdict(set)
    of_name: dict[object, set[float]] = defaultdict(set)
    for image in images:
        in_series[image.series_key, image.part].add(image.echo_time)
        of_name[series_words(image), image.part].add(image.echo_time)
    usable = []
    for image in images:
        times = in_series[image.series_key, image.part], of_name[series_words(image), image.part]
        if reason := why_unusable(image) or why_derived(image, *times):
            reasons[image.name] = reason
        else:
            usable.append(image)
    for image in usable:
        if whole := next((one for one in usable if _lacks_slices(image, one, usable)), None):
            sizes = f"has {_matrix(image)} voxels where series {whole.series} has {_matrix(whole)}"
            reasons[image.name] = Reason(f"{sizes}: {_absent(image, whole)}", _MISSING)
    return [image for image in usable if image.name not in reasons]


def _matrix(image: DicomImage) -> str:
    return "x".join(str(size) for size in image.shape)


def _lacks_slices(image: DicomImage, whole: DicomImage, images: Sequence[DicomImage]) -> bool:
    """Tell whether an image has the voxels of another, of the same start, but fewer slices."""
    axes_apart = np.abs(image.affine[:3, :3] - whole.affine[:3, :3]).max()
    fewer = np.not_equal(image.shape, whole.shape).sum() == 1 and np.prod(image.shape) < np.prod(whole.shape)
    if not fewer or axes_apart > _SAME_GRID_MM:
        return False
    if image.seconds is None or whole.seconds is None:
        if image.seconds != whole.seconds:
            return False
        # Without times a whole echo of fewer slices, which the other grid has too, is a scan of its own.
        echo, other = (
            [mate for mate in images if mate.on_grid_of(one) and mate.echo_time == image.echo_time]
            for one in (image, whole)
        )
        return not (copies(echo) and copies(other))
    return abs(image.seconds - whole.seconds) <= _SAME_SCAN_SECONDS


def _absent(image: DicomImage, whole: DicomImage) -> str:
    """Return which slices an image lacks, by where they lie: "the slice at the superior end is missing"."""
    (axis,) = np.flatnonzero(np.not_equal(image.shape, whole.shape))
    start = round(float((np.linalg.inv(whole.affine) @ image.affine[:, 3])[axis]))
    before, after = max(start, 0), max(whole.shape[axis] - start - image.shape[axis], 0)
    names = {"L": "left", "R": "right", "P": "posterior", "A": "anterior", "I": "inferior", "S": "superior"}
    high = nib.aff2axcodes(whole.affine)[axis]
    low = nib.aff2axcodes(whole.affine @ np.diag([-1, -1, -1, 1]))[axis]
    ends = [
        f"{count} slice{'s' * (count > 1)} at the {names[end]} end"
        for count, end in ((before, low), (after, high))
        if count
    ]
    if not ends:
        return "files are missing"
    return f"{' and '.join(ends)} {'is' if before + after == 1 else 'are'} missing"


def _on_a_trusted_clock(images: Sequence[DicomImage]) -> list[DicomImage]:
    """Return images without the times that cannot be right: two volumes of different place do not start together."""
    phases = [image for image in images if image.part == "phase" and image.seconds is not None]
    doubtful = {
        one.seconds for one, other in combinations(phases, 2) if _together(one, other) and not _same_volume(one, other)
    }
    return [replace(image, seconds=None) if _within(image.seconds, doubtful) else image for image in images]


def _within(seconds: float | None, times: Iterable[float | None]) -> bool:
    return any(seconds is not None and time is not None and abs(seconds - time) <= SAME_START_SECONDS for time in times)


def _together(one: DicomImage, other: DicomImage) -> bool:
    """Tell whether two images of a study state the same start."""
    return one.study == other.study and _within(one.seconds, [other.seconds])


def _same_volume(one: DicomImage, other: DicomImage) -> bool:
    """Tell whether two images are of one place and direction, whatever their voxels are."""
    directions, centres = [], []
    for image in (one, other):
        axes = image.affine[:3, :3]
        directions.append(axes / np.linalg.norm(axes, axis=0))
        centres.append((image.affine @ [*((np.array(image.shape) - 1) / 2), 1])[:3])
    alike = np.abs(directions[0] - directions[1]).max() < _SAME_DIRECTION
    return bool(alike and np.linalg.norm(centres[0] - centres[1]) < _SAME_CENTRE_MM)


def _clusters(images: Sequence[DicomImage]) -> list[list[DicomImage]]:
    """Split images by grid, then where more than 20 s pass between two starts."""
    grids: list[list[DicomImage]] = []
    for image in images:
        grid = next((members for members in grids if image.on_grid_of(members[0])), None)
        if grid is None:
            grids.append([image])
        else:
            grid.append(image)
    clusters = []
    for members in grids:
        members.sort(key=lambda image: (image.seconds is None, image.seconds or 0.0, image.series))
        clusters.append(members[:1])
        for earlier, later in pairwise(members):
            if later.seconds is None or earlier.seconds is None:
                apart = later.seconds != earlier.seconds
            else:
                apart = later.seconds - earlier.seconds > _SAME_SCAN_SECONDS
            if apart:
                clusters.append([])
            clusters[-1].append(later)
    return clusters


def _without_second_exports(scans: Sequence[DicomScan], reasons: dict[str, Reason]) -> list[DicomScan]:
    """Return scans less those that are another's acquisition on other voxels: the same start and place."""
    kept = list(scans)
    for one, other in combinations(scans, 2):
        first, second = one.images[0], other.images[0]
        if not (_together(first, second) and _same_volume(first, second)):
            continue
        clear = is_corrected(first) != is_corrected(second)
        dropped = [scan for scan in (one, other) if not clear or is_corrected(scan.images[0])]
        for scan in (scan for scan in dropped if scan in kept):
            kept.remove(scan)
            twin = second if scan is one else first
            for image in scan.images:
                reasons[image.name] = second_export(twin, clear, image)
    return kept
