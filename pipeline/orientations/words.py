"""The plan of head orientations in plain words: what the set determines, what each scan brings, what to scan next."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike

from ..frames import check_b0_direction
from .design import Addition, Change, Loss, OrientationPlan, tilt_of

_NEUTRAL = 2.5  # degrees of tilt below which a head is called neutral
_SIDES = ("to the right", "back and to the right", "back", "back and to the left",
          "to the left", "forward and to the left", "forward", "forward and to the right")  # fmt: skip


def tilt_in_words(b0_direction: ArrayLike) -> str:
    """Return how the head that has B0 along a unit vector (3,) is held, as in "25 degrees forward"."""
    h = check_b0_direction(b0_direction)
    if tilt_of(h) < _NEUTRAL:
        return "neutral"
    right, front = -h[:2] if h[2] >= 0 else h[:2]  # where the crown of the head leans
    return f"{tilt_of(h):.0f} degrees {_SIDES[round(np.degrees(np.arctan2(-front, right)) / 45) % 8]}"


def plan_sentences(plan: OrientationPlan) -> tuple[str, ...]:
    """Return what a plan says, in sentences: what is determined, how noisy χ33 is, which scans count, the next."""
    determined = plan.report.messages or ("These orientations determine COSMOS and the tensor.",)
    return (*determined, _expected(plan), *_loss_sentences(plan), *_next_sentences(plan))


def _expected(plan: OrientationPlan) -> str:
    low, high = plan.chi33_sd.min(), plan.chi33_sd.max()
    if not np.isfinite(high):
        return "Without a finite prior these scans do not determine χ33."
    spread = f"{low:.4f} ppm" if f"{low:.4f}" == f"{high:.4f}" else f"{low:.4f} to {high:.4f} ppm"
    prior = f"{plan.prior.iso:g} ppm isotropic, {plan.prior.aniso:g} ppm anisotropic"
    return (
        f"With field noise of {plan.noise:g} ppm and the prior ({prior}), the expected noise of χ33, its standard "
        f"deviation, is {spread}."
    )


def _loss_sentences(plan: OrientationPlan) -> list[str]:
    ranked = plan.by_need
    if not ranked:
        return []
    if len(ranked) == 2:
        return ["Both scans are needed: one orientation alone determines nothing."]
    most, least = _like(ranked, 0), _like(ranked, -1)
    if len(most) == len(ranked):
        return [f"All scans count alike: without any one of them {effect(ranked[0])}."]
    return [_one_loss(most, ("counts", "count"), "most"), _one_loss(least, ("adds", "add"), "least")]


def _like(ranked: Sequence[Loss], which: int) -> list[Loss]:
    """Return the losses that cost about as much as one of them; that one first."""
    (tensor, chi33), tolerance = ranked[which].cost, 0.0005 + 0.1 * (ranked[which].cost[1] - 1)
    alike = [one for one in ranked if np.isclose(one.cost[0], tensor, rtol=0.01)]
    alike = [one for one in alike if abs(one.cost[1] - chi33) <= tolerance]
    return sorted(alike, key=lambda one: one is not ranked[which])


def _one_loss(losses: Sequence[Loss], verbs: tuple[str, str], degree: str) -> str:
    numbers = [str(number) for number in sorted(loss.scan + 1 for loss in losses)]
    if len(losses) == 1:
        return f"Scan {numbers[0]} {verbs[0]} {degree}: without it {effect(losses[0])}."
    return f"Scans {_joined(numbers)} {verbs[1]} {degree}: without any one of them {effect(losses[0])}."


def _next_sentences(plan: OrientationPlan) -> list[str]:
    if not plan.best:
        return []
    first, *others = plan.best
    still = ", but the tensor stays singular (the prior supplies the rest)" if first.after.singular else ""
    said = [f"Best next scan: {position_in_words(first)}; with it {effect(first)}{still}."]
    key = plan.ranked_by
    close = [one for one in others if getattr(one.after, key) < 1.05 * getattr(first.after, key)]
    if close:
        said.append(f"Within 5 % of it: {_joined([position_in_words(one) for one in close], 'or')}.")
    return said


def position_in_words(addition: Addition) -> str:
    """Return a head position as numbers and words."""
    place = tilt_in_words(addition.direction)
    words = "the neutral head" if place == "neutral" else f"the head tilted {place}"
    return f"pitch {addition.pitch:+.0f}, roll {addition.roll:+.0f} ({words})"


def effect(change: Change) -> str:
    """Return what adding or leaving out a scan does, as a clause; a scan never makes any noise rise by being added."""
    before, after = change.before, change.after
    said, moved = [], []
    if before.singular != after.singular:
        condition = f"the tensor is determined without the prior (condition number {after.condition:.3g})"
        said.append("the tensor is singular (the prior supplies the rest)" if after.singular else condition)
    elif not after.singular:
        numbers = _joined(list(dict.fromkeys(f"{one.condition:.3g}" for one in (before, after))), "to")
        moved.append(f"{_per_cent(change.factor('tensor_noise'))} in the tensor (condition number {numbers})")
    if np.isinf(before.cosmos_noise) != np.isinf(after.cosmos_noise):
        everywhere = "no longer determined everywhere" if np.isinf(after.cosmos_noise) else "determined everywhere"
        said.append(f"COSMOS is {everywhere} in k-space")
    elif np.isfinite(after.cosmos_noise):
        moved.append(f"{_per_cent(change.factor('cosmos_noise'))} in COSMOS")
    if np.isfinite(before.chi33) and np.isfinite(after.chi33):
        moved.append(f"{_per_cent(change.factor('chi33'))} in χ33")
    if moved:
        rises = change.factor("chi33") > 1 or isinstance(change, Loss)
        said.append(f"the noise {'rises' if rises else 'falls'} by {_joined(moved)}")
    return _joined(said) or "nothing changes"


def _per_cent(factor: float) -> str:
    """Return a factor as a change in per cent."""
    change = 100 * abs(factor - 1)
    return f"{change:.0f} %" if round(change) else "less than 1 %"


def _joined(words: Sequence[str], last: str = "and") -> str:
    return words[0] if len(words) == 1 else f"{', '.join(words[:-1])} {last} {words[-1]}" if words else ""
