"""Magnitude and phase of one scan found among images of one grid, where it is certain that they belong together.

Certain are: parts that start together, where each part and echo time is there once; else one series that holds all
parts; else series of one name, as many of one part as of another, in the order in which scanners number them: part by
part of a scan, or all scans of a part, without a gap in the series numbers. The rest is left to a mapping file.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise

from .conversion import DicomImage, DicomScan, Part, Reason
from .kinds import EACH_ECHO, coil_elements, is_corrected, series_words
from .versions import by_key, copies, groups, has_both, one_version, without_corrected

SAME_START_SECONDS = 1.0  # two 3-D scans do not start in the same second
_SAME_ACQUISITION_SECONDS = 2.0  # echoes and parts of one 2-D scan state starts within a repetition time
NO_PHASE = "export the phase images too, or the real and imaginary ones"
NO_MAGNITUDE = "export the magnitude images too"
_PLACE = "place it with --plan --map FILE"
_LONGEST_GAP = 100  # series numbers


@dataclass(frozen=True)
class Pairing:
    """What pairing knows of the folder: the numbers of all its series, and by series of which echoes it holds phases.

    reasons: those that it gives, by image.
    """

    numbers: frozenset[int]
    echoes: Mapping[tuple[int, str], Collection[int]]
    reasons: dict[str, Reason] = field(default_factory=dict)


def pair(cluster: Sequence[DicomImage], known: Pairing) -> list[DicomScan]:
    """Return the scans among images of one grid that start within a scan of one another, or state no start.

    Images left over get their reason in known.reasons.
    """
    images = _without_repeats(_without_coils(cluster, known.reasons), known.reasons)
    if not images:
        return []
    studies = groups(images, lambda image: image.study)
    found = []
    for study in studies if any(map(has_both, studies)) else [images]:
        if study[0].seconds is None:
            found += _untimed(study, known)
        else:
            acquisitions = _acquisitions(study)
            found += [one for some in acquisitions for one in _of_one_start(some, len(acquisitions) == 1, known)]
    return [scan for candidates in found if (scan := _scan(candidates, known))]


def _without_coils(images: Sequence[DicomImage], reasons: dict[str, Reason]) -> list[DicomImage]:
    coils: dict[str, Reason] = {}
    for alike in by_key(images).values():
        coils |= coil_elements(alike)
    reasons |= coils
    return [image for image in images if image.name not in coils]


def _without_repeats(images: Sequence[DicomImage], reasons: dict[str, Reason]) -> list[DicomImage]:
    kept = []
    for alike in by_key(images).values():
        if len({image.series_key for image in alike}) == len(alike):
            kept += alike
            continue
        text = f"has {len(alike)} {alike[0].part} images of one echo time (coils apart, or repetitions)"
        reasons |= {image.name: Reason(text, "export the combined image of one repetition") for image in alike}
    return kept


def _acquisitions(images: Sequence[DicomImage]) -> list[list[DicomImage]]:
    """Split images with starts so that of one part and echo only versions of one start stay together."""
    counts = [len(_starts(alike)) for alike in by_key(images).values()]
    ordered = sorted(images, key=lambda image: image.seconds or 0.0)
    steps = [(later.seconds or 0.0) - (earlier.seconds or 0.0) for earlier, later in pairwise(ordered)]
    cuts = sorted(sorted(range(len(steps)), key=lambda index: -steps[index])[: max(counts) - 1])
    ends = [0, *(cut + 1 for cut in cuts), len(ordered)]
    return [ordered[start:end] for start, end in pairwise(ends)]


def _starts(images: Sequence[DicomImage]) -> list[float]:
    found: list[float] = []
    for second in sorted(image.seconds or 0.0 for image in images):
        if not found or second - found[-1] > SAME_START_SECONDS:
            found.append(second)
    return found


def _of_one_start(images: list[DicomImage], alone: bool, known: Pairing) -> list[list[DicomImage]]:
    """Return the images of the scan that one start makes; alone: no other scan begins within seconds."""
    if not has_both(images):
        return [images]
    starts = [image.seconds or 0.0 for image in images]
    if max(starts) - min(starts) > _SAME_ACQUISITION_SECONDS:
        if alone:
            return _untimed(images, known)
        known.reasons.update({image.name: _ambiguous(image, images) for image in images})
        return []
    images = without_corrected(images, known.reasons)
    if max(map(len, by_key(images).values())) > 1:
        images = one_version(images, known.reasons)
    return [images] if images else []


def _untimed(images: list[DicomImage], known: Pairing) -> list[list[DicomImage]]:
    """Return the images of each scan among those whose starts do not tell which belong together."""
    if not has_both(images):
        return [images]
    images = without_corrected(images, known.reasons)
    found, left = [], []
    for series in groups(images, lambda image: image.series_key):
        if copies(series) == 1:
            found.append(series)
        else:
            left += series
    if not has_both(left):
        return [*found, left] if left else found
    for group in _of_one_name(left):
        if blocks := _blocks(group, known.numbers):
            found += blocks
        elif _lacks_parts(group, left):
            found.append(group)  # to be told what it lacks
        else:
            known.reasons.update({image.name: _ambiguous(image, left) for image in group})
    return found


def _lacks_parts(group: Sequence[DicomImage], images: Sequence[DicomImage]) -> bool:
    """Tell whether images of one name are no scan because images are missing, not because there are several."""
    if has_both(group):
        return not copies(group) and all(len(alike) == 1 for alike in by_key(group).values())
    return any(map(has_both, _of_one_name(images)))


def _ambiguous(image: DicomImage, images: Sequence[DicomImage]) -> Reason:
    others = sorted({other.series for other in images if other.part != image.part and other.series != image.series})
    named = ", ".join(str(number) for number in others)
    return Reason(
        f"has the voxels of series {named}, and neither starts, names nor series numbers tell for certain whether they "
        "belong together",
        _PLACE,
    )


def _of_one_name(images: Sequence[DicomImage]) -> list[list[DicomImage]]:
    """Split images by the names of their series, unless these tell echoes apart."""
    named = groups(images, series_words)
    times = [{image.echo_time for image in group} for group in named]
    if len(times) > 1 and sum(map(len, times)) == len(set().union(*times)):
        return [list(images)]
    return named


def _blocks(images: Sequence[DicomImage], numbers: frozenset[int]) -> list[list[DicomImage]]:
    """Return the images of each scan by the order of their series, nothing where the order does not tell."""
    count = copies(images)
    series = sorted(groups(images, lambda image: image.series_key), key=lambda group: group[0].series_key)
    if not count or len(series) % count:
        return []
    return _scan_by_scan(series, count, numbers) or _part_by_part(series, count, numbers)


def _scan_by_scan(series: list[list[DicomImage]], count: int, numbers: frozenset[int]) -> list[list[DicomImage]]:
    """Return magnitude and phase of the first scan, then of the second, and so on."""
    size = len(series) // count
    chunks = [series[start : start + size] for start in range(0, len(series), size)]
    blocks = [[image for one in chunk for image in one] for chunk in chunks]
    if any(copies(block) != 1 for block in blocks):
        return []
    if len({tuple(_content(one) for one in chunk) for chunk in chunks}) > 1:
        return []
    return blocks if all(_in_order(chunk, numbers) for chunk in chunks) else []


def _part_by_part(series: list[list[DicomImage]], count: int, numbers: frozenset[int]) -> list[list[DicomImage]]:
    """Return the magnitudes of all scans, then the phases of all."""
    if any(len({image.part for image in one}) > 1 for one in series) or not _in_order(series, numbers):
        return []
    parts = [one[0].part for one in series]
    if sum(earlier != later for earlier, later in pairwise(parts)) != len(set(parts)) - 1:
        return []
    blocks: list[list[DicomImage]] = [[] for _ in range(count)]
    for part in dict.fromkeys(parts):
        of_part = [one for one in series if one[0].part == part]
        size = len(of_part) // count
        for index in range(count):
            blocks[index] += [image for one in of_part[index * size : (index + 1) * size] for image in one]
    return blocks if all(copies(block) == 1 for block in blocks) else []


def _content(series: Sequence[DicomImage]) -> tuple[tuple[Part, float], ...]:
    return tuple(sorted((image.part, image.echo_time) for image in series))


def _in_order(series: Sequence[list[DicomImage]], numbers: frozenset[int]) -> bool:
    """Tell whether series follow one another as a scanner writes them; Siemens writes the magnitude first."""
    first = {image.part for image in series[0]}
    if series[0][0].made_by.startswith("siemens") and "phase" in first and "mag" not in first:
        return False
    found = [one[0].series for one in series]
    return all(_neighbours(low, high, numbers) for low, high in pairwise(found))


def _neighbours(low: int, high: int, numbers: frozenset[int]) -> bool:
    """Tell whether no series is missing between two; 4 and 400 are neighbours, as are 201 and 301."""
    if str(high).startswith(str(low)):
        return True
    step = 100 if low > 100 and low % 100 == high % 100 else 1
    between = range(low + step, high, step)
    return len(between) <= _LONGEST_GAP and numbers.issuperset(between)


def _scan(images: Sequence[DicomImage], known: Pairing) -> DicomScan | None:
    by_echo: dict[float, dict[Part, DicomImage]] = defaultdict(dict)
    for image in images:
        by_echo[image.echo_time][image.part] = image
    if reason := _why_no_scan(by_echo, known):
        known.reasons.update({image.name: reason for image in images})
        return None
    times = sorted(by_echo)
    return DicomScan(tuple(by_echo[time] for time in times), tuple(times))


def _why_no_scan(by_echo: dict[float, dict[Part, DicomImage]], known: Pairing) -> Reason | None:
    times = sorted(by_echo)
    with_phase = [time for time in times if "phase" in by_echo[time] or {"real", "imag"} <= by_echo[time].keys()]
    with_magnitude = [time for time in times if "mag" in by_echo[time] or {"real", "imag"} <= by_echo[time].keys()]
    if not with_phase:
        return Reason("has no phase image of the same grid and acquisition time", NO_PHASE)
    if not with_magnitude:
        return Reason("has no magnitude image of the same grid and acquisition time", NO_MAGNITUDE)
    if not with_phase == with_magnitude == times:
        difference = len(times) == 2 and with_magnitude == times and with_phase == times[1:]
        return Reason(
            f"has magnitude at echo times {with_magnitude} s but phase at {with_phase} s"
            + (", as a phase difference of two echoes is stored" if difference else ""),
            EACH_ECHO if difference else "",
        )
    images = [image for echo in by_echo.values() for image in echo.values()]
    if len({is_corrected(image) for image in images}) > 1:
        corrected = sorted({image.series for image in images if is_corrected(image)})
        return Reason(
            f"is corrected for distortion in part only (series {', '.join(map(str, corrected))})",
            "export magnitude and phase without the correction, or place them with --plan --map FILE",
        )
    phase = by_echo[times[0]].get("phase")
    if len(times) == 1 and phase and phase.echo_number > 1 and len(known.echoes[phase.series_key]) == 1:
        return Reason(
            f"is of echo {phase.echo_number} alone, as a phase difference of two echoes is stored",
            "export every echo, or place it with --plan --map FILE if it is the phase of that echo",
        )
    return None
