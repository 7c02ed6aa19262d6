"""Magnitude and phase in radians of a DICOM echo, whatever its vendor stores: scales, real and imaginary, signs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import isclose, pi
from pathlib import Path

import numpy as np
from nibabel.arrayproxy import ArrayProxy
from numpy.typing import NDArray

from ...files.errors import InputError
from ...files.nifti import open_image, read_data
from ...files.vendors import made_by_ge
from ...pipeline.phase.alternating import restore_signs
from ...pipeline.phase.full_turn import TURN_TOLERANCE, PhaseRange, phase_range, turn_words
from ..raw.sidecars import LARGEST_PHASE, PhaseScale
from .conversion import DicomImage, Part

_HALF_TURN_CODES = (2047.5, 2048.0, 8192.0, 32768.0)  # of 12-, 14- and 16-bit phase
_GIVE_RANGE = "give --phase-range with the values that mean -pi and +pi"
_TOLERANCE = 2e-3  # vendors write pi as 3.142 or 3142


@dataclass(frozen=True)
class EchoVolumes:
    """Magnitude and phase (radians) of one echo, (x, y, z) float32; notes say what was done beyond copying."""

    magnitude: NDArray[np.float32]
    phase: NDArray[np.float32]
    notes: tuple[str, ...] = ()

    @property
    def signal(self) -> NDArray[np.complex64]:
        """The complex image."""
        return (self.magnitude * np.exp(1j * self.phase)).astype(np.complex64)

    def with_signs_restored(self, axes: Sequence[int]) -> EchoVolumes:
        """Return the echo with the sign of every second slice along array axes reversed."""
        if not axes:
            return self
        notes = (*self.notes, "sign of every second slice restored")
        return EchoVolumes(self.magnitude, restore_signs(self.phase, axes), notes)


def read_echo(echo: Mapping[Part, DicomImage], given: tuple[float, float] | None = None) -> EchoVolumes:
    """Return magnitude and phase of one echo, from real and imaginary where there is no image of its own.

    given: the stored values that mean -pi and +pi. Raises InputError where neither it nor the image tells.
    """
    volumes = {part: read_data(open_image(image.path), image.path) for part, image in echo.items()}
    magnitude = volumes["mag"] if "mag" in volumes else np.hypot(volumes["real"], volumes["imag"])
    if "phase" in echo:
        scale = _scale(echo["phase"], volumes["phase"], given)
        return EchoVolumes(magnitude, scale.to_radians(volumes["phase"]))
    phase = np.clip(np.arctan2(volumes["imag"], volumes["real"]), -LARGEST_PHASE, LARGEST_PHASE)
    return EchoVolumes(magnitude, phase, ("phase from real and imaginary",))


def check_turn(echoes: Sequence[Mapping[Part, DicomImage]], given: tuple[float, float] | None = None) -> list[str]:
    """Check that the phase of a scan wraps at the turn that its scale has; return what is to be known of it.

    given: the stored values that mean -pi and +pi. Raises InputError where phase wraps at another turn, or where no
    header tells the scale and no echo ever wraps; where it was given, another turn is told only.
    """
    notes: list[str] = []
    silent: list[tuple[DicomImage, PhaseRange, float]] = []
    for image in (echo["phase"] for echo in echoes if "phase" in echo):
        stored = read_data(open_image(image.path), image.path)
        scale, found = _scale(image, stored, given), phase_range(stored)
        if found is None:
            return notes  # too few voxels to tell
        turn = scale.high - scale.low
        if not found.is_turn_of(turn):
            words = turn_words(found, turn)
            if given is None:
                raise InputError(f"The phase of {image.description} {words}: {_GIVE_RANGE}.")
            notes.append(f"phase of echo {image.echo_number} {words}: check --phase-range")
        elif not scale.stated and not found.wraps:
            silent.append((image, found, turn))
    if silent and len(silent) == len(echoes):
        image, low, high = silent[0][0], min(one.low for _, one, _ in silent), max(one.high for _, one, _ in silent)
        if high - low < (1 - TURN_TOLERANCE) * silent[0][2]:
            raise InputError(
                f"The phase of {image.description} holds {low:.4g} to {high:.4g} over all echoes, never wraps, and no "
                f"header tells its scale: {_GIVE_RANGE}."
            )
    return notes


def phase_scale_of(image: DicomImage, stored: NDArray[np.float32]) -> PhaseScale | None:
    """Return which values of dcm2niix's phase image mean -pi and +pi, from its header and vendor; None if unknown.

    stored: the values after the header's slope and intercept. Philips precise values are radians, its display values
    milliradians or 12-bit codes; Siemens stores a turn in 4096 codes; GE stores milliradians. Where only the values
    tell, the scale is not `stated`.
    """
    slope, intercept = _header_scale(image.path)
    lowest, highest = float(stored.min()), float(stored.max())
    scale: PhaseScale | None = None
    half_turn = next((code for code in _HALF_TURN_CODES if isclose(-intercept, code * slope, rel_tol=1e-4)), None)
    if half_turn is not None:  # in codes, because dcm2niix rounds the slope
        scale = PhaseScale(intercept, intercept + 2 * half_turn * slope, stated=True)
    elif isclose(intercept, -pi, rel_tol=_TOLERANCE):
        scale = PhaseScale(stated=True)
    elif isclose(intercept, -1000 * pi, rel_tol=_TOLERANCE):
        scale = PhaseScale(-1000 * pi, 1000 * pi, stated=True)
    elif max(-lowest, highest) <= pi * (1 + _TOLERANCE) and highest - lowest > 1:
        scale = PhaseScale()
    elif image.made_by.startswith("siemens") and highest > 2 * pi:
        scale = PhaseScale(0.0, 4096.0) if lowest >= 0 else PhaseScale(-4096.0, 4096.0)
    elif made_by_ge(image.sidecar) and highest - lowest > 2 * pi:
        scale = PhaseScale(-1000 * pi, 1000 * pi)
    if scale is None or not _within(scale, lowest, highest):
        return None
    return scale


def _scale(image: DicomImage, stored: NDArray[np.float32], given: tuple[float, float] | None) -> PhaseScale:
    """Return which stored values mean -pi and +pi; InputError where neither given nor the image tells."""
    if given is not None:
        scale = PhaseScale(*given, stated=True)
        if _within(scale, float(stored.min()), float(stored.max())):
            return scale
    elif found := phase_scale_of(image, stored):
        return found
    stated = f"beyond --phase-range {given[0]:g} {given[1]:g}" if given else "of no stated scale"
    raise InputError(
        f"The phase of {image.description} holds {stored.min():g} to {stored.max():g}, {stated}: {_GIVE_RANGE}."
    )


def _within(scale: PhaseScale, lowest: float, highest: float) -> bool:
    slack = _TOLERANCE * (scale.high - scale.low)
    return scale.low - slack <= lowest and highest <= scale.high + slack


def _header_scale(path: Path) -> tuple[float, float]:
    proxy = open_image(path).dataobj
    assert isinstance(proxy, ArrayProxy)  # what nibabel gives for a file
    return float(proxy.slope), float(proxy.inter)
