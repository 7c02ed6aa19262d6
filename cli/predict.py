"""`chi33 predict`: a trained network on one local field map."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from cyclopts import Parameter


def predict(
    weights: Path,
    /,
    *,
    field: Path,
    mask: Path,
    out: str,
    model: str | None = None,
    device: Literal["auto", "cpu", "cuda"] = "auto",
    tiles: bool | None = None,
    b0_dir: Annotated[tuple[float, float, float] | None, Parameter(negative="")] = None,
    units: str | None = None,
    b0: float | None = None,
    te: float | None = None,
    overwrite: Annotated[bool, Parameter(negative="")] = False,
) -> None:
    r"""Predict susceptibility from one local field map with a trained network.

    Writes PREFIX_chi.nii.gz and, for MoDL-QSM, PREFIX_deltab.nii.gz (both in ppm) with a JSON sidecar beside each.

    The field is a local one (background removed, paramagnetic positive), in ppm of B0, or in the Units that the JSON
    beside it states: ppb, Hz, rad/s or T (which need MagneticFieldStrength, in T) or rad (which needs EchoTime too, in
    s). A field without Units is taken as ppm where its size allows that.

    Parameters
    ----------
    weights
        Run folder of `chi33 train`, or a weights file.
    field
        Local field, NIfTI: ppm of B0, or another unit that its sidecar or --units states.
    mask
        Where the field is valid, NIfTI on the same grid: zeros and ones, or probabilities.
    out
        Prefix of the outputs.
    model
        Insist on this network by name.
    device
        auto takes a CUDA GPU where there is one.
    tiles
        Predict in tiles of 48 voxels that overlap by a third (--tiles), or the whole volume at once (--no-tiles); by
        default the whole volume where it fits the memory.
    b0_dir
        Unit vector of B0 along the array's axes, three numbers; by default B0_dir of the field's sidecar, else from the
        affine.
    units
        Unit of the field: ppm, ppb, Hz, rad/s, rad or T; by default the Units of its sidecar.
    b0
        Field strength in tesla, for fields in Hz, rad/s, rad or T; by default of the sidecar.
    te
        Echo time in ms, for fields in rad; by default EchoTime of the sidecar.
    overwrite
        Replace existing outputs.

    Examples
    --------
    A local field in ppm, or in what its sidecar states::

        chi33 predict runs/modl --field local.nii.gz --mask brain.nii.gz --out results/sub-01

    A field in Hz without a sidecar::

        chi33 predict runs/modl --field local.nii.gz --units Hz --b0 2.895 \
            --mask brain.nii.gz --out results/sub-02
    """
    from ..files.maps.units import Given
    from ..training.inference.predict import predict as run
    from .progress import progress_lines

    with progress_lines("predict") as progress:
        written = run(
            weights, field, mask, out, model=model, device=device, tiles=tiles, b0_direction=b0_dir,
            given=Given(units, b0, None if te is None else te / 1000), overwrite=overwrite,
            progress=lambda done, total: progress(done, total, "tiles"),
        )  # fmt: skip
    for path in written:
        print(path)
