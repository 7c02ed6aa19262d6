"""The pictures of the report: orthogonal slices in rows with a scale bar, and B0 directions seen from above."""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from matplotlib.projections.polar import PolarAxes
from matplotlib.ticker import MaxNLocator
from numpy.typing import ArrayLike, NDArray

WIDTH = 6.4  # inches
_DPI = 140
_ROWS_DPI = 110  # of pictures with several rows of slices
FONT_SIZE = 14  # about 12 px where a picture is 400 px wide
_BACKGROUND, INK = "black", "#f2f2f2"
_GAP = 0.012  # between slices, of the width
STRIP_HEIGHT = 0.62  # inches below the slices
_FADED = 0.3  # of the contrast of a map that its data do not determine


@dataclass(frozen=True)
class Planes:
    """Three orthogonal slices on RAS axes: axial [x, y], coronal [x, z], sagittal [y, z]; trailing axis: components.

    voxel_size: mm along x, y, z.
    """

    axial: NDArray[Any]
    coronal: NDArray[Any]
    sagittal: NDArray[Any]
    voxel_size: tuple[float, float, float]

    def component(self, index: int) -> Planes:
        """Return the slices of one component."""
        axial, coronal, sagittal = (one[..., index] for one in (self.axial, self.coronal, self.sagittal))
        return Planes(axial, coronal, sagittal, self.voxel_size)

    @property
    def size(self) -> float:
        """The 99th percentile of the absolute values that are not zero; 0 where all are."""
        values = np.abs(np.concatenate([one.ravel() for one in (self.axial, self.coronal, self.sagittal)]))
        values = values[values > 0]
        return float(np.percentile(values, 99)) if values.size else 0.0


@dataclass(frozen=True)
class GreyScale:
    """A linear grey scale, black at low and white at high, in a unit ("" for arbitrary values)."""

    low: float
    high: float
    unit: str = "ppm"

    @property
    def words(self) -> str:
        """The scale in words, for a caption."""
        return f"grey {self.low:g} to {self.high:g} {self.unit}".replace("-", "\N{MINUS SIGN}").rstrip()


def symmetric_scale(size: float, unit: str = "ppm") -> GreyScale:
    """Return a grey scale from -v to v, v being `size` rounded up to 1, 1.5, 2, 3, 5 or 7 times a power of ten."""
    if not size > 0:
        return GreyScale(-1.0, 1.0, unit)
    decade = 10.0 ** np.floor(np.log10(size))
    steps = np.array([1, 1.5, 2, 3, 5, 7, 10]) * decade
    value = float(f"{steps[np.searchsorted(steps, size * (1 - 1e-9))]:.2g}")
    return GreyScale(-value, value, unit)


def planes_figure(
    rows: Sequence[Planes],
    scale: GreyScale,
    outlines: Sequence[tuple[Sequence[Planes], str]] = (),
    *,
    brain: Sequence[Planes] | None = None,
    undetermined: str = "",
) -> str:
    """Return rows of axial, coronal and sagittal slices side by side with a scale bar, as a data URI.

    Neurological convention: the left of the picture is the subject's left. outlines: masks and colours; brain: a mask
    outside which zeros are left black, so that they do not look like a value; undetermined: words across a map that is
    not measured, which then is faded.
    """
    figure, ax, places = canvas(rows)
    norm = Normalize(scale.low, scale.high)
    for index, (planes, placed) in enumerate(zip(rows, places, strict=True)):
        for name, place in placed.items():
            values = np.asarray(getattr(planes, name), np.float32)
            if brain is not None:
                values = np.where((values == 0) & ~getattr(brain[index], name), np.float32(np.nan), values)
            alpha = _FADED if undetermined else 1.0
            show_slice(ax, values, planes, name, place, cmap="gray", norm=norm, alpha=alpha)
            for mask, colour in outlines:
                _outline(ax, mask[index], name, place, colour)
    middle = 0.0 if scale.low < 0 < scale.high else (scale.low + scale.high) / 2
    draw_bar(figure, (scale.low, middle, scale.high), (0.3, 0.4), scale.unit)
    write_across(figure, undetermined)
    return data_uri(figure, "jpeg", dpi=rows_dpi(len(rows)))


def rows_dpi(rows: int) -> int:
    """Return the resolution of a picture: less where it has several rows of slices."""
    return _DPI if rows == 1 else _ROWS_DPI


def write_across(figure: Figure, words: str) -> None:
    """Write words across the middle of a figure."""
    if words:
        box = {"boxstyle": "round,pad=0.4", "facecolor": _BACKGROUND, "edgecolor": INK, "alpha": 0.85}
        figure.text(0.5, 0.55, words, color=INK, fontsize=FONT_SIZE, ha="center", va="center", bbox=box)


