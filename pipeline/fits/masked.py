"""The masked fit of local fields: every scan counts where its own mask and weight say so."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ...files.errors import InputError
from ..orientations.conditioning import OrientationReport
from ..physics.dipole import Float32Array
from ..physics.prior import Prior
from .closed_form import check_settings
from .execution import Execution, execution_or_threads
from .model.field_model import TENSOR, FieldModel, Observation
from .model.grid import FIT_PADDING, FitGrid, make_grid
from .noise import (
    MODEL_ERROR,
    believed,
    given_noise,
    noise_shares,
    reduced_chi_square,
    residual_size,
    scan_levels,
    scan_noises,
    typical_noise,
)
from .result import Fit
from .scan_checks import check_scans
from .solver import LinearModel, Solution, conjugate_gradients
from .tissue.prior import TissueOptions, TissuePrior, tissue_prior
from .tissue.shared_frequency import decided, extended
from .tissue.slope import expected_slope, filter_power
from .voxel_noise import noise_correlation, voxel_factors

FIRST_NOISE = 2e-3  # ppm, until the data have told
_NOISE_ITERATIONS = 4  # after which the noise is estimated
_NOISE_ROUNDS = 3  # at most
_STEADY = 0.1  # relative change of every scan's noise, below which it is estimated no further
_SMALLEST_FACTOR = 0.05  # of a radius' weight
MASKED_ITERATIONS = 24
TOLERANCE = 0.002
Progress = Callable[[str, int, float], None]
Keep = Callable[[NDArray[Any]], NDArray[Any]]


@dataclass(frozen=True)
class Stopping:
    """When an iteration ends: at `iterations`, or when chi33 changes by less than `tolerance` of itself (rms)."""

    iterations: int = MASKED_ITERATIONS
    tolerance: float = TOLERANCE

    def __post_init__(self) -> None:
        if self.iterations < 1:
            raise InputError(f"iterations must be at least 1, got {self.iterations}.")
        if not self.tolerance >= 0:
            raise InputError(f"tolerance must not be negative, got {self.tolerance}.")


@dataclass(frozen=True)
class Problem:
    """An iterative fit on its grid: fields and observations of the scans (box each), support, filters.

    record: what a sidecar says of it; anatomy: what the prior shall know of tissue (None: nothing), tissue: that prior,
    once a first solution has told it; device: "cpu" for the compiled kernels; "cuda", "cuda:N" or "torch-cpu" for
    torch.
    """

    grid: FitGrid
    fields: list[Float32Array]
    observations: list[Observation]
    support: NDArray[np.bool_]
    filters: Float32Array | None = None
    method: Literal["masked", "single-step"] = "masked"
    record: dict[str, Any] = field(default_factory=dict)
    device: str = "cpu"
    anatomy: TissueOptions | None = None
    tissue: TissuePrior | None = None

    def with_noises(self, noises: NDArray[np.float64]) -> Problem:
        """Return the same with the scans' weights for noises (n,) in ppm of their fields."""
        pairs = zip(self.observations, scan_levels(noises), strict=True)
        return replace(self, observations=[one.with_level(float(level)) for one, level in pairs])

    def model(self, execution: Execution, components: int = 6, scans: Sequence[int] | None = None) -> LinearModel:
        """Return the linear problem for a tensor (6) or a scalar map (1), of some scans (all by default)."""
        if self.device != "cpu":
            from .model.torch_model import TorchFieldModel

            return TorchFieldModel(
                self.grid, self.observations, self.support, self.device, components=components, filters=self.filters,
                scans=scans, tissue=self.tissue,
            )  # fmt: skip
        return self.compiled_model(execution, components, scans)

    def compiled_model(
        self, execution: Execution, components: int = 6, scans: Sequence[int] | None = None
    ) -> FieldModel:
        """Return the same on the compiled kernels, whatever the device."""
        return FieldModel(
            self.grid, self.observations, self.support, execution, components=components, filters=self.filters,
            scans=scans, tissue=self.tissue,
        )  # fmt: skip


@dataclass(frozen=True)
class Solved:
    """Both solutions of a problem.

    noises: of each scan (n,) in ppm, as they assumed it; problem: with the weights that they used; correlation: by how
    much that noise was raised because neighbours err alike (voxel_noise).
    """

    tensor: Solution
    cosmos: Solution
    noises: NDArray[np.float64]
    problem: Problem
    correlation: float = 1.0

    @property
    def noise(self) -> float:
        """The noise in ppm at weight 1."""
        return typical_noise(self.noises)


