"""Reads the label maps of a scan and of a subject: fields, labels, masks and tensors in NIfTI, with their sidecars."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...files.b0_direction import b0_direction_of
from ...files.errors import InputError
from ...files.maps.field_strength import field_strength_of
from ...files.maps.masks import inside_of
from ...files.maps.units import Quantity, Scaling, scaling_of
from ...files.nifti import empty_volume, open_image, read_data
from ...files.sidecars import read_sidecar, sidecar_path
from ...pipeline.frames import FloatArray, check_affine
from ..store.volume import FIELD, LABELS, MASK, PLAIN_SCAN, Float32Array, Geometry, ScalarVolume, TensorVolume, Volume


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
    def prefix(self) -> str:
        """What its files' names begin with: `sub-01_acq-ori01`, `sub-01` for a scan without entities of its own."""
        return f"sub-{self.subject}" + ("" if self.orientation == PLAIN_SCAN else f"_{self.orientation}")

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


def read_scan(files: ScanFiles) -> Volume:
    """Return the maps of one scan in ppm.

    Raises InputError where a file is unreadable, not finite, or on another grid, where the mask is none, and where
    nothing tells where B0 points.
    """
    mask, affine, said = _read_mask(files.paths[MASK])
    channels: dict[str, NDArray[Any]] = {}
    for name, path in files.paths.items():
        if name != MASK:
            channels[name] = _read_on_grid(path, mask.shape, affine, files.paths[MASK])
    channels[MASK] = mask
    geometry = _geometry(files.paths[FIELD], affine)
    return Volume(files.id, files.subject, channels, geometry, remarks=(said,) if said else ())


def read_tensor(files: SubjectFiles) -> TensorVolume:
    """Return a subject's tensor with components first; without a mask file, the mask is where the tensor is not 0."""
    path = files.space["tensor"]
    chi, affine = read_map(path, axes=4)
    chi = scaling_in(path).apply(chi)
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
        mask, mask_affine, _ = _read_mask(mask_path)
        _check_grid(mask_path, mask.shape, mask_affine, chi.shape[1:], affine, path)
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
    mask, affine, _ = _read_mask(mask_path)
    chi = _read_on_grid(path, mask.shape, affine, mask_path)
    return ScalarVolume(source, files.subject, chi, mask, _geometry(path, affine))


def map_shape(path: Path) -> tuple[int, ...]:
    """Return the shape of a NIfTI file from its header; raises InputError where it cannot be read."""
    return tuple(int(n) for n in open_image(path).shape)


def read_map(path: Path, *, axes: int = 3) -> tuple[Float32Array, FloatArray]:
    """Return a NIfTI file as float32 with the given number of axes, and its affine (4, 4).

    Raises InputError where the file cannot be read, has other axes, or holds values that are not finite.
    """
    image = open_image(path)
    values = read_data(image, path)
    while values.ndim > axes and values.shape[-1] == 1:
        values = values[..., 0]
    if values.ndim != axes:
        raise InputError(f"{path} must have {axes} axes, got shape {values.shape}.")
    bad = int(values.size - np.isfinite(values).sum())
    if bad:
        raise InputError(f"{path} holds {bad} values that are not finite: repeat the step that wrote it.")
    return np.ascontiguousarray(values), check_affine(image.affine, f"the affine of {path}")


def scaling_in(path: Path) -> Scaling:
    """Return how the values of a map become ppm, by its name and its sidecar; InputError where that cannot be told."""
    quantity: Quantity = "susceptibility" if "_Chimap." in path.name else "field"
    return scaling_of(path, read_sidecar(path), quantity)


def _read_mask(path: Path) -> tuple[NDArray[np.uint8], FloatArray, str]:
    """Return a mask, its affine, and a sentence on what was made of it, empty for zeros and ones."""
    values, affine = read_map(path)
    inside, said = inside_of(values, f"the mask {path}")
    return inside.astype(np.uint8), affine, said


def _read_on_grid(path: Path, shape: tuple[int, ...], affine: FloatArray, reference: Path) -> Float32Array:
    values, own_affine = read_map(path)
    _check_grid(path, values.shape, own_affine, shape, affine, reference)
    return scaling_in(path).apply(values)


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
    """Return the geometry of a map; its sidecar's B0_dir (voxel frame) overrides the direction the affine gives."""
    entries = read_sidecar(path)
    h, _ = b0_direction_of(empty_volume(path), entries)
    strength = field_strength_of(entries)
    if strength is None and entries.get("MagneticFieldStrength") is not None:
        raise InputError(
            f"MagneticFieldStrength of {sidecar_path(path)} must be a positive number in tesla, got "
            f"{entries['MagneticFieldStrength']!r}: correct it."
        )
    return Geometry(affine, h, float("nan") if strength is None else strength.tesla)
