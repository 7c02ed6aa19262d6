"""Fits of arrays in one call: COSMOS alone, the susceptibility tensor from local fields, and from total fields."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike

from ..physics.dipole import Float32Array
from ..physics.prior import Prior
from .closed_form import check_settings
from .execution import execution_or_threads
from .masked import FIRST_NOISE, Stopping, masked_problem, noises_left
from .methods import FitOptions, fit_fields
from .noise import MODEL_ERROR, believed, given_noise, typical_noise
from .result import Fit
from .solver import Solution, conjugate_gradients
from .tissue.prior import TissueOptions

SINGLE_STEP_PRIOR_ISO = 0.05  # ppm, as `chi33 run`
_ISOTROPIC = 1e-6  # ppm: what the traceless part of a scalar map may be
_NOISE_ITERATIONS = 8


def cosmos(
    fields: Sequence[ArrayLike],
    masks: Sequence[ArrayLike],
    voxel_size: ArrayLike,
    b0_directions: Sequence[ArrayLike],
    *,
    prior_iso: float = Prior().iso,
    noise: float | None = None,
    iterations: int = 24,
) -> Float32Array:
    """Compute COSMOS: the scalar susceptibility that explains the local fields of several orientations best.

    Parameters
    ----------
    fields
        Local field of each scan, (x, y, z) in ppm of B0, all on one grid.
    masks
        (x, y, z) of each scan, 0 where its field is unknown; larger values are weights, 1 / standard deviation.
    voxel_size
        (3,) in mm.
    b0_directions
        Unit vector of B0 of each scan along the axes of that grid, (3,).
    prior_iso
        Prior standard deviation of the susceptibility in ppm.
    noise
        Standard deviation of the fields in ppm at weight 1; estimated scan by scan when not given.
    iterations
        The most that are taken.

    Returns
    -------
        Susceptibility (x, y, z) in ppm, 0 where no scan is known; its mean is not determined by the fields.

    Raises
    ------
    InputError
        Where shapes or numbers of scans differ, or the directions do not determine a map.

    References
    ----------
    Liu 2009, Magn Reson Med 61:196.
    """
    prior = Prior(prior_iso, _ISOTROPIC)
    check_settings(b0_directions, prior, noise, "cpu")
    stopping = Stopping(iterations)
    with execution_or_threads(None) as running:
        problem = masked_problem(fields, masks, voxel_size, b0_directions, keep=running.keep)
        noises, found, done = given_noise(noise, len(fields)), None, 0
        if noises is None:
            noises = np.full(len(fields), FIRST_NOISE)
            problem = problem.with_noises(noises)
            model = problem.model(running, components=1)
            done = min(_NOISE_ITERATIONS, stopping.iterations)
            found = conjugate_gradients(
                model, model.right_hand_side(problem.fields), noise=typical_noise(noises), prior=prior, iterations=done,
                tolerance=0.0,
            )  # fmt: skip
            residuals = model.residuals(found.maps, problem.fields)
            noises = believed(noises_left(problem, residuals, prior, noises), MODEL_ERROR)
        problem = problem.with_noises(noises)
        model = problem.model(running, components=1)
        last: Solution | None = found
        if last is None or done < stopping.iterations:
            last = conjugate_gradients(
                model, model.right_hand_side(problem.fields), noise=typical_noise(noises), prior=prior,
                iterations=stopping.iterations - done, tolerance=stopping.tolerance,
                start=None if found is None else found.maps,
            )  # fmt: skip
        return problem.grid.embed(last.maps[0])


def sti(
    fields: Sequence[ArrayLike],
    masks: Sequence[ArrayLike],
    voxel_size: ArrayLike,
    b0_directions: Sequence[ArrayLike],
    *,
    method: Literal["masked", "closed"] = "masked",
    prior: Prior | None = None,
    noise: float | None = None,
    iterations: int | None = None,
    white_matter: Literal["auto", "none"] | ArrayLike = "auto",
) -> Fit:
    """Fit the six-component susceptibility tensor, and COSMOS, to local fields of several orientations.

    Parameters
    ----------
    fields, masks, voxel_size, b0_directions
        As for `cosmos`.
    method
        "masked": each scan counts in its own mask, by conjugate gradients; "closed": one small system at each k.
    prior
        Standard deviations in ppm of the isotropic and the traceless part.
    noise
        As for `cosmos`.
    iterations
        The most that "masked" takes; its own number when not given.
    white_matter
        Where the traceless part may be larger, for "masked": "auto" (told from the data), "none" (everywhere alike), or
        a probability (x, y, z).

    Returns
    -------
        A `Fit`: `.tensor` (6, x, y, z) in ppm along the axes of the grid, in the order xx, xy, xz, yy, yz, zz,
        `.cosmos`, `.mms`, `.msa` (x, y, z) and `.pev` (3, x, y, z).

    Raises
    ------
    InputError
        Where shapes or numbers of scans differ, or the directions do not determine a tensor.

    References
    ----------
    Liu 2010, Magn Reson Med 63:1471.
    """
    anatomy = None if method == "closed" else _anatomy(white_matter)
    options = FitOptions(method=method, prior=prior or Prior(), noise=noise, iterations=iterations, anatomy=anatomy)
    return fit_fields(fields, masks, voxel_size, b0_directions, options)[0]


def single_step(
    total_fields: Sequence[ArrayLike],
    masks: Sequence[ArrayLike],
    voxel_size: ArrayLike,
    b0_directions: Sequence[ArrayLike],
    *,
    prior: Prior | None = None,
    noise: float | None = None,
    iterations: int | None = None,
    radii: Sequence[float] | None = None,
    white_matter: Literal["auto", "none"] | ArrayLike = "auto",
) -> Fit:
    """Fit the susceptibility tensor, and COSMOS, to total fields: the background is removed within the fit.

    Parameters
    ----------
    total_fields
        Total field of each scan, (x, y, z) in ppm of B0, all on one grid, known in its mask.
    masks, voxel_size, b0_directions
        As for `cosmos`.
    prior
        Standard deviations in ppm, 0.05 (isotropic) and 0.004 (traceless) by default, as `chi33 run`.
    noise, iterations, white_matter
        As for `sti`.
    radii
        Of the SMV kernels in mm, descending; 18 to 4 mm by default.

    Returns
    -------
        A `Fit`, as `sti`'s. It is determined where the smallest kernel fits into the masks.

    Raises
    ------
    InputError
        Where shapes or numbers of scans differ, no kernel fits, or the directions do not determine a tensor.

    References
    ----------
    Schweser 2011, NeuroImage 54:2789; Wu 2012, Magn Reson Med 67:137; Chatnuntawech 2017, NMR Biomed 30:e3570.
    """
    options = FitOptions(
        method="single-step", prior=prior or Prior(iso=SINGLE_STEP_PRIOR_ISO), noise=noise, iterations=iterations,
        radii=None if radii is None else tuple(radii), anatomy=_anatomy(white_matter),
    )  # fmt: skip
    return fit_fields(total_fields, masks, voxel_size, b0_directions, options)[0]


def _anatomy(white_matter: str | ArrayLike) -> TissueOptions:
    given = white_matter if isinstance(white_matter, str) else np.asarray(white_matter, np.float32)
    return TissueOptions(white_matter=given, frequency="auto")  # type: ignore[arg-type]
