"""One scan and one subject of a raw data set: what names and sidecars say of them, and their images."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...files.maps.field_strength import FieldStrength
from ...files.nifti import open_image, read_data
from .sidecars import PhaseScale


@dataclass(frozen=True)
class RawScan:
    """One scan (one head orientation) of a subject: files by echo and what their sidecars state.

    label is the entity string that tells it apart, e.g. "acq-ori01" or "acq-a_run-2" ("" where there is neither).
    magnitude, phase: one path an echo. echo_times: s. field_strength: T, what the scanner ran at (`strength` tells
    where it is from). phase_scale: stored values to radians. phase_sign: the factor that makes a paramagnetic sphere's
    phase positive along B0, as its sidecar or its manufacturer has it; sign_stated: whether the sidecar does.
    b0_direction: the sidecar's B0_dir, a unit vector in the voxel frame, or None where the affine tells it. filtered:
    what its sidecars say of a filter, "" for nothing.
    """

    subject: str
    session: str | None
    label: str
    magnitude: tuple[Path, ...]
    phase: tuple[Path, ...]
    echo_times: tuple[float, ...]
    field_strength: float
    phase_scale: tuple[PhaseScale, ...]
    phase_sign: int = 1
    b0_direction: tuple[float, float, float] | None = None
    strength: FieldStrength | None = None
    sign_stated: bool = False
    filtered: str = ""

    @property
    def field_facts(self) -> dict[str, Any]:
        """What a derivative's sidecar says of the field strength."""
        return {"MagneticFieldStrength": self.field_strength} if self.strength is None else self.strength.facts

    @property
    def name(self) -> str:
        """A name unique in the subject: "acq-ori01", or "ses-a_acq-ori01" with a session."""
        parts = (f"ses-{self.session}" if self.session else "", self.label)
        return "_".join(part for part in parts if part) or "scan"


@dataclass(frozen=True)
class RawSubject:
    """A subject (bare label, "01") and its scans, over all sessions, in the order of their names."""

    label: str
    scans: tuple[RawScan, ...]


def load_magnitude(scan: RawScan, echo: int) -> NDArray[np.float32]:
    """Return the magnitude (x, y, z) of an echo (counted from 0), float32, in the file's own unit."""
    path = scan.magnitude[echo]
    image = open_image(path)
    return read_data(image, path).reshape(image.shape[:3])


def load_phase(scan: RawScan, echo: int) -> NDArray[np.float32]:
    """Return the phase (x, y, z) of an echo (counted from 0): radians in -pi...pi, float32, times the scan's sign."""
    path = scan.phase[echo]
    image = open_image(path)
    return scan.phase_sign * scan.phase_scale[echo].to_radians(read_data(image, path).reshape(image.shape[:3]))
