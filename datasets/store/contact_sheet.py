"""A picture of random patches of a store: a row a patch, a column a map."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.image import AxesImage
from nibabel.orientations import apply_orientation, io_orientation
from numpy.typing import NDArray

from ...files.atomic import partial_name, renamed
from ...files.errors import InputError, StepError
from ...pipeline.frames import FloatArray
from .schema import PatchTable, Store, VolumeEntry
from .volume import FIELD, MASK, Float32Array

_TITLES = {FIELD: "field δB", "chi33": "χ33", "deltab": "δB′", "cosmos": "COSMOS"}
_SHARED = ("chi33", "cosmos")  # one window, so that the two can be compared
_PERCENTILE = 98.0
_STEPS = np.array([1.0, 1.5, 2.0, 2.5, 3.0, 4.0, 5.0, 6.0, 8.0, 10.0])
_OUTSIDE = "#1f2c44"
_CELL, _GAP, _LABEL, _TOP, _BOTTOM, _NARROWEST = 1.75, 0.08, 2.0, 0.85, 0.62, 6.6  # inches
_LEGEND = "middle axial slice, front up, subject's right on the right; dark blue: outside the mask"
_LINE, _NAME = 28, 36  # letters that fit beside a row, and of the store's name in the title


@dataclass(frozen=True)
class SheetPatch:
    """One patch as it is drawn: its text, and the middle axial slice (x, y) of every map in ppm, NaN outside the mask.

    x runs to the subject's right, y to the front; pixel: height over width of a voxel.
    """

    text: str
    slices: dict[str, Float32Array]
    pixel: float


def default_sheet(store: Path) -> Path:
    """Return the name of a store's picture where none is given: `a.h5` to `a_patches.png`."""
    return store.with_name(f"{store.name.removesuffix(store.suffix)}_patches.png")


def draw_contact_sheet(
    store: Store, path: Path, *, patches: int = 8, split: str = "train", seed: int = 0, overwrite: bool = False
) -> Path:
    """Draw the middle axial slices of random patches of a split as a PNG; return its path.

    Grey windows are symmetric about 0 ppm, the same for a column (chi33 and COSMOS share one) and robust: the 98th
    percentile inside the masks, rounded up. Raises InputError where the file exists and not overwrite, the split has no
    patches, or patches is below 1; StepError where the picture cannot be written.
    """
    if patches < 1:
        raise InputError(f"--patches must be at least 1, got {patches}.")
    if path.suffix.lower() != ".png":
        raise InputError(f"{path} must end in .png: the picture is a PNG.")
    if path.exists() and not overwrite:
        raise InputError(f"{path} exists: give another name with --sheet, or pass --overwrite to replace it.")
    entries = {volume.id: volume for volume in store.of_split(split)}
    table = store.patches.get(split)
    if table is None or len(table) == 0:
        raise InputError(f"{store.path} has no {split} patches to draw: choose one of {_splits(store)} with --split.")
    shown = _read_patches(store, table, entries, patches, seed)
    name = store.path.name if len(store.path.name) <= _NAME else f"{store.path.name[: _NAME - 1]}…"
    title = f"{name}: {len(shown)} of {len(table)} {split} patches of {table.patch_size}³ voxels, seed {seed}"
    _save(_figure(shown, title), path)
    return path


def robust_window(values: NDArray[np.floating]) -> float:
    """Return a symmetric window in ppm: the 98th percentile of |values|, rounded up to 1, 1.5, 2 … times 10^n."""
    finite = np.abs(values[np.isfinite(values)])
    top = float(np.percentile(finite, _PERCENTILE)) if finite.size else 0.0
    if top <= 0:
        return 0.05
    power = 10.0 ** np.floor(np.log10(top))
    return float(_STEPS[np.searchsorted(_STEPS, min(top / power, 10.0) * (1 - 1e-9))] * power)


def _splits(store: Store) -> str:
    return ", ".join(split for split, found in store.patches.items() if len(found)) or "none"


def _read_patches(
    store: Store, table: PatchTable, entries: dict[str, VolumeEntry], number: int, seed: int
) -> list[SheetPatch]:
    chosen = np.random.default_rng(seed).choice(len(table), size=min(number, len(table)), replace=False)
    with store.reading() as handle:
        return [_read_patch(handle, table, entries, int(row)) for row in np.sort(chosen)]