def b0_figure(directions: ArrayLike, *, dark: bool = False) -> str:
    """Return unit vectors (N, 3) in the subject frame as numbered points on the sphere seen from above (data URI).

    The distance from the centre is the angle to the reference's B0 in degrees; h and -h are the same point.
    """
    h = np.asarray(directions, dtype=np.float64).reshape(-1, 3)
    h = np.where(h[:, 2:] < 0, -h, h)
    tilt = np.degrees(np.arctan2(np.hypot(h[:, 0], h[:, 1]), h[:, 2]))
    azimuth = np.arctan2(h[:, 1], h[:, 0])
    ink, faint, point = ("#e8e8e8", "#66707a", "#ffb454") if dark else ("#222222", "#b5bcc4", "#b3470b")
    figure = Figure(figsize=(4.6, 4.4), dpi=_DPI)
    figure.patch.set_alpha(0)
    ax = PolarAxes(figure, (0.12, 0.09, 0.76, 0.82))
    figure.add_axes(ax)
    ax.patch.set_alpha(0)
    radius = max(10.0, 10 * np.ceil((tilt.max() + 3) / 10))
    ax.set_ylim(0, radius)
    rings = [ring for ring in MaxNLocator(4, steps=[1, 2, 3, 5, 10]).tick_values(0, radius) if 0 < ring <= radius]
    ax.set_yticks(rings)
    numbers = _labels(azimuth, tilt, radius)
    taken = [tilt * np.exp(1j * azimuth), *(distance * np.exp(1j * angle) for _, angle, distance in numbers)]
    ax.set_rlabel_position(_free_angle(np.array(rings), np.hstack(taken)))
    ax.yaxis.set_major_formatter("{x:.0f}°")
    ax.set_xticks(np.radians([0, 90, 180, 270]), ["right", "front", "left", "back"])
    ax.tick_params(axis="x", colors=ink, labelsize=12, pad=5)
    ax.tick_params(axis="y", colors=ink, labelsize=12)
    ax.grid(color=faint, linewidth=0.8)
    ax.spines["polar"].set_color(faint)
    ax.scatter(azimuth, tilt, s=42, color=point, zorder=3)
    for text, angle, distance in numbers:
        ax.text(angle, distance, text, color=ink, fontsize=12, ha="center", va="center", zorder=4)
    return data_uri(figure, "png")


def _free_angle(rings: NDArray[np.float64], taken: NDArray[np.complex128]) -> float:
    """Return the angle in degrees, off the axes, at which names of rings are farthest from places that are taken."""
    choices = np.array([67.5, *(start + step for start in (0, 90, 180, 270) for step in (22.5, 35, 45, 55, 67.5))])
    names = (rings + 0.04 * rings.max()) * np.exp(1j * np.radians(choices))[:, None]
    apart = np.abs(names[:, :, None] - taken).min(axis=(1, 2))
    return float(choices[int(np.minimum(apart, 0.2 * rings.max()).round(6).argmax())])


def _labels(azimuth: NDArray[np.float64], tilt: NDArray[np.float64], radius: float) -> list[tuple[str, float, float]]:
    """Return the numbers of the points, those of one place together, set a little outward: (text, azimuth, tilt)."""
    x, y = tilt * np.cos(azimuth), tilt * np.sin(azimuth)
    groups: list[list[int]] = []
    for i in range(len(x)):
        near = [g for g in groups if np.hypot(x[i] - x[g[0]], y[i] - y[g[0]]) < 0.06 * radius]
        if near:
            near[0].append(i)
        else:
            groups.append([i])
    out = []
    for group in groups:
        angle = float(azimuth[group[0]]) if tilt[group[0]] > 0.05 * radius else -np.pi / 4
        text = ", ".join(str(i + 1) for i in group)
        inward = tilt[group[0]] > 0.85 * radius
        step = (-1 if inward else 1) * radius * (0.09 + 0.02 * max(0, len(text) - 2))
        out.append((text, angle, float(tilt[group[0]] + step)))
    return out


