"""Tables of errors: the maps of one folder against the truth in another."""

from __future__ import annotations

import csv
import html as escape
import io
import warnings
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import fmean
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...files.atomic import write_text
from ...files.errors import Chi33Warning, InputError
from ...files.grids import on_grid_of
from ...files.maps.fields import read_mask
from ...files.maps.sizes import size_problem
from ...files.maps.units import Quantity, conversions, scaling_of
from ...files.nifti import NiftiVolume, read_volume
from ...files.sidecars import read_json, read_sidecar
from .map_pairs import MapPair, find_pairs
from .metrics import RegionStatistics, demean_in_mask, hfen, nrmse, psnr, region_means, regression, rmse, ssim, xsim


@dataclass(frozen=True)
class Metrics:
    """The errors of one map, by the definitions of `metrics`; rmse in ppm, nrmse and hfen in per cent, psnr in dB."""

    nrmse: float
    rmse: float
    hfen: float
    ssim: float
    psnr: float
    xsim: float
    slope: float
    r2: float
    correlation: float


@dataclass(frozen=True)
class Line:
    """One map of the table; reference is "as is", or "demeaned" where both maps were set to mean 0 over the mask."""

    subject: str
    orientation: str
    quantity: str
    method: str
    reference: str
    n_voxels: int
    metrics: Metrics
    regions: dict[str, RegionStatistics]

    def columns(self) -> dict[str, Any]:
        """Return the line as the columns of the CSV, regions in ppm."""
        plain = {key: getattr(self, key) for key in _NAMES}
        regions = {
            f"{key}_{name}": value
            for name, statistics in self.regions.items()
            for key, value in asdict(statistics).items()
        }
        return {**plain, **asdict(self.metrics), **regions}


_EXPLAINED = 0.5  # correlation from which on the slope tells something
_SLOPES = (1 / 30, 30.0)  # of estimates in the unit of their truth, however bad
_NAMES = ("subject", "orientation", "quantity", "method", "reference", "n_voxels")


def compare(
    estimate: NDArray[Any],
    truth: NDArray[Any],
    mask: NDArray[Any],
    *,
    demean: bool = False,
) -> Metrics:
    """Return the errors of a map (x, y, z) in ppm inside a mask; both maps count as 0 outside it.

    demean sets both to mean 0 over the mask first. Raises InputError where shapes differ, the mask is empty or a map is
    not finite inside it.
    """
    a, b = (_referenced(volume, mask, demean) for volume in (estimate, truth))
    slope, r2, correlation = regression(a, b, mask)
    return Metrics(
        nrmse=nrmse(a, b),
        rmse=rmse(a, b, mask),
        hfen=hfen(a, b),
        ssim=ssim(a, b),
        psnr=psnr(a, b),
        xsim=xsim(a, b, mask),
        slope=slope,
        r2=r2,
        correlation=correlation,
    )


def evaluate(
    pred_dir: str | Path,
    truth_dir: str | Path,
    out: str | Path,
    *,
    rois: str | Path | None = None,
    demean: bool = False,
    html: bool = False,
    overwrite: bool = False,
    progress: Callable[[int, int], None] | None = None,
) -> list[Line]:
    """Compare the maps of a folder with the truth and write a CSV, one line a map.

    The mask is the truth's desc-local (else desc-brain) mask, intersected with the desc-local mask of the estimates
    where
    they have one; without any it is where the truth is not 0. Maps whose sidecars state another unit than ppm are
    converted.

    Parameters
    ----------
    pred_dir, truth_dir
        Folders of maps, paired by name (`find_pairs`).
    out
        CSV to write.
    rois
        Label map, or folder of label maps, whose regions are listed too.
    demean
        Compare without the mean within the mask.
    html
        Write OUT.html beside it.
    overwrite
        Replace `out`.
    progress
        Called with maps done and in all.

    Returns
    -------
        One `Line` a map.

    Raises
    ------
    InputError
        Where nothing pairs, grids differ, a file is damaged, a map cannot be in ppm, or `out` exists without overwrite.
    """
    out = Path(out)
    targets = [out, *([out.with_suffix(".html")] if html else [])]
    if len(set(targets)) < len(targets):
        raise InputError(f"--out {out} is the name of the page itself: give a .csv name.")
    for target in targets:
        if target.exists() and not overwrite:
            raise InputError(f"{target} exists: choose another --out, or pass --overwrite to replace it.")
    pairs, alone = find_pairs(Path(pred_dir), Path(truth_dir), None if rois is None else Path(rois))
    if alone:
        warnings.warn(
            f"{len(alone)} of {len(alone) + len(pairs)} maps have no truth in {truth_dir} and are left out: "
            f"{', '.join(path.name for path in alone[:3])}{' ...' if len(alone) > 3 else ''}.",
            Chi33Warning,
            stacklevel=2,
        )
    lines = []
    for number, pair in enumerate(pairs, 1):
        lines.append(_line(pair, demean))
        if progress is not None:
            progress(number, len(pairs))
    write_text(out, _csv_text(lines))
    if html:
        write_text(out.with_suffix(".html"), _html_text(lines))
    return lines


