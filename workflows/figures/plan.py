"""The picture of `chi33 plan`: B0 directions in the head, seen from above, over what one more scan would bring."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from matplotlib.cm import ScalarMappable
from matplotlib.colors import LogNorm, Normalize
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.projections.polar import PolarAxes
from numpy.typing import NDArray

from ...files.atomic import write_atomically
from ...files.errors import InputError
from ...pipeline.orientations.design import OrientationPlan, expected_chi33_noise, noise_with_one_more, tilt_of

_DPI = 150
_INK, _FAINT, _MARK = "#1d2733", "#5c6873", "#d1291c"
_COLOURS = "GnBu_r"  # dark where one more scan helps most
_STEP = (1.5, 4.0)  # degrees of tilt and azimuth between the points of the background
_NOISES = {"tensor_noise": "the tensor's noise", "chi33": "the expected noise of χ33"}


@dataclass(frozen=True)
class Background:
    """What one more scan would do: values (tilts, azimuths) at tilts in degrees and azimuths in radians."""

    tilts: NDArray[np.float64]
    azimuths: NDArray[np.float64]
    values: NDArray[np.float64]
    norm: Normalize
    label: str


def check_figure_path(path: Path, *, overwrite: bool = False) -> Path:
    """Return the path of a PNG to write, or raise InputError where it is no PNG or exists already."""
    if path.suffix.lower() != ".png":
        raise InputError(f"the figure is written as PNG, but {path} does not end in .png: rename it.")
    if path.is_dir():
        raise InputError(f"{path} is a folder: give the name of a file for the figure.")
    if path.exists() and not overwrite:
        raise InputError(f"{path} exists already: pass --overwrite to replace it.")
    return path


def save_plan_figure(plan: OrientationPlan, path: Path, *, title: str = "", overwrite: bool = False) -> Path:
    """Draw a plan and write it as PNG, by rename; InputError where it exists and overwrite is not set."""
    check_figure_path(path, overwrite=overwrite)
    figure = draw_plan(plan, title=title)
    write_atomically(path, lambda temporary: figure.savefig(temporary, format="png", dpi=_DPI))
    return path


def draw_plan(plan: OrientationPlan, *, title: str = "") -> Figure:
    """Return the figure of a plan: scans numbered, next scans marked, colour what one more scan at a place brings.

    The middle is the neutral head, the distance from it the tilt in degrees; h and -h are one point. title: the
    subject whose scans these are, where they are scanned already.
    """
    radius = _radius(plan)
    figure = Figure(figsize=(8.4, 7.4), dpi=_DPI, facecolor="white")
    ax = PolarAxes(figure, (0.1, 0.15, 0.62, 0.70))
    figure.add_axes(ax)
    ground = background(plan, radius)
    ax.pcolormesh(
        ground.azimuths, ground.tilts, ground.values, cmap=_COLOURS, norm=ground.norm, shading="gouraud", zorder=0
    )
    _draw_rings(ax, plan.max_angle, radius, _free_azimuth(plan))
    _draw_sides(ax, radius)
    _draw_scans(ax, plan, radius)
    _draw_bar(figure, ground)
    _draw_words(figure, plan, title)
    return figure


def background(plan: OrientationPlan, radius: float) -> Background:
    """Return what one more scan does to the noise the plan ranks by, for tilts up to radius degrees."""
    tilts = np.linspace(0, radius, round(radius / _STEP[0]) + 1)
    azimuths = np.radians(np.arange(0, 360 + _STEP[1], _STEP[1]))
    t, a = np.meshgrid(np.radians(tilts), azimuths, indexing="ij")
    h = np.stack([np.sin(t) * np.cos(a), np.sin(t) * np.sin(a), np.cos(t)], axis=-1).reshape(-1, 3)
    noise = noise_with_one_more(plan.directions, h, plan.ranked_by, noise=plan.noise, prior=plan.prior).reshape(t.shape)
    within = tilts <= plan.max_angle + _STEP[0]
    if plan.ranked_by == "tensor_noise" and plan.quality.singular:
        low = float(noise[within].min())
        label = "Noise gain of the tensor with one more scan"
        return Background(tilts, azimuths, np.minimum(noise, 1e3 * low), LogNorm(low, 8 * low), label)
    before = getattr(plan.quality, plan.ranked_by)
    if np.isinf(before):  # an infinite prior, in place of which noise_with_one_more takes the default
        before = np.sqrt((expected_chi33_noise(plan.directions, noise=plan.noise) ** 2).mean())
    change = 100 * (noise / before - 1)
    label = f"Change of {_NOISES[plan.ranked_by]} with one more scan (%)"
    return Background(tilts, azimuths, change, Normalize(float(change[within].min()), 0.0), label)


def _radius(plan: OrientationPlan) -> float:
    largest = max(tilt_of(h) for h in plan.directions)
    return float(min(90.0, max(45.0, 5 * np.ceil((max(largest, plan.max_angle) + 4) / 5))))


def _free_azimuth(plan: OrientationPlan) -> float:
    """Return the azimuth in radians, off the axes, at which names of rings are farthest from scans and stars."""
    marked = (_polar(h) for h in (*plan.directions, *(one.direction for one in plan.best)))
    places = np.array([tilt * np.exp(1j * azimuth) for azimuth, tilt in marked])
    choices = np.radians([60, 30, 120, 150, 330, 300, 240, 210, 45, 135, 315, 225])
    names = np.arange(10, 50, 10) * np.exp(1j * choices)[:, None]
    apart = np.abs(names[:, :, None] - places).min(axis=(1, 2))
    return float(choices[int(np.argmax(np.minimum(apart, 8).round(3)))])


def _draw_rings(ax: PolarAxes, max_angle: float, radius: float, labels_at: float) -> None:
    ax.set_ylim(0, radius)
    ax.grid(False)
    ax.set_xticks([])
    ax.set_yticks([])
    ax.spines["polar"].set_color(_FAINT)
    around = np.linspace(0, 2 * np.pi, 361)
    ax.fill_between(around, max_angle, radius, color="white", alpha=0.45, linewidth=0, zorder=1)
    for angle in np.radians([0, 90, 180, 270]):
        ax.plot([angle, angle], [0, radius], color=_INK, alpha=0.25, linewidth=0.7, zorder=2)
    for ring in range(10, int(radius), 10):
        ax.plot(around, np.full(361, ring), color=_INK, alpha=0.35, linewidth=0.8, zorder=2)
        ax.text(labels_at, ring, f"{ring}°", color=_INK, fontsize=9, ha="center", va="center", zorder=4,
                bbox={"boxstyle": "round,pad=0.12", "facecolor": "white", "alpha": 0.7, "linewidth": 0})  # fmt: skip
    ax.plot(around, np.full(361, max_angle), color=_INK, linewidth=1.3, linestyle=(0, (5, 3)), zorder=3)


def _draw_sides(ax: PolarAxes, radius: float) -> None:
    """Name the sides by what the head does: B0 leans towards the face where the head tilts back."""
    for angle, text, across, up in (
        (90, "head tilted back (pitch +)", "center", "bottom"),
        (270, "head tilted forward (pitch −)", "center", "top"),
        (0, "head tilted to\nthe left (roll −)", "left", "center"),
        (180, "head tilted to\nthe right (roll +)", "right", "center"),
    ):
        place = radius * (1.03 if up == "center" else 1.04)
        turned = {"rotation": 90, "ha": "center"} if up == "center" else {"ha": across}
        ax.text(np.radians(angle), place + (0.06 * radius if turned.get("rotation") else 0), text, color=_INK,
                fontsize=10.5, va=up, **turned)  # fmt: skip


def _draw_scans(ax: PolarAxes, plan: OrientationPlan, radius: float) -> None:
    for text, azimuth, tilt in _places(plan.directions, 0.055 * radius):
        ax.plot(azimuth, tilt, "o", markersize=17 + 5 * text.count(","), markerfacecolor="white", markeredgecolor=_INK,
                markeredgewidth=1.4, zorder=5)  # fmt: skip
        ax.text(azimuth, tilt, text, color=_INK, fontsize=10, fontweight="bold", ha="center", va="center_baseline",
                zorder=6)  # fmt: skip
    for rank, addition in enumerate(plan.best):
        azimuth, tilt = _polar(addition.direction)
        filled = _MARK if rank == 0 else "white"
        ax.plot(azimuth, tilt, "*", markersize=21 if rank == 0 else 14, markerfacecolor=filled, markeredgecolor=_MARK
                if rank else "white", markeredgewidth=1.3, zorder=7)  # fmt: skip


def _polar(h: NDArray[np.float64]) -> tuple[float, float]:
    up = -h if h[2] < 0 else h
    return float(np.arctan2(up[1], up[0])), tilt_of(up)


def _places(directions: NDArray[np.float64], near: float) -> list[tuple[str, float, float]]:
    """Return the numbers of the scans, those of about one place together, with its azimuth (rad) and tilt (degrees)."""
    polar = [_polar(h) for h in directions]
    flat = np.array([(tilt * np.cos(azimuth), tilt * np.sin(azimuth)) for azimuth, tilt in polar])
    groups: list[list[int]] = []
    for index, place in enumerate(flat):
        close = [group for group in groups if np.hypot(*(place - flat[group[0]])) < near]
        if close:
            close[0].append(index)
        else:
            groups.append([index])
    return [(",".join(str(i + 1) for i in group), *polar[group[0]]) for group in groups]


def _draw_bar(figure: Figure, ground: Background) -> None:
    bar_ax = figure.add_axes((0.84, 0.215, 0.026, 0.57))
    bar = figure.colorbar(ScalarMappable(ground.norm, _COLOURS), cax=bar_ax)
    bar.set_label(ground.label, color=_INK, fontsize=10.5, labelpad=8)
    if isinstance(ground.norm, LogNorm):
        low = float(ground.norm.vmin or 1.0)
        ticks = [low * factor for factor in (1, 2, 4, 8)]
        bar.set_ticks(ticks, labels=[f"{'≥ ' if tick > 7 * low else ''}{tick:.1f}" for tick in ticks])
        bar.ax.minorticks_off()
    bar.ax.tick_params(colors=_INK, labelsize=10)
    bar.outline.set_edgecolor(_FAINT)


def _draw_words(figure: Figure, plan: OrientationPlan, title: str) -> None:
    head = "B0 directions in the head, seen from above" + (f": {title}" if title else "")
    figure.text(0.06, 0.955, head, color=_INK, fontsize=13.5, fontweight="bold")
    middle = "the head in the reference scan" if title else "the neutral head"
    figure.text(0.06, 0.925, f"Middle: {middle}. Rings: its tilt. Darker: one more scan there helps more.",
                color=_FAINT, fontsize=10)  # fmt: skip
    handles: list[Line2D] = [_handle("o", "white", _INK, 11, "a scan")]
    if plan.best:
        first = plan.best[0]
        place = f"pitch {first.pitch:+.0f}°, roll {first.roll:+.0f}°".replace("-", "−")
        place = "neutral" if first.pitch == first.roll == 0 else place
        handles.append(_handle("*", _MARK, "white", 17, f"best next scan: {place}"))
    if len(plan.best) > 1:
        handles.append(_handle("*", "white", _MARK, 12, "other places that help"))
    limit = f"limit, {plan.max_angle:g}°"
    handles.append(Line2D([], [], color=_INK, linestyle=(0, (5, 3)), linewidth=1.3, label=limit))
    figure.legend(handles=handles, loc="lower center", bbox_to_anchor=(0.5, 0.045), ncols=len(handles), frameon=False,
                  fontsize=10, labelcolor=_INK, columnspacing=1.6, handletextpad=0.5)  # fmt: skip
    figure.text(0.5, 0.028, _condition_words(plan), color=_FAINT, fontsize=10, ha="center")


def _handle(marker: str, face: str, edge: str, size: float, label: str) -> Line2D:
    return Line2D([], [], marker=marker, linestyle="", markerfacecolor=face, markeredgecolor=edge, markersize=size,
                  label=label)  # fmt: skip


def _condition_words(plan: OrientationPlan) -> str:
    now = "singular" if plan.quality.singular else f"{plan.quality.condition:.3g}"
    text = f"Condition number of the tensor: {now} now"
    if not plan.best:
        return f"{text}."
    after = plan.best[0].after
    if after.singular:
        return f"{text}, and still with the best next scan: it takes more than one."
    return f"{text}, {after.condition:.3g} with the best next scan."
