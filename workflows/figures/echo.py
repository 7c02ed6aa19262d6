"""The picture of one echo that a run leaves for the report: phase as measured and unwrapped, and weight."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from matplotlib.colors import Normalize
from numpy.typing import NDArray

from ..report.view import View
from .maps import FONT_SIZE, INK, Planes, canvas, rows_dpi, show_slice, symmetric_scale

ECHO_ROWS = ("phase as measured", "phase unwrapped", "weight in the field")
_STRIP = 0.1  # inches
_QUALITY = 85


def shown_echo(count: int) -> int:
    """Return which of the echoes (from 0) is shown: the middle one, where phase wraps and there is still signal."""
    return count // 2


@dataclass(frozen=True)
class EchoSlices:
    """Slices of one echo: phase as measured and unwrapped, radians; weight, relative to its 99th percentile."""

    measured: Planes
    unwrapped: Planes
    weight: Planes

    @classmethod
    def of(
        cls,
        mask: NDArray[np.bool_],
        affine: NDArray[np.float64],
        measured: NDArray[np.float32],
        unwrapped: NDArray[np.float32],
        weight: NDArray[np.float32],
    ) -> EchoSlices:
        """Cut volumes (x, y, z) through the middle of the brain mask; phase is unwrapped in the mask alone."""
        view = View.of(mask, affine)
        middle = len(view.centres) // 2
        most = max(float(np.percentile(weight[mask], 99)), 1e-30)
        volumes = (measured, np.where(mask, unwrapped, np.float32(np.nan)), np.clip(weight / most, 0, 1))
        return cls(*(view.cut(volume)[middle] for volume in volumes))


def write_echo_figure(path: Path, echo: EchoSlices) -> Path:
    """Write the picture as a JPEG, a row for each of ECHO_ROWS with the range of its greys; return the path."""
    rows = (echo.measured, echo.unwrapped, echo.weight)
    unwrapped = symmetric_scale(echo.unwrapped.size, "rad")
    ranges = (Normalize(-np.pi, np.pi), Normalize(unwrapped.low, unwrapped.high), Normalize(0, 1))
    said = ("\N{MINUS SIGN}π to π rad", unwrapped.words.removeprefix("grey "), "0 to 1, black to white")
    figure, ax, places = canvas(rows, below=_STRIP)
    for planes, placed, norm, name, words in zip(rows, places, ranges, ECHO_ROWS, said, strict=True):
        for side, place in placed.items():
            show_slice(ax, getattr(planes, side), planes, side, place, cmap="gray", norm=norm)
        ax.text(
            *placed["axial"], f"{name}: {words}", color=INK, fontsize=FONT_SIZE - 3, va="bottom",
            bbox={"facecolor": "black", "alpha": 0.6, "linewidth": 0, "pad": 1.5},
        )  # fmt: skip
    figure.savefig(path, format="jpeg", dpi=rows_dpi(len(rows)), pil_kwargs={"quality": _QUALITY})
    return Path(path)
