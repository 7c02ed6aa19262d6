"""Means of the maps by region of a label map: the user's, in the subject frame, or a simulated scan's own."""

from __future__ import annotations

import csv
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ...files.derivatives import read_image, read_transform
from ...files.errors import InputError
from ...pipeline.images.resample import resample
from .files import ScanFiles, SubjectFiles

_MOST_REGIONS = 2000
_SUBJECT_MAPS = ("cosmos", "mms", "msa")


@dataclass(frozen=True)
class LabelMap:
    """A label map: integers (x, y, z), 0 for none, voxel-to-world affine, and the names of its labels."""

    labels: NDArray[np.int32]
    affine: NDArray[np.float64]
    names: Mapping[int, str]

    @classmethod
    def read(cls, path: Path) -> LabelMap:
        """Read a label map and the names in the TSV beside it (columns index and name); InputError where it is none."""
        values, affine = read_image(Path(path))
        if values.ndim != 3:
            raise InputError(f"{path} has shape {values.shape}: give a 3-D label map for the regions.")
        labels = np.rint(values).astype(np.int32)
        if np.abs(values - labels).max() > 1e-3 or labels.min() < 0:
            raise InputError(f"{path} holds values that are no labels (0, 1, 2, ...): give a map of whole numbers.")
        found = [int(one) for one in np.unique(labels) if one]
        if not 0 < len(found) <= _MOST_REGIONS:
            raise InputError(f"{path} holds {len(found)} labels: give a map of 1 to {_MOST_REGIONS} regions.")
        table = Path(path).with_name(Path(path).name.removesuffix(".gz").removesuffix(".nii") + ".tsv")
        named = _names(table) if table.is_file() else {}
        return cls(labels, affine, {one: named.get(one, f"label {one}") for one in found})

    def on(self, affine: NDArray[np.float64], shape: tuple[int, ...], transform: NDArray[np.float64]) -> LabelMap:
        """Return the labels on another grid (nearest voxel); transform: its own world to that grid's."""
        moved = resample(self.labels.astype(np.float32), self.affine, affine, shape, transform, order=0)
        return LabelMap(np.rint(moved).astype(np.int32), affine, self.names)


@dataclass(frozen=True)
class Region:
    """One region of a map: voxels, mean and standard deviation of its values."""

    label: int
    name: str
    voxels: int
    mean: float
    std: float


def _names(table: Path) -> dict[int, str]:
    try:
        with table.open(encoding="utf-8-sig", newline="") as file:
            table_rows = csv.DictReader(file, delimiter="\t")
            if not {"index", "name"} <= set(table_rows.fieldnames or ()):
                raise KeyError("index, name")
            return {int(row["index"]): row["name"] for row in table_rows}
    except (KeyError, TypeError, ValueError) as error:
        raise InputError(f"{table} names no regions ({error}): give the columns index and name.") from error


def region_rows(
    values: NDArray[np.floating], labels: NDArray[np.int32], names: Mapping[int, str], mask: NDArray[np.bool_]
) -> list[Region]:
    """Return mean and standard deviation of a map (x, y, z) in each region that has a voxel in the mask.

    labels, mask: (x, y, z) on the map's grid; names: of the labels that count.
    """
    if labels.shape != values.shape or mask.shape != values.shape:
        raise InputError(f"labels have shape {labels.shape}, but the map has {values.shape}: give them on one grid.")
    inside, chosen = labels[mask], values[mask].astype(np.float64)
    count = max(max(names, default=0), int(inside.max(initial=0))) + 1
    voxels = np.bincount(inside, minlength=count)
    mean = np.bincount(inside, chosen, count) / np.maximum(voxels, 1)
    square = np.bincount(inside, (chosen - mean[inside]) ** 2, count) / np.maximum(voxels, 1)
    return [
        Region(label, name, int(voxels[label]), float(mean[label]), float(np.sqrt(square[label])))
        for label, name in sorted(names.items())
        if voxels[label]
    ]


@dataclass(frozen=True)
class RegionTable:
    """Rows of words and numbers: region, volume in ml, chi33 of the first scan, its range over scans, others."""

    source: str
    columns: tuple[tuple[str, str], ...]
    rows: tuple[tuple[str, tuple[float | None, ...]], ...]