def solve_problem(
    problem: Problem,
    prior: Prior,
    noise: float | ArrayLike | None,
    stopping: Stopping,
    execution: Execution,
    progress: Progress | None = None,
) -> Solved:
    """Solve for the tensor, then for COSMOS.

    On the way the noise of each scan is estimated where it is not given, and the spheres of a single-step problem are
    weighted.
    """

    def report(name: str) -> Callable[[int, float], None] | None:
        return None if progress is None else lambda iteration, change: progress(name, iteration, change)

    first: Solution | None = None
    noises, correlation = given_noise(noise, len(problem.fields)), 1.0
    if noises is None or problem.filters is not None or problem.anatomy is not None:
        problem, noises, correlation, first = _first_look(problem, prior, noises, stopping, execution, report("tensor"))
        problem = _with_voxel_weights(problem, prior, noises, first, execution)
        problem = _with_tissue(problem, prior, first, noises, execution)
        first = replace(first, maps=extended(first.maps, problem.tissue))
    problem = problem.with_noises(noises)
    level, done = typical_noise(noises), 0 if first is None else first.iterations
    model = problem.model(execution)
    tensor = first
    if first is None or done < stopping.iterations:
        tensor = conjugate_gradients(
            model, model.right_hand_side(problem.fields), noise=level, prior=prior,
            iterations=stopping.iterations - done, tolerance=stopping.tolerance,
            start=None if first is None else first.maps, progress=report("tensor"),
        )  # fmt: skip
        earlier = () if first is None else first.changes
        tensor = replace(tensor, iterations=tensor.iterations + done, changes=earlier + tensor.changes)
    assert tensor is not None
    del model, first
    scalar = problem.model(execution, components=1)
    cosmos = conjugate_gradients(
        scalar, scalar.right_hand_side(problem.fields), noise=level, prior=prior, iterations=stopping.iterations,
        tolerance=stopping.tolerance, progress=report("COSMOS"),
    )  # fmt: skip
    return Solved(tensor, cosmos, noises, problem, correlation)


def _first_look(
    problem: Problem,
    prior: Prior,
    given: NDArray[np.float64] | None,
    stopping: Stopping,
    execution: Execution,
    progress: Callable[[int, float], None] | None,
) -> tuple[Problem, NDArray[np.float64], float, Solution]:
    """Return the problem with its spheres weighted, the noise of each scan, its correlation, and the solution so far.

    The noise (n,) is in ppm, the given one or estimated; the correlation is by how much it was raised for what
    neighbours share. All come from the residuals of a few iterations.
    """
    correlation = 1.0
    noises = seen = np.full(len(problem.fields), FIRST_NOISE) if given is None else given
    maps, total, found = None, 0, None
    changes: tuple[float, ...] = ()
    while total < min(_NOISE_ROUNDS * _NOISE_ITERATIONS, stopping.iterations):
        problem = problem.with_noises(noises)
        model = problem.model(execution)
        found = conjugate_gradients(
            model, model.right_hand_side(problem.fields), noise=typical_noise(noises), prior=prior,
            iterations=min(_NOISE_ITERATIONS, stopping.iterations - total), tolerance=0.0, start=maps,
            progress=progress,
        )  # fmt: skip
        if not found.iterations:
            break
        maps, total, changes = found.maps, total + found.iterations, changes + found.changes
        residuals, first = model.residuals(maps, problem.fields), total == found.iterations
        if first and problem.filters is not None:
            problem, residuals = _weight_radii(problem, residuals)
        if given is not None:
            break
        previous, seen = noises, noises_left(problem, residuals, prior, noises)
        noises = believed(seen, MODEL_ERROR)
        if (np.abs(noises - previous) < _STEADY * previous).all():
            break
    assert found is not None
    if given is None and maps is not None:
        correlation = _correlation(problem, residuals)
        noises = believed(correlation * seen, MODEL_ERROR)
    return problem, noises, correlation, replace(found, iterations=total, changes=changes)