def means(lines: Sequence[Line]) -> dict[tuple[str, str], Metrics]:
    """Return the mean of every metric over the lines of a quantity and method."""
    groups: dict[tuple[str, str], list[Metrics]] = {}
    for line in lines:
        groups.setdefault((line.quantity, line.method), []).append(line.metrics)
    return {
        key: Metrics(**{name: fmean(getattr(m, name) for m in group) for name in Metrics.__dataclass_fields__})
        for key, group in groups.items()
    }


def _line(pair: MapPair, demean: bool) -> Line:
    quantity: Quantity = "field" if pair.quantity == "deltab" else "susceptibility"
    image, estimate = _read_map(pair.estimate, quantity)
    _, truth = _read_map(pair.truth, quantity, like=image)
    mask = truth != 0
    for number, path in enumerate(pair.masks):
        inside, remarks = read_mask(path, image)
        _tell(remarks)
        mask = mask & inside if number else inside
    if not mask.any():
        raise InputError(f"the masks of {pair.estimate.name} leave no voxel: {', '.join(map(str, pair.masks))}.")
    for volume, path in ((estimate, pair.estimate), (truth, pair.truth)):
        if not np.isfinite(volume[mask]).all():
            raise InputError(f"{path} holds values that are not finite inside the mask: make it again.")
    _check_sizes(pair, estimate[mask], truth[mask])
    regions: dict[str, RegionStatistics] = {}
    if pair.regions is not None:
        labels = _on_grid(pair.regions, image).values.astype(np.int64) * mask
        a, b = (_referenced(volume, mask, demean) for volume in (estimate, truth))
        regions = region_means(a, b, labels, region_names(pair.regions))
    return Line(
        subject=pair.name.subject,
        orientation=pair.name.orientation,
        quantity=pair.quantity,
        method=pair.name.method,
        reference="demeaned" if demean else "as is",
        n_voxels=int(mask.sum()),
        metrics=compare(estimate, truth, mask, demean=demean),
        regions=regions,
    )


def region_names(path: Path) -> dict[int, str]:
    """Return the names of regions from the .tsv (columns index, name) or .json (number to name) beside a dseg file."""
    stem = path.name.removesuffix(".gz").removesuffix(".nii")
    table, sidecar = path.with_name(f"{stem}.tsv"), path.with_name(f"{stem}.json")
    try:
        if table.is_file():
            with table.open(newline="", encoding="utf-8") as handle:
                return {int(row["index"]): row["name"] for row in csv.DictReader(handle, delimiter="\t")}
        if sidecar.is_file():
            return {int(key): str(value) for key, value in read_json(sidecar).items() if str(key).isdecimal()}
    except (KeyError, ValueError, TypeError) as error:
        raise InputError(f"{table if table.is_file() else sidecar} has no columns index and name ({error}).") from error
    return {}


