"""Finds and reads the label maps of a derivatives folder: of `chi33 run`, or the truth of `chi33 simulate`."""

from __future__ import annotations

import json
import re
import zlib
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
from nibabel.filebasedimages import ImageFileError
from numpy.typing import NDArray

from ..files.field_strength import field_strength_of
from ..files.field_units import in_ppm
from ..files.map_sizes import plausible_names, size_problem
from ..pipeline.errors import InputError
from ..pipeline.frames import FloatArray, b0_direction_from_affine, check_affine, check_b0_direction
from .volume import FIELD, LABELS, MASK, Float32Array, Geometry, ScalarVolume, TensorVolume, Volume

_ENDINGS = {
    FIELD: "desc-local_fieldmap",
    "chi33": "desc-chi33_Chimap",
    "deltab": "desc-deltab_fieldmap",
    "cosmos": "desc-cosmos_Chimap",
    MASK: "desc-local_mask",
    "chi33sd": "desc-chi33sd_Chimap",
}
_BRAIN = "desc-brain_mask"
_TENSOR = "desc-tensor_Chimap"
_SUBJECT_SPACE = "space-subject"
_ORIENTATION = re.compile(r"(?:^|_)((?:acq|run)-[A-Za-z0-9]+)(?=_|$)")
_UNREADABLE = (ImageFileError, OSError, EOFError, zlib.error, ValueError)


@dataclass(frozen=True)
class ScanFiles:
    """The files of one orientation: a path per channel (field, mask, and the labels that are there)."""

    subject: str
    orientation: str
    paths: dict[str, Path]

    @property
    def id(self) -> str:
        """`sub-01/acq-ori01`."""
        return f"sub-{self.subject}/{self.orientation}"

    @property
    def labels(self) -> tuple[str, ...]:
        """The labels this scan has, in the store's order."""
        return tuple(name for name in LABELS if name in self.paths)


@dataclass(frozen=True)
class SubjectFiles:
    """The files of one subject: its scans, and the tensor, COSMOS and mask in the subject's space where present."""

    subject: str
    scans: tuple[ScanFiles, ...]
    space: dict[str, Path] = field(default_factory=dict)


def find_derivatives(folder: Path) -> tuple[SubjectFiles, ...]:
    """Return the files of every subject under a derivatives folder, sorted by subject and orientation.

    Raises InputError where the folder holds no scan, where a scan lacks its field, its mask or a label that its
    other scans have, and where two files claim the same place; every message names the files.
    """
    if not folder.is_dir():
        raise InputError(f"{folder} is no folder: give the output folder of `chi33 run`.")
    subjects = []
    for subject_folder in sorted(folder.glob("sub-*")):
        if subject_folder.is_dir():
            found = _find_subject(subject_folder)
            if found.scans:
                subjects.append(found)
    if not subjects:
        raise InputError(
            f"{folder} holds no label map such as sub-01/anat/sub-01_acq-ori01_{_ENDINGS['chi33']}.nii.gz: give the "
            "output folder of `chi33 run`, or derivatives/truth of `chi33 simulate`."
        )
    _check_same_labels(subjects)
    return tuple(subjects)


def _find_subject(subject_folder: Path) -> SubjectFiles:
    subject = subject_folder.name.removeprefix("sub-")
    scans: dict[str, dict[str, Path]] = {}
    space: dict[str, Path] = {}
    for path in sorted([*subject_folder.rglob("*.nii"), *subject_folder.rglob("*.nii.gz")]):
        stem = path.name.removesuffix(".gz").removesuffix(".nii")
        if _SUBJECT_SPACE in stem.split("_"):
            if not _ORIENTATION.search(stem):
                _place(space, stem, path, {**_ENDINGS, "tensor": _TENSOR, "brain": _BRAIN})
            continue
        prefix = _prefix(stem, subject)
        if prefix is not None:
            _place(scans.setdefault(prefix, {}), stem, path, {**_ENDINGS, "brain": _BRAIN})
    files = tuple(_scan_files(subject, name, paths, subject_folder) for name, paths in sorted(scans.items()) if paths)
    return SubjectFiles(subject, files, space)


