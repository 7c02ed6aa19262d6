"""The single-step fit: tensor and COSMOS from total fields, the background removed inside the fit.

A spherical mean of a field without sources in the sphere is its value at the centre, so that the total field less its
spherical mean holds nothing of sources outside the mask where the sphere fits into the mask. Model and data pass the
same filter, the largest sphere that fits at each voxel; nothing is deconvolved (Schweser 2011, Wu 2012; Chatnuntawech
2017 for one orientation).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ...files.errors import InputError
from ..background import check_radii, smv_kernel
from ..images.morphology import depth_inside, extrapolated
from ..physics.dipole import Float32Array
from ..physics.prior import Prior
from .closed_form import check_settings
from .execution import Execution, execution_or_threads
from .masked import Keep, Problem, Progress, Stopping, fit_problem
from .model.field_model import Observation
from .model.grid import FIT_PADDING, FitGrid, make_grid
from .result import Fit
from .scan_checks import check_scans

SINGLE_STEP_ITERATIONS = 32
SINGLE_STEP_TOLERANCE = 0.004
LARGEST_RADIUS = 18.0  # mm
_RADIUS_COUNT = 5
_SMALLEST_RADIUS = 4.0  # mm


def single_step_radii(voxel_size: ArrayLike, largest: float = LARGEST_RADIUS) -> tuple[float, ...]:
    """Return radii in mm, descending in equal ratios from `largest` to 4 mm, at least two voxels."""
    least = max(_SMALLEST_RADIUS, 2 * float(np.max(np.asarray(voxel_size, np.float64))))
    if least >= largest:
        return (least,)
    return tuple(float(r) for r in np.geomspace(largest, least, _RADIUS_COUNT))


def largest_radius_index(
    known: NDArray[np.bool_], voxel_size: NDArray[np.float64], radii: Sequence[float]
) -> NDArray[np.uint8]:
    """Return at each voxel (x, y, z) which of the descending radii (1: the first) fits into a mask; 0: none."""
    depth = depth_inside(known, voxel_size)
    radius_index: NDArray[np.uint8] = np.zeros(known.shape, np.uint8)
    for number in range(len(radii), 0, -1):
        radius_index[depth > radii[number - 1]] = number
    return radius_index


def single_step_problem(
    total_fields: Sequence[ArrayLike],
    weights: Sequence[ArrayLike],
    voxel_size: ArrayLike,
    b0_directions: Sequence[ArrayLike],
    *,
    support: ArrayLike | None = None,
    radii: Sequence[float] | None = None,
    padding: float = FIT_PADDING,
    names: Sequence[str] | None = None,
    keep: Keep = np.ascontiguousarray,
) -> Problem:
    """Return the single-step problem of total fields (see fit_single_step); keep: where its volumes go."""
    volumes, used, inside = check_scans(total_fields, weights, b0_directions, support, names)
    spheres = single_step_radii(voxel_size) if radii is None else check_radii(radii)
    grid = make_grid(inside, voxel_size, b0_directions, padding if padding <= 0 else max(padding, spheres[0]))
    observations, fields = [], []
    for index, (volume, weight) in enumerate(zip(volumes, used, strict=True)):
        known = grid.crop(weight) > 0
        radius_index = largest_radius_index(known, grid.voxel_size, spheres)
        if not radius_index.any():
            name = names[index] if names else f"weights[{index}]"
            raise InputError(
                f"no sphere of {spheres[-1]:g} mm fits the mask of {name} ({int(known.sum())} voxels): use smaller "
                "radii or a larger mask."
            )
        observations.append(Observation(keep(grid.crop(weight)), keep(radius_index)))
        # Discrete spheres reach half a voxel beyond the mask.
        fields.append(keep(extrapolated(grid.crop(volume), known, grid.voxel_size)))
    record = {"PaddingMm": padding, "RadiiMm": [round(r, 3) for r in spheres]}
    return Problem(
        grid, fields, observations, grid.crop(inside), _filters(grid, spheres), method="single-step", record=record
    )


def smv_filtered(
    field: ArrayLike, known: ArrayLike, voxel_size: ArrayLike, radii: Sequence[float]
) -> tuple[Float32Array, NDArray[np.bool_]]:
    """Return what a single-step fit sees of a field (x, y, z) that is known in a mask, and where it sees it.

    voxel_size: (3,) mm; radii: of the spheres, mm, descending. The field less its mean over the largest sphere that
    fits into the mask at each voxel, 0 where none fits.
    """
    inside = np.asarray(known, bool)
    grid = make_grid(inside, voxel_size, [(0, 0, 1)], max(FIT_PADDING, radii[0]))
    cut = grid.crop(inside)
    radius_index = largest_radius_index(cut, grid.voxel_size, radii)
    whole = extrapolated(np.ascontiguousarray(grid.crop(np.asarray(field, np.float32))), cut, grid.voxel_size)
    observation = Observation(cut.astype(np.float32), radius_index)
    seen = observation.forward(grid.forward(whole), grid, _filters(grid, radii))
    return grid.embed(seen), grid.embed(radius_index > 0)


def _filters(grid: FitGrid, radii: Sequence[float]) -> NDArray[np.float32]:
    """Return delta - S_r in k-space (radii, half)."""
    filters = np.empty((len(radii), *grid.half), np.float32)
    for number, radius in enumerate(radii):
        np.subtract(1, smv_kernel(grid.padded, grid.voxel_size, radius), out=filters[number])
    return filters


def fit_single_step(
    total_fields: Sequence[ArrayLike],
    weights: Sequence[ArrayLike],
    voxel_size: ArrayLike,
    b0_directions: Sequence[ArrayLike],
    *,
    support: ArrayLike | None = None,
    radii: Sequence[float] | None = None,
    prior: Prior | None = None,
    noise: float | ArrayLike | None = None,
    stopping: Stopping | None = None,
    padding: float = FIT_PADDING,
    execution: Execution | None = None,
    names: Sequence[str] | None = None,
    progress: Progress | None = None,
    device: str = "cpu",
) -> Fit:
    """Fit the susceptibility tensor and COSMOS to total fields, background included.

    total_fields: one (x, y, z) a scan in ppm of B0, all on one grid; any field that has no sources inside the masks
    may have been taken out of each (background.exterior_sources makes resampling exact at the edges); radii: mm,
    descending, single_step_radii by default; the other arguments are fit_masked's. chi is determined where the
    smallest sphere fits into the masks, and by the prior and the fields around it in the rim outside.
    Returns a Fit in ppm, components along the voxel frame, 0 outside the support. Raises InputError.
    """
    report = check_settings(b0_directions, prior or Prior(), noise, device)
    with execution_or_threads(execution) as running:
        problem = single_step_problem(
            total_fields, weights, voxel_size, b0_directions, support=support, radii=radii, padding=padding,
            names=names, keep=running.keep,
        )  # fmt: skip
        return fit_problem(
            replace(problem, device=device), report, prior=prior, noise=noise,
            stopping=stopping or Stopping(SINGLE_STEP_ITERATIONS, SINGLE_STEP_TOLERANCE), execution=running,
            progress=progress,
        )[0]  # fmt: skip
