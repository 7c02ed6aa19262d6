"""The picture of a registered pair, before and after: a checkerboard of the two scans in three slices."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from numpy.typing import ArrayLike, NDArray

from ...pipeline.frames import check_affine, voxel_size
from ...pipeline.images.resample import resample
from ...pipeline.phase.echoes import smooth_inside
from .maps import FONT_SIZE, INK, WIDTH, Planes, show_slice

_SPACING = 1.2  # mm
_TILE = 24.0  # mm, of the checkerboard
_MARGIN = 12.0  # mm around the head
_SHADING_WIDTH = 30.0  # mm
_DPI = 140
_GAP = 0.012  # of the width
_LINE = 0.34  # inches, of a title
_TITLES = ("before", "after registration")


@dataclass(frozen=True)
class Head:
    """A magnitude (x, y, z) of a head and its voxel-to-world affine (4, 4)."""

    magnitude: NDArray[np.float32]
    affine: NDArray[np.float64]


def registration_figure(
    moving: Head,
    reference: Head,
    transform: ArrayLike,
    *,
    title: str = "",
    names: tuple[str, str] = ("scan", "reference"),
) -> Figure:
    """Return a checkerboard of two scans by their headers (above) and by a transform (below), in three slices.

    transform: world of the moving scan to world of the reference (4, 4). Slices lie on the axes of the reference's
    world through the middle of its head; the left of the picture is the subject's left. Tiles of the reference are
    grey, those of the moving scan tinted: edges run on across tiles where the two fit.
    """
    flat = [_flat(one) for one in (moving, reference)]
    shape, affine = _grid(flat[1], reference)
    fixed = resample(flat[1], reference.affine, affine, shape, order=1)
    rows = [
        _board(fixed, resample(flat[0], moving.affine, affine, shape, matrix, order=1))
        for matrix in (np.eye(4), np.asarray(transform, np.float64))
    ]
    return _figure([_planes(one) for one in rows], title, names)


def write_registration_figure(path: Path, figure: Figure) -> Path:
    """Write a figure as a PNG and return its path."""
    figure.savefig(path, format="png", dpi=_DPI, facecolor="black")
    return Path(path)


def _flat(head: Head) -> NDArray[np.float32]:
    """Return a magnitude without most of the coil's shading, about 0 to 1."""
    image = np.asarray(head.magnitude, np.float32)
    bright = max(float(np.percentile(image, 99)), 1e-30)
    mean = smooth_inside(image, image > 0.05 * bright, voxel_size(check_affine(head.affine)), _SHADING_WIDTH)
    flat = image / np.maximum(mean, 0.1 * bright)
    return np.asarray(np.clip(flat / max(float(np.percentile(flat, 99.5)), 1e-30), 0, 1), np.float32)


def _grid(flat: NDArray[np.float32], head: Head) -> tuple[list[int], NDArray[np.float64]]:
    """Return the shape and affine of voxels along the world's axes around the head."""
    voxels = np.argwhere(flat[::2, ::2, ::2] > 0.25) * 2.0
    matrix = np.asarray(head.affine, np.float64)
    world = voxels @ matrix[:3, :3].T + matrix[:3, 3]
    low, high = (np.percentile(world, share, axis=0) for share in (0.5, 99.5))
    affine = np.diag([_SPACING] * 3 + [1.0])
    affine[:3, 3] = low - _MARGIN
    return np.ceil((high - low + 2 * _MARGIN) / _SPACING).astype(int).tolist(), affine


def _board(fixed: NDArray[np.float32], moved: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return colours (x, y, z, 3): tiles of the fixed image in grey, those of the moved one tinted."""
    tile = max(round(_TILE / _SPACING), 1)
    odd = np.add.reduce(np.indices(fixed.shape) // tile)[..., None] % 2 == 1
    tint = np.array([1.0, 0.78, 0.45], np.float32)
    return np.where(odd, moved[..., None] * tint, fixed[..., None])


def _planes(colours: NDArray[np.float32]) -> Planes:
    x, y, z = (n // 2 for n in colours.shape[:3])
    return Planes(colours[:, :, z], colours[:, y], colours[x], (_SPACING,) * 3)


def _figure(rows: list[Planes], title: str, names: tuple[str, str]) -> Figure:
    """Return the rows under one another, each under its title."""
    across = [
        [_SPACING * getattr(rows[0], name).shape[axis] for name in ("axial", "coronal", "sagittal")] for axis in (0, 1)
    ]
    per_mm = (1 - 4 * _GAP) * WIDTH / sum(across[0])
    tallest = max(across[1]) * per_mm
    head = _LINE * (1 + title.count("\n")) if title else 0.0
    height = head + len(rows) * (tallest + _LINE) + _LINE
    figure = Figure(figsize=(WIDTH, height), dpi=_DPI, facecolor="black")
    top = height - head
    if title:
        figure.text(_GAP, 1 - 0.08 / height, title, color=INK, fontsize=FONT_SIZE - 2, va="top")
    for planes, text in zip(rows, _TITLES, strict=True):
        figure.text(_GAP, (top - 0.08) / height, text, color=INK, fontsize=FONT_SIZE - 2, va="top")
        left = _GAP * WIDTH
        for name, wide, tall in zip(("axial", "coronal", "sagittal"), *across, strict=True):
            bottom = top - _LINE - tallest + (tallest - tall * per_mm) / 2
            ax = figure.add_axes((left / WIDTH, bottom / height, wide * per_mm / WIDTH, tall * per_mm / height))
            show_slice(ax, getattr(planes, name), planes, name, norm=Normalize(0, 1))
            left += wide * per_mm + _GAP * WIDTH
        top -= tallest + _LINE
    key = f"grey: {names[1]}; yellow: {names[0]}"
    figure.text(_GAP, 0.08 / height, key, color=INK, fontsize=FONT_SIZE - 2, va="bottom")
    return figure
