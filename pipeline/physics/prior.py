"""The split prior of the tensor: independent standard deviations of its isotropic and its traceless part."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ...files.errors import InputError

_TRACE = np.array([1.0, 0, 0, 1, 0, 1])
_FROBENIUS = np.diag([1.0, 2, 2, 1, 2, 1])


@dataclass(frozen=True)
class Prior:
    """Standard deviations in ppm of the isotropic part and of the traceless part of the tensor (Frobenius).

    Infinity stands for no prior on that part.
    """

    iso: float = 0.03
    aniso: float = 0.004

    def __post_init__(self) -> None:
        for name in ("iso", "aniso"):
            value = getattr(self, name)
            if not value > 0:
                raise InputError(
                    f"prior.{name} must be a positive standard deviation in ppm (inf: no prior), got {value}."
                )

    @property
    def determines_tensor(self) -> bool:
        """Whether the prior makes a tensor fit solvable that the directions alone do not determine."""
        return bool(np.isfinite(self.aniso))

    def precisions(self) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Return the 6x6 inverse covariances (1 / ppm^2) of the isotropic and of the traceless part."""
        mean = np.outer(_TRACE, _TRACE) / 3
        return mean / (3 * self.iso**2), (_FROBENIUS - mean) / self.aniso**2

    def precision(self) -> NDArray[np.float64]:
        """Return the 6x6 inverse covariance: |chi_iso|^2 / iso^2 + |chi_aniso|_F^2 / aniso^2 (1 / ppm^2)."""
        iso, aniso = self.precisions()
        return iso + aniso
