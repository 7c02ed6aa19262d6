"""How each vendor stores an echo: which images, in which series, as which integers, with which scale and sign."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from math import pi
from typing import TYPE_CHECKING, Literal

import numpy as np
from numpy.typing import NDArray

from ...pipeline.phantom.acquisition import Echo
from ..raw.sidecars import PhaseScale

if TYPE_CHECKING:
    from ..dicom.conversion import Part

Vendor = Literal["siemens", "ge", "philips", "philips-enhanced"]
VENDORS: tuple[Vendor, ...] = ("siemens", "ge", "philips", "philips-enhanced")
_COUNTS = 4000  # of the mean over the brain in the first echo, with _UNIT: the values of the NIfTI files
_UNIT = 0.25
_TWELVE_BITS, _SIXTEEN_BITS = 4095, 65535
_MILLIRADIANS = 3142  # what Philips writes for pi


@dataclass(frozen=True)
class StoredImage:
    """One echo of one part as a vendor stores it.

    codes (x, y, z): int16 or uint16 of `bits` bits; slope, intercept: the public rescale; scale_slope: Philips' private
    one, precise value = (code - scale_intercept) / scale_slope; series: 0 for the first series of a scan, 1 for the
    second; echo_time: s.
    """

    part: Part
    echo: int
    echo_time: float
    codes: NDArray[np.int16] | NDArray[np.uint16]
    bits: int
    slope: float
    intercept: float
    scale_slope: float = 1.0
    scale_intercept: float = 0.0
    series: int = 0


def phase_sign_of(vendor: Vendor) -> int:
    """Return the factor that makes a paramagnetic source's phase positive along B0 in a vendor's images."""
    return -1 if vendor == "ge" else 1


def bytes_per_voxel(vendor: Vendor) -> int:
    """Return how much of the disk the images of one echo take, uncompressed."""
    return 2 * (3 if vendor == "ge" else 2)


def series_per_scan(vendor: Vendor) -> int:
    """Return over how many series a vendor spreads one scan."""
    return 2 if vendor == "siemens" else 1


def stored_images(echo: Echo, vendor: Vendor) -> Iterator[StoredImage]:
    """Yield the images of an echo in a vendor's own numbers; the polarity of the phase stays as the echo has it.

    Siemens: magnitude, and phase in 4096 codes in a series of its own. GE: magnitude, real and imaginary, with the
    sign of every second slice reversed. Philips: magnitude and 12-bit phase with display and precise scales.
    """
    if vendor == "siemens":
        yield from _siemens(echo)
    elif vendor == "ge":
        yield from _ge(echo)
    else:
        yield from _philips(echo)


def digitised(echo: Echo, stored: Iterable[StoredImage], vendor: Vendor) -> Echo:
    """Return an echo with the numbers that a vendor's images of it hold, as a conversion to NIfTI reads them.

    Siemens, Philips: phase in 12 bits; GE: phase of whole real and imaginary parts, the signs of slices restored.
    """
    codes = {image.part: image.codes for image in stored}
    magnitude = (codes["mag"] / np.float32(_COUNTS)).astype(np.float32)
    if vendor == "ge":
        signs = _alternating_signs(echo)
        phase = np.arctan2(signs * codes["imag"], signs * codes["real"]).astype(np.float32)
        return replace(echo, magnitude=magnitude, phase=phase)
    highest = 4096 if vendor == "siemens" else _TWELVE_BITS
    phase = PhaseScale(0, highest).to_radians(codes["phase"].astype(np.float32))
    return replace(echo, magnitude=magnitude, phase=phase)


def _magnitude(echo: Echo) -> NDArray[np.uint16]:
    return np.clip(np.rint(_COUNTS * echo.magnitude), 0, _SIXTEEN_BITS).astype(np.uint16)


def _siemens(echo: Echo) -> Iterator[StoredImage]:
    yield StoredImage("mag", echo.number, echo.echo_time, _magnitude(echo), bits=16, slope=_UNIT, intercept=0.0)
    codes = np.mod(np.rint((echo.phase / np.float32(pi) + 1) * 2048), 4096).astype(np.uint16)
    yield StoredImage("phase", echo.number, echo.echo_time, codes, bits=12, slope=2.0, intercept=-4096.0, series=1)


def _ge(echo: Echo) -> Iterator[StoredImage]:
    signs = _alternating_signs(echo)
    volumes: dict[Part, NDArray[np.float32]] = {
        "mag": echo.magnitude,
        "real": signs * echo.magnitude * np.cos(echo.phase),
        "imag": signs * echo.magnitude * np.sin(echo.phase),
    }
    for part, volume in volumes.items():
        codes = np.clip(np.rint(_COUNTS * volume), -32768, 32767).astype(np.int16)
        yield StoredImage(part, echo.number, echo.echo_time, codes, bits=16, slope=_UNIT, intercept=0.0)


def _alternating_signs(echo: Echo) -> NDArray[np.float32]:
    return np.where(np.arange(echo.phase.shape[2]) % 2, -1, 1).astype(np.float32)


def _philips(echo: Echo) -> Iterator[StoredImage]:
    yield StoredImage(
        "mag",
        echo.number,
        echo.echo_time,
        _magnitude(echo),
        bits=16,
        slope=1.29157509157509,  # any number: what the console shows has no unit
        intercept=0.0,
        scale_slope=1 / _UNIT,
    )
    per_radian = _TWELVE_BITS / (2 * pi)
    yield StoredImage(
        "phase",
        echo.number,
        echo.echo_time,
        np.clip(np.rint((echo.phase + np.float32(pi)) * per_radian), 0, _TWELVE_BITS).astype(np.uint16),
        bits=12,
        slope=2 * _MILLIRADIANS / _TWELVE_BITS,
        intercept=-float(_MILLIRADIANS),
        scale_slope=per_radian,
        scale_intercept=_TWELVE_BITS / 2,
    )
