"""PDF: the background is what dipoles outside the mask explain of the total field.

Liu 2011 takes the rest of the field for white noise, and stops early. But the local field is no white noise: it comes
from sources within the mask, so these are estimated along with the outer ones, each kind with its standard deviation
(as in total field inversion, Liu 2017). That decides whose a harmonic part of the field is. The outermost voxels of a
mask hold partial volumes and what a brain mask takes of the skull, so that they are left out of the data.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ...files.errors import InputError
from ..frames import check_b0_direction
from ..images.morphology import bounding_box, depth_inside
from ..physics.conjugate_gradients import conjugate_gradients
from ..physics.dipole import (
    Float32Array,
    Shape,
    check_grid,
    crop,
    dipole_kernel,
    forward_fft,
    inverse_fft,
    padded_shape,
)
from .local_field import LocalField, check_input, check_iterations, check_not_negative, check_positive, only_inside

EXTERIOR = 1.0  # ppm, standard deviation of the susceptibility outside the mask
INTERIOR = 0.03  # ppm, of that inside
NOISE = 1e-3  # ppm, of the field
EDGE = 2.0  # mm from the mask's edge where the field is not believed
MARGIN = 4.0  # mm from the mask's edge where the local field is not valid
PADDING = 60.0  # mm around the mask that holds sources
ITERATIONS = 30
COARSE_ITERATIONS = 60
TOLERANCE = 1e-3
_COARSEST_EDGE = 4.5  # mm, of the voxels of the first guess


class WeightedDipoles:
    """The field in the voxels of a mask (x, y, z) in ppm of sources u (grid) of unit variance, K (D * s u).

    known: bool (x, y, z), K; scale: s, standard deviations in ppm on the whole periodic grid, at whose corner the mask
    lies; voxel_size: (3,) mm; b0_direction: unit vector in the voxel frame.
    """

    def __init__(
        self, known: NDArray[np.bool_], scale: Float32Array, voxel_size: ArrayLike, b0_direction: ArrayLike
    ) -> None:
        self.shape, size = check_grid(known.shape, voxel_size)
        self.grid, _ = check_grid(scale.shape, size)
        self.known, self.scale = known.astype(np.float32), scale
        self.kernel = dipole_kernel(self.grid, size, b0_direction)

    def forward(self, sources: ArrayLike) -> Float32Array:
        """Return the field (x, y, z) in the mask of sources u (grid)."""
        return self.field(self.scale * self._checked(sources, self.grid)) * self.known

    def adjoint(self, field: ArrayLike) -> Float32Array:
        """Return the adjoint (grid) applied to a field (x, y, z)."""
        spectrum = self.kernel * forward_fft(self._checked(field, self.shape) * self.known, self.grid)
        return self.scale * inverse_fft(spectrum, self.grid)

    def field(self, chi: Float32Array) -> Float32Array:
        """Return the field (x, y, z) in ppm of a susceptibility map (grid) in ppm."""
        return np.ascontiguousarray(crop(inverse_fft(self.kernel * forward_fft(chi, self.grid), self.grid), self.shape))

    @staticmethod
    def _checked(volume: ArrayLike, shape: Shape) -> Float32Array:
        given = np.asarray(volume, np.float32)
        if given.shape != shape:
            raise InputError(f"volume has shape {given.shape}, but the operator was made for {shape}.")
        return given


@dataclass(frozen=True)
class _Problem:
    """One resolution: field (x, y, z), where it is believed, the mask, and the voxel size (3,) in mm."""

    field: Float32Array
    known: NDArray[np.bool_]
    inside: NDArray[np.bool_]
    size: NDArray[np.float64]

    def halved(self) -> tuple[_Problem, tuple[int, int, int]]:
        """Return the same with blocks of voxels, about twice as large and rather isotropic, and the block's voxels."""
        x, y, z = (max(1, round(2 * float(self.size.min()) / d)) for d in self.size)
        factors = (x, y, z)
        share = _blocks(self.known, factors)
        total = _blocks(np.where(self.known, self.field, 0), factors)
        field: Float32Array = np.divide(total, share, out=np.zeros_like(total), where=share > 0)
        return _Problem(field, share > 0.5, _blocks(self.inside, factors) > 0.5, self.size * factors), factors


@dataclass(frozen=True)
class _Settings:
    b0_direction: NDArray[np.float64]
    exterior: float
    interior: float
    noise: float
    iterations: int
    tolerance: float
    progress: Callable[[int, float], None] | None


