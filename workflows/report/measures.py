"""What the report shows of a subject: numbers and slices per map, no more than two volumes in memory."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...files.derivatives import is_complete, open_image, read_image, read_json, read_transform, sidecar_path
from ...files.errors import InputError
from ...pipeline.frames import (
    FloatArray,
    b0_direction_from_affine,
    check_b0_direction,
    rotation_and_scale,
    rotation_angle,
    voxel_frame,
    voxel_size,
)
from ..figures.tensor import full_brightness
from .files import ScanFiles, SubjectFiles
from .sign import SignEvidence, sign_evidence
from .view import Cuts, View, mean_index, plane_counts

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
CHI_BINS = np.linspace(-0.3, 0.3, 121)  # ppm, edges of the histogram of chi33; what lies outside counts at the ends
_FIELDS = ("total", "local", "magnitude")  # maps whose sidecars state the field strength


@dataclass(frozen=True)
class ScanMeasures:
    """What the report says of one scan; None where its file is not there.

    b0_direction: unit vector (3,) in the subject frame; tilt: its angle to the reference's +z, degrees; rotation
    (degrees), shift (mm, of the brain's centre) and scale of the registration to the reference, quality: of it, at
    most 1; brain_volume: ml; mask_dice: of the brain mask with those of the other scans; repaired: why the brain mask
    was, None where it was not; notes: what was found in its phase; valid_share: part of the brain with a local field;
    *_std and percentiles in ppm; residual_ratio: residual_std / local_std; correlation: of chi33 with COSMOS;
    planes: slices per map; brain, local: slices of the masks; tesla: field strength; histogram: voxels of chi33 in
    CHI_BINS where the local field is valid; echo: the picture of one echo's phase and weight, a path.
    """

    name: str
    raw_name: str
    voxel_size: tuple[float, float, float]
    shape: tuple[int, int, int]
    brain_volume: float
    brain: Cuts
    b0_direction: FloatArray | None = None
    tilt: float | None = None
    rotation: float | None = None
    shift: float | None = None
    scale: float | None = None
    valid_share: float | None = None
    local: Cuts | None = None
    numbers: dict[str, float] = field(default_factory=dict)
    planes: dict[str, Cuts] = field(default_factory=dict)
    unfinished: tuple[str, ...] = ()
    repaired: str | None = None
    notes: tuple[str, ...] = ()
    tesla: float | None = None
    histogram: NDArray[np.int64] | None = None
    echo: Path | None = None

    def number(self, key: str) -> float | None:
        """Return a number by its key, an attribute or one of `numbers`; None where it is not known."""
        value = self.numbers.get(key, getattr(self, key, None))
        return float(value) if value is not None else None


@dataclass(frozen=True)
class SubjectMeasures:
    """Slices of the maps in the subject frame and of the brain (None: no map), and what is said of the whole maps.

    sign: what the deep brain says of the sign of the phase; full_msa: the anisotropy, ppm, that is strong for this
    brain; record: what the tensor's sidecar says of the fit.
    """

    planes: dict[str, Cuts] = field(default_factory=dict)
    brain: Cuts | None = None
    sign: SignEvidence | None = None
    full_msa: float | None = None
    record: Mapping[str, Any] = field(default_factory=dict)


def measure_scans(scans: Sequence[ScanFiles]) -> list[ScanMeasures]:
    """Return measure_scan of each, two at a time: most of the time goes into decompression."""
    with ThreadPoolExecutor(max_workers=2) as pool:
        return list(pool.map(measure_scan, scans))


def measure_scan(scan: ScanFiles) -> ScanMeasures:
    """Return the numbers and slices of one scan; InputError where it has no mask or its maps do not fit one another."""
    found = {desc: scan.path(desc, suffix) for desc, suffix in SCAN_MAPS}
    listed = {desc: path for desc, path in found.items() if scan.subject.lists(path)}
    unfinished = tuple(path.name for path in listed.values() if path.exists() and not is_complete(path))
    brain, local, affine = _masks(scan)
    inside = brain if local is None else local
    view = View.of(brain, affine)
    planes: dict[str, Cuts] = {}
    numbers: dict[str, float] = {}
    chi33 = None
    for desc, path in listed.items():
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
    mask_record, pair_record = (scan.record(path) for path in (scan.path("brain", "mask"), scan.transform))
    for key, value in (("mask_dice", mask_record.get("MaskConsensusDice")), ("quality", pair_record.get("Quality"))):
        if isinstance(value, int | float):
            numbers[key] = float(value)
    shape = brain.shape
    return ScanMeasures(
        name=scan.name,
        raw_name=scan.raw_name,
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
        notes=tuple(
            one for record in (scan.record(found["total"]), pair_record) for one in record.get("Warnings") or ()
        ),
        tesla=_field_strength(scan),
        histogram=None if chi33 is None else np.histogram(np.clip(chi33, CHI_BINS[0], CHI_BINS[-1]), CHI_BINS)[0],
        echo=scan.echo if scan.has(scan.echo) else None,
        **_pose(scan, view),
    )


def measure_subject(files: SubjectFiles) -> SubjectMeasures:
    """Return the slices of the maps in the subject frame, as many as there are."""
    paths = {desc: files.path(desc, "Chimap") for desc in SUBJECT_MAPS}
    paths = {desc: path for desc, path in paths.items() if files.has(path)}
    view = _subject_view(files, paths.values())
    if view is None:
        return SubjectMeasures()
    planes, sign, full = {}, None, None
    for desc, path in paths.items():
        volume = _read_on_grid(path, view)
        planes[desc] = view.cut(volume)
        if desc == "cosmos":
            sign = sign_evidence(volume, view.mask, voxel_size(view.affine))
        elif desc == "msa":
            full = full_brightness(volume[view.mask])
    record = read_json(sidecar_path(paths["tensor"])) if "tensor" in paths else {}
    return SubjectMeasures(planes, view.cut(view.mask), sign, full, record)


def _field_strength(scan: ScanFiles) -> float | None:
    """Return the field strength in tesla that a scan's sidecars state; None where none does."""
    for desc in _FIELDS:
        stated = scan.record(scan.path(desc, dict(SCAN_MAPS)[desc])).get("MagneticFieldStrength")
        if isinstance(stated, int | float) and stated > 0:
            return float(stated)
    return None


def _masks(scan: ScanFiles) -> tuple[NDArray[np.bool_], NDArray[np.bool_] | None, NDArray[np.float64]]:
    """Return the brain mask and the mask of the local field (None where there is no such file), on one grid."""
    brain_path, local_path = scan.path("brain", "mask"), scan.path("local", "mask")
    present = [path for path in (brain_path, local_path) if scan.has(path)]
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
    if desc == "echoes":
        return {"echoes_median": float(np.median(values)), "echoes_size": max(abs(low), abs(high))}
    return {f"{desc}_std": spread, f"{desc}_p1": low, f"{desc}_p99": high, f"{desc}_size": max(abs(low), abs(high))}


def _correlation(a: NDArray[np.float32], b: NDArray[np.float32]) -> float:
    """Pearson's r, 0 where either is constant."""
    x, y = a - a.mean(dtype=np.float64), b - b.mean(dtype=np.float64)
    size = float(np.linalg.norm(x) * np.linalg.norm(y))
    return float(x @ y) / size if size > 0 else 0.0


def _pose(scan: ScanFiles, view: View) -> dict[str, Any]:
    """Direction, tilt and registration of a scan; empty without a transform."""
    if not scan.has_transform:
        return {}
    transform = read_transform(scan.transform)
    rotation, scale = rotation_and_scale(transform, scan.transform.name)
    direction = rotation @ voxel_frame(view.affine) @ _b0_in_voxels(scan, view.affine)
    indices = [mean_index(count) for count in plane_counts(view.mask)]
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
        path = scan.path(desc, dict(SCAN_MAPS)[desc])
        if (stated := scan.record(path).get("B0_dir")) is not None:
            return check_b0_direction(stated, f"B0_dir of {sidecar_path(path).name}")
    return b0_direction_from_affine(affine)


def _subject_view(files: SubjectFiles, maps: Iterable[Path]) -> View | None:
    """Return the view of the subject's mask, else of where one of its maps is not zero; None where there is no map."""
    for desc in ("brain", "local"):
        path = files.path(desc, "mask")
        if files.has(path):
            values, affine = read_image(path)
            return View.of(values > 0.5, affine)
    for path in maps:
        values, affine = read_image(path)
        filled = values != 0 if values.ndim == 3 else (values != 0).any(axis=0)
        if filled.any():
            return View.of(filled, affine)
    return None
