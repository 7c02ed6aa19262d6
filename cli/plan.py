"""`chi33 plan`: how well head orientations determine COSMOS and the susceptibility tensor, and what to scan next."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import numpy as np
from cyclopts import Parameter

if TYPE_CHECKING:
    from rich.table import Table

    from ..pipeline.orientations.design import Addition, Change, OrientationPlan


def plan(
    dataset: Path | None = None,
    /,
    *,
    angles: Annotated[str | None, Parameter(allow_leading_hyphen=True)] = None,
    b0_directions: Path | None = None,
    max_angle: float = 35.0,
    noise: float = 0.001,
    prior_iso: float = 0.03,
    prior_aniso: float = 0.004,
    figure: Path | None = None,
    overwrite: Annotated[bool, Parameter(negative="")] = False,
) -> None:
    """Show how well head orientations determine COSMOS and the tensor, what each brings, and the best next scan.

    Give either angles, scanned or only planned, or a folder: derivatives of `chi33 run` (or of `chi33 simulate`) hold
    the transforms. Angles of a folder are against its reference scan. Rotating the head about B0 (yaw) changes nothing.

    Of a folder the transforms are read (world to world, mm, RAS+), and from the JSON beside a scan's images B0_dir, the
    unit vector of B0 along the array axes, where it is stated; else B0 is along +z of the scan's world, as the header
    has it. Angles are in degrees, noise and priors in ppm.

    A noise gain is the standard deviation of the fit without a prior per unit of white noise in every field. COSMOS is
    good where errors of the fields grow no more than 5-fold at the worst k, fair to 8-fold, poor to 20-fold.

    Parameters
    ----------
    dataset
        Derivatives folder with transforms (from-orig_to-subject), or a raw data set with derivatives inside.
    b0_directions
        Text file, one unit vector a line: B0 of each scan along the axes of the head or of one grid (x, y, z).
    angles
        Head positions as "pitch,roll" or "pitch,roll,yaw" in degrees, joined by semicolons: "0,0;25,0;-25,0;0,25".
        Positive pitch tilts the head back, positive roll towards the right shoulder.
    max_angle
        Largest tilt in degrees of a next scan.
    noise
        Standard deviation of the field of one scan in ppm, for the expected noise of χ33.
    prior_iso
        Standard deviation in ppm of the isotropic part of susceptibility, as in the fit.
    prior_aniso
        Standard deviation in ppm of the anisotropic part, as in the fit.
    figure
        PNG to write: the scans on the sphere seen from above, and where one more would help.
    overwrite
        Replace an existing figure.

    Examples
    --------
    Positions that are only planned::

        chi33 plan --angles "0,0;25,0;-25,0;0,25"

    Scans that are there, with a picture::

        chi33 plan derivatives/chi33 --figure plan.png
    """
    from ..files.errors import InputError
    from ..pipeline.orientations.design import plan_orientations
    from ..pipeline.physics.prior import Prior

    if sum(one is not None for one in (dataset, angles, b0_directions)) != 1:
        raise InputError(
            'give either --angles "0,0;25,0;0,25", --b0-directions FILE or a folder with transforms: one of them.'
        )
    if dataset is not None:
        named = directions_from_transforms(dataset)
    else:
        named = {"": directions_from_angles(angles) if angles is not None else _directions_in(b0_directions)}
    if figure is not None:
        _check_figure(figure, list(named), overwrite)
    for subject, directions in named.items():
        if subject:
            print(f"sub-{subject}")
        prior = Prior(prior_iso, prior_aniso)
        found = plan_orientations(directions, max_angle=max_angle, noise=noise, prior=prior)
        _print_plan(found)
        if figure is not None:
            from ..workflows.figures.plan import save_plan_figure

            print(save_plan_figure(found, figure, title=f"sub-{subject}" if subject else "", overwrite=overwrite))


def _directions_in(path: Path | None) -> list[np.ndarray]:
    from ..workflows.raw.given_directions import read_directions

    assert path is not None
    return [np.array(h) for _, h in read_directions(path)]


def _check_figure(path: Path, subjects: list[str], overwrite: bool) -> None:
    from ..files.errors import InputError
    from ..workflows.figures.plan import check_figure_path

    check_figure_path(path, overwrite=overwrite)
    if len(subjects) > 1:
        raise InputError(
            f"--figure draws one subject, but the folder holds {len(subjects)} ({', '.join(subjects)}): give the "
            "folder of one of them."
        )


def _print_plan(found: OrientationPlan) -> None:
    from ..pipeline.orientations.words import plan_sentences

    report = found.report
    _print(_scan_table(found))
    print(f"  largest angle between two: {report.spread:.1f} degrees")
    ratio, gain = _number(report.cosmos_ratio, ".1f"), _number(report.cosmos_noise_gain, ".2f")
    worst = _number(report.cosmos_worst_gain, ".2f")
    print(
        f"  COSMOS: {report.cosmos_grade} (max/min of summed squared kernels {ratio}, noise gain {gain}, "
        f"at the worst k {worst})"
    )
    condition, gain = _number(report.sti_condition, ".1f"), _number(report.sti_noise_gain, ".2f")
    print(
        f"  tensor without a prior: {report.sti_grade} (rank {report.sti_rank} of 6, condition number {condition}, "
        f"noise gain {gain})"
    )
    print()
    for sentence in plan_sentences(found):
        print(f"  {sentence}")
    best_for = "for the tensor" if found.ranked_by == "tensor_noise" else "for χ33"
    _print(_addition_table(f"Best next scans {best_for}: the change with one more", found.best))
    _print(_addition_table("Usual positions: the change with one more", found.standard))


def _scan_table(found: OrientationPlan) -> Table:
    from ..pipeline.orientations.design import pitch_and_roll, tilt_of

    title = "Scans: expected noise of χ33, and the change without each"
    table = _table(title, ("", "pitch", "roll", "tilt", "χ33, ppm"))
    losses = {loss.scan: _effects(loss) for loss in found.losses}
    for index, h in enumerate(found.directions):
        pitch, roll = pitch_and_roll(h)
        place = (f"{pitch + 0.0:+.1f}°", f"{roll + 0.0:+.1f}°", f"{tilt_of(h):.1f}°")
        noise = _number(float(found.chi33_sd[index]), ".4f")
        table.add_row(f"scan {index + 1}", *place, noise, *losses.get(index, ("–",) * 4))
    return table


def _addition_table(title: str, additions: Iterable[Addition]) -> Table:
    from ..pipeline.orientations.words import tilt_in_words

    table = _table(title, ("pitch", "roll", "the head"))
    for one in additions:
        place = (f"{one.pitch:+.0f}°", f"{one.roll:+.0f}°", tilt_in_words(one.direction).replace(" degrees", "°"))
        table.add_row(*place, *_effects(one))
    return table


def _table(title: str, places: Iterable[str]) -> Table:
    from rich import box
    from rich.table import Table

    table = Table(title=title, box=box.SIMPLE, title_justify="left", title_style="bold", pad_edge=False)
    for name in places:
        table.add_column(name, justify="left" if name == "the head" else "right", no_wrap=True)
    for name in ("condition", "tensor", "COSMOS", "χ33"):
        table.add_column(name, justify="right", no_wrap=True)
    return table


def _effects(change: Change) -> tuple[str, str, str, str]:
    """Return the condition number after a change, and by how much the three noises change."""
    after = change.after
    condition = "singular" if after.singular else f"{after.condition:.1f}"
    hidden = change.before.singular or after.singular
    tensor = "–" if hidden else _change(change.factor("tensor_noise"))
    return condition, tensor, _change(change.factor("cosmos_noise")), _change(change.factor("chi33"))


def _change(factor: float) -> str:
    """Return a factor as a change in per cent; a dash where there is none to tell (not determined before or after)."""
    if not 0 < factor < np.inf:
        return "–"
    change = round(100 * (factor - 1))
    return (f"{change:+d} %" if change else "0 %") if factor < 10 else f"×{factor:.0f}"


def _number(value: float, digits: str) -> str:
    return f"{value:{digits}}" if np.isfinite(value) else "not determined"


def _print(table: Table) -> None:
    from rich.console import Console

    console = Console()
    print()
    (console if console.is_terminal else Console(width=120)).print(table)


def directions_from_angles(text: str) -> list[np.ndarray]:
    """Return B0 directions in the head for "pitch,roll[,yaw];…" in degrees (turns about x, then y, then z)."""
    from scipy.spatial.transform import Rotation

    from ..files.errors import InputError

    directions = []
    for part in text.split(";"):
        try:
            numbers = [float(number) for number in part.split(",")]
        except ValueError:
            numbers = []
        if len(numbers) not in (2, 3) or not np.isfinite(numbers).all():
            raise InputError(f'each position must be "pitch,roll" or "pitch,roll,yaw" in degrees, got {part!r}.')
        turned = Rotation.from_euler("xyz", [*numbers, 0.0][:3], degrees=True).as_matrix()
        directions.append(turned.T[:, 2].copy())
    return directions


def directions_from_transforms(folder: Path) -> dict[str, list[np.ndarray]]:
    """Return the B0 directions in the subject frame by subject, from the transforms under a folder.

    A scan's B0 is along its world's +z, or where the B0_dir of its maps' sidecars says. Without transforms, raw scans
    on one grid tell it by their B0_dir.
    """
    from ..workflows.raw.scan_directions import raw_directions, scan_directions

    found = scan_directions(folder)
    if not found:
        return raw_directions(folder)
    return {subject: [scan.direction for scan in scans] for subject, scans in found.items()}