def canvas(
    rows: Sequence[Planes], below: float = STRIP_HEIGHT
) -> tuple[Figure, Axes, list[dict[str, tuple[float, float]]]]:
    """Return a black figure, its axes in mm for rows of three slices, and the lower left corner of each slice.

    All rows have the extent of the first; `below` inches are left under them. One axes for all: each costs as much
    time as several slices.
    """
    extents = {name: _extent(rows[0], name) for name in ("axial", "coronal", "sagittal")}
    across = sum(one[1] for one in extents.values())
    gap = _GAP * across / (1 - 4 * _GAP)
    tallest, width = max(one[3] for one in extents.values()), across + 4 * gap
    height = len(rows) * (tallest + gap)
    inches = height * WIDTH / width
    figure = Figure(figsize=(WIDTH, inches + below), dpi=_DPI, facecolor=_BACKGROUND)
    ax = figure.add_axes((0, below / (inches + below), 1, inches / (inches + below)))
    ax.set_axis_off()
    places = []
    for row in range(len(rows)):
        floor, left, placed = (len(rows) - 1 - row) * (tallest + gap), gap, {}
        for name, extent in extents.items():
            placed[name] = (left, floor + (tallest - extent[3]) / 2)
            left += extent[1] + gap
        places.append(placed)
    ax.set_xlim(0, width)  # and no longer what a slice that is drawn would set
    ax.set_ylim(0, height)
    return figure, ax, places


def _extent(planes: Planes, name: str, place: tuple[float, float] = (0.0, 0.0)) -> tuple[float, float, float, float]:
    """Left, right, bottom and top of a slice in mm."""
    dx, dy, dz = planes.voxel_size
    across, up = {"axial": (dx, dy), "coronal": (dx, dz), "sagittal": (dy, dz)}[name]
    columns, rows = getattr(planes, name).shape[:2]
    return (place[0], place[0] + columns * across, place[1], place[1] + rows * up)


def draw_bar(figure: Figure, ticks: Sequence[float], place: tuple[float, float], unit: str) -> None:
    """Draw a grey scale from the first tick to the last under the slices; place: left and width, of the figure's."""
    height = figure.get_size_inches()[1]
    left, width = place
    bar_ax = figure.add_axes((left, 0.36 / height, width, 0.13 / height))
    bar = figure.colorbar(ScalarMappable(Normalize(ticks[0], ticks[-1]), "gray"), cax=bar_ax, orientation="horizontal")
    bar.set_ticks(list(ticks), labels=[f"{tick:.4g}".replace("-", "\N{MINUS SIGN}") for tick in ticks])
    bar.ax.tick_params(colors=INK, labelsize=FONT_SIZE, length=3, pad=2)
    bar.outline.set_edgecolor(INK)
    figure.text(left + width + 0.025, 0.36 / height, unit, color=INK, fontsize=FONT_SIZE, va="bottom")


def show_slice(
    ax: Axes,
    values: NDArray[Any],
    planes: Planes,
    name: str,
    place: tuple[float, float] = (0.0, 0.0),
    *,
    cmap: str | None = None,
    norm: Normalize | None = None,
    alpha: float = 1.0,
) -> None:
    """Draw one slice [across, up] or, in colour, [across, up, 3], with its lower left corner at place; name its sides.

    The axes are in mm.
    """
    left, right, bottom, top = extent = _extent(planes, name, place)
    image = np.swapaxes(np.asarray(values, np.float32), 0, 1)
    ax.imshow(image, origin="lower", extent=extent, cmap=cmap, norm=norm, alpha=alpha, interpolation="antialiased",
              aspect="auto")  # fmt: skip
    ax.set_axis_off()
    for text, share, side in zip("PA" if name == "sagittal" else "LR", (0.02, 0.98), ("left", "right"), strict=True):
        x, y = left + share * (right - left), bottom + 0.99 * (top - bottom)
        ax.text(x, y, text, color=INK, fontsize=FONT_SIZE - 2, ha=side, va="top")


def _outline(ax: Axes, mask: Planes, name: str, place: tuple[float, float], colour: str) -> None:
    inside = np.swapaxes(np.asarray(getattr(mask, name), np.float32), 0, 1)
    if 0 < inside.mean() < 1:
        extent = _extent(mask, name, place)
        ax.contour(inside, levels=[0.5], colors=[colour], linewidths=1.4, origin="lower", extent=extent)


def data_uri(figure: Figure, kind: str, *, dpi: int = _DPI, subsampling: int = 2) -> str:
    """Return a figure as a data URI of a "jpeg" or "png"; subsampling: of a JPEG's colours, 0 for none."""
    buffer = io.BytesIO()
    options = {"quality": 85, "subsampling": subsampling} if kind == "jpeg" else {}
    figure.savefig(buffer, format=kind, dpi=dpi, pil_kwargs=options)
    return f"data:image/{kind};base64,{base64.b64encode(buffer.getvalue()).decode('ascii')}"
