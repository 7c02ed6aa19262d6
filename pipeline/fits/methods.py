"""One door to all fits: closed form, masked and single-step, with or without uncertainty."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike

from ...files.errors import InputError
from ..physics.dipole import Float32Array
from ..physics.prior import Prior
from .closed_form import check_settings, fit_susceptibility
from .execution import Execution, execution_or_threads
from .masked import MASKED_ITERATIONS, TOLERANCE, Keep, Problem, Stopping, fit_problem, masked_problem
from .model.grid import FIT_PADDING, FitGrid
from .result import Fit
from .scan_checks import check_scans
from .score import check_score, held_out_score
from .single_step import SINGLE_STEP_ITERATIONS, SINGLE_STEP_TOLERANCE, single_step_problem
from .solver import conjugate_gradients
from .tissue.prior import TissueOptions
from .uncertainty import UNSEEN_CHI33, UNSEEN_COSMOS, Solver, Uncertainty, check_jackknife, label_uncertainty

Method = Literal["closed", "masked", "single-step"]
METHODS: tuple[Method, ...] = ("closed", "masked", "single-step")


@dataclass(frozen=True)
class FitOptions:
    """How to fit.

    method; prior; noise: of the fields in ppm (None: estimated); iterations, tolerance: None for the method's own;
    radii: in mm, of the single-step fit (None: its own); draws, jackknife: of the uncertainty, and its groups (0:
    none); seed: of both; score: groups of scans held out in turn for the held-out score (0: none); padding: in mm;
    anatomy: what the prior of the iterative fits knows of tissue (None: nothing).
    """

    method: Method = "masked"
    prior: Prior = field(default_factory=Prior)
    noise: float | None = None
    iterations: int | None = None
    tolerance: float | None = None
    radii: tuple[float, ...] | None = None
    draws: int = 0
    jackknife: int = 0
    seed: int = 0
    score: int = 0
    padding: float = FIT_PADDING
    anatomy: TissueOptions | None = None

    def __post_init__(self) -> None:
        if self.method not in METHODS:
            raise InputError(f"fit must be one of {', '.join(METHODS)}, got {self.method!r}.")
        if self.draws < 0 or self.jackknife < 0:
            raise InputError(f"draws and jackknife groups must not be negative, got {self.draws} and {self.jackknife}.")
        if self.draws == 1:
            raise InputError("one draw gives no standard deviation: ask for at least 2, or 0 for none.")
        if self.score < 0 or self.score == 1:
            raise InputError(f"score must be 0 (none) or at least 2 groups of scans, got {self.score}.")
        if self.seed < 0:
            raise InputError(f"seed must not be negative, got {self.seed}.")
        frequency = 0.0 if self.anatomy is None or self.anatomy.frequency == "auto" else self.anatomy.frequency
        if frequency > 0 and not self.prior.determines_tensor:
            raise InputError(
                f"an isotropic frequency ({frequency} ppm) needs a prior of the traceless part, got "
                f"prior_aniso {self.prior.aniso}: give a finite one, or leave the frequency out."
            )
        self.stopping()

    def stopping(self) -> Stopping:
        """Return the stopping rule."""
        single = self.method == "single-step"
        iterations = SINGLE_STEP_ITERATIONS if single else MASKED_ITERATIONS
        tolerance = SINGLE_STEP_TOLERANCE if single else TOLERANCE
        return Stopping(
            iterations if self.iterations is None else self.iterations,
            tolerance if self.tolerance is None else self.tolerance,
        )


def fit_fields(
    fields: Sequence[ArrayLike],
    weights: Sequence[ArrayLike],
    voxel_size: ArrayLike,
    b0_directions: Sequence[ArrayLike],
    options: FitOptions | None = None,
    *,
    support: ArrayLike | None = None,
    execution: Execution | None = None,
    names: Sequence[str] | None = None,
    device: str = "cpu",
    progress: Callable[[str], None] | None = None,
) -> tuple[Fit, Uncertainty | None]:
    """Fit tensor and COSMOS by the method of the options; return the Fit and the uncertainty where it was asked for.

    fields: one (x, y, z) a scan in ppm of B0 (total fields for "single-step", else local ones), on one grid; weights:
    one a scan, 0 where the field is unknown (the closed form sees only whether they are 0); the rest as fit_masked.
    """
    used = options or FitOptions()

    def note(name: str, iteration: int, change: float) -> None:
        if progress is not None:
            progress(f"{name}: iteration {iteration}, chi33 changes by {change:.2%}")

    report = check_settings(b0_directions, used.prior, used.noise, device)
    check_jackknife(b0_directions, used.prior, used.draws, used.jackknife)
    check_score(b0_directions, used.prior, used.score)
    closed, more = used.method == "closed", bool(used.draws or used.jackknife or used.score)
    with execution_or_threads(execution) as running:
        problem = None
        if closed and not more:
            check_scans(fields, weights, b0_directions, support, names)
        else:
            problem = _problem(fields, weights, voxel_size, b0_directions, used, support, names, running.keep)
            problem = replace(problem, device=device, anatomy=None if closed else used.anatomy)
        if closed:
            masked = [np.where(np.asarray(w) > 0, f, 0) for f, w in zip(fields, weights, strict=True)]
            fit = fit_susceptibility(
                masked, voxel_size, b0_directions, prior=used.prior, noise=used.noise, padding=used.padding,
                execution=running, device=device,
            )  # fmt: skip
        else:
            assert problem is not None
            fit, problem = fit_problem(
                problem, report, prior=used.prior, noise=used.noise, stopping=used.stopping(), execution=running,
                progress=note,
            )  # fmt: skip
        if problem is None or not more:
            return fit, None
        grid = problem.grid
        solution = (np.ascontiguousarray(grid.crop(fit.maps)), np.ascontiguousarray(grid.crop(fit.cosmos)))
        if closed:
            problem = problem.with_noises(np.array(fit.scan_noises))
        solver = (_closed_solver if closed else _iterative_solver)(problem, fit, used, running)
        if used.score:
            found = held_out_score(
                _ruler(problem, fields, weights, voxel_size, b0_directions, used, running.keep), solution, solver,
                fields=problem.fields, prior=used.prior, noises=np.array(fit.scan_noises), groups=used.score,
                execution=running, progress=progress,
            )  # fmt: skip
            fit = replace(fit, record={**fit.record, **found.record()})
        if not (used.draws or used.jackknife):
            return fit, None
        smooth = used.method == "single-step" and fit.frequency is None  # a frequency takes up what all scans share
        return fit, label_uncertainty(
            problem.compiled_model(running), problem.fields, solution, solver,
            prior=used.prior, noise=fit.noise, execution=running,
            unseen=(UNSEEN_CHI33, UNSEEN_COSMOS) if smooth else (1.0, 1.0),
            draws=used.draws, groups=used.jackknife,
            seed=used.seed, progress=progress,
        )  # fmt: skip


def _ruler(
    problem: Problem,
    fields: Sequence[ArrayLike],
    weights: Sequence[ArrayLike],
    voxel_size: ArrayLike,
    b0_directions: Sequence[ArrayLike],
    options: FitOptions,
    keep: Keep,
) -> Problem:
    """Return the single-step problem of the same fields on the same box, by which a fit's predictions are measured."""
    if problem.filters is not None:
        return problem
    return single_step_problem(
        fields, weights, voxel_size, b0_directions, support=problem.grid.embed(problem.support), radii=options.radii,
        padding=options.padding, keep=keep,
    )  # fmt: skip