def _read_patch(handle: h5py.File, table: PatchTable, entries: dict[str, VolumeEntry], row: int) -> SheetPatch:
    record = table.rows[row]
    volume = entries[record["volume"].decode()]
    corner = tuple(int(record[axis]) for axis in "ijk")
    box = tuple(slice(start, start + table.patch_size) for start in corner)
    group = handle[f"volumes/{volume.id}"]
    affine = volume.geometry.affine
    inside = _upright(group[MASK][box] > 0, affine)
    slices = {}
    for name in _TITLES:
        if name in group:
            values = _upright(np.asarray(group[name][box], np.float32), affine)
            slices[name] = np.where(inside, values, np.nan)[:, :, values.shape[2] // 2]
    size = _upright_size(volume)
    lines = [volume.id, f"corner {', '.join(map(str, corner))}", f"{float(record['brain_fraction']):.0%} brain"]
    if volume.source == "augmented":
        lines[1:1] = ["turned from", volume.parent]
    text = "\n".join(part for line in lines for part in textwrap.wrap(line, _LINE))
    return SheetPatch(text, slices, float(size[1] / size[0]))


def _upright(values: NDArray[Any], affine: FloatArray) -> NDArray[Any]:
    """Return an array with its axes along right, front and up, as nearly as turning and flipping can do."""
    return apply_orientation(values, io_orientation(affine))


def _upright_size(volume: VolumeEntry) -> FloatArray:
    size = np.empty(3)
    size[io_orientation(volume.geometry.affine)[:, 0].astype(int)] = volume.geometry.voxel_size
    return size


def _windows(shown: Sequence[SheetPatch], columns: Sequence[str]) -> dict[str, float]:
    gathered = {name: [patch.slices[name].ravel() for patch in shown if name in patch.slices] for name in columns}
    windows = {name: robust_window(np.concatenate(values)) for name, values in gathered.items()}
    common = max((windows[name] for name in _SHARED if name in windows), default=0.0)
    return {name: common if name in _SHARED else window for name, window in windows.items()}


def _figure(shown: Sequence[SheetPatch], title: str) -> Figure:
    columns = [name for name in _TITLES if any(name in patch.slices for patch in shown)]
    windows = _windows(shown, columns)
    width = max(_LABEL + len(columns) * (_CELL + _GAP) + _GAP, _NARROWEST)
    height = _TOP + len(shown) * (_CELL + _GAP) + _BOTTOM
    figure = Figure(figsize=(width, height), facecolor="white")
    figure.text(0.1 / width, 1 - 0.14 / height, title, fontsize=10, va="top")
    figure.text(0.1 / width, 1 - 0.36 / height, _LEGEND, fontsize=8, color="0.35", va="top")
    for row, patch in enumerate(shown):
        middle = height - _TOP - row * (_CELL + _GAP) - _CELL / 2
        figure.text(0.1 / width, middle / height, patch.text, fontsize=8, va="center", linespacing=1.4)
    for column, name in enumerate(columns):
        _draw_column(figure, shown, name, windows[name], _LABEL + column * (_CELL + _GAP))
    return figure


def _draw_column(figure: Figure, shown: Sequence[SheetPatch], name: str, window: float, left: float) -> None:
    """Draw one map of every patch, its title above and its grey bar below; left in inches."""
    width, height = figure.get_size_inches()
    label = f"{_TITLES[name]}, ±{window:g} ppm"
    top = 1 - (_TOP - 0.06) / height
    figure.text((left + _CELL / 2) / width, top, label, fontsize=9, ha="center", va="bottom")
    image = None
    for row, patch in enumerate(shown):
        bottom = height - _TOP - (row + 1) * (_CELL + _GAP) + _GAP
        axes = figure.add_axes((left / width, bottom / height, _CELL / width, _CELL / height))
        image = _draw(axes, patch, name, window) or image
    bar = figure.add_axes(((left + 0.15) / width, 0.38 / height, (_CELL - 0.3) / width, 0.1 / height))
    assert image is not None  # a column is there because a patch has it
    figure.colorbar(image, cax=bar, orientation="horizontal", ticks=[-window, 0, window], format="%g")
    bar.tick_params(labelsize=7, length=2)


def _draw(axes: Axes, patch: SheetPatch, name: str, window: float) -> AxesImage | None:
    axes.set_xticks([])
    axes.set_yticks([])
    if name not in patch.slices:
        axes.text(0.5, 0.5, "not stored", ha="center", va="center", fontsize=8, color="0.5", transform=axes.transAxes)
        return None
    axes.set_facecolor(_OUTSIDE)
    image = axes.imshow(
        patch.slices[name].T, origin="lower", cmap="gray", vmin=-window, vmax=window, interpolation="nearest"
    )
    axes.set_aspect(patch.pixel)
    return image


def _save(figure: Figure, path: Path) -> None:
    try:
        with renamed(path, partial_name(path), settle=False) as partial:
            figure.savefig(partial, dpi=150, format="png")
    except OSError as error:
        raise StepError(f"{path} cannot be written ({error.strerror or error}): choose another --sheet.") from error
