"""The held-out score: how well a fit without some scans predicts their fields. It needs no truth.

The fit is repeated without each group of scans in turn; what its tensor and its COSMOS map miss of the fields of that
group, both seen through the spheres of the single-step fit, is given as a share of the field itself. No background
passes these spheres, so that a total field serves as well as a local one.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ...files.errors import InputError
from ..physics.dipole import Float32Array
from ..physics.prior import Prior
from .execution import Execution
from .masked import Problem
from .model.field_model import TENSOR
from .noise import noise_shares
from .uncertainty import Solver, check_without, left_out

_FEWEST = 2  # scans of a fit


@dataclass(frozen=True)
class HeldOutScore:
    """What is missed of each scan's field when it was held out, as a share of the field (root mean squares).

    tensor, cosmos: by the prediction of either; noise: what the fit of all scans leaves of it, over the freedom that
    it left: about what a repetition of the scan would differ by; groups: of scans that were held out in turn.
    """

    tensor: list[float]
    cosmos: list[float]
    noise: list[float]
    groups: int

    def record(self) -> dict[str, Any]:
        """Return what a sidecar says of it."""
        return {
            "ScoreGroups": self.groups,
            "ScoreTensor": [round(one, 4) for one in self.tensor],
            "ScoreCosmos": [round(one, 4) for one in self.cosmos],
            "ScoreNoise": [round(one, 4) for one in self.noise],
        }


def check_score(b0_directions: Sequence[ArrayLike], prior: Prior, groups: int) -> None:
    """Raise InputError where a score of so many groups (0: none) cannot be made of the scans."""
    scans = len(b0_directions)
    if groups == 0:
        return
    if groups > scans:
        raise InputError(f"a score of {groups} groups needs as many scans, got {scans}: ask for at most {scans}.")
    for group in range(groups):
        out = left_out(scans, groups, group)
        if scans - len(out) < _FEWEST:
            raise InputError(
                f"a score of {groups} groups leaves {scans - len(out)} of {scans} scans to a fit, which needs "
                f"{_FEWEST}: ask for more groups, or add scans."
            )
        check_without(
            b0_directions,
            prior,
            out,
            f"a score of {groups} groups cannot hold out",
            "ask for more groups, or add scans",
        )


def held_out_score(
    ruler: Problem,
    solution: tuple[Float32Array, Float32Array],
    solver: Solver,
    *,
    fields: list[Float32Array],
    prior: Prior,
    noises: NDArray[np.float64],
    groups: int,
    execution: Execution,
    progress: Callable[[str], None] | None = None,
) -> HeldOutScore:
    """Return the score of a fit.

    ruler: the scans' fields as a single-step problem, which measures; solution: maps (6 or 7, box) and COSMOS (box) of
    all scans; solver: solves `fields` (box each) of some scans in the same way; prior, noises (n,) in ppm: what the fit
    assumed; groups: see check_score.
    """
    flat = [replace(one, weight=(one.weight > 0).astype(np.float32), level=1.0) for one in ruler.observations]
    measure = replace(ruler, observations=flat)
    scans = range(len(flat))
    whole = _missed(measure, np.zeros_like(solution[0]), scans, execution)
    freedom = np.diag(noise_shares(ruler.grid.directions, prior, noises))
    noise = np.array(_missed(measure, solution[0], scans, execution)) / np.sqrt(freedom)
    tensor, cosmos = np.zeros(len(flat)), np.zeros(len(flat))
    for group in range(groups):
        out = left_out(len(flat), groups, group)
        found, scalar = solver(list(fields), [scan for scan in scans if scan not in out])
        tensor[out] = _missed(measure, found, out, execution)
        cosmos[out] = _missed(measure, scalar, out, execution)
        if progress is not None:
            progress(f"score: group {group + 1} of {groups}")
    shares = [(values / np.maximum(whole, 1e-12)).tolist() for values in (tensor, cosmos, noise)]
    return HeldOutScore(shares[0], shares[1], shares[2], groups)


def _missed(measure: Problem, maps: Float32Array, scans: Sequence[int], execution: Execution) -> list[float]:
    """Return the root mean square in ppm of what maps leave of some scans' filtered fields.

    maps: 6 or 1, a frequency beside them (box).
    """
    components = TENSOR if len(maps) >= TENSOR else 1
    model = measure.compiled_model(execution, components=components, scans=list(scans))
    left = model.residuals(np.ascontiguousarray(maps, np.float32), measure.fields)
    return [float(np.sqrt(np.square(one, dtype=np.float64).mean())) for one in left]