def _problem(
    fields: Sequence[ArrayLike],
    weights: Sequence[ArrayLike],
    voxel_size: ArrayLike,
    b0_directions: Sequence[ArrayLike],
    options: FitOptions,
    support: ArrayLike | None,
    names: Sequence[str] | None,
    keep: Keep,
) -> Problem:
    if options.method == "single-step":
        return single_step_problem(
            fields, weights, voxel_size, b0_directions, support=support, radii=options.radii, padding=options.padding,
            names=names, keep=keep,
        )  # fmt: skip
    return masked_problem(
        fields, weights, voxel_size, b0_directions, support=support, padding=options.padding, names=names, keep=keep
    )


def _iterative_solver(problem: Problem, fit: Fit, options: FitOptions, execution: Execution) -> Solver:
    """Return the solver of a masked or single-step fit, with the iterations that the fit took."""

    def solve(fields: list[Float32Array], scans: list[int]) -> tuple[Float32Array, Float32Array]:
        found = []
        for components, count in ((6, fit.record["Iterations"]), (1, fit.record["IterationsCosmos"])):
            model = problem.model(execution, components=components, scans=scans)
            found.append(
                conjugate_gradients(
                    model, model.right_hand_side(fields), noise=fit.noise, prior=options.prior,
                    iterations=max(int(count), 1), tolerance=options.stopping().tolerance,
                ).maps
            )  # fmt: skip
        return found[0], found[1]

    return solve


def _closed_solver(problem: Problem, fit: Fit, options: FitOptions, execution: Execution) -> Solver:
    """Return the solver of the closed form, on fields cut at their masks."""
    grid: FitGrid = problem.grid

    def solve(fields: list[Float32Array], scans: list[int]) -> tuple[Float32Array, Float32Array]:
        cut = [np.where(problem.observations[s].weight > 0, fields[s], np.float32(0)) for s in scans]
        whole = [grid.embed(one) for one in cut]
        again = fit_susceptibility(
            whole, grid.voxel_size, [grid.directions[s] for s in scans], prior=options.prior,
            noise=[fit.scan_noises[s] for s in scans],
            padding=options.padding, execution=execution, device=problem.device,
        )  # fmt: skip
        inside = problem.support
        return grid.crop(again.tensor) * inside, (grid.crop(again.cosmos) * inside)[None]

    return solve


__all__ = ["METHODS", "FitOptions", "Method", "fit_fields"]
