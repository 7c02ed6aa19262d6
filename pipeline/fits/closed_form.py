"""Closed-form COSMOS and susceptibility-tensor fits with the split prior: one small solve per k.

Minimised is sum_i |F^-1 A_i F chi - dB_i|^2 / sigma^2 + |chi_iso|^2 / sigma_iso^2 + |chi_aniso|_F^2 / sigma_aniso^2,
chi = chi_iso I + traceless part. COSMOS is its limit sigma_aniso -> 0 (Liu 2009 and 2010).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ...files.errors import InputError
from ..orientations.conditioning import OrientationReport, require_orientations
from ..physics.dipole import Complex64Array, Float32Array
from ..physics.prior import Prior
from .execution import Execution, execution_or_threads
from .model import kernels
from .model.grid import FIT_PADDING, FitGrid, make_grid
from .noise import given_noise, scan_levels, typical_noise
from .result import Fit
from .spectral_noise import estimate_noises

__all__ = ["FIT_PADDING", "Fit", "Prior", "fit_susceptibility"]


def check_fields(fields: Sequence[ArrayLike], b0_directions: Sequence[ArrayLike]) -> list[NDArray[np.float32]]:
    """Return the fields as float32 volumes of one shape, as many as directions; raises InputError."""
    if len(fields) != len(b0_directions):
        raise InputError(
            f"{len(fields)} fields but {len(b0_directions)} B0 directions were given: give one of each a scan."
        )
    volumes = []
    for index, one in enumerate(fields):
        volume = np.asarray(one, np.float32)
        if volume.shape != np.shape(fields[0]):
            raise InputError(
                f"fields[{index}] has shape {volume.shape}, but the first has {np.shape(fields[0])}: resample it."
            )
        if not np.isfinite(volume).all():
            raise InputError(f"fields[{index}] holds NaN or infinity: set voxels outside its mask to 0.")
        volumes.append(volume)
    return volumes


def check_support(support: ArrayLike | None, weights: Sequence[NDArray[Any]]) -> NDArray[np.bool_]:
    """Return where chi may differ from 0: the given mask, else wherever a scan has weight; raises InputError."""
    known = np.zeros(weights[0].shape, bool)
    for weight in weights:
        known |= weight > 0
    if support is None:
        return known
    inside = np.asarray(support, bool)
    if inside.shape != known.shape:
        raise InputError(f"support has shape {inside.shape}, but the fields have {known.shape}.")
    if not (inside & known).any():
        raise InputError("support and the scans' masks share no voxel: check the masks.")
    return inside


def check_determined(b0_directions: Sequence[ArrayLike], prior: Prior) -> OrientationReport:
    """Return how well directions determine a fit; raises InputError where they and the prior do not."""
    report = require_orientations(b0_directions, tensor_prior=prior.determines_tensor)
    if not (np.isfinite(prior.iso) or np.isfinite(report.cosmos_noise_gain)):
        raise InputError(
            f"these {report.n} directions see nothing at some frequencies, which only a finite prior.iso fills: "
            "give one, or add a scan tilted about another axis."
        )
    return report


def check_device(device: str) -> None:
    """Raise InputError where a device is neither "cpu" nor one that torch has: "cuda", "cuda:N", "torch-cpu"."""
    if device != "cpu":
        from .model.torch_closed_form import torch_device

        torch_device(device)


def check_settings(
    b0_directions: Sequence[ArrayLike], prior: Prior, noise: float | ArrayLike | None, device: str
) -> OrientationReport:
    """Return how well directions determine a fit; raises InputError on settings that no fit can use."""
    report = check_determined(b0_directions, prior)
    given_noise(noise, len(b0_directions))
    check_device(device)
    return report


def fit_susceptibility(
    fields: Sequence[ArrayLike],
    voxel_size: ArrayLike,
    b0_directions: Sequence[ArrayLike],
    *,
    prior: Prior | None = None,
    noise: float | ArrayLike | None = None,
    padding: float = FIT_PADDING,
    execution: Execution | None = None,
    device: str = "cpu",
) -> Fit:
    """Fit the susceptibility tensor and COSMOS to the local fields of several orientations, in closed form.

    fields: one (x, y, z) a scan in ppm of B0, all on one grid, 0 outside their masks; voxel_size: (3,) mm;
    b0_directions: one unit vector a scan in the voxel frame of that grid; prior: standard deviations in ppm,
    0.03 (isotropic) and 0.004 (traceless) by default; noise: standard deviation of the fields in ppm, of all scans or
    one for each, estimated scan by scan when not given; padding: mm of zeros appended to the box around the fields (0:
    the whole grid, circular); execution: where it runs; device: "cpu" (compiled kernels, on `execution`), or "cuda",
    "cuda:N" (torch on a GPU). k = 0 stays 0; the mean of each field where it is known is left out.
    Returns a Fit in ppm, components along the voxel frame, 0 outside the box. Raises InputError where the directions
    determine nothing or shapes differ. Sources: Liu 2009 (COSMOS), Liu 2010 (STI).
    """
    used_prior = prior or Prior()
    report = check_settings(b0_directions, used_prior, noise, device)
    volumes = check_fields(fields, b0_directions)
    inside = np.zeros(volumes[0].shape, bool)
    for volume in volumes:
        inside |= volume != 0
    volumes = [_without_mean(volume) for volume in volumes]
    grid = make_grid(inside, voxel_size, b0_directions, padding)
    voxels = [max(int(np.count_nonzero(volume)), 1) for volume in volumes]
    noises = given_noise(noise, len(volumes))
    if device != "cpu":
        from .model.torch_closed_form import closed_form_maps as torch_maps

        maps, noises = torch_maps(volumes, grid, used_prior, noises, voxels, device)
    else:
        with execution_or_threads(execution) as running:
            maps, noises = _closed_form_maps(volumes, grid, used_prior, noises, voxels, running)
    tensor, cosmos = grid.embed(maps[:6]), grid.embed(maps[6])
    return Fit(
        tensor, cosmos, typical_noise(noises), used_prior, report, "closed", {"PaddingMm": padding},
        tuple(noises.tolist()),
    )  # fmt: skip


def _without_mean(volume: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return a field less its mean where it is known (not 0): a constant of the scan is none of the tissue."""
    known = volume != 0
    mean = float(volume.sum(dtype=np.float64)) / max(int(np.count_nonzero(known)), 1)
    return np.where(known, volume - np.float32(mean), np.float32(0))