def pdf(
    total_field: ArrayLike,
    mask: ArrayLike,
    voxel_size: ArrayLike,
    b0_direction: ArrayLike,
    *,
    exterior: float = EXTERIOR,
    interior: float = INTERIOR,
    noise: float = NOISE,
    edge: float = EDGE,
    margin: float = MARGIN,
    iterations: int = ITERATIONS,
    tolerance: float = TOLERANCE,
    progress: Callable[[int, float], None] | None = None,
) -> LocalField:
    """Remove the field of the dipoles outside the mask that explain the total field best (PDF).

    Minimised over chi is |K (D * chi - B)|^2 / noise^2 + |chi|^2 / sigma^2, with sigma = exterior outside the mask and
    interior inside; the field of the outer part is taken off.

    Parameters
    ----------
    total_field
        (x, y, z) in ppm of B0.
    mask
        (x, y, z), non-zero where the field is known.
    voxel_size
        (3,) in mm.
    b0_direction
        Unit vector (3,) along the axes of the grid.
    exterior, interior, noise
        Standard deviations in ppm (interior = 0: Liu 2011's projection).
    edge
        mm at the mask's edge left out of the data K, one voxel at least unless 0.
    margin
        mm at the edge where the result is not valid (0: the mask is kept whole).
    iterations
        The most that are taken.
    tolerance
        Relative residual to stop at.
    progress
        Called with iteration and residual.

    Returns
    -------
        A `LocalField`: `.field` (x, y, z) in ppm of B0, `.mask` where it is valid: `margin` mm inside.

    Raises
    ------
    InputError
        Where shapes differ, the mask is empty, or a setting leaves nothing.

    References
    ----------
    Liu 2011, NMR Biomed 24:1129 (projection); Liu 2017, Magn Reson Med 78:2066 (inner and outer sources).
    """
    given = check_input(total_field, mask, voxel_size)
    check_positive(exterior, "exterior", "ppm")
    check_positive(noise, "noise", "ppm")
    check_positive(tolerance, "tolerance", "")
    for value, name, unit in ((interior, "interior", "ppm"), (edge, "edge", "mm"), (margin, "margin", "mm")):
        check_not_negative(value, name, unit)
    check_iterations(iterations)
    h = check_b0_direction(b0_direction)
    depth = depth_inside(given.inside, given.size)
    known = depth > (max(edge, float(given.size.min())) if edge > 0 else 0)
    valid = depth > margin
    if not (known & valid).any():
        raise InputError(
            f"nothing of the mask ({int(given.inside.sum())} voxels) is left without its edge of {edge:g} mm and "
            f"margin of {margin:g} mm: use smaller ones or a larger mask."
        )
    given = given.less_harmonics(known)
    settings = _Settings(h, exterior, interior, noise, iterations, tolerance, progress)
    box = bounding_box(given.inside)
    problem = _Problem(given.field[box], known[box], given.inside[box], given.size)
    local = np.zeros(given.shape, np.float32)
    local[box] = problem.field - _outer_field(problem, settings)
    return only_inside(local, valid)


def _outer_field(problem: _Problem, settings: _Settings) -> Float32Array:
    """Return the field (x, y, z) in ppm of the outer sources."""
    dipoles = _operator(problem, settings)
    chi = dipoles.scale * _sources(problem, dipoles, settings)
    crop(chi, problem.inside.shape)[problem.inside] = 0
    return dipoles.field(chi)


def _operator(problem: _Problem, settings: _Settings) -> WeightedDipoles:
    grid = padded_shape(problem.inside.shape, problem.size, PADDING)
    scale = np.full(grid, settings.exterior, np.float32)
    crop(scale, problem.inside.shape)[problem.inside] = settings.interior
    return WeightedDipoles(problem.known, scale, problem.size, settings.b0_direction)


def _sources(problem: _Problem, dipoles: WeightedDipoles, settings: _Settings) -> Float32Array:
    """Return the sources u on the padded grid, from the guess of a coarser grid where there is one."""
    start = _start(problem, dipoles.grid, settings)
    ridge = np.float32(settings.noise**2)
    found = conjugate_gradients(
        lambda u: dipoles.adjoint(dipoles.forward(u)) + ridge * u, dipoles.adjoint(problem.field),
        iterations=settings.iterations, tolerance=settings.tolerance, start=start, progress=settings.progress,
    )  # fmt: skip
    return np.asarray(found.volume, np.float32)


def _start(problem: _Problem, grid: Shape, settings: _Settings) -> Float32Array | None:
    """Return the sources u of voxels about twice as large on this grid, None where those would be too coarse."""
    coarse, factors = problem.halved()
    if coarse.size.max() > _COARSEST_EDGE or not coarse.known.any():
        return None
    dipoles = _operator(coarse, settings)
    found = _sources(coarse, dipoles, replace(settings, iterations=COARSE_ITERATIONS, progress=None))
    indices = [
        _periodic_indices(grid[axis], problem.inside.shape[axis], dipoles.grid[axis], factors[axis])
        for axis in range(3)
    ]
    return found[np.ix_(*indices)]


def _periodic_indices(count: int, box: int, coarse: int, factor: int) -> NDArray[np.intp]:
    """Return for each of `count` points of a periodic axis, whose first `box` hold the mask, the one of a coarser axis.

    Points up to the middle of the padding are counted from the axis's start, the others from its end.
    """
    points = np.arange(count)
    after = points < (box + count) / 2
    index = np.where(after, points // factor, coarse - 1 - (count - 1 - points) // factor)
    return np.clip(index, 0, coarse - 1)


def _blocks(volume: NDArray[Any], factors: tuple[int, int, int]) -> Float32Array:
    """Return the means of blocks of voxels, what lacks at the end taken as 0."""
    padded = np.pad(volume, [(0, -n % f) for n, f in zip(volume.shape, factors, strict=True)])
    nx, ny, nz = (n // f for n, f in zip(padded.shape, factors, strict=True))
    parts = padded.reshape(nx, factors[0], ny, factors[1], nz, factors[2])
    return parts.mean(axis=(1, 3, 5), dtype=np.float32)