def _prefix(stem: str, subject: str) -> str | None:
    """The entities that tell a scan apart: `acq-ori01`, `run-01`, `ses-1_acq-ori01`; None for other files."""
    head = stem.split("_desc-")[0]
    if not _ORIENTATION.search(head) or "_space-" in head or not head.startswith(f"sub-{subject}_"):
        return None
    return head.removeprefix(f"sub-{subject}_")


def _place(paths: dict[str, Path], stem: str, path: Path, endings: dict[str, str]) -> None:
    for name, ending in endings.items():
        if stem.endswith(f"_{ending}"):
            if name in paths:
                raise InputError(f"{paths[name]} and {path} are the same map twice: remove one of them.")
            paths[name] = path


def _scan_files(subject: str, orientation: str, paths: dict[str, Path], folder: Path) -> ScanFiles:
    chosen = dict(paths)
    brain = chosen.pop("brain", None)
    if MASK not in chosen and brain is not None:
        chosen[MASK] = brain
    needed = [FIELD, MASK]
    if "chi33" in chosen or "deltab" in chosen or "cosmos" not in chosen:
        needed += ["chi33", "deltab"]
    _check_present(chosen, needed, subject, orientation, folder)
    return ScanFiles(subject, orientation, chosen)


def _check_present(paths: dict[str, Path], needed: list[str], subject: str, orientation: str, folder: Path) -> None:
    missing = [f"sub-{subject}_{orientation}_{_ENDINGS[name]}.nii.gz" for name in needed if name not in paths]
    if missing:
        raise InputError(
            f"{folder} lacks {', '.join(missing)}: repeat `chi33 run` for sub-{subject}, or move this scan's "
            "other files away."
        )


def _check_same_labels(subjects: list[SubjectFiles]) -> None:
    scans = [scan for subject in subjects for scan in subject.scans]
    everywhere = [label for label in LABELS if any(label in scan.paths for scan in scans)]
    for scan in scans:
        _check_present(scan.paths, everywhere, scan.subject, scan.orientation, scan.paths[FIELD].parent)


def read_scan(files: ScanFiles) -> Volume:
    """Return the maps of one scan; raises InputError where a file is unreadable, not finite, or on another grid."""
    mask, geometry = _read_mask(files.paths[MASK])
    channels: dict[str, NDArray[Any]] = {}
    for name, path in files.paths.items():
        if name != MASK:
            channels[name] = _read_on_grid(path, mask.shape, geometry.affine, files.paths[MASK])
            if name in plausible_names((name,)) and (wrong := size_problem(name, channels[name][mask > 0])):
                raise InputError(f"{path} {wrong}: correct Units in its sidecar, or repeat the step that wrote it.")
    channels[MASK] = mask
    geometry = _geometry(files.paths[FIELD], geometry.affine)
    return Volume(files.id, files.subject, channels, geometry)


def read_tensor(files: SubjectFiles) -> TensorVolume:
    """Return a subject's tensor with components first; without a mask file, the mask is where the tensor is not 0."""
    path = files.space["tensor"]
    chi, affine = read_map(path, axes=4)
    chi = in_ppm(chi, path, "susceptibility")
    if chi.shape[-1] == 6:
        chi = np.ascontiguousarray(np.moveaxis(chi, -1, 0))
    if chi.shape[0] != 6:
        raise InputError(f"{path} must hold six components on its last axis, got shape {chi.shape}.")
    mask_path = files.space.get(MASK, files.space.get("brain"))
    if mask_path is None:
        mask = (chi != 0).any(axis=0).astype(np.uint8)
        if not mask.any():
            raise InputError(f"{path} is zero everywhere: repeat `chi33 run` for sub-{files.subject}.")
    else:
        mask, geometry = _read_mask(mask_path)
        _check_grid(mask_path, mask.shape, geometry.affine, chi.shape[1:], affine, path)
    return TensorVolume(files.subject, chi, mask, _geometry(path, affine))


def read_cosmos(files: SubjectFiles) -> ScalarVolume | None:
    """Return a subject's COSMOS map: in the subject's space, else of its first scan; None where there is none."""
    path, source = files.space.get("cosmos"), f"sub-{files.subject}"
    mask_path = files.space.get(MASK, files.space.get("brain"))
    if path is None or mask_path is None:
        scan = next((scan for scan in files.scans if "cosmos" in scan.paths), None)
        if scan is None:
            return None
        path, mask_path, source = scan.paths["cosmos"], scan.paths[MASK], scan.id
    mask, geometry = _read_mask(mask_path)
    chi = _read_on_grid(path, mask.shape, geometry.affine, mask_path)
    return ScalarVolume(source, files.subject, chi, mask, _geometry(path, geometry.affine))


