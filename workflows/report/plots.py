"""The curves of the report, for a light and a dark page: how the fit converged, and the distribution of chi33."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import isfinite
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from numpy.typing import NDArray

from ..figures.maps import data_uri
from .measures import CHI_BINS, ScanMeasures
from .methods import recorded

_SIZE = (5.6, 3.3)  # inches
_SHARE = 0.999  # of the voxels that the histogram shows
_FONT = 12


@dataclass(frozen=True)
class Curves:
    """A figure for a light and a dark page (data URIs), words for those who do not see it, and its caption."""

    light: str
    dark: str
    alt: str
    title: str
    detail: str


@dataclass(frozen=True)
class _Ink:
    text: str
    faint: str
    first: str
    second: str


_LIGHT = _Ink("#222222", "#c3cad0", "#b3470b", "#0a5a9c")
_DARK = _Ink("#e8e8e8", "#4d565e", "#ffb454", "#7bbcf0")


def convergence(record: Mapping[str, Any]) -> Curves | None:
    """Return how much chi33 changed in each iteration of the tensor's and of COSMOS's fit; None where not recorded."""
    lists = {name: _finite(record.get(f"RelativeChanges{key}")) for name, key in (("χ33", ""), ("COSMOS", "Cosmos"))}
    lists = {name: values for name, values in lists.items() if values}
    if not lists:
        return None
    tolerance = recorded(record, "StoppingTolerance") or 0.0

    def draw(ax: Axes, ink: _Ink) -> None:
        for (name, values), colour, marker in zip(lists.items(), (ink.first, ink.second), "os", strict=False):
            numbers = np.arange(1, len(values) + 1)
            changes = 100 * np.array(values)
            ax.plot(numbers, changes, color=colour, marker=marker, markersize=4, linewidth=1.4, label=name)
        ax.legend(frameon=False, fontsize=_FONT, labelcolor="linecolor")
        if tolerance > 0:
            ax.axhline(100 * tolerance, color=ink.text, linewidth=1, linestyle=(0, (4, 3)))
        ax.set_yscale("log")
        ax.set_xlabel("iteration", color=ink.text, fontsize=_FONT)
        ax.set_ylabel("change (%)", color=ink.text, fontsize=_FONT)
        ax.xaxis.set_major_locator(MaxNLocator(integer=True))

    said = "; ".join(
        f"{name} from {100 * values[0]:.2g} % in the first to {100 * values[-1]:.2g} % in iteration {len(values)}"
        for name, values in lists.items()
    )
    limit = f" Dashed: the tolerance, {100 * tolerance:.2g} %." if tolerance > 0 else ""
    return Curves(
        *_both(draw), f"Change in each iteration of the fit: {said}.{limit}", "Convergence of the fit",
        f"root mean square change in an iteration, part of the map.{limit}",
    )  # fmt: skip


def chi33_histogram(scans: Sequence[ScanMeasures]) -> Curves | None:
    """Return the distribution of chi33 of every scan where its local field is valid; None where no scan has chi33."""
    counts = {scan.name: scan.histogram for scan in scans if scan.histogram is not None and scan.histogram.any()}
    if not counts:
        return None
    middles, bin_width = (CHI_BINS[1:] + CHI_BINS[:-1]) / 2, float(CHI_BINS[1] - CHI_BINS[0])
    low, high = _limits(np.sum(list(counts.values()), axis=0))

    def draw(ax: Axes, ink: _Ink) -> None:
        for index, count in enumerate(counts.values()):
            colour, width, order = (ink.first, 1.8, 3) if index == 0 else (ink.second, 1.0, 2)
            ax.plot(middles, 100 * count / count.sum(), color=colour, linewidth=width, zorder=order)
        ax.axvline(0, color=ink.faint, linewidth=1)
        ax.set_xlim(low, high)
        ax.set_ylim(0, None)
        ax.set_xlabel("χ33 (ppm)", color=ink.text, fontsize=_FONT)
        ax.set_ylabel(f"% of voxels per {bin_width:g} ppm", color=ink.text, fontsize=_FONT)
        ax.xaxis.set_major_formatter(lambda x, _: f"{x:g}".replace("-", "\N{MINUS SIGN}"))

    first = next(iter(counts))
    said = ", ".join(_percentiles(name, count) for name, count in counts.items())
    others = f" Thick: {first}; thin: the other scans." if len(counts) > 1 else ""
    return Curves(
        *_both(draw), f"Distribution of χ33, 1st, 50th and 99th percentile in ppm: {said}.", "Distribution of χ33",
        f"where the local field is valid.{others}",
    )  # fmt: skip


def _percentiles(name: str, count: NDArray[np.int64]) -> str:
    shares = np.cumsum(count) / count.sum()
    values = [CHI_BINS[int(np.searchsorted(shares, q)) + 1] for q in (0.01, 0.5, 0.99)]
    return f"{name} " + ", ".join(f"{value:.3f}".replace("-", "\N{MINUS SIGN}") for value in values)


def _limits(count: NDArray[np.int64]) -> tuple[float, float]:
    """Return the range of chi that holds nearly all voxels."""
    shares = np.cumsum(count) / count.sum()
    first, last = np.searchsorted(shares, [(1 - _SHARE) / 2, (1 + _SHARE) / 2])
    return float(CHI_BINS[first]), float(CHI_BINS[min(int(last) + 1, len(CHI_BINS) - 1)])


def _finite(values: Any) -> list[float]:
    """Return the positive numbers that a record's list starts with; none where it is no list."""
    listed = values if isinstance(values, list | tuple) else ()
    return [float(one) for one in listed if isinstance(one, int | float) and isfinite(one) and one > 0]


def _both(draw: Any) -> tuple[str, str]:
    """Return the figure that `draw(ax, ink)` draws, for a light and for a dark page."""
    uris = []
    for ink in (_LIGHT, _DARK):
        figure = Figure(figsize=_SIZE, layout="constrained")
        figure.patch.set_alpha(0)
        ax = figure.add_subplot()
        ax.patch.set_alpha(0)
        draw(ax, ink)
        ax.tick_params(which="both", colors=ink.text, labelsize=_FONT)
        ax.grid(color=ink.faint, linewidth=0.6, alpha=0.7)
        for side, spine in ax.spines.items():
            spine.set_visible(side in ("left", "bottom"))
            spine.set_color(ink.faint)
        uris.append(data_uri(figure, "png"))
    return uris[0], uris[1]
