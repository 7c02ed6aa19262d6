"""What a reconstruction or a readout left in the phase of a scan's echoes, taken out before they are unwrapped."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .alternating import alternating_axes, restore_signs
from .bipolar import bipolar_phase


@dataclass(frozen=True)
class RepairedPhase:
    """Phase (echo, x, y, z) in radians as a monopolar scan of one sign has it; record: what was taken out, by key.

    warnings: what a person should know of it, in sentences.
    """

    phase: NDArray[np.float32]
    record: dict[str, Any]
    warnings: tuple[str, ...]


def repair_phase(
    phase: NDArray[np.float32], magnitude: NDArray[np.float32], echo_times: Sequence[float], mask: NDArray[np.bool_]
) -> RepairedPhase:
    """Return the phase of a scan without signs that alternate from slice to slice and without alternating readouts.

    phase, magnitude: (echo, x, y, z), phase in radians, wrapped; echo_times: s; mask: (x, y, z), the brain.
    """
    record: dict[str, Any] = {}
    warnings = []
    signals = [magnitude[echo] * np.exp(1j * phase[echo]) for echo in range(min(2, len(phase)))]
    axes = (
        alternating_axes(signals[0], signals[1], echo_times[:2]) if len(signals) > 1 else alternating_axes(signals[0])
    )
    if axes:
        phase = np.stack([restore_signs(echo, axes) for echo in phase])
        record["AlternatingSliceSigns"] = list(axes)
        warnings.append(
            f"the sign of its signal alternates from slice to slice along array axis {', '.join(map(str, axes))}, as "
            "some reconstructions of GE leave it: it was taken back."
        )
    if (found := bipolar_phase(phase, magnitude, echo_times, mask)) is not None:
        record["BipolarPhaseRad"] = round(found.rms, 3)
        record["BipolarPhaseRemoved"] = found.fits
        if found.fits:
            phase = found.removed_from(phase)
            warnings.append(
                f"its odd and even echoes differ by {2 * found.rms:.2f} rad (rms), as with readout gradients of "
                "alternating polarity (bipolar): the part linear in space was taken out; scan with monopolar echoes "
                "where you can."
            )
        else:
            warnings.append(
                f"its echoes depart from a line by {found.rms:.2f} rad (rms) in no simple pattern: check the echo "
                "times, and whether echoes were read with alternating gradients (bipolar) or belong to different "
                "scans; leave the scan out if so."
            )
    return RepairedPhase(phase, record, tuple(warnings))