def sidecar_of(path: Path) -> Path:
    """Return where the JSON sidecar of a NIfTI file lies."""
    return path.with_name(path.name.removesuffix(".gz").removesuffix(".nii") + ".json")


def map_shape(path: Path) -> tuple[int, ...]:
    """Return the shape of a NIfTI file from its header; raises InputError where it cannot be read."""
    return tuple(int(n) for n in _open(path).shape)


def read_map(path: Path, *, axes: int = 3) -> tuple[Float32Array, FloatArray]:
    """Return a NIfTI file as float32 with the given number of axes, and its affine (4, 4).

    Raises InputError where the file cannot be read, has other axes, or holds values that are not finite.
    """
    image = _open(path)
    try:
        values = np.asarray(image.dataobj, dtype=np.float32)
    except _UNREADABLE as error:
        raise _unreadable(path, error) from error
    while values.ndim > axes and values.shape[-1] == 1:
        values = values[..., 0]
    if values.ndim != axes:
        raise InputError(f"{path} must have {axes} axes, got shape {values.shape}.")
    bad = int(values.size - np.isfinite(values).sum())
    if bad:
        raise InputError(f"{path} holds {bad} values that are not finite: repeat the step that wrote it.")
    return np.ascontiguousarray(values), check_affine(image.affine, f"the affine of {path}")


def _open(path: Path) -> Any:
    try:
        return nib.load(path)
    except _UNREADABLE as error:
        raise _unreadable(path, error) from error


def _unreadable(path: Path, error: BaseException) -> InputError:
    reason = " ".join(str(error).split()) or type(error).__name__
    return InputError(f"{path} cannot be read as NIfTI ({reason}): repeat the step that wrote it.")


def _read_mask(path: Path) -> tuple[NDArray[np.uint8], Geometry]:
    values, affine = read_map(path)
    mask = (values > 0.5).astype(np.uint8)
    if not mask.any():
        raise InputError(f"the mask {path} is empty: repeat the step that wrote it, or give another mask.")
    return mask, Geometry(affine, b0_direction_from_affine(affine), float("nan"))


def _read_on_grid(path: Path, shape: tuple[int, ...], affine: FloatArray, reference: Path) -> Float32Array:
    values, own_affine = read_map(path)
    _check_grid(path, values.shape, own_affine, shape, affine, reference)
    return in_ppm(values, path, "susceptibility" if "_Chimap." in path.name else "field")


def _check_grid(
    path: Path,
    shape: tuple[int, ...],
    affine: FloatArray,
    expected_shape: tuple[int, ...],
    expected_affine: FloatArray,
    reference: Path,
) -> None:
    if shape != expected_shape:
        raise InputError(
            f"{path} has shape {shape}, but {reference.name} has {expected_shape}: both must be on the scan's own grid."
        )
    difference = float(np.abs(affine - expected_affine).max())
    if difference > 1e-2:
        raise InputError(
            f"{path} lies elsewhere than {reference.name} (affines differ by {difference:.3g} mm): both must be on "
            "the scan's own grid."
        )


def _geometry(path: Path, affine: FloatArray) -> Geometry:
    """The geometry of a map; its sidecar's B0_dir (voxel frame) overrides the direction the affine gives."""
    sidecar = sidecar_of(path)
    entries: dict[str, Any] = {}
    if sidecar.is_file():
        try:
            entries = json.loads(sidecar.read_text(encoding="utf-8"))
        except ValueError as error:
            raise InputError(f"{sidecar} is not valid JSON ({error}): repeat the step that wrote it.") from error
    direction = entries.get("B0_dir")
    h = b0_direction_from_affine(affine) if direction is None else check_b0_direction(direction, f"B0_dir of {sidecar}")
    strength = field_strength_of(entries)
    if strength is None and (value := entries.get("MagneticFieldStrength")) is not None:
        raise InputError(f"MagneticFieldStrength of {sidecar} must be a number in tesla, got {value!r}.")
    return Geometry(affine, np.asarray(h, np.float64), float("nan") if strength is None else strength.tesla)