def region_table(
    scans: Sequence[ScanFiles], subject: SubjectFiles, rois: Path, *, determined: bool = True
) -> RegionTable | None:
    """Return the means of chi33, COSMOS, MMS and MSA by region; None where the subject has no such map or regions.

    rois: a label map in the subject frame, or a folder that holds one of each scan, named as the scan's maps
    (`sub-01_acq-ori01_desc-rois_dseg.nii.gz`, as a simulation's truth); determined: whether the tensor is, without
    which MSA is left out. Raises InputError where it is no label map.
    """
    if Path(rois).is_dir():
        found = {scan.name: path for scan in scans if (path := _of_scan(Path(rois), scan)) is not None}
        if not found:
            return None
        maps = {name: LabelMap.read(path) for name, path in found.items()}
        return _table(scans, {}, maps, f"label maps of each scan in {Path(rois).name}")
    labels = LabelMap.read(Path(rois))
    shown = [desc for desc in _SUBJECT_MAPS if determined or desc != "msa"]
    there = [desc for desc in shown if subject.has(subject.path(desc, "Chimap"))]
    whole = {desc: _subject_regions(subject, desc, labels) for desc in there}
    placed = {scan.name: labels for scan in scans if scan.has_transform}
    return _table(scans, whole, placed, f"{Path(rois).name}, in the subject frame", moved=True)


def check_regions(rois: Path) -> None:
    """Raise InputError where rois, as of region_table, is neither a folder nor a label map."""
    if not Path(rois).is_dir():
        LabelMap.read(Path(rois))


def simulated_regions(bids_dir: Path) -> Path | None:
    """Return the folder of the true regions where a raw data set is a simulation, else None."""
    folder = Path(bids_dir) / "derivatives" / "truth"
    return folder if folder.is_dir() and any(folder.rglob("*_desc-rois_dseg.nii.gz")) else None


def _of_scan(folder: Path, scan: ScanFiles) -> Path | None:
    name = scan.path("rois", "dseg").name
    return next(iter(sorted(folder.rglob(name))), None)


def _subject_regions(subject: SubjectFiles, desc: str, labels: LabelMap) -> dict[int, Region]:
    values, affine = read_image(subject.path(desc, "Chimap"))
    own = labels.on(affine, values.shape, np.eye(4))
    return {one.label: one for one in region_rows(values, own.labels, own.names, values != 0)}


def _scan_regions(scan: ScanFiles, labels: LabelMap, *, moved: bool) -> tuple[dict[int, Region], float]:
    """Return the regions of a scan's chi33 by label and a voxel's ml; moved: labels are in the subject frame."""
    values, affine = read_image(scan.path("chi33", "Chimap"))
    transform = read_transform(scan.transform) if moved else np.eye(4)
    own = labels.on(affine, values.shape, np.asarray(np.linalg.inv(transform), np.float64))
    local = scan.path("local", "mask")
    mask = read_image(local)[0] > 0 if scan.has(local) else values != 0
    volume = float(abs(np.linalg.det(affine[:3, :3])) / 1000)
    return {one.label: one for one in region_rows(values, own.labels, own.names, mask)}, volume


def _table(
    scans: Sequence[ScanFiles],
    whole: Mapping[str, Mapping[int, Region]],
    labels: Mapping[str, LabelMap],
    source: str,
    *,
    moved: bool = False,
) -> RegionTable | None:
    """Return the table of the scans that have chi33 and labels, and of the maps in the subject frame."""
    there = [scan for scan in scans if scan.name in labels and scan.has(scan.path("chi33", "Chimap"))]
    if not there:
        return None
    found = [_scan_regions(scan, labels[scan.name], moved=moved) for scan in there]
    names = dict(sorted({label: name for one in labels.values() for label, name in one.names.items()}.items()))
    first, volume = found[0]
    rows = []
    for label, name in names.items():
        means = [one[label].mean for one, _ in found if label in one]
        if not means:
            continue
        shown = first.get(label)
        numbers = (
            None if shown is None else shown.voxels * volume, None if shown is None else shown.mean,
            None if shown is None else shown.std, min(means), max(means),
            *(one[label].mean if label in one else None for one in whole.values()),
        )  # fmt: skip
        rows.append((name, numbers))
    if not rows:
        return None
    columns = (
        ("Volume", "ml"), ("χ33", f"mean in {there[0].name}, ppm"), ("χ33", "std, ppm"), ("χ33", "least mean, ppm"),
        ("χ33", "largest mean, ppm"), *((desc.upper(), "mean, ppm") for desc in whole),
    )  # fmt: skip
    return RegionTable(source, columns, tuple(rows))
