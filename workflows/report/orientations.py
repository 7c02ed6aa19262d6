"""Head orientations in the report: where B0 points, what that determines, what one more scan would add."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from ...pipeline.orientations.conditioning import OrientationReport
from ...pipeline.orientations.design import FIELD_NOISE, OrientationPlan, plan_orientations
from ...pipeline.orientations.words import plan_sentences
from ...pipeline.physics.prior import Prior
from ..figures.maps import b0_figure, data_uri
from ..figures.plan import draw_plan
from .checks import counted, quantity
from .methods import recorded

_PLAN_SENTENCES = 4
_PLAN_DPI = 110


def sphere(directions: Sequence[np.ndarray]) -> dict[str, str]:
    """Return the B0 directions on the sphere, for a light and a dark page, with words."""
    tilts = ", ".join(f"{np.degrees(np.arccos(np.clip(abs(h[2]), 0, 1))):.0f}" for h in directions)
    return {
        "light": b0_figure(np.array(directions)),
        "dark": b0_figure(np.array(directions), dark=True),
        "alt": f"B0 directions of {counted(len(directions), 'scan')} on the sphere seen from above the head; angles to "
        f"the reference's B0 in degrees: {tilts}.",
    }


def conditioning(report: OrientationReport) -> dict[str, Any]:
    """Return what the directions determine, as rows of a table and sentences."""

    def shown(value: float, digits: int) -> str:
        return quantity(value, digits) if np.isfinite(value) else "not determined"

    return {
        "rows": [
            ("Scans", str(report.n)),
            ("Largest angle between two directions", f"{report.spread:.1f}°"),
            ("Tensor: rank", f"{report.sti_rank} of 6"),
            ("Tensor: condition number", shown(report.sti_condition, 1)),
            ("Tensor: noise gain", shown(report.sti_noise_gain, 2)),
            ("Tensor: conditioning without a prior", report.sti_grade),
            ("COSMOS: max/min of ΣD²", shown(report.cosmos_ratio, 1)),
            ("COSMOS: noise gain", shown(report.cosmos_noise_gain, 2)),
            ("COSMOS: noise gain at the worst k", shown(report.cosmos_worst_gain, 2)),
            ("COSMOS: conditioning", report.cosmos_grade),
        ],
        "messages": report.messages,
    }


def next_scan(directions: Sequence[np.ndarray], record: Mapping[str, Any], subject: str) -> dict[str, Any]:
    """Return what each scan counts and what one more would add: sentences, and the figure of `chi33 plan`."""
    prior = Prior(**{part: _prior_width(record, part) for part in ("iso", "aniso")})
    noise = recorded(record, "FieldNoisePpm") or 0.0
    plan = plan_orientations(directions, noise=float(f"{noise:.2g}") if noise > 0 else FIELD_NOISE, prior=prior)
    said = plan_sentences(plan)[max(1, len(plan.report.messages)) :]  # the first ones stand beside the numbers already
    return {
        "sentences": [_typeset(sentence) for sentence in said[:_PLAN_SENTENCES]],
        "uri": data_uri(draw_plan(plan, title=f"sub-{subject}"), "jpeg", dpi=_PLAN_DPI),
        "alt": _plan_words(plan),
    }


def _prior_width(record: Mapping[str, Any], part: str) -> float:
    """Return a standard deviation of the prior in ppm: as recorded, infinite for a null, else the default."""
    key = f"Prior{part.title()}Ppm"
    width = recorded(record, key)
    if width is None:
        return np.inf if key in record else float(getattr(Prior(), part))
    return width if width > 0 else np.inf


def _typeset(sentence: str) -> str:
    """Give numbers a real minus sign, and no line break before a percent sign."""
    return re.sub(r"(?<![\w.])-(?=\d)", "\N{MINUS SIGN}", sentence).replace(" %", "\N{NO-BREAK SPACE}%")


def _plan_words(plan: OrientationPlan) -> str:
    best = plan.best[0] if plan.best else None
    place = f"; best next scan: pitch {best.pitch:+.0f}, roll {best.roll:+.0f} degrees" if best else ""
    return _typeset(
        f"B0 directions of {counted(len(plan.directions), 'scan')} in the head seen from above, over what one more "
        f"scan at each place would bring{place}."
    )
