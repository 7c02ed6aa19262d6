"""What NIfTI headers say of space: the unit of length, and whether their two matrices agree on where B0 points."""

from __future__ import annotations

from pathlib import Path

import nibabel as nib
import numpy as np

from ..pipeline.frames import FloatArray, rotation_angle, voxel_size
from .errors import InputError

SMALLEST_VOXEL, LARGEST_VOXEL = 0.1, 10.0  # mm
LARGEST_DISAGREEMENT = 0.5  # degrees between sform and qform: 1 degree of B0 costs about 2 % of the labels
_MILLIMETRES = {"meter": 1000.0, "micron": 0.001}
_NORMALISED = {3: "Talairach", 4: "MNI"}


def length_unit(image: nib.Nifti1Image) -> str:
    """Return the unit of length that a header states: "mm", "meter", "micron", or "unknown"."""
    try:
        return str(image.header.get_xyzt_units()[0])
    except KeyError:  # a code that NIfTI does not know
        return "unknown"


def stated_length_unit(path: Path) -> str:
    """Return the unit of length that the header of a file states, before any conversion; "unknown" for none."""
    image = nib.load(path)
    return length_unit(image) if isinstance(image, nib.Nifti1Image) else "unknown"


def in_millimetres(image: nib.Nifti1Image, path: Path) -> nib.Nifti1Image:
    """Return an image whose affine is in mm, converted where its header says metres or microns.

    Raises InputError where a voxel then has an edge outside 0.1 to 10 mm: a unit that is wrong, or none.
    """
    unit = length_unit(image)
    factor = _MILLIMETRES.get(unit, 1.0)
    with np.errstate(invalid="ignore"):
        edges = factor * voxel_size(image.affine)
    if not np.isfinite(edges).all() or edges.min() < 1e-6 * max(edges.max(), 1e-30):
        return image  # no rigid frame at all: what uses the affine says so
    if not (edges.min() >= SMALLEST_VOXEL and edges.max() <= LARGEST_VOXEL):
        raise InputError(_size_words(path, unit, factor, edges))
    if factor == 1.0:
        return image
    scale = np.diag([factor, factor, factor, 1.0])
    converted = nib.Nifti1Image(image.dataobj, scale @ image.affine, image.header)
    for code in ("sform", "qform"):
        if (number := int(image.header[f"{code}_code"])) > 0:
            matrix = scale @ getattr(image, f"get_{code}")()
            getattr(converted, f"set_{code}")(matrix, code=number)
        else:
            getattr(converted, f"set_{code}")(None, code=0)
    converted.header.set_xyzt_units("mm", "unknown")
    if (name := image.get_filename()) is not None:
        converted.set_filename(name)
    return converted


def _size_words(path: Path, unit: str, factor: float, edges: FloatArray) -> str:
    size = " x ".join(f"{edge:.3g}" for edge in edges)
    stated = {"meter": "metres", "micron": "microns", "mm": "mm"}.get(unit)
    said = f"its header states {stated}" if stated else "its header states no unit, which is read as mm"
    remedy = (
        f"correct xyzt_units or pixdim and sform in its header; {SMALLEST_VOXEL:g} to {LARGEST_VOXEL:g} mm are read."
    )
    fits = [
        name
        for name, other in (("mm", 1.0), ("metres", 1000.0), ("microns", 0.001))
        if other != factor and _of_a_head(edges / factor * other)
    ]
    if fits:
        remedy = f"its numbers fit {' or '.join(fits)}, so {remedy}"
    return f"{path} has voxels of {size} mm ({said}): {remedy}"


def _of_a_head(edges: FloatArray) -> bool:
    return bool(edges.min() >= SMALLEST_VOXEL and edges.max() <= LARGEST_VOXEL)


def direction_problem(image: nib.Nifti1Image) -> str:
    """Return why a header does not tell where B0 points in the array, in words, or an empty string.

    sform and qform that differ by a rotation (a tool moved one of them after the scan: registration, "reset origin",
    normalisation), or a normalised space alone. Shifts and equal matrices, whatever their codes, are harmless.
    """
    sform, qform = (int(image.header[f"{name}_code"]) for name in ("sform", "qform"))
    if sform > 0 and qform > 0:
        angle = _angle_between(image.get_sform(), image.get_qform())
        if angle > LARGEST_DISAGREEMENT:
            return (
                f"has a sform and a qform that differ by a rotation of {angle:.1f} degrees: a tool moved one of them "
                "after the scan, so where B0 points in it is not certain. Copy the scanner's matrix (mostly the qform) "
                "over the other, or state B0_dir in its sidecar"
            )
    for name, code, other in (("sform", sform, qform), ("qform", qform, sform)):
        if code in _NORMALISED and other == 0:
            return (
                f"has only a {name} of {_NORMALISED[code]} space (code {code}), which no longer tells where B0 points: "
                "give the image as it was scanned, or state B0_dir in its sidecar"
            )
    return ""


def _angle_between(first: FloatArray, second: FloatArray) -> float:
    """Return the rotation in degrees between the frames of two affines, 180 where one is a mirror image."""
    frames = [np.asarray(one, np.float64)[:3, :3] for one in (first, second)]
    if any(not np.isfinite(one).all() or abs(np.linalg.det(one)) < 1e-12 for one in frames):
        return 0.0
    axes = [one / np.linalg.norm(one, axis=0) for one in frames]
    between = axes[0] @ np.linalg.inv(axes[1])
    return rotation_angle(between) if np.linalg.det(between) > 0 else 180.0
