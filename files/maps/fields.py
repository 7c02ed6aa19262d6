"""A field map and its mask as commands take them in: on one grid, in ppm of B0, with B0's direction."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ...pipeline.frames import check_affine, voxel_size
from ..b0_direction import b0_direction_of
from ..errors import InputError
from ..grids import on_grid_of
from ..nifti import NiftiVolume, read_volume
from ..sidecars import read_sidecar
from .field_strength import FieldStrength, field_strength_of
from .masks import inside_of
from .sizes import phase_problem, size_doubt, size_problem, unscaled_problem
from .units import NOTHING_GIVEN, Given, Scaling, scaling_of

FieldKind = Literal["field", "total"]  # local, or with the background
_FILLED = 0.02  # of the mask's voxels
_OFTEN = 5  # times as frequent as any other value


@dataclass(frozen=True)
class FieldInput:
    """A field (x, y, z) in ppm of B0, 0 outside its mask, on its own grid.

    affine: voxel to world; b0_direction: unit vector (3,) in the voxel frame, direction_stated: by hand or sidecar, not
    by the affine; scaling: how it became ppm; strength: of B0 where the sidecar tells it; remarks: sentences a user
    should read; doubt: one where a field without a stated unit may well not be in ppm, else empty.
    """

    path: Path
    field: NDArray[np.float32]
    mask: NDArray[np.bool_]
    affine: NDArray[np.float64]
    b0_direction: NDArray[np.float64]
    direction_stated: bool
    scaling: Scaling
    strength: FieldStrength | None = None
    remarks: tuple[str, ...] = ()
    doubt: str = ""

    @property
    def facts(self) -> dict[str, Any]:
        """What the sidecar of a result says of the field it was made from."""
        strength = self.scaling.strength or self.strength
        return {**self.scaling.facts, **({} if strength is None else strength.facts)}


def read_field(
    field_path: Path,
    mask_path: Path,
    *,
    kind: FieldKind = "field",
    given: Given = NOTHING_GIVEN,
    b0_direction: ArrayLike | None = None,
    option: str = "--b0-dir",
) -> FieldInput:
    """Read a field and where it is known; kind: local field or total.

    given: units, B0 and echo time that win over the sidecar; b0_direction: by `option`, wins over the sidecar and the
    affine. Raises InputError where a file cannot be read, grids differ, the field is not finite in the mask, its unit
    cannot be converted, or its values cannot be what they are said to be.
    """
    image = read_volume(field_path)
    check_affine(image.affine, f"affine of {field_path}")
    sidecar = read_sidecar(field_path)
    scaling = scaling_of(field_path, sidecar, "field", given)
    h, said = b0_direction_of(image, sidecar, b0_direction, option)
    inside, remarks = read_mask(mask_path, image)
    if bad := int(inside.sum() - np.isfinite(image.values[inside]).sum()):
        raise InputError(
            f"{field_path} holds NaN or infinity in {bad} voxels inside its mask: repair the field or the mask."
        )
    inside, filled = _known(image, inside)
    check_field(image, inside, scaling, kind)
    field = np.where(inside, scaling.apply(image.values), np.float32(0))
    return FieldInput(
        Path(field_path), field, inside, image.affine, h, b0_direction is not None or sidecar.get("B0_dir") is not None,
        scaling, field_strength_of(sidecar), tuple(filter(None, (*scaling.contradictions, said, *remarks, filled))),
        "" if scaling.stated else _doubt(Path(field_path), field, inside, image.affine, kind),
    )  # fmt: skip


def _doubt(
    path: Path, field: NDArray[np.float32], inside: NDArray[np.bool_], affine: NDArray[np.float64], kind: FieldKind
) -> str:
    doubt = size_doubt(kind, field, inside, voxel_size(affine))
    return doubt and (
        f"{path} states no Units and is taken as ppm of B0, but {doubt}: where it is in Hz or rad, say so in its "
        "sidecar or with --units."
    )


def read_mask(path: Path, reference: NiftiVolume) -> tuple[NDArray[np.bool_], tuple[str, ...]]:
    """Return a mask file as true and false on the grid of an image, and sentences on what was made of it.

    Raises InputError where it cannot be read, is no mask, is empty, or lies on another grid.
    """
    volume, moved = on_grid_of(read_volume(path), reference)
    inside, taken = inside_of(volume.values, f"the mask {path}")
    return inside, tuple(one for one in (moved, taken) if one)


def read_weight(path: Path, reference: NiftiVolume | FieldInput) -> tuple[NDArray[np.float32], tuple[str, ...]]:
    """Return an image on the grid of a field, and what was done to it in words; InputError where it lies elsewhere."""
    if isinstance(reference, FieldInput):
        reference = NiftiVolume(reference.path, reference.field, reference.affine, oriented=True)
    volume, moved = on_grid_of(read_volume(path), reference)
    return volume.values, (moved,) if moved else ()


def _known(image: NiftiVolume, inside: NDArray[np.bool_]) -> tuple[NDArray[np.bool_], str]:
    """Return the mask without voxels where a program left 0 for unknown, and a sentence where there are many."""
    found = image.values[inside]
    zeros = int((found == 0).sum())
    if zeros == found.size:
        raise InputError(f"{image.path} is 0 everywhere in its mask: give the field, and a mask of where it is known.")
    if zeros < _FILLED * found.size:
        return inside, ""
    _, counts = np.unique(found[found != 0], return_counts=True)
    if zeros < _OFTEN * counts.max():
        return inside, ""
    return inside & (image.values != 0), (
        f"{image.path} is exactly 0 in {zeros / found.size:.0%} of its mask: those voxels are taken as unknown."
    )


def check_field(image: NiftiVolume, inside: NDArray[np.bool_], scaling: Scaling, kind: FieldKind) -> None:
    """Raise InputError where the stored values of a field in its mask cannot be what they are said to be."""
    path, found = image.path, image.values[inside]
    if wrong := phase_problem(image.values, inside):
        raise InputError(f"{path} {wrong}: unwrap it first.")
    said = f"is in {scaling.unit.name} as stated" if scaling.stated else "states no Units"
    if not scaling.stated and (wrong := unscaled_problem(found)):
        raise InputError(f"{path} {said} and {wrong}: say what it is in, in its sidecar or with --units, or scale it.")
    if wrong := size_problem(kind, scaling.apply(found)):
        elsewhere = "or state that it is in ppb, Hz, rad/s, rad or T (Units in its sidecar, or --units)"
        remedy = "correct Units" if scaling.stated else f"give the field in ppm of B0, {elsewhere}"
        after = " after the conversion" if scaling.converts else ""
        raise InputError(f"{path} {said} and {wrong}{after}: {remedy}.")
