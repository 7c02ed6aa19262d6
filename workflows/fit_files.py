"""Reading of what `chi33 fit` is given: fields, masks, weights, transforms and directions, checked before long work."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ..files.derivatives import read_transform
from ..files.errors import InputError
from ..files.grids import same_grid
from ..files.maps.fields import FieldInput, read_field, read_weight
from ..files.maps.units import Given, conversions
from ..pipeline.fits.masked import Keep
from ..pipeline.frames import check_b0_direction, rotation_and_scale
from .raw.given_transforms import PlacedScan, check_one_frame, check_placed

_STILL = 1e-6  # of a transform, from the identity


@dataclass(frozen=True)
class GivenScan:
    """A scan as given: its field; transform: its world to the first one's (4, 4); weight (x, y, z) or None."""

    input: FieldInput
    transform: NDArray[np.float64]
    weight: NDArray[np.float32] | None = None


@dataclass(frozen=True)
class GivenFiles:
    """The files of a fit, one a scan but for masks (or one for all); transforms or directions or neither."""

    fields: Sequence[Path]
    masks: Sequence[Path]
    b0_directions: Path | None = None
    transforms: Sequence[Path] | None = None
    weights: Sequence[Path] | None = None

    def check(self) -> None:
        """Raise InputError where counts do not fit, or both transforms and directions are given."""
        count = len(self.fields)
        if self.b0_directions is not None and self.transforms:
            raise InputError(
                "give either --b0-directions (fields in one frame) or --transform (one a field), not both."
            )
        if len(self.masks) not in (1, count):
            raise InputError(
                f"{count} fields but {len(self.masks)} masks were given: give one a field, or one for all."
            )
        for name, files in (("transforms", self.transforms), ("weights", self.weights)):
            if files and len(files) != count:
                raise InputError(f"{count} fields but {len(files)} {name} were given: give one a field.")


def read_given(files: GivenFiles, *, total: bool, given: Given, keep: Keep) -> tuple[list[GivenScan], list[str]]:
    """Read the scans of a fit and check that they belong together; volumes go where `keep` puts them.

    Returned are the scans and sentences a user should read, of the files and of what is doubtful between them. Raises
    InputError where a file cannot be used, where nothing tells how the scans lie to one another or to B0, and where
    they do not lie as the transforms say.
    """
    files.check()
    count = len(files.fields)
    rows = None if files.b0_directions is None else read_directions(Path(files.b0_directions), count)
    matrices = [read_transform(path) for path in files.transforms] if files.transforms else [np.eye(4)] * count
    for path, matrix in zip(files.transforms or (), matrices, strict=False):
        rotation_and_scale(matrix, str(path))
    scans: list[GivenScan] = []
    said: list[str] = []
    for index, (path, matrix) in enumerate(zip(files.fields, matrices, strict=True)):
        found = read_field(
            path, files.masks[index if len(files.masks) > 1 else 0], kind="total" if total else "field", given=given,
            b0_direction=None if rows is None else rows[index], option="--b0-directions",
        )  # fmt: skip
        weight, of_weight = _weight(files.weights[index], found) if files.weights else (None, ())
        said += [*found.remarks, *((found.doubt,) if found.doubt else ()), *of_weight]
        kept = replace(found, field=keep(found.field), mask=keep(found.mask))
        scans.append(GivenScan(kept, matrix, None if weight is None else keep(weight)))
    said = [*conversions((scan.input.path, scan.input.scaling) for scan in scans), *said]
    return scans, [*said, *_check_frame(scans, files)]


def _check_frame(scans: Sequence[GivenScan], files: GivenFiles) -> list[str]:
    """Raise InputError where nothing tells how the scans lie to one another or to B0, or the transforms are wrong."""
    first = scans[0].input
    others = [scan.input for scan in scans[1:] if not _on_one_grid(scan.input, first)]
    silent = next((scan.input.path for scan in scans if not scan.input.direction_stated), None)
    placed = [
        PlacedScan(
            scan.input.path, scan.input.field, scan.input.mask, scan.input.affine, scan.input.b0_direction,
            scan.transform, files.transforms[index] if files.transforms else None,
        )
        for index, scan in enumerate(scans)
    ]  # fmt: skip
    if not files.transforms:
        if others and files.b0_directions is None:
            raise InputError("give either --b0-directions (fields in one frame) or --transform (one a field).")
        if others:
            raise InputError(
                f"{others[0].path} is on another grid than {first.path}: resample it, or give --transform."
            )
        if silent is not None and len(scans) > 1:
            raise InputError(
                f"the fields share one grid, whose affine gives all the same direction of B0, and {silent} states no "
                "B0_dir: give --b0-directions, or B0_dir (unit vector along the array axes) in every sidecar, or "
                "--transform for fields that are not yet in one frame."
            )
        return check_one_frame(placed)
    still = all(np.allclose(scan.transform, np.eye(4), atol=_STILL) for scan in scans)
    if still and not others and silent is not None and len(scans) > 1:
        raise InputError(
            f"the fields share one grid, all transforms are the identity, and {silent} states no B0_dir, so nothing "
            "tells how the head lay to B0: give --b0-directions, or B0_dir in every sidecar."
        )
    return check_placed(placed)


def _on_one_grid(one: FieldInput, other: FieldInput) -> bool:
    shape = one.field.shape
    return shape == other.field.shape and same_grid(one.affine, other.affine, shape)


def _weight(path: Path, field: FieldInput) -> tuple[NDArray[np.float32], tuple[str, ...]]:
    weight, remarks = read_weight(path, field)
    inside = weight[field.mask]
    if not np.isfinite(inside).all() or inside.min() < 0 or not inside.any():
        raise InputError(
            f"{path} must hold weights that are finite, not negative and not all zero inside the mask of "
            f"{field.path.name}."
        )
    return np.where(field.mask, weight, np.float32(0)), remarks


def read_directions(path: Path, count: int) -> list[NDArray[np.float64]]:
    """Return the directions in a text file, three numbers a line; InputError where it has others than `count` lines."""
    try:
        rows = np.loadtxt(path, dtype=np.float64, ndmin=2, delimiter="," if "," in path.read_text() else None)
    except (OSError, ValueError) as error:
        raise InputError(f"{path} holds no table of numbers ({error}): give three numbers a line.") from error
    if rows.shape != (count, 3):
        raise InputError(
            f"{path} holds {rows.shape[0]} rows of {rows.shape[1]}: give three numbers for each of {count} fields."
        )
    return [check_b0_direction(row, f"row {number} of {path}") for number, row in enumerate(rows, start=1)]
