"""The frequency of myelinated axons that no bulk susceptibility explains: the hollow-cylinder model of three pools.

Wharton & Bowtell 2012 (PNAS 109:18559) and 2013 (NeuroImage 83:1011, eqs. 5 and 6): with s = sin^2 of the angle
between fibre and B0 and the ratio g of the radii of axon and sheath, water in the axon, in the sheath and outside of it
differs from the bulk by

    axon      3/4 chi_A s ln(1 / g)
    sheath    chi_I / 2 (2 / 3 - s) + chi_A / 2 (c s - 1 / 3) + E,   c = 1/4 - 3/2 g^2 / (1 - g^2) ln(1 / g)
    outside   0 on average

in ppm of B0. The sheath's water decays first, so the phase does not grow in proportion to the echo time.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...frames import radians_per_ppm

CHI_ISOTROPIC, CHI_ANISOTROPIC, EXCHANGE, G_RATIO = -0.1, -0.1, 0.02, 0.8  # ppm, ppm, ppm, 1 (Wharton & Bowtell 2012)
_FIBRES, _SHEATH_WATER = 0.5, 0.7  # volume fraction of fibres; proton density of the sheath to that of other water
_VOLUMES = {
    "sheath": _FIBRES * (1 - G_RATIO**2) * _SHEATH_WATER,
    "axon": _FIBRES * G_RATIO**2,
    "outside": 1 - _FIBRES,
}  # fmt: skip
_SHARES = {pool: volume / sum(_VOLUMES.values()) for pool, volume in _VOLUMES.items()}  # of the signal at TE = 0
_SHEATH_R2STAR, _OTHER_R2STAR = 100.0, 20.0  # 1/s at 3 T (Du 2007); the other pools decay as white matter here does
STEPS = 65  # of the table over sin^2 from 0 to 1


def pool_frequencies(sine_squared: NDArray[Any] | float, scale: float = 1.0) -> dict[str, NDArray[np.float64]]:
    """Return the frequency in ppm of each pool at sin^2 of the fibre angle; scale: times the literature's values."""
    s = np.asarray(sine_squared, np.float64)
    log = np.log(1 / G_RATIO)
    c = 0.25 - 1.5 * G_RATIO**2 / (1 - G_RATIO**2) * log
    sheath = CHI_ISOTROPIC / 2 * (2 / 3 - s) + CHI_ANISOTROPIC / 2 * (c * s - 1 / 3) + EXCHANGE
    return {
        "axon": scale * 0.75 * CHI_ANISOTROPIC * s * log,
        "sheath": scale * sheath,
        "outside": np.zeros_like(s),
    }


@dataclass(frozen=True)
class MyelinTable:
    """What white matter does to the signal, over sin^2 of its fibre angle from 0 to 1 in STEPS.

    factor: complex (echo, STEPS), of the signal beside the decay with R2* and the field; frequency: (STEPS,) in ppm,
    the slope over the echoes of its phase with an intercept, weighted by the squared signal, as echoes are combined.
    """

    factor: NDArray[np.complex64]
    frequency: NDArray[np.float32]


def myelin_table(b0: float, echo_times: Sequence[float], scale: float = 1.0) -> MyelinTable:
    """Return the table at a field strength in tesla for echo times in s; scale: times the literature's values."""
    times = np.asarray(echo_times, np.float64)
    pools = pool_frequencies(np.linspace(0, 1, STEPS), scale)
    factor = np.zeros((len(times), STEPS), np.complex128)
    for name, share in _SHARES.items():
        decay = _SHEATH_R2STAR - _OTHER_R2STAR if name == "sheath" else 0.0
        phase = np.array([radians_per_ppm(b0, t) for t in times])[:, None] * pools[name]
        factor += share * np.exp(-times * decay)[:, None] * np.exp(1j * phase)
    weight = np.abs(factor) ** 2 * np.exp(-2 * times * _OTHER_R2STAR)[:, None]
    phase, reach = np.angle(factor), np.array([radians_per_ppm(b0, t) for t in times])[:, None]
    if len(times) == 1:
        slope = phase[0] / reach[0]
    else:
        total = weight.sum(axis=0)
        x, y = reach - (weight * reach).sum(axis=0) / total, phase - (weight * phase).sum(axis=0) / total
        slope = (weight * x * y).sum(axis=0) / (weight * x * x).sum(axis=0)
    return MyelinTable(factor.astype(np.complex64), slope.astype(np.float32))
