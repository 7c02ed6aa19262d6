"""What a fit returns."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..orientations.conditioning import OrientationReport
from ..physics.dipole import Float32Array
from ..physics.prior import Prior
from ..physics.tensors import eigenvalues as tensor_eigenvalues
from ..physics.tensors import mms, msa, principal_eigenvector


@dataclass(frozen=True)
class Fit:
    """A susceptibility fit on one grid, in ppm, components along the voxel frame.

    tensor: (6, x, y, z); cosmos: (x, y, z); noise: standard deviation of the fields in ppm that the fit assumed, of the
    median scan; prior: its standard deviations; orientations: how well the directions determine it; method: "closed",
    "masked" or "single-step"; record: what else a sidecar should say (iterations, stopping rule, radii);
    scan_noises: the same of each scan, at weight 1; frequency: (x, y, z) that all scans share and no susceptibility
    makes, where it was fitted, else None.
    """

    tensor: Float32Array
    cosmos: Float32Array
    noise: float
    prior: Prior
    orientations: OrientationReport = field(repr=False)
    method: str = "closed"
    record: Mapping[str, Any] = field(default_factory=dict)
    scan_noises: tuple[float, ...] = ()
    frequency: Float32Array | None = None

    @property
    def maps(self) -> Float32Array:
        """The tensor, and the frequency where it was fitted: (6 or 7, x, y, z)."""
        return self.tensor if self.frequency is None else np.concatenate([self.tensor, self.frequency[None]])

    @cached_property
    def eigenvalues(self) -> NDArray[np.floating]:
        """The eigenvalues (3, x, y, z) in ppm, descending."""
        return tensor_eigenvalues(self.tensor)

    @cached_property
    def mms(self) -> NDArray[np.floating]:
        """The mean magnetic susceptibility (x, y, z) in ppm."""
        return mms(self.tensor)

    @cached_property
    def msa(self) -> NDArray[np.floating]:
        """The magnetic susceptibility anisotropy (x, y, z) in ppm."""
        return msa(self.tensor)

    @property
    def pev(self) -> NDArray[np.floating]:
        """The principal eigenvector, by its short name."""
        return self.principal_eigenvector

    @cached_property
    def principal_eigenvector(self) -> NDArray[np.floating]:
        """The principal eigenvector (3, x, y, z), unit length, along the voxel frame."""
        return principal_eigenvector(self.tensor)
