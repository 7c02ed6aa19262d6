"""The direction-encoded colour map of the report: principal eigenvectors as colour, weighted by the anisotropy."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray

from .maps import (
    FONT_SIZE,
    STRIP_HEIGHT,
    WIDTH,
    Planes,
    canvas,
    data_uri,
    draw_bar,
    rows_dpi,
    show_slice,
    write_across,
)

AXIS_COLOURS = (("left–right", "#ff4a3d"), ("front–back", "#37d64a"), ("up–down", "#5c86ff"))
_STRONG = 95.0  # percentile of the anisotropy that has full brightness
_FADED = 0.3  # of the brightness of a map that its data do not determine
_DISC = 0.56  # inches
_DISC_PIXELS = 160
_WORD_PLACES = (0.122, 0.274, 0.444)  # left edges, of the width
_BAR = (0.655, 0.215)  # left and width, of the width


def full_brightness(anisotropy: NDArray[Any]) -> float:
    """Return the anisotropy that is shown at full brightness: the 95th percentile of values > 0, to two digits."""
    values = anisotropy[anisotropy > 0]
    return float(f"{np.percentile(values, _STRONG):.2g}") if values.size else 1.0


def direction_colours(direction: NDArray[Any], weight: NDArray[Any], full: float) -> NDArray[np.float32]:
    """Return |x| red, |y| green, |z| blue (..., 3) of unit vectors (..., 3), brightness weight (...) / full up to 1."""
    brightness = np.clip(np.asarray(weight, np.float32) / np.float32(full), 0, 1)[..., None]
    return np.clip(np.abs(np.asarray(direction, np.float32)) * brightness, 0, 1)


def direction_figure(
    directions: Sequence[Planes], weights: Sequence[Planes], full: float, *, undetermined: str = ""
) -> str:
    """Return unit vectors in the subject frame's world as colour with a legend, as a data URI.

    |x| (left-right) is red, |y| (front-back) green, |z| (up-down) blue; brightness is weight / full. A direction and
    its opposite are one colour. The disc of the legend is the half sphere of directions seen from above. directions,
    weights: rows of slices; undetermined: words across a map that is not measured, which then is grey.
    """
    figure, ax, places = canvas(directions)
    for direction, weight, placed in zip(directions, weights, places, strict=True):
        for name, place in placed.items():
            colours = direction_colours(getattr(direction, name), getattr(weight, name), full)
            show_slice(ax, _greyed(colours) if undetermined else colours, direction, name, place)
    if undetermined:
        write_across(figure, undetermined)
    else:
        _draw_legend(figure, full)
    return data_uri(figure, "jpeg", dpi=rows_dpi(len(directions)), subsampling=0)


def _greyed(colours: NDArray[np.float32]) -> NDArray[np.float32]:
    """Colours (..., 3) as faint greys, so that no direction can be read from them."""
    return np.repeat(_FADED * colours.max(axis=-1, keepdims=True), 3, axis=-1)


def _draw_legend(figure: Figure, full: float) -> None:
    height = float(figure.get_size_inches()[1])
    middle = 0.5 * STRIP_HEIGHT / height
    disc = figure.add_axes((0.02, middle - 0.5 * _DISC / height, _DISC / WIDTH, _DISC / height))
    _draw_disc(disc)
    for (word, colour), place in zip(AXIS_COLOURS, _WORD_PLACES, strict=True):
        figure.text(place, middle, word, color=colour, fontsize=FONT_SIZE - 0.5, va="center_baseline")
    draw_bar(figure, (0.0, full), _BAR, "ppm")


def _draw_disc(ax: Axes) -> None:
    """Draw the colours of the half sphere seen from above, its edge smooth."""
    across = (np.arange(_DISC_PIXELS) + 0.5) / _DISC_PIXELS * 2 - 1
    x, y = np.meshgrid(across, across)
    radius = np.hypot(x, y)
    vectors = np.stack([x, y, np.sqrt(np.maximum(1 - radius**2, 0))], axis=-1)
    vectors /= np.maximum(np.linalg.norm(vectors, axis=-1, keepdims=True), 1e-6)
    inside = np.clip((1 - radius) * _DISC_PIXELS / 2, 0, 1)
    ax.imshow(np.dstack([np.abs(vectors), inside]), origin="lower", interpolation="antialiased")
    ax.set_axis_off()
    ax.set_label("legend")
