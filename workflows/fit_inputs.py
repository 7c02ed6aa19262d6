"""Fields of scans on their own grids, brought into the subject frame for a fit."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..files.errors import InputError
from ..pipeline.background.exterior_sources import exterior_field
from ..pipeline.fits.masked import Keep
from ..pipeline.fits.methods import FitOptions, Method
from ..pipeline.fits.noise import outstanding_scans
from ..pipeline.fits.result import Fit
from ..pipeline.fits.uncertainty import LEFT_OUT, Uncertainty
from ..pipeline.frames import (
    b0_direction,
    check_b0_direction,
    rotation_and_scale,
    voxel_frame,
    voxel_size,
)
from ..pipeline.images.resample import resample_inside
from ..pipeline.physics.dipole import Float32Array

SMALLEST_OVERLAP = 0.2
_LARGEST_WEIGHT = 2.0


@dataclass(frozen=True)
class ScanField:
    """A field (x, y, z) in ppm on its scan's grid, known in mask; weight: proportional to 1 / its standard deviation.

    transform: world of the scan to the subject frame (4, 4); b0_direction: voxel frame of the scan.
    """

    label: str
    field: Float32Array
    mask: NDArray[np.bool_]
    affine: NDArray[np.float64]
    transform: NDArray[np.float64]
    b0_direction: NDArray[np.float64]
    weight: Float32Array | None = None


@dataclass(frozen=True)
class SubjectFields:
    """What a fit takes: fields and weights (x, y, z) a scan on the reference grid, B0 directions in its voxel frame.

    determined: where at least one scan has a field (x, y, z).
    """

    fields: list[Float32Array]
    weights: list[Float32Array]
    directions: list[NDArray[np.float64]]
    determined: NDArray[np.bool_]


def subject_b0_direction(
    affine: NDArray[Any], reference_affine: NDArray[Any], transform: NDArray[Any], override: Any = None
) -> NDArray[np.float64]:
    """Return a scan's B0 direction (3,) in the voxel frame of the reference grid: Q_ref^T R Q h.

    affine, reference_affine: voxel-to-world; transform: world of the scan to the reference's; override: the scan's
    B0 direction in its own voxel frame, from its affine when not given.
    """
    h = b0_direction(affine, override)
    rotation, _ = rotation_and_scale(transform)
    return check_b0_direction(voxel_frame(reference_affine).T @ rotation @ voxel_frame(affine) @ h)


def to_subject_frame(
    scans: Iterable[ScanField],
    affine: NDArray[Any],
    shape: tuple[int, ...],
    *,
    total: bool,
    keep: Keep = np.ascontiguousarray,
) -> SubjectFields:
    """Return the fields of scans on the reference grid (affine, shape), each 0 where it is unknown.

    total: the fields hold a background; what is smooth of it is taken out before (exterior_sources); keep:
    where the volumes go (Execution.keep). Raises InputError, naming the scan, where hardly any of its mask falls into
    the reference grid.
    """
    fields, weights, directions = [], [], []
    determined = np.zeros(shape, bool)
    for scan in scans:
        field = scan.field
        if total:
            outside = exterior_field(field * scan.mask, scan.mask, voxel_size(scan.affine), scan.b0_direction)
            field = field - outside
        moved, known = resample_inside(field, scan.mask, scan.affine, affine, shape, scan.transform)
        _check_overlap(scan, known, affine)
        fields.append(keep(moved))
        weights.append(keep(_weight(scan, known, affine, shape)))
        determined |= known
        directions.append(subject_b0_direction(scan.affine, affine, scan.transform, scan.b0_direction))
    return SubjectFields(fields, weights, directions, determined)


def _check_overlap(scan: ScanField, known: NDArray[np.bool_], affine: NDArray[Any]) -> None:
    expected = float(scan.mask.sum()) * np.prod(voxel_size(scan.affine)) / np.prod(voxel_size(affine))
    if known.sum() < SMALLEST_OVERLAP * expected:
        raise InputError(
            f"only {known.sum() / max(expected, 1):.0%} of the brain of {scan.label} falls inside the reference scan's "
            "field of view: check its registration, or leave the scan out."
        )


def _weight(scan: ScanField, known: NDArray[np.bool_], affine: NDArray[Any], shape: tuple[int, ...]) -> Float32Array:
    """Return the weight on the reference grid: median 1 in the mask, at most 2, 0 where the field is unknown."""
    if scan.weight is None:
        return known.astype(np.float32)
    typical = float(np.median(scan.weight[scan.mask]))
    if not typical > 0:
        raise InputError(f"the weights of {scan.label} are zero in most of its mask: give positive weights.")
    moved, _ = resample_inside(scan.weight / typical, scan.mask, scan.affine, affine, shape, scan.transform)
    return np.clip(moved, 0, _LARGEST_WEIGHT) * known


def fit_sidecar(
    fit: Fit,
    labels: Sequence[str],
    world_directions: list[list[float]],
    *,
    weights: str = "mask",
    uncertainty: Uncertainty | None = None,
) -> dict[str, Any]:
    """Return what a fit's sidecar records: method, noise, prior, stopping, directions (world), conditioning."""
    report = fit.orientations

    def number(value: float) -> float | None:
        return float(value) if np.isfinite(value) else None

    record: dict[str, Any] = {
        "Fit": fit.method,
        "FieldNoisePpm": fit.noise,
        "ScanNoisePpm": [float(f"{noise:.4g}") for noise in fit.scan_noises],
        "PriorIsoPpm": number(fit.prior.iso),
        "PriorAnisoPpm": number(fit.prior.aniso),
        "Weights": "mask" if fit.method == "closed" else weights,
        **fit.record,
        "Scans": list(labels),
        "B0Directions": world_directions,
        "TensorConditionNumber": number(report.sti_condition),
        "TensorRank": report.sti_rank,
        "TensorNoiseGain": number(report.sti_noise_gain),
        "CosmosRatio": number(report.cosmos_ratio),
        "CosmosNoiseGain": number(report.cosmos_noise_gain),
        "CosmosWorstNoiseGain": number(report.cosmos_worst_gain),
        "CosmosConditioning": report.cosmos_grade,
        "TensorConditioning": report.sti_grade,
        "LargestAngleDegrees": report.spread,
        "Warnings": fit_warnings(fit, labels),
    }
    if uncertainty is not None:
        record["UncertaintyDraws"] = uncertainty.draws
        record["UncertaintyJackknifeGroups"] = uncertainty.groups
        record["UncertaintySeed"] = uncertainty.seed
        record["UncertaintyLeavesOut"] = LEFT_OUT[fit.method]
    return record


