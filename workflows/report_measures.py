"""What the report shows of a subject: numbers and three slices per map, no more than two volumes in memory."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from ..pipeline.errors import InputError
from ..pipeline.frames import (
    FloatArray,
    b0_direction_from_affine,
    check_b0_direction,
    rotation_and_scale,
    rotation_angle,
    voxel_frame,
    voxel_size,
)
from .derivatives import Derivatives, is_complete, open_image, read_image, read_json, read_transform, sidecar_path
from .figures import Planes
from .figures_tensor import full_brightness

SCAN_MAPS = (
    ("magnitude", "MEGRE"),
    ("total", "fieldmap"),
    ("echoes", "fieldmap"),
    ("local", "fieldmap"),
    ("chi33", "Chimap"),
    ("deltab", "fieldmap"),
    ("cosmos", "Chimap"),
    ("residual", "fieldmap"),
    ("chi33sd", "Chimap"),
    ("deltabsd", "fieldmap"),
    ("cosmossd", "Chimap"),
)
DEVIATIONS = ("chi33sd", "deltabsd", "cosmossd")
SUBJECT_MAPS = ("cosmos", "mms", "msa", "tensor", "pev")
_MARGIN = 8.0  # mm around the brain that a slice shows
_EDGE = 2.0  # mm eroded from a mask before the strongest sources are looked for
_STRONGEST = 99.0  # percentile


@dataclass(frozen=True)
class ScanFiles:
    """One scan of a subject: where its files lie and the label in their names ("acq-ori01")."""

    files: Derivatives
    label: str

    @property
    def name(self) -> str:
        """`ori01` for the usual label, otherwise all entities: `ses-a acq-ori01`, `acq-a run-2`."""
        session = f"ses-{self.files.session}_" if self.files.session else ""
        entities = f"{session}{self.label}"
        return entities.removeprefix("acq-") if "_" not in entities else entities.replace("_", " ")

    def path(self, desc: str, suffix: str) -> Path:
        """Return the path of one of the scan's maps; it need not exist."""
        return self.files.path(self.label, suffix=suffix, desc=desc)

    @property
    def transform(self) -> Path:
        """The path of the transform to the subject frame."""
        return self.files.transform(self.label)


@dataclass(frozen=True)
class View:
    """Where a volume is cut: turned to the closest RAS axes, cropped to the brain, through the brain's centre."""

    mask: NDArray[np.bool_]
    affine: NDArray[np.float64]
    centre: tuple[int, int, int]
    box: tuple[slice, slice, slice]
    edge: tuple[float, float, float]

    @classmethod
    def of(cls, mask: NDArray[np.bool_], affine: NDArray[np.float64]) -> View:
        """Return the view of a mask (x, y, z) that is not empty; affine: voxel to world."""
        turned = _canonical(mask, affine)
        size = voxel_size(affine)[nib.orientations.io_orientation(affine)[:, 0].argsort()]
        counts = _counts(turned)
        filled = [np.flatnonzero(count) for count in counts]
        margin = [round(_MARGIN / float(d)) for d in size]
        box = [slice(max(0, int(f[0]) - m), int(f[-1]) + m + 1) for f, m in zip(filled, margin, strict=True)]
        x, y, z = (round(_mean_index(count)) for count in counts)
        return cls(mask, affine, (x, y, z), (box[0], box[1], box[2]), (float(size[0]), float(size[1]), float(size[2])))

    def cut(self, volume: NDArray) -> Planes:
        """Return the three slices of a volume (x, y, z) or (c, x, y, z), components last in the slices."""
        channels_last = np.moveaxis(volume, 0, -1) if volume.ndim == 4 else volume
        turned = _canonical(channels_last, self.affine)
        (x, y, z), (bx, by, bz) = self.centre, self.box
        return Planes(turned[bx, by, z].copy(), turned[bx, y, bz].copy(), turned[x, by, bz].copy(), self.edge)


def _counts(mask: NDArray[np.bool_]) -> list[NDArray[np.int64]]:
    """Return the number of voxels of a mask in each plane across x, y and z."""
    columns = mask.sum(axis=2)
    return [columns.sum(axis=1), columns.sum(axis=0), mask.sum(axis=(0, 1))]


