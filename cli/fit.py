"""`chi33 fit`: COSMOS, tensor and labels from fields made elsewhere."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from cyclopts import Parameter

_Files = Annotated[list[Path], Parameter(consume_multiple=True, negative="")]
_MaybeFiles = Annotated[list[Path] | None, Parameter(consume_multiple=True, negative="")]


def fit(
    prefix: Path,
    /,
    *,
    field: _Files,
    mask: _Files,
    b0_directions: Path | None = None,
    transform: _MaybeFiles = None,
    fit: Literal["closed"] = "closed",
    prior_iso: float = 0.03,
    prior_aniso: float = 0.004,
    noise: float | None = None,
    overwrite: Annotated[bool, Parameter(negative="")] = False,
) -> None:
    """Fit COSMOS and the susceptibility tensor to local fields made elsewhere.

    Writes PREFIX_cosmos.nii.gz and PREFIX_tensor.nii.gz (xx, xy, xz, yy, yz, zz along the world of the first scan), and
    with transforms PREFIX_scan-01_chi33.nii.gz, _deltab, _cosmos … on each scan's own grid.

    Parameters
    ----------
    prefix
        Beginning of the names of the files to write.
    field
        Local field of each scan, ppm of B0, paramagnetic positive.
    mask
        Where each field is valid; one a field, or one for all.
    b0_directions
        Text file, one unit vector a line: B0 of each scan along the array axes of the first field. The fields must
        then share one grid.
    transform
        World-to-world 4x4 of each scan to the first (moving to reference, mm). Fields may have grids of their own.
    fit
        Susceptibility fit: closed (closed form with the split prior).
    prior_iso
        Prior standard deviation of the isotropic susceptibility, ppm.
    prior_aniso
        Prior standard deviation of the traceless part of the tensor, ppm.
    noise
        Standard deviation of the fields, ppm; estimated from the data by default.
    overwrite
        Replace files that exist.
    """
    from ..pipeline.fits.closed_form import Prior
    from ..workflows.external_fit import fit_files

    written = fit_files(
        prefix, field, mask, b0_directions=b0_directions, transforms=transform, prior=Prior(prior_iso, prior_aniso),
        noise=noise, overwrite=overwrite,
    )  # fmt: skip
    for path in written:
        print(path)