def fit_warnings(fit: Fit, labels: Sequence[str]) -> list[str]:
    """Return what a user should read of a fit: of its head orientations, and of scans that stand out by their noise."""
    noises = np.array(fit.scan_noises)
    said = list(fit.orientations.messages)
    for scan, times in (outstanding_scans(noises) if noises.size else {}).items():
        said.append(
            f"What the fit leaves of the field of {labels[scan]} is {noises[scan]:.2g} ppm, {times:.1f} times that of "
            f"the median scan ({fit.noise:.2g} ppm), so that it counts 1/{times**2:.0f} of that scan: look at its "
            "phase (noise, movement, drift among its echoes) and at its registration, or leave it out."
        )
    return said


def method_for(total: bool, method: Method | None) -> Method:
    """Return the fit method for total or local fields: the one asked for, or single-step and masked by default.

    Raises InputError where total fields are asked to go through a fit of local fields.
    """
    if total and method not in (None, "single-step"):
        raise InputError(
            f"--total goes with --fit single-step, got --fit {method}: that fit takes local fields, so remove the "
            "background first, or leave out --fit."
        )
    return method or ("single-step" if total else "masked")


__all__ = ["FitOptions", "ScanField", "SubjectFields", "fit_sidecar", "fit_warnings", "method_for",
           "subject_b0_direction", "to_subject_frame"]  # fmt: skip
