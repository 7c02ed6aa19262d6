"""One acquisition exported more than once: with and without distortion correction, filtered, of another combination."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Hashable, Sequence

from .conversion import DicomImage, Part, Reason
from .kinds import distortion_of, is_corrected, series_words

BY_MAP = "choose with --plan --map FILE"
_FILTERS = {"NORM", "FM", "FIL", "FILTERED", "BC", "DERIVED"}
_PLAIN = {
    "ORIGINAL", "PRIMARY", "SECONDARY", "OTHER", "NONE", "UNSPECIFIED", "MIXED", "M", "P", "R", "I", "MAGNITUDE",
    "PHASE", "REAL", "IMAGINARY", "MAP", "FFE", "T1", "T2", "T2*", "STAR", "ND", "DIS2D", "DIS3D",
}  # fmt: skip


def by_key(images: Sequence[DicomImage]) -> dict[tuple[Part, float], list[DicomImage]]:
    """Return images by part and echo time."""
    alike: dict[tuple[Part, float], list[DicomImage]] = defaultdict(list)
    for image in images:
        alike[image.part, image.echo_time].append(image)
    return alike


def has_both(images: Sequence[DicomImage]) -> bool:
    """Tell whether there is anything to pair: magnitude and phase, or real and imaginary."""
    parts = {image.part for image in images}
    return {"mag", "phase"} <= parts or {"real", "imag"} <= parts


def copies(images: Sequence[DicomImage]) -> int:
    """Return how many whole scans images may make up, 0 where they are not whole, each echo as often as the others.

    A whole scan has magnitude and phase, or real and imaginary, at each echo time.
    """
    alike = by_key(images)
    counts = {len(found) for found in alike.values()}
    parts: dict[float, set[Part]] = defaultdict(set)
    for part, time in alike:
        parts[time].add(part)
    whole = all({"mag", "phase"} <= found or {"real", "imag"} <= found for found in parts.values())
    even = len({frozenset(found) for found in parts.values()}) == 1
    return counts.pop() if whole and even and len(counts) == 1 else 0


def groups(images: Sequence[DicomImage], key: Callable[[DicomImage], Hashable]) -> list[list[DicomImage]]:
    """Return images with equal keys together, in the order in which the keys appear."""
    found: dict[Hashable, list[DicomImage]] = defaultdict(list)
    for image in images:
        found[key(image)].append(image)
    return list(found.values())


def without_corrected(images: Sequence[DicomImage], reasons: dict[str, Reason]) -> list[DicomImage]:
    """Return the images without distortion correction where they are whole, else those with it where those are."""
    plain = [image for image in images if not is_corrected(image)]
    corrected = [image for image in images if is_corrected(image)]
    if not (plain and corrected):
        return list(images)
    kept, dropped = (plain, corrected) if copies(plain) or not copies(corrected) else (corrected, plain)
    if not copies(kept):
        return list(images)
    for image in dropped:
        reasons[image.name] = second_export(kept[0], True, image)
    return kept


def second_export(taken: DicomImage, clear: bool, image: DicomImage) -> Reason:
    """Return what is said of an image of the acquisition of another one."""
    if not clear:
        return Reason(
            f"starts in the same second as series {taken.series}: one acquisition exported twice, or times made equal, "
            "and which to take is not clear",
            BY_MAP,
        )
    kind = distortion_of(image) if is_corrected(image) else "ND"
    how = f"with distortion correction ({kind})" if is_corrected(image) else "without distortion correction"
    return Reason(f"is the acquisition of series {taken.series} {how}, of which magnitude and phase were taken")


def one_version(images: Sequence[DicomImage], reasons: dict[str, Reason]) -> list[DicomImage]:
    """Return the one version to take of images that start together, adding why the others are not taken.

    Versions differ in ImageType or in the name of the series. Where several are whole, the one without filter is
    taken; where none is, the images with the fewest filters, or the series that hold every echo. Else none is.
    """
    chosen = _whole_version(images) or _least_filtered(images) or _whole_series(images)
    taken = {image.name for image in chosen}
    for image in images:
        if image.name in taken:
            continue
        if not chosen:
            twin = next((o for o in images if o.series != image.series and o.part == image.part), None)
            other = twin or next((o for o in images if o.series != image.series), image)
            reasons[image.name] = second_export(other, False, image)
        else:
            series = next((one for one in chosen if one.part == image.part), chosen[0]).series
            how = f", filtered ({' '.join(sorted(filters))})" if (filters := _filters(image)) else ""
            reasons[image.name] = Reason(f"starts in the same second as series {series}, which was taken{how}")
    return chosen


def _filters(image: DicomImage) -> set[str]:
    return _FILTERS & set(image.image_type)


def _version(image: DicomImage) -> tuple[frozenset[str], tuple[str, ...]]:
    return frozenset(set(image.image_type) - _PLAIN - _FILTERS), series_words(image)


def _whole_version(images: Sequence[DicomImage]) -> list[DicomImage]:
    whole = [
        version
        for version in groups(images, lambda image: (_version(image), frozenset(_filters(image))))
        if copies(version) == 1
    ]
    if len({_version(version[0]) for version in whole}) > 1:
        return []
    whole.sort(key=lambda version: len(_filters(version[0])))
    if len(whole) > 1 and len(_filters(whole[0][0])) == len(_filters(whole[1][0])):
        return []
    return whole[0] if whole else []


def _least_filtered(images: Sequence[DicomImage]) -> list[DicomImage]:
    chosen = []
    for alike in by_key(images).values():
        ordered = sorted(alike, key=lambda image: len(_filters(image)))
        if len(ordered) > 1 and len(_filters(ordered[0])) == len(_filters(ordered[1])):
            return []
        chosen.append(ordered[0])
    return chosen if copies(chosen) == 1 and len({_version(image) for image in chosen}) == 1 else []


def _whole_series(images: Sequence[DicomImage]) -> list[DicomImage]:
    """Return the images of series that hold their part at every echo time, where there is one series for each part."""
    times = {image.echo_time for image in images}
    if len(times) < 2:
        return []
    chosen = [
        image
        for series in groups(images, lambda image: (image.series_key, image.part))
        if {image.echo_time for image in series} == times
        for image in series
    ]
    return chosen if copies(chosen) == 1 else []