def _mean_index(count: NDArray[np.int64]) -> float:
    return float(np.average(np.arange(len(count)), weights=count))


def _canonical(volume: NDArray, affine: NDArray[np.float64]) -> NDArray:
    """Return a volume (x, y, z[, c]) turned to the closest RAS axes; nothing is interpolated."""
    return np.asarray(nib.orientations.apply_orientation(volume, nib.orientations.io_orientation(affine)))


@dataclass(frozen=True)
class ScanMeasures:
    """What the report says of one scan; None where its file is not there.

    b0_direction: unit vector (3,) in the subject frame; tilt: its angle to the reference's +z, degrees; rotation
    (degrees), shift (mm, of the brain's centre) and scale of the registration to the reference, quality: of it, at
    most 1; brain_volume: ml; mask_dice: of the brain mask with those of the other scans; repaired: why the brain mask
    was, None where it was not; valid_share: part of the brain with a local field; *_std and percentiles in ppm;
    residual_ratio: residual_std / local_std; correlation: of chi33 with COSMOS; planes: slices per map; brain, local:
    slices of the masks.
    """

    name: str
    voxel_size: tuple[float, float, float]
    shape: tuple[int, int, int]
    brain_volume: float
    brain: Planes
    b0_direction: FloatArray | None = None
    tilt: float | None = None
    rotation: float | None = None
    shift: float | None = None
    scale: float | None = None
    valid_share: float | None = None
    local: Planes | None = None
    numbers: dict[str, float] = field(default_factory=dict)
    planes: dict[str, Planes] = field(default_factory=dict)
    unfinished: tuple[str, ...] = ()
    repaired: str | None = None

    def number(self, key: str) -> float | None:
        """Return a number by its key, an attribute or one of `numbers`; None where it is not known."""
        value = self.numbers.get(key, getattr(self, key, None))
        return float(value) if value is not None else None


@dataclass(frozen=True)
class SubjectMeasures:
    """Slices of the maps in the subject frame and of the brain (None: no map), and what is said of the whole maps.

    dark_share: part of the strongest COSMOS sources that is diamagnetic; full_msa: the anisotropy, ppm, that is strong
    for this brain; record: what the tensor's sidecar says of the fit.
    """

    planes: dict[str, Planes] = field(default_factory=dict)
    brain: Planes | None = None
    dark_share: float | None = None
    full_msa: float | None = None
    record: Mapping[str, Any] = field(default_factory=dict)


def find_scans(out_dir: Path, subject: str) -> tuple[ScanFiles, ...]:
    """Return the scans of a subject, over all its sessions, in the order of their labels.

    Raises InputError where there is none.
    """
    folder = Path(out_dir) / f"sub-{subject}"
    sessions = sorted(path.name.removeprefix("ses-") for path in folder.glob("ses-*") if path.is_dir())
    scans = []
    for files in (Derivatives(out_dir, subject), *(Derivatives(out_dir, subject, one) for one in sessions)):
        pattern = re.compile(rf"{re.escape(files.prefix)}_((?:acq|run)-.+?)_(?:desc|from)-")
        matches = (pattern.match(path.name) for path in sorted(files.folder.glob(f"{files.prefix}_*")))
        labels = dict.fromkeys(match[1] for match in matches if match and "space-" not in match[1])
        scans += [ScanFiles(files, label) for label in sorted(labels)]
    if not scans:
        raise InputError(f"{folder} holds no scan of sub-{subject}: repeat `chi33 run`, or check the label.")
    return tuple(scans)


def measure_scans(scans: Sequence[ScanFiles]) -> list[ScanMeasures]:
    """Return measure_scan of each, two at a time: most of the time goes into decompression."""
    with ThreadPoolExecutor(max_workers=2) as pool:
        return list(pool.map(measure_scan, scans))


