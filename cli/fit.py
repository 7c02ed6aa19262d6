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
    total: Annotated[bool, Parameter(negative="")] = False,
    fit: Literal["closed", "masked", "single-step"] | None = None,
    weights: _MaybeFiles = None,
    units: str | None = None,
    b0: float | None = None,
    te: float | None = None,
    prior_iso: float = 0.03,
    prior_aniso: float = 0.004,
    prior_correlation: float = 3.0,
    isotropic_frequency: Literal["auto"] | float = "auto",
    white_matter: str = "auto",
    fibre: Path | None = None,
    noise: float | None = None,
    iterations: int | None = None,
    tolerance: float | None = None,
    radii: Annotated[list[float] | None, Parameter(consume_multiple=True, negative="")] = None,
    draws: int = 0,
    jackknife: int = 0,
    score: int = 0,
    seed: int = 0,
    dask: str = "threads",
    memory: float | None = None,
    device: str = "cpu",
    overwrite: Annotated[bool, Parameter(negative="")] = False,
) -> None:
    r"""Fit COSMOS and the susceptibility tensor to fields made elsewhere: local ones, or total ones with --total.

    A field is in ppm of B0, paramagnetic positive, or in the Units that the JSON beside it states: ppb, Hz, rad/s or T
    (which need MagneticFieldStrength, in T) or rad (which needs EchoTime too, in s); it is converted and that is said.
    A field without Units is taken as ppm where its size allows that. Susceptibilities are written in ppm.

    How the head lay to B0 is told by transforms (fields on their own grids) or by directions (fields already in one
    frame, on one grid); B0_dir beside a field (unit vector along its array axes) wins over its affine, and
    --b0-directions wins over both. Transforms are compared with what masks and fields show: an inverse, a FLIRT or an
    ITK matrix is refused by name.

    Writes PREFIX_cosmos.nii.gz and PREFIX_tensor.nii.gz (xx, xy, xz, yy, yz, zz along the world of the first scan), and
    with transforms PREFIX_scan-01_chi33.nii.gz, _deltab, _cosmos … on each scan's own grid. With --draws or --jackknife
    also standard deviations: PREFIX_cosmossd, PREFIX_scan-01_chi33sd, _deltabsd …

    Parameters
    ----------
    prefix
        Beginning of the names of the files to write.
    field
        Field of each scan, NIfTI: ppm of B0, or another unit that its sidecar or --units states.
    mask
        Where each field is known; one a field, or one for all. Zeros and ones, or probabilities; on the field's grid.
    b0_directions
        Text file, one unit vector a line: B0 of each scan along the array axes of the first field. The fields must
        then share one grid. By default the B0_dir of their sidecars.
    transform
        World-to-world 4x4 of each scan to the first (moving to reference, mm). Fields may have grids of their own.
    total
        The fields hold the background: fit them in a single step.
    fit
        single-step (of total fields; the default with --total), masked (of local fields, each in its mask; the default
        without) or closed (of local fields, closed form).
    weights
        One image a field, proportional to 1 / standard deviation of the field (a magnitude will do); by default all
        voxels of a mask count the same.
    units
        Unit of the fields: ppm, ppb, Hz, rad/s, rad or T; by default the Units of their sidecars.
    b0
        Field strength in tesla, for fields in Hz, rad/s, rad or T; by default of their sidecars.
    te
        Echo time in ms, for fields in rad; by default EchoTime of their sidecars.
    prior_iso
        Prior standard deviation of the isotropic susceptibility, ppm; inf for none.
    prior_aniso
        Prior standard deviation of the traceless part of the tensor, ppm; inf for none.
    prior_correlation
        Distance over which the traceless parts of neighbours are alike before the data, mm; 3 by default, 0 for none.
    isotropic_frequency
        Prior standard deviation in white matter, ppm, of a frequency that is the same in all scans and that no
        susceptibility makes, as myelin's: it is fitted beside the tensor and written. auto, the default: 0.005 where
        the data show one, else none; 0: none.
    white_matter
        Where the tensor is anisotropic: auto (found in the data; the default), none (the same prior everywhere), or a
        map of probabilities from 0 to 1 in the world of the first scan, on any grid. Outside, prior_aniso is halved.
    fibre
        Map of unit vectors along the fibres (such as V1 of a DTI; along the world's axes RAS+, 0 where unknown) on the
        grid of the first field: the tensor is then held to be nearly symmetric about them. For few scans.
    noise
        Standard deviation of the fields, ppm; estimated from the data by default.
    iterations
        Most iterations; by default 24 (masked) or 32 (single-step).
    tolerance
        Stop when chi33 changes by less than this share of itself (rms) in an iteration; 0.002 or 0.004 by default.
    radii
        Radii of the single-step fit's spheres, mm; by default five from 18 down to 4 mm (two voxels at least).
    draws
        Perturb-and-solve draws of the uncertainty (2 or more, each as long as a fit); 0: none.
    jackknife
        Groups of scans left out in turn for the uncertainty; 0: none.
    score
        Groups of scans held out in turn, whose fields a fit of the others predicts; the share that it misses is in the
        sidecars; 0: none.
    seed
        Seed of the draws.
    dask
        Where the fit runs: threads, local (processes), or the address of a Dask scheduler, tcp://host:8786.
    memory
        GB that the scans may take before they go to temporary files; no limit by default.
    device
        cpu, or cuda for the fit on a GPU.
    overwrite
        Replace files that exist.

    Examples
    --------
    Local fields on their own grids, with world-to-world transforms to the first::

        chi33 fit out/sub-01 --field f1.nii.gz f2.nii.gz f3.nii.gz \
            --mask m1.nii.gz m2.nii.gz m3.nii.gz \
            --transform identity.txt t2.txt t3.txt

    Total fields in Hz that lie in one frame already::

        chi33 fit out/sub-01 --total --field f1.nii.gz f2.nii.gz f3.nii.gz \
            --mask brain.nii.gz --b0-directions h.txt --units Hz --b0 2.895
    """
    from ..files.maps.units import Given
    from ..pipeline.fits.methods import FitOptions
    from ..pipeline.physics.prior import Prior
    from ..workflows.external_fit import fit_files
    from ..workflows.fit_inputs import method_for
    from ..workflows.tissue_files import TissueFiles
    from .progress import latest_line

    method = method_for(total, fit)
    options = FitOptions(
        method=method, prior=Prior(prior_iso, prior_aniso), noise=noise, iterations=iterations, tolerance=tolerance,
        radii=tuple(radii) if radii else None, draws=draws, jackknife=jackknife, seed=seed,
        score=score,
    )  # fmt: skip
    with latest_line("fit") as progress:
        written = fit_files(
            prefix, field, mask, b0_directions=b0_directions, transforms=transform, weights=weights,
            given=Given(units, b0, None if te is None else te / 1000), total=method == "single-step", options=options,
            dask=dask, memory=memory, device=device, overwrite=overwrite, progress=progress,
            tissue=TissueFiles(
                white_matter, None if fibre is None else str(fibre), prior_correlation, isotropic_frequency
            ),
        )  # fmt: skip
    for path in written:
        print(path)