def noises_left(
    problem: Problem, residuals: Sequence[NDArray[np.float32]], prior: Prior, noises: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Return the noise of each scan (n,) in ppm from the weighted residuals of a fit that assumed `noises`."""
    sizes = [residual_size(left) / one.level for left, one in zip(residuals, problem.observations, strict=True)]
    shares = noise_shares(problem.grid.directions, prior, noises)
    return scan_noises(sizes, shares)


def _on_box(problem: Problem, residuals: Sequence[NDArray[np.float32]]) -> Iterator[Float32Array]:
    """Yield residuals of the known voxels as volumes (box), 0 elsewhere."""
    for one, left in zip(problem.observations, residuals, strict=True):
        volume = np.zeros(problem.grid.box_shape, np.float32)
        volume[one.known] = left
        yield volume


def _correlation(problem: Problem, residuals: Sequence[NDArray[np.float32]]) -> float:
    """Return the median over the scans of noise_correlation."""
    volumes = zip(_on_box(problem, residuals), problem.observations, strict=True)
    return float(np.median([noise_correlation(volume, one.known) for volume, one in volumes]))


def _with_voxel_weights(
    problem: Problem, prior: Prior, noises: NDArray[np.float64], first: Solution, execution: Execution
) -> Problem:
    """Return the problem with its voxels weighted by what a first solution leaves of them (voxel_factors)."""
    problem = problem.with_noises(noises)
    residuals = problem.model(execution).residuals(first.maps, problem.fields)
    shares = noise_shares(problem.grid.directions, prior, noises)
    factors = voxel_factors(
        list(_on_box(problem, residuals)), [one.known for one in problem.observations],
        (shares @ noises**2) * scan_levels(noises) ** 2, problem.grid.voxel_size,
    )  # fmt: skip
    pairs = zip(problem.observations, factors, strict=True)
    return replace(problem, observations=[replace(one, weight=one.weight * factor) for one, factor in pairs])


def _with_tissue(
    problem: Problem, prior: Prior, first: Solution, noises: NDArray[np.float64], running: Execution
) -> Problem:
    """Return the problem with the prior that its anatomy and a first solution give."""
    if problem.anatomy is None:
        return problem
    grid, support = problem.grid, problem.support
    tissue, said = tissue_prior(problem.anatomy, prior, grid, support, first.maps)
    problem = replace(problem, tissue=tissue, record={**problem.record, **said})
    if tissue is None or tissue.frequency is None or not tissue.frequency.doubtful:
        return problem
    scalar = problem.with_noises(noises).model(running, components=1)
    noise = typical_noise(noises)
    tissue, said = decided(tissue, scalar, problem.fields, support, prior, noise)
    return replace(problem, tissue=tissue, record={**problem.record, **said})


def _weight_radii(problem: Problem, residuals: list[NDArray[np.float32]]) -> tuple[Problem, list[NDArray[np.float32]]]:
    """Return a single-step problem with each radius weighted by what it leaves, and the residuals so weighted.

    Small spheres see the mask's edge, where interpolation and the brain mask err most; all voxels of a radius share a
    weight, that of the best one is 1.
    """
    assert problem.filters is not None
    squares, counts = np.zeros(len(problem.filters) + 1), np.zeros(len(problem.filters) + 1)
    radius_index = [
        one.radius_index[(one.weight > 0) & (one.radius_index > 0)]
        for one in problem.observations
        if one.radius_index is not None
    ]
    for shell, residual in zip(radius_index, residuals, strict=True):
        squares += np.bincount(shell, residual.astype(np.float64) ** 2, minlength=len(squares))
        counts += np.bincount(shell, minlength=len(counts))
    used = counts > 0
    spread = np.sqrt(squares[used] / counts[used])
    factors = np.ones(len(squares), np.float32)
    factors[used] = np.maximum(spread.min() / np.maximum(spread, 1e-30), _SMALLEST_FACTOR)
    observations = [
        replace(one, weight=one.weight * factors[one.radius_index])
        for one in problem.observations
        if one.radius_index is not None
    ]
    record = {**problem.record, "RadiiWeights": [round(float(f), 3) for f in factors[1:]]}
    weighted = [residual * factors[shell] for shell, residual in zip(radius_index, residuals, strict=True)]
    return replace(problem, observations=observations, record=record), weighted


def problem_record(solved: Solved, stopping: Stopping) -> dict[str, Any]:
    """Return what a sidecar says of the iteration."""
    return {
        "Iterations": solved.tensor.iterations,
        "IterationsCosmos": solved.cosmos.iterations,
        "IterationLimit": stopping.iterations,
        "StoppingTolerance": stopping.tolerance,
        "LastRelativeChange": solved.tensor.change,
        "StoppedBy": "tolerance" if solved.tensor.converged else "iteration limit",
        "RelativeChanges": [float(f"{change:.3g}") for change in solved.tensor.changes],
        "RelativeChangesCosmos": [float(f"{change:.3g}") for change in solved.cosmos.changes],
    }


def masked_problem(
    fields: Sequence[ArrayLike],
    weights: Sequence[ArrayLike],
    voxel_size: ArrayLike,
    b0_directions: Sequence[ArrayLike],
    *,
    support: ArrayLike | None = None,
    padding: float = FIT_PADDING,
    names: Sequence[str] | None = None,
    keep: Keep = np.ascontiguousarray,
) -> Problem:
    """Return the masked problem of local fields (see fit_masked); keep: where its volumes go (Execution.keep)."""
    volumes, used, inside = check_scans(fields, weights, b0_directions, support, names)
    grid = make_grid(inside, voxel_size, b0_directions, padding)
    observations = [Observation(keep(grid.crop(weight))) for weight in used]
    cut = [
        keep(np.where(one.weight > 0, grid.crop(v), np.float32(0)))
        for one, v in zip(observations, volumes, strict=True)
    ]
    return Problem(grid, cut, observations, grid.crop(inside), record={"PaddingMm": padding})


def fit_problem(
    problem: Problem,
    report: OrientationReport,
    *,
    prior: Prior | None = None,
    noise: float | ArrayLike | None = None, stopping: Stopping | None = None,
    execution: Execution, progress: Progress | None = None,
) -> tuple[Fit, Problem]:  # fmt: skip
    """Return the Fit of a prepared problem, and the problem with the weights that were used.

    report: of its directions; the other arguments as fit_masked's.
    """
    used_prior, used_stopping = prior or Prior(), stopping or Stopping()
    solved = solve_problem(problem, used_prior, noise, used_stopping, execution, progress)
    residuals = solved.problem.model(execution).residuals(solved.tensor.maps, problem.fields)
    record = {**solved.problem.record, **problem_record(solved, used_stopping)}
    shares = noise_shares(problem.grid.directions, used_prior, solved.noises)
    left = [one / seen.level for one, seen in zip(residuals, solved.problem.observations, strict=True)]
    record["NoiseCorrelation"] = round(solved.correlation, 3)
    record["ReducedChiSquare"] = reduced_chi_square(left, shares @ (solved.noises / solved.correlation) ** 2)
    power, used = filter_power(solved.problem.observations, problem.filters), solved.problem.tissue
    slope = expected_slope(problem.grid, used_prior, solved.noise, problem.support, used, power)
    record["ExpectedSlopeDeltaB"] = round(slope, 3)
    whole, cosmos = problem.grid.embed(solved.tensor.maps), problem.grid.embed(solved.cosmos.maps[0])
    fit = Fit(
        whole[:TENSOR], cosmos, solved.noise, used_prior, report, problem.method, record,
        tuple(solved.noises.tolist()), whole[TENSOR] if len(whole) > TENSOR else None,
    )  # fmt: skip
    return fit, solved.problem


def fit_masked(
    fields: Sequence[ArrayLike],
    weights: Sequence[ArrayLike],
    voxel_size: ArrayLike,
    b0_directions: Sequence[ArrayLike],
    *,
    support: ArrayLike | None = None,
    prior: Prior | None = None,
    noise: float | ArrayLike | None = None,
    stopping: Stopping | None = None,
    padding: float = FIT_PADDING,
    execution: Execution | None = None,
    names: Sequence[str] | None = None,
    progress: Progress | None = None,
    device: str = "cpu",
) -> Fit:
    """Fit the susceptibility tensor and COSMOS to local fields, each where it is known (DESIGN section 4).

    fields: one (x, y, z) a scan in ppm of B0, all on one grid; weights: one a scan, 0 where the field is unknown and
    else proportional to 1 / standard deviation, 1 for `noise`; voxel_size: (3,) mm; b0_directions: one unit vector a
    scan in the voxel frame; support: where chi may differ from 0 (default: where any weight is); prior: standard
    deviations in ppm; noise: standard deviation of the fields in ppm at weight 1, of all scans or one for each,
    estimated scan by scan when not given; stopping: iterations and tolerance; padding: mm of zeros; execution: where
    it runs; names: the scans', for messages; progress: called with what is solved, the iteration and the label's
    change; device: "cpu" (compiled kernels, on `execution`), or "cuda", "cuda:N" (torch on a GPU).
    Returns a Fit in ppm, components along the voxel frame, 0 outside the support. Raises InputError.
    """
    report = check_settings(b0_directions, prior or Prior(), noise, device)
    with execution_or_threads(execution) as running:
        problem = masked_problem(
            fields, weights, voxel_size, b0_directions, support=support, padding=padding, names=names,
            keep=running.keep,
        )  # fmt: skip
        return fit_problem(
            replace(problem, device=device), report, prior=prior, noise=noise, stopping=stopping, execution=running,
            progress=progress,
        )[0]  # fmt: skip
