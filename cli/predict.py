"""`chi33 predict`: a trained network on one local field map."""

from __future__ import annotations

import sys
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
    overwrite: Annotated[bool, Parameter(negative="")] = False,
) -> None:
    """Predict susceptibility from one local field map with a trained network.

    Writes PREFIX_chi.nii.gz and, for MoDL-QSM, PREFIX_deltab.nii.gz (both in ppm) with a JSON sidecar beside each.

    Parameters
    ----------
    weights
        Run folder of `chi33 train`, or a weights file.
    field
        Local field in ppm of B0, NIfTI.
    mask
        Where the field is valid, NIfTI on the same grid.
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
    overwrite
        Replace existing outputs.
    """
    from ..training.predict import predict as run

    def report(done: int, total: int) -> None:
        if sys.stderr.isatty():
            print(f"\rtile {done}/{total}", end="\n" if done == total else "", file=sys.stderr, flush=True)
        elif done == total or done % 50 == 0:
            print(f"tile {done}/{total}", file=sys.stderr, flush=True)

    written = run(
        weights, field, mask, out, model=model, device=device, tiles=tiles, b0_direction=b0_dir, overwrite=overwrite,
        progress=report,
    )  # fmt: skip
    for path in written:
        print(path)