def measure_scan(scan: ScanFiles) -> ScanMeasures:
    """Return the numbers and slices of one scan; InputError where it has no mask or its maps do not fit one another."""
    found = {desc: scan.path(desc, suffix) for desc, suffix in SCAN_MAPS}
    unfinished = tuple(path.name for path in found.values() if path.exists() and not is_complete(path))
    brain, local, affine = _masks(scan)
    inside = brain if local is None else local
    view = View.of(brain, affine)
    planes: dict[str, Planes] = {}
    numbers: dict[str, float] = {}
    chi33 = None
    for desc, path in found.items():
        if not is_complete(path):
            continue
        volume = _read_on_grid(path, view)
        planes[desc] = view.cut(volume)
        values = volume[brain if desc == "total" else inside]
        numbers |= _statistics(desc, values)
        if desc == "chi33":
            chi33 = values
        elif desc == "cosmos" and chi33 is not None:
            numbers["correlation"] = _correlation(chi33, values)
    if numbers.get("local_std") and "residual_std" in numbers:
        numbers["residual_ratio"] = numbers["residual_std"] / numbers["local_std"]
    mask_record, pair_record = (_record(path) for path in (scan.path("brain", "mask"), scan.transform))
    for key, value in (("mask_dice", mask_record.get("MaskConsensusDice")), ("quality", pair_record.get("Quality"))):
        if isinstance(value, int | float):
            numbers[key] = float(value)
    shape = brain.shape
    return ScanMeasures(
        name=scan.name,
        voxel_size=view.edge,
        shape=(shape[0], shape[1], shape[2]),
        brain_volume=float(brain.sum() * voxel_size(affine).prod() / 1000),
        brain=view.cut(brain),
        valid_share=None if local is None else float((local & brain).sum() / brain.sum()),
        local=None if local is None else view.cut(local),
        numbers=numbers,
        planes=planes,
        unfinished=unfinished,
        repaired=mask_record.get("MaskRepaired"),
        **_pose(scan, view),
    )


def _record(path: Path) -> dict[str, Any]:
    """Return a file's sidecar; nothing where there is none."""
    beside = sidecar_path(path)
    return read_json(beside) if beside.is_file() else {}


def measure_subject(files: Derivatives) -> SubjectMeasures:
    """Return the slices of the maps in the subject frame, as many as there are."""
    paths = {desc: files.path(suffix="Chimap", desc=desc, space="subject") for desc in SUBJECT_MAPS}
    paths = {desc: path for desc, path in paths.items() if is_complete(path)}
    view = _subject_view(files, paths.values())
    if view is None:
        return SubjectMeasures()
    planes, dark, full = {}, None, None
    for desc, path in paths.items():
        volume = _read_on_grid(path, view)
        planes[desc] = view.cut(volume)
        if desc == "cosmos":
            dark = dark_share(volume, view)
        elif desc == "msa":
            full = full_brightness(volume[view.mask])
    record = read_json(sidecar_path(paths["tensor"])) if "tensor" in paths else {}
    return SubjectMeasures(planes, view.cut(view.mask), dark, full, record)


def dark_share(cosmos: NDArray[np.float32], view: View) -> float | None:
    """Return the part of the strongest sources (top percentile of |chi| away from the edge) that is diamagnetic."""
    margin = max(1, round(_EDGE / min(view.edge)))
    inner = ndimage.binary_erosion(view.mask, iterations=margin)
    values = cosmos[inner if inner.any() else view.mask]
    size = np.abs(values)
    if not size.any():
        return None
    strongest = values[size >= np.percentile(size, _STRONGEST)]
    return float((strongest < 0).mean())


def _masks(scan: ScanFiles) -> tuple[NDArray[np.bool_], NDArray[np.bool_] | None, NDArray[np.float64]]:
    """The brain mask and the mask of the local field (None where there is no such file), on one grid."""
    brain_path, local_path = scan.path("brain", "mask"), scan.path("local", "mask")
    present = [path for path in (brain_path, local_path) if is_complete(path)]
    if not present:
        raise InputError(f"{brain_path} is missing or unfinished: repeat `chi33 run` for sub-{scan.files.subject}.")
    masks = []
    for path in present:
        values, affine = read_image(path)
        masks.append(values > 0.5)
        if values.ndim != 3 or not masks[-1].any():
            raise InputError(f"{path} is empty or not 3-D (shape {values.shape}): repeat the step that wrote it.")
        if masks[-1].shape != masks[0].shape:
            raise InputError(
                f"{path} has shape {values.shape}, but {present[0].name} has {masks[0].shape}: repeat `chi33 run`."
            )
    return masks[0], masks[-1] if present[-1] == local_path else None, affine