def _closed_form_maps(
    volumes: Sequence[NDArray[np.float32]],
    grid: FitGrid,
    prior: Prior,
    noises: NDArray[np.float64] | None,
    voxels: Sequence[int],
    running: Execution,
) -> tuple[Float32Array, NDArray[np.float64]]:
    """Return the tensor and COSMOS (7, box) of the fields, and the noise of each scan; voxels: known ones of each."""
    spectra = _transform(volumes, grid, running)
    if noises is None:
        noises = estimate_noises(spectra, grid, prior, voxels)
    _solve(spectra, grid, noises, prior, running)
    maps = np.empty((7, *grid.box_shape), np.float32)
    running.fill(maps, grid.inverse, [spectra[c] for c in range(7)])
    return maps, noises


def _transform(volumes: Sequence[NDArray[np.float32]], grid: FitGrid, running: Execution) -> Complex64Array:
    """Return the half spectra of the scans (at least 7, x, y, z); what lies behind the scans is not set."""
    spectra = running.allocate((max(7, len(volumes)), *grid.half), np.complex64)
    running.fill(spectra, grid.forward, [grid.crop(volume) for volume in volumes], grid.forward_into)
    return spectra


def _solve_slab(
    fields: Complex64Array,
    grid: FitGrid,
    planes: slice,
    levels: NDArray[np.float32],
    precision: NDArray[np.float64],
    scalar_precision: float,
) -> Complex64Array:
    """Return the tensor and COSMOS (7, x, y, z) of a slab; grid: with the levels of the scans."""
    solved = np.empty((7, *fields.shape[1:]), np.complex64)
    fields = fields * levels[:, None, None, None]
    kernels.solve_scans(
        solved[:6], solved[6], fields, grid.directions, precision, scalar_precision, *grid.frequencies(planes)
    )
    return solved


def _solve(
    spectra: Complex64Array, grid: FitGrid, noises: NDArray[np.float64], prior: Prior, running: Execution
) -> None:
    """Replace the first seven spectra by those of the tensor and of COSMOS, slab by slab."""
    noise, levels = typical_noise(noises), scan_levels(noises).astype(np.float32)
    weighted, precision = grid.with_levels(levels), noise**2 * prior.precision()
    scalar_precision = noise**2 / prior.iso**2
    slabs, count = grid.slabs(), len(grid.directions)
    step = max(1, running.workers) * 4
    for start in range(0, len(slabs), step):
        some = slabs[start : start + step]
        solved = running.map(
            _solve_slab,
            [spectra[:count, planes] for planes in some],
            [weighted] * len(some),
            some,
            [levels] * len(some),
            [precision] * len(some),
            [scalar_precision] * len(some),
        )
        for planes, one in zip(some, solved, strict=True):
            spectra[:7, planes] = one
