"""The pictures of the report: three orthogonal slices with a scale bar, and B0 directions seen from above."""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from dataclasses import dataclass

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
FONT_SIZE = 14  # about 12 px where a picture is 400 px wide
_BACKGROUND, INK = "black", "#f2f2f2"
_GAP = 0.012  # between slices, of the width
STRIP_HEIGHT = 0.62  # inches below the slices


@dataclass(frozen=True)
class Planes:
    """Three orthogonal slices on RAS axes: axial [x, y], coronal [x, z], sagittal [y, z]; trailing axis: components.

    voxel_size: mm along x, y, z.
    """

    axial: NDArray
    coronal: NDArray
    sagittal: NDArray
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
    planes: Planes, scale: GreyScale, outlines: Sequence[tuple[Planes, str]] = (), *, brain: Planes | None = None
) -> str:
    """Return axial, coronal and sagittal slices side by side with a scale bar, as a data URI.

    Neurological convention: the left of the picture is the subject's left. outlines: masks and colours; brain: a mask
    outside which zeros are left black, so that they do not look like a value.
    """
    figure, axes = canvas(planes)
    norm = Normalize(scale.low, scale.high)
    for name, ax in axes.items():
        values = np.asarray(getattr(planes, name), np.float32)
        if brain is not None:
            values = np.where((values == 0) & ~getattr(brain, name), np.float32(np.nan), values)
        show_slice(ax, values, planes, name, cmap="gray", norm=norm)
        for mask, colour in outlines:
            _outline(ax, getattr(mask, name), mask, name, colour)
    middle = 0.0 if scale.low < 0 < scale.high else (scale.low + scale.high) / 2
    draw_bar(figure, (scale.low, middle, scale.high), (0.3, 0.4), scale.unit)
    return data_uri(figure, "jpeg")


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
    """The angle in degrees, off the axes, at which the names of rings are farthest from places that are taken."""
    choices = np.array([67.5, *(start + step for start in (0, 90, 180, 270) for step in (22.5, 35, 45, 55, 67.5))])
    names = (rings + 0.04 * rings.max()) * np.exp(1j * np.radians(choices))[:, None]
    apart = np.abs(names[:, :, None] - taken).min(axis=(1, 2))
    return float(choices[int(np.minimum(apart, 0.2 * rings.max()).round(6).argmax())])


def _labels(azimuth: NDArray[np.float64], tilt: NDArray[np.float64], radius: float) -> list[tuple[str, float, float]]:
    """The numbers of the points, those of one place together, set a little outward: (text, azimuth, tilt)."""
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


def canvas(planes: Planes, below: float = STRIP_HEIGHT) -> tuple[Figure, dict[str, Axes]]:
    """Return a black figure with axes for the three slices at one scale in mm, `below` inches left under them."""
    dx, dy, dz = planes.voxel_size
    widths = [planes.axial.shape[0] * dx, planes.coronal.shape[0] * dx, planes.sagittal.shape[0] * dy]
    heights = [planes.axial.shape[1] * dy, planes.coronal.shape[1] * dz, planes.sagittal.shape[1] * dz]
    per_mm = (1 - 4 * _GAP) / sum(widths)
    pad = _GAP * WIDTH
    tallest = max(heights) * per_mm * WIDTH
    total = tallest + below + pad
    figure = Figure(figsize=(WIDTH, total), dpi=_DPI, facecolor=_BACKGROUND)
    axes, left = {}, _GAP
    for name, width, height in zip(("axial", "coronal", "sagittal"), widths, heights, strict=True):
        tall = height * per_mm * WIDTH
        bottom = below + (tallest - tall) / 2
        axes[name] = figure.add_axes((left, bottom / total, width * per_mm, tall / total))
        left += width * per_mm + _GAP
    return figure, axes


def _extent(planes: Planes, name: str) -> tuple[float, float, float, float]:
    dx, dy, dz = planes.voxel_size
    across, up = {"axial": (dx, dy), "coronal": (dx, dz), "sagittal": (dy, dz)}[name]
    columns, rows = getattr(planes, name).shape[:2]
    return (0.0, columns * across, 0.0, rows * up)


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
    ax: Axes, values: NDArray, planes: Planes, name: str, *, cmap: str | None = None, norm: Normalize | None = None
) -> None:
    """Draw one slice [across, up] or, in colour, [across, up, 3], and name its sides."""
    extent = _extent(planes, name)
    image = np.swapaxes(np.asarray(values, np.float32), 0, 1)
    ax.imshow(image, origin="lower", extent=extent, cmap=cmap, norm=norm, interpolation="antialiased", aspect="auto")
    ax.set_axis_off()
    for text, place, side in zip("PA" if name == "sagittal" else "LR", (0.02, 0.98), ("left", "right"), strict=True):
        ax.text(
            place, 0.99, text, transform=ax.transAxes, color=INK, fontsize=FONT_SIZE - 2, ha=side, va="top"
        )  # fmt: skip


def _outline(ax: Axes, mask: NDArray, planes: Planes, name: str, colour: str) -> None:
    inside = np.swapaxes(np.asarray(mask, np.float32), 0, 1)
    if 0 < inside.mean() < 1:
        extent = _extent(planes, name)
        ax.contour(inside, levels=[0.5], colors=[colour], linewidths=1.4, origin="lower", extent=extent)


def data_uri(figure: Figure, kind: str, *, dpi: int = _DPI, subsampling: int = 2) -> str:
    """Return a figure as a data URI of a "jpeg" or "png"; subsampling: of a JPEG's colours, 0 for none."""
    buffer = io.BytesIO()
    options = {"quality": 85, "subsampling": subsampling} if kind == "jpeg" else {}
    figure.savefig(buffer, format=kind, dpi=dpi, pil_kwargs=options)
    return f"data:image/{kind};base64,{base64.b64encode(buffer.getvalue()).decode('ascii')}"