def _referenced(volume: NDArray[Any], mask: NDArray[Any], demean: bool) -> NDArray[np.float64]:
    if np.shape(volume) != np.shape(mask):
        raise InputError(f"the mask has shape {np.shape(mask)}, but a map has {np.shape(volume)}.")
    inside = np.where(np.asarray(mask) != 0, np.asarray(volume, np.float64), 0)
    return demean_in_mask(inside, mask) if demean else inside


def _read_map(
    path: Path, quantity: Quantity, like: NiftiVolume | None = None
) -> tuple[NiftiVolume, NDArray[np.float64]]:
    """Return a map's file and its values in ppm, on the grid of another where one is given."""
    image = read_volume(path) if like is None else _on_grid(path, like)
    scaling = scaling_of(path, read_sidecar(path), quantity)
    _tell((*conversions([(path, scaling)]), *scaling.contradictions))
    return image, scaling.apply(image.values).astype(np.float64)


def _on_grid(path: Path, like: NiftiVolume) -> NiftiVolume:
    image, said = on_grid_of(read_volume(path), like)
    _tell((said,))
    return image


def _tell(sentences: Iterable[str]) -> None:
    for said in filter(None, sentences):
        warnings.warn(said, Chi33Warning, stacklevel=4)


def _check_sizes(pair: MapPair, estimate: NDArray[np.float64], truth: NDArray[np.float64]) -> None:
    """Refuse a truth that cannot be in ppm, and an estimate that is a thousand times its truth; warn of odd ones."""
    if wrong := size_problem(pair.quantity, truth):
        raise InputError(f"{pair.truth} {wrong}: give the truth in ppm, or state its Units in its sidecar.")
    if wrong := size_problem(pair.quantity, estimate):
        slope, _, correlation = regression(estimate, truth, np.ones(truth.shape, bool))
        if abs(correlation) > _EXPLAINED and not _SLOPES[0] < abs(slope) < _SLOPES[1]:
            raise InputError(
                f"{pair.estimate} is {slope:.3g} times its truth {pair.truth.name} and {wrong}: give it in ppm, or "
                "state its Units in its sidecar."
            )
        _tell((f"{pair.estimate} {wrong}: its errors are counted as if it were in ppm.",))


def _csv_text(lines: Sequence[Line]) -> str:
    rows = [line.columns() for line in lines]
    names = list(dict.fromkeys(name for row in rows for name in row))
    buffer = io.StringIO(newline="")
    writer = csv.DictWriter(buffer, names, restval="", lineterminator="\n")
    writer.writeheader()
    writer.writerows({key: _text(value) for key, value in row.items()} for row in rows)
    return buffer.getvalue()


def _text(value: Any) -> str:
    return f"{value:.6g}" if isinstance(value, float) else str(value)


def _html_text(lines: Sequence[Line]) -> str:
    rows = [{**{key: getattr(line, key) for key in _NAMES}, **asdict(line.metrics)} for line in lines]
    for (quantity, method), metrics in means(lines).items():
        total = dict.fromkeys(_NAMES, "") | {"subject": "mean", "quantity": quantity, "method": method}
        rows.append({**total, **asdict(metrics)})

    def cells(tag: str, values: Sequence[Any]) -> str:
        texts = (f"{v:.4g}" if isinstance(v, float) else escape.escape(str(v)) for v in values)
        return "<tr>" + "".join(f"<{tag}>{text}</{tag}>" for text in texts) + "</tr>"

    body = "\n".join([cells("th", list(rows[0])), *(cells("td", list(row.values())) for row in rows)])
    style = "body{font-family:sans-serif}table{border-collapse:collapse}td,th{padding:.2em .7em;text-align:right}"
    return (
        f'<!doctype html>\n<html lang="en"><head><meta charset="utf-8"><title>chi33 evaluate</title><style>{style}'
        "tr:nth-child(even){background:#eee}</style></head><body><h1>Errors</h1>"
        f"<p>nrmse and hfen in per cent, rmse in ppm, psnr in dB.</p>\n<table>\n{body}\n</table></body></html>\n"
    )
