"""`chi33 evaluate`: a table of errors against the truth."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from cyclopts import Parameter

if TYPE_CHECKING:
    from ..training.evaluation.evaluate import Line

_SHOWN = ("nrmse", "rmse", "hfen", "ssim", "psnr", "xsim", "slope", "correlation")


def evaluate(
    pred_dir: Path,
    truth_dir: Path,
    /,
    *,
    out: Path,
    rois: Path | None = None,
    demean: Annotated[bool, Parameter(negative="")] = False,
    html: Annotated[bool, Parameter(negative="")] = False,
    overwrite: Annotated[bool, Parameter(negative="")] = False,
) -> None:
    """Compare predicted or fitted maps with the truth: NRMSE, RMSE, HFEN, SSIM, PSNR, XSIM, slope, R2, correlation.

    The metrics are the 2016 QSM challenge's, inside the truth's local (else brain) mask and, where PRED_DIR has one,
    its local mask. NRMSE and HFEN are in per cent, RMSE and regions in ppm, PSNR in dB.

    Maps are read in ppm, or in the Units that the JSON beside them states (ppb; of δB′ also Hz, rad/s, T or rad), and
    paired by name: sub-, ses-, acq- and run-. A truth that cannot be in ppm by its size is refused.

    Parameters
    ----------
    pred_dir
        Folder of *_chi.nii.gz, *_deltab.nii.gz, or the outputs of `chi33 run`; searched with its subfolders.
    truth_dir
        Folder with the truth: derivatives/truth of `chi33 simulate`, or labels of `chi33 run`.
    out
        CSV to write, one line a map.
    rois
        Regions to average in, a *_dseg.nii.gz or a folder of them; those in TRUTH_DIR by default.
    demean
        Set both maps to mean 0 over the mask first, as susceptibility has no absolute zero; recorded in the table.
    html
        Also write the table as a page beside OUT.
    overwrite
        Replace existing outputs.

    Examples
    --------
    Maps of a network against the truth of a simulation, as a table and a page::

        chi33 evaluate results raw/derivatives/truth --out errors.csv --html
    """
    from ..training.evaluation.evaluate import evaluate as run
    from .progress import progress_lines

    with progress_lines("evaluate") as progress:
        lines = run(
            pred_dir, truth_dir, out, rois=rois, demean=demean, html=html, overwrite=overwrite,
            progress=lambda done, total: progress(done, total, "maps"),
        )  # fmt: skip
    _print_table(lines)
    print(out)


def _print_table(lines: list[Line]) -> None:
    from rich.console import Console
    from rich.table import Table

    from ..training.evaluation.evaluate import means

    table = Table()
    for name in ("subject", "orientation", "quantity", "method"):
        table.add_column(name, no_wrap=True)
    for name in _SHOWN:
        table.add_column(name, justify="right", no_wrap=True)
    for line in lines:
        figures = (f"{getattr(line.metrics, name):.4g}" for name in _SHOWN)
        table.add_row(line.subject, line.orientation, line.quantity, line.method, *figures)
    table.add_section()
    for (quantity, method), metrics in means(lines).items():
        table.add_row("mean", "", quantity, method, *(f"{getattr(metrics, name):.4g}" for name in _SHOWN))
    console = Console()
    Console(width=console.width if console.is_terminal else 160).print(table)