def _read_on_grid(path: Path, view: View) -> NDArray[np.float32]:
    image = open_image(path)
    if image.shape[:3] != view.mask.shape or not np.allclose(image.affine, view.affine, atol=1e-2):
        raise InputError(
            f"{path} (shape {image.shape}) is not on the grid of its mask ({view.mask.shape}): repeat `chi33 run`."
        )
    volume = read_image(path)[0]
    if not np.isfinite(volume).all():
        raise InputError(f"{path} holds values that are not finite: repeat the step that wrote it.")
    return volume


def _statistics(desc: str, values: NDArray[np.float32]) -> dict[str, float]:
    if desc == "magnitude":
        return {}
    low, high = (float(value) for value in np.percentile(values, (1, 99)))
    spread = float(values.std(dtype=np.float64))
    if desc in DEVIATIONS:
        known = values[values > 0]
        median, wide = (float(value) for value in np.percentile(known, (50, 95))) if known.size else (0.0, 0.0)
        return {f"{desc}_median": median, f"{desc}_p95": wide, f"{desc}_size": max(abs(low), abs(high))}
    return {f"{desc}_std": spread, f"{desc}_p1": low, f"{desc}_p99": high, f"{desc}_size": max(abs(low), abs(high))}


def _correlation(a: NDArray[np.float32], b: NDArray[np.float32]) -> float:
    """Pearson's r, 0 where either is constant."""
    x, y = a - a.mean(dtype=np.float64), b - b.mean(dtype=np.float64)
    size = float(np.linalg.norm(x) * np.linalg.norm(y))
    return float(x @ y) / size if size > 0 else 0.0


def _pose(scan: ScanFiles, view: View) -> dict[str, Any]:
    """Direction, tilt and registration of a scan; empty without a transform."""
    path = scan.files.transform(scan.label)
    if not path.is_file():
        return {}
    transform = read_transform(path)
    rotation, scale = rotation_and_scale(transform, path.name)
    direction = rotation @ voxel_frame(view.affine) @ _b0_in_voxels(scan, view.affine)
    indices = [_mean_index(count) for count in _counts(view.mask)]
    centre = view.affine[:3, :3] @ indices + view.affine[:3, 3]
    moved = transform[:3, :3] @ centre + transform[:3, 3]
    return {
        "b0_direction": direction,
        "tilt": float(np.degrees(np.arctan2(np.linalg.norm(direction[:2]), direction[2]))),
        "rotation": rotation_angle(rotation),
        "shift": float(np.linalg.norm(moved - centre)),
        "scale": scale,
    }


def _b0_in_voxels(scan: ScanFiles, affine: NDArray[np.float64]) -> FloatArray:
    """B0 in the voxel frame: the sidecar's B0_dir where a map states it, else from the affine (DESIGN 2)."""
    for desc in ("local", "chi33", "total"):
        path = sidecar_path(scan.path(desc, dict(SCAN_MAPS)[desc]))
        stated = read_json(path).get("B0_dir") if path.is_file() else None
        if stated is not None:
            return check_b0_direction(stated, f"B0_dir of {path.name}")
    return b0_direction_from_affine(affine)


def _subject_view(files: Derivatives, maps: Iterable[Path]) -> View | None:
    """The view of the subject's mask, else of where one of its maps is not zero; None where there is no map."""
    for desc in ("brain", "local"):
        path = files.path(suffix="mask", desc=desc, space="subject")
        if is_complete(path):
            values, affine = read_image(path)
            return View.of(values > 0.5, affine)
    for path in maps:
        values, affine = read_image(path)
        filled = values != 0 if values.ndim == 3 else (values != 0).any(axis=0)
        if filled.any():
            return View.of(filled, affine)
    return None
