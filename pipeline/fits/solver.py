"""The iteration of the fits: conjugate gradients with the closed form as preconditioner."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol

import numpy as np

from ..physics.dipole import Float32Array
from ..physics.prior import Prior


class LinearModel(Protocol):
    """What the iteration asks of a FieldModel or TorchFieldModel; maps are arrays of the model's own kind."""

    support: Any

    def right_hand_side(self, fields: Sequence[Float32Array]) -> Any:
        """Return A^T W^2 of the fields of all scans (box each)."""
        ...

    def normal(self, maps: Any) -> Any:
        """Return A^T W^2 A of maps."""
        ...

    def precondition(self, maps: Any, noise: float, prior: Prior) -> Any:
        """Return the closed-form solution for a right-hand side of maps."""
        ...

    def penalise(self, maps: Any, noise: float, prior: Prior) -> Any:
        """Return sigma^2 times the prior's precision times maps."""
        ...

    def residuals(self, maps: Any, fields: Sequence[Float32Array]) -> list[Float32Array]:
        """Return what maps leave of the fields, an array of the known voxels a scan."""
        ...

    def label_size(self, maps: Any) -> float:
        """Return the size of the label that maps make."""
        ...

    def own(self, maps: Any) -> Any:
        """Return maps as arrays of the model's kind."""
        ...

    def to_numpy(self, maps: Any) -> Float32Array:
        """Return maps as a NumPy array."""
        ...

    def inner(self, one: Any, other: Any) -> float:
        """Return the inner product of two maps."""
        ...


@dataclass(frozen=True)
class Solution:
    """Maps (components, box) in ppm, iterations done, the label's last relative change, and that of every iteration."""

    maps: Float32Array
    iterations: int
    change: float
    converged: bool
    changes: tuple[float, ...] = ()


def conjugate_gradients(
    model: LinearModel,
    right: Any,
    *,
    noise: float,
    prior: Prior,
    iterations: int,
    tolerance: float,
    start: Float32Array | None = None,
    progress: Callable[[int, float], None] | None = None,
) -> Solution:
    """Solve (A^T W^2 A + noise^2 P) x = right within the support; stop when chi33 changes by less than `tolerance`.

    right: (components, box), NumPy or the model's own kind; the solution is NumPy; tolerance: root mean square change
    of chi33 in an iteration relative to chi33; start: first guess; progress: called with the iteration and the change.
    """
    prior = _within_float32(prior, noise)
    left = model.own(right)
    maps = 0 * left if start is None else model.own(start)
    if start is not None:
        left -= (model.normal(maps) + model.penalise(maps, noise, prior)) * model.support
    step, size, change, done = None, 0.0, np.inf, 0
    changes: list[float] = []
    for done in range(1, iterations + 1):
        guess = model.precondition(left, noise, prior)
        next_size = model.inner(left, guess)
        if not next_size > 0:
            return Solution(model.to_numpy(maps), done - 1, 0.0, True, tuple(changes))
        step = guess if step is None else guess + (next_size / size) * step
        size = next_size
        image = model.normal(step)
        image += model.penalise(step, noise, prior) * model.support
        length = size / model.inner(step, image)
        maps += length * step
        left -= length * image
        del image, guess
        change = length * model.label_size(step) / max(model.label_size(maps), 1e-12)
        changes.append(change)
        if progress is not None:
            progress(done, change)
        if change < tolerance:
            break
    return Solution(model.to_numpy(maps), done, change, change < tolerance, tuple(changes))


def _within_float32(prior: Prior, noise: float) -> Prior:
    """Return the prior with a traceless part no tighter than a hundredth of the noise, which float32 still resolves."""
    return replace(prior, aniso=max(prior.aniso, noise / 100))
