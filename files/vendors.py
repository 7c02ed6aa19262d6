"""What is known of a manufacturer's scanners where a sidecar leaves it out."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


def made_by_ge(sidecar: Mapping[str, Any]) -> bool:
    """Tell whether a GE scanner made an image, by the Manufacturer of its sidecar."""
    return str(sidecar.get("Manufacturer", "")).strip().upper().startswith(("GE", "GENERAL ELECTRIC"))


def manufacturer_phase_sign(sidecar: Mapping[str, Any]) -> int:
    """Return the factor that makes a paramagnetic source's phase positive along B0: -1 for GE, 1 for the others."""
    return -1 if made_by_ge(sidecar) else 1
