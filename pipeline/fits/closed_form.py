"""Closed-form COSMOS and susceptibility-tensor fits with the split prior: one small solve per k.

Minimised is sum_i |F^-1 A_i F chi - dB_i|^2 / sigma^2 + |chi_iso|^2 / sigma_iso^2 + |chi_aniso|_F^2 / sigma_aniso^2,
chi = chi_iso I + traceless part. COSMOS is its limit sigma_aniso -> 0 (Liu 2009 and 2010).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ..dipole import (
    Complex64Array,
    Float32Array,
    Shape,
    check_grid,
    crop,
    forward_fft,
    inverse_fft,
    padded_shape,
    projection_on_k,
)
from ..errors import InputError
from ..frames import check_b0_direction
from ..orientations import OrientationReport, require_orientations
from ..tensor_field import tensor_kernel
from ..tensors import COMPONENTS, DIAGONAL, mms, msa, principal_eigenvector
from ..tensors import eigenvalues as tensor_eigenvalues

FIT_PADDING = 32.0  # mm
_SLAB_POINTS = 200_000  # k-space points solved at a time
_NOISE_POINTS = 60_000  # k-space points the noise is estimated from
_TRACE = np.array([1.0, 0, 0, 1, 0, 1])


@dataclass(frozen=True)
class Prior:
    """Standard deviations in ppm of the isotropic part and of the traceless part of the tensor (Frobenius)."""

    iso: float = 0.03
    aniso: float = 0.004

    def __post_init__(self) -> None:
        for name in ("iso", "aniso"):
            value = getattr(self, name)
            if not value > 0:
                raise InputError(f"prior.{name} must be a positive standard deviation in ppm, got {value}.")

    def precision(self) -> NDArray[np.float64]:
        """Return the 6x6 inverse covariance: |chi_iso|^2 / iso^2 + |chi_aniso|_F^2 / aniso^2 (1 / ppm^2)."""
        metric = np.diag([1.0, 2, 2, 1, 2, 1])
        mean = np.outer(_TRACE, _TRACE) / 3
        return mean / (3 * self.iso**2) + (metric - mean) / self.aniso**2


@dataclass(frozen=True)
class Fit:
    """A susceptibility fit on one grid, in ppm, components along the voxel frame.

    tensor: (6, x, y, z); cosmos: (x, y, z); noise: standard deviation of the fields in ppm that the fit assumed;
    prior: its standard deviations; orientations: how well the directions determine it.
    """

    tensor: Float32Array
    cosmos: Float32Array
    noise: float
    prior: Prior
    orientations: OrientationReport = field(repr=False)

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

    @cached_property
    def principal_eigenvector(self) -> NDArray[np.floating]:
        """The principal eigenvector (3, x, y, z), unit length, along the voxel frame."""
        return principal_eigenvector(self.tensor)


@dataclass(frozen=True)
class _Spectra:
    """The half spectra of all scans on the padded grid, and the model rows of a slab of them."""

    values: list[Complex64Array]
    grid: Shape
    voxel_size: NDArray[np.float64]
    directions: list[NDArray[np.float64]]

    def rows(self, planes: slice) -> NDArray[np.float32]:
        """Return a(k) of every scan as (points, scans, 6) for a slab of kx planes; 0 at k = 0."""
        stacked = []
        for h in self.directions:
            row = tensor_kernel(projection_on_k(self.grid, self.voxel_size, h, planes), h)
            if (planes.start or 0) == 0:
                row[:, 0, 0, 0] = 0
            stacked.append(row.reshape(6, -1))
        return np.ascontiguousarray(np.stack(stacked).transpose(2, 0, 1))

    def data(self, planes: slice) -> Complex64Array:
        """Return the data of every scan as (points, scans)."""
        return np.stack([one[planes].reshape(-1) for one in self.values], axis=1)

    def slabs(self) -> Iterator[slice]:
        """Yield slices over kx of about equal size."""
        plane = self.grid[1] * (self.grid[2] // 2 + 1)
        step = max(1, _SLAB_POINTS // plane)
        for start in range(0, self.grid[0], step):
            yield slice(start, min(start + step, self.grid[0]))


def _transform(
    fields: Sequence[ArrayLike], voxel_size: ArrayLike, b0_directions: Sequence[ArrayLike], padding: float
) -> tuple[_Spectra, Shape]:
    if len(fields) != len(b0_directions):
        raise InputError(
            f"{len(fields)} fields but {len(b0_directions)} B0 directions were given: give one of each a scan."
        )
    shape, size = check_grid(np.shape(fields[0]), voxel_size)
    grid = padded_shape(shape, size, padding)
    values = []
    for index, one in enumerate(fields):
        volume = np.asarray(one, np.float32)
        if volume.shape != shape:
            raise InputError(f"fields[{index}] has shape {volume.shape}, but the first has {shape}: resample it.")
        if not np.isfinite(volume).all():
            raise InputError(f"fields[{index}] holds NaN or infinity: set voxels outside its mask to 0.")
        values.append(forward_fft(volume, grid))
    directions = [check_b0_direction(h, f"b0_directions[{i}]") for i, h in enumerate(b0_directions)]
    return _Spectra(values, grid, size, directions), shape


def _solve(rows: NDArray, data: Complex64Array, precision: NDArray[np.float64]) -> tuple[NDArray, NDArray]:
    """Return the components (points, 6) and the normal matrices (points, 6, 6) of A^T A + precision."""
    transposed = rows.transpose(0, 2, 1)
    normal = transposed @ rows
    right = np.matmul(transposed.astype(np.complex64), data[..., None])[..., 0]
    stacked = np.stack([right.real, right.imag], axis=-1).astype(np.float64)
    solution = np.linalg.solve(normal + precision, stacked)
    return solution[..., 0] + 1j * solution[..., 1], normal


def estimate_noise(spectra: _Spectra, prior: Prior, voxels: float) -> float:
    """Return the standard deviation in ppm of what the tensor model leaves of the fields, at a fixed point.

    It is estimated from a seeded sample of k-space points: residual energy over scans less effective parameters.
    voxels: number of voxels in which the fields are not zero, mean over scans.
    """
    rng = np.random.default_rng(0)
    rows, data = _sample_points(spectra, rng)
    noise, precision = 1e-3, prior.precision()
    energy_to_variance = 1 / max(voxels, 1.0)
    for _ in range(12):
        weighted = noise**2 * precision
        solution, normal = _solve(rows, data, weighted)
        residual = data - np.matmul(rows, solution[..., None].astype(np.complex64))[..., 0]
        parameters = np.einsum("nii->n", np.linalg.solve(normal + weighted, normal.astype(np.float64)))
        freedom = float((len(spectra.directions) - parameters).sum())
        updated = np.sqrt(float((np.abs(residual) ** 2).sum()) * energy_to_variance / max(freedom, 1e-9))
        converged = abs(updated - noise) < 0.01 * noise
        noise = float(max(updated, 1e-7))
        if converged:
            break
    return noise


def _sample_points(spectra: _Spectra, rng: np.random.Generator) -> tuple[NDArray, Complex64Array]:
    planes = spectra.grid[0]
    plane = spectra.grid[1] * (spectra.grid[2] // 2 + 1)
    wanted = min(planes, max(8, _NOISE_POINTS // plane))
    chosen = np.sort(rng.choice(planes, wanted, replace=False))
    per_plane = max(1, min(plane, _NOISE_POINTS // wanted))
    rows, data = [], []
    for x in chosen:
        points = rng.choice(plane, per_plane, replace=False)
        rows.append(spectra.rows(slice(int(x), int(x) + 1))[points])
        data.append(spectra.data(slice(int(x), int(x) + 1))[points])
    return np.concatenate(rows), np.concatenate(data)


def fit_susceptibility(
    fields: Sequence[ArrayLike],
    voxel_size: ArrayLike,
    b0_directions: Sequence[ArrayLike],
    *,
    prior: Prior | None = None,
    noise: float | None = None,
    padding: float = FIT_PADDING,
) -> Fit:
    """Fit the susceptibility tensor and COSMOS to the local fields of several orientations, in closed form.

    fields: one (x, y, z) a scan in ppm of B0, all on one grid, 0 outside their masks; voxel_size: (3,) mm;
    b0_directions: one unit vector a scan in the voxel frame of that grid; prior: standard deviations in ppm,
    0.03 (isotropic) and 0.004 (traceless) by default; noise: standard deviation of the fields in ppm, estimated
    from the data when not given; padding: mm of zeros appended to each axis. k = 0 stays 0.
    Returns a Fit in ppm, components along the voxel frame. Raises InputError where the directions determine
    nothing or shapes differ. Sources: Liu 2009 (COSMOS), Liu 2010 (STI).
    """
    used_prior = prior or Prior()
    report = require_orientations(b0_directions)
    spectra, shape = _transform(fields, voxel_size, b0_directions, padding)
    if noise is None:
        noise = estimate_noise(spectra, used_prior, float(np.mean([np.count_nonzero(one) for one in fields])))
    elif not noise > 0:
        raise InputError(f"noise must be a positive standard deviation in ppm, got {noise}.")
    precision = noise**2 * used_prior.precision()
    half = (spectra.grid[0], spectra.grid[1], spectra.grid[2] // 2 + 1)
    tensor_hat = np.zeros((6, *half), np.complex64)
    cosmos_hat = np.zeros(half, np.complex64)
    for planes in spectra.slabs():
        rows, data = spectra.rows(planes), spectra.data(planes)
        solution, _ = _solve(rows, data, precision)
        tensor_hat[:, planes] = solution.T.reshape(6, -1, *half[1:])
        scalar = rows[..., list(DIAGONAL)].sum(axis=-1)
        weight = (scalar**2).sum(axis=1) + noise**2 / used_prior.iso**2
        cosmos_hat[planes] = ((scalar * data).sum(axis=1) / weight).reshape(-1, *half[1:])
    tensor_hat[:, 0, 0, 0] = 0
    cosmos_hat[0, 0, 0] = 0
    spectra.values.clear()
    tensor = np.empty((6, *shape), np.float32)
    for component in range(len(COMPONENTS)):
        tensor[component] = crop(inverse_fft(tensor_hat[component], spectra.grid), shape)
    cosmos = np.ascontiguousarray(crop(inverse_fft(cosmos_hat, spectra.grid), shape))
    return Fit(tensor=tensor, cosmos=cosmos, noise=noise, prior=used_prior, orientations=report)
