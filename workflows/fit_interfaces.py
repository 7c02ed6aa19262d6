"""Nipype interfaces of the fit and the labels."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from nipype.interfaces.base import BaseInterfaceInputSpec, File, InputMultiPath, TraitedSpec, traits
from numpy.typing import NDArray

from ..pipeline.dipole import Float32Array
from ..pipeline.errors import InputError
from ..pipeline.fits.closed_form import Fit, Prior, fit_susceptibility
from ..pipeline.frames import b0_direction_from_affine, check_b0_direction, rotation_and_scale, voxel_frame, voxel_size
from ..pipeline.labels import reference_to_mask, scan_labels
from ..pipeline.resample import resample, resample_mask
from ..pipeline.tensors import rotate_components
from .derivatives import read_image, read_transform
from .interfaces import _Chi33Interface

_SMALLEST_OVERLAP = 0.2


class _FitInputs(BaseInterfaceInputSpec):
    field_files = InputMultiPath(File(exists=True), mandatory=True, desc="local field a scan, ppm, own grid")
    mask_files = InputMultiPath(File(exists=True), mandatory=True, desc="where it is valid, a scan")
    transform_files = InputMultiPath(File(exists=True), mandatory=True, desc="world of the scan to the subject frame")
    reference_file = File(
        exists=True, mandatory=True, desc="brain mask of the reference scan: grid and reference of chi"
    )
    labels = traits.List(traits.Str, mandatory=True, desc="name of each scan")
    b0_directions = traits.List(
        traits.Either(None, traits.Tuple(traits.Float, traits.Float, traits.Float)), mandatory=True,
        desc="voxel-frame B0 direction a scan; None: from its affine",
    )  # fmt: skip
    prior_iso = traits.Float(mandatory=True, desc="ppm")
    prior_aniso = traits.Float(mandatory=True, desc="ppm")
    noise = traits.Either(None, traits.Float, usedefault=True, desc="ppm; None: from the data")


class _FitOutputs(TraitedSpec):
    tensor_file = File(desc="six components, axes of the subject frame's world, ppm")
    cosmos_file = File(desc="ppm")
    mms_file = File(desc="mean magnetic susceptibility, ppm")
    msa_file = File(desc="magnetic susceptibility anisotropy, ppm")
    pev_file = File(desc="principal eigenvector, axes of the subject frame's world")
    mask_file = File(desc="where at least one scan has a local field")
    sidecar_file = File(desc="JSON: noise, prior, B0 directions, conditioning")


class FitSusceptibility(_Chi33Interface):
    """Brings the local fields into the subject frame and fits tensor and COSMOS (pipeline.fits)."""

    input_spec = _FitInputs
    output_spec = _FitOutputs

    def _run_interface(self, runtime: Any) -> Any:
        inputs = self.inputs
        brain, affine = read_image(Path(inputs.reference_file))
        shape = brain.shape
        fields, support, directions = [], np.zeros(shape, bool), []
        for index, label in enumerate(inputs.labels):
            transform = read_transform(Path(inputs.transform_files[index]))
            field, mask, own = _in_subject_frame(
                Path(inputs.field_files[index]), Path(inputs.mask_files[index]), transform, affine, shape, label
            )
            fields.append(field)
            support |= mask
            directions.append(subject_b0_direction(own, affine, transform, inputs.b0_directions[index]))
        fit = fit_susceptibility(
            fields,
            voxel_size(affine),
            directions,
            prior=Prior(inputs.prior_iso, inputs.prior_aniso),
            noise=inputs.noise,
        )
        self._save_fit(runtime, fit, support, affine)
        world = [(voxel_frame(affine) @ h).round(8).tolist() for h in directions]
        self._save_json(runtime, "sidecar_file", fit_sidecar(fit, inputs.labels, world))
        return runtime

    def _save_fit(self, runtime: Any, fit: Fit, support: NDArray[np.bool_], affine: NDArray) -> None:
        frame = voxel_frame(affine)
        tensor = rotate_components(reference_to_mask(fit.tensor, support), frame)
        self._save(runtime, "tensor_file", tensor, affine)
        self._save(runtime, "cosmos_file", reference_to_mask(fit.cosmos, support), affine)
        self._save(runtime, "mask_file", support, affine, np.uint8)
        final = Fit(tensor, fit.cosmos, fit.noise, fit.prior, fit.orientations)
        self._save(runtime, "mms_file", final.mms, affine)
        self._save(runtime, "msa_file", final.msa * support, affine)
        self._save(runtime, "pev_file", final.principal_eigenvector * support, affine)


def _in_subject_frame(
    field_file: Path, mask_file: Path, transform: NDArray, affine: NDArray, shape: tuple[int, ...], label: str
) -> tuple[Float32Array, NDArray[np.bool_], NDArray[np.float64]]:
    """Return a scan's field and mask on the reference grid, and the scan's own affine."""
    field, own = read_image(field_file)
    inside, _ = read_image(mask_file)
    mask = resample_mask(inside, own, affine, shape, transform)
    expected = float((inside > 0).sum()) * np.prod(voxel_size(own)) / np.prod(voxel_size(affine))
    if mask.sum() < _SMALLEST_OVERLAP * expected:
        raise InputError(
            f"only {mask.sum() / max(expected, 1):.0%} of the brain of {label} falls inside the reference scan's field "
            "of view: check its registration, or leave the scan out."
        )
    return resample(field, own, affine, shape, transform) * mask, mask, own


def subject_b0_direction(
    affine: NDArray, reference_affine: NDArray, transform: NDArray, override: Any = None
) -> NDArray[np.float64]:
    """Return a scan's B0 direction (3,) in the voxel frame of the reference grid: Q_ref^T R Q h.

    affine, reference_affine: voxel-to-world; transform: world of the scan to the reference's; override: the scan's
    B0 direction in its own voxel frame, from its affine when not given.
    """
    h = b0_direction_from_affine(affine) if override is None else check_b0_direction(override)
    rotation, _ = rotation_and_scale(transform)
    return check_b0_direction(voxel_frame(reference_affine).T @ rotation @ voxel_frame(affine) @ h)


def fit_sidecar(fit: Fit, labels: list[str], world_directions: list[list[float]]) -> dict[str, Any]:
    """Return what a fit's sidecar records: noise, prior, directions along the subject frame's world, conditioning."""
    report = fit.orientations
    return {
        "Fit": "closed",
        "FieldNoisePpm": fit.noise,
        "PriorIsoPpm": fit.prior.iso,
        "PriorAnisoPpm": fit.prior.aniso,
        "Scans": list(labels),
        "B0Directions": world_directions,
        "TensorConditionNumber": report.sti_condition if np.isfinite(report.sti_condition) else None,
        "TensorRank": report.sti_rank,
        "TensorNoiseGain": report.sti_noise_gain if np.isfinite(report.sti_noise_gain) else None,
        "CosmosRatio": report.cosmos_ratio,
        "CosmosNoiseGain": report.cosmos_noise_gain,
        "LargestAngleDegrees": report.spread,
        "Warnings": list(report.messages),
    }


class _LabelInputs(BaseInterfaceInputSpec):
    tensor_file = File(exists=True, mandatory=True)
    cosmos_file = File(exists=True, mandatory=True)
    field_file = File(exists=True, mandatory=True, desc="local field of the scan, ppm, own grid")
    mask_file = File(exists=True, mandatory=True, desc="where it is valid")
    transform_file = File(exists=True, mandatory=True)
    b0_direction = traits.Either(None, traits.Tuple(traits.Float, traits.Float, traits.Float), usedefault=True)


class _LabelOutputs(TraitedSpec):
    chi33_file = File(desc="ppm")
    deltab_file = File(desc="delta B', ppm of B0")
    cosmos_file = File(desc="ppm")
    residual_file = File(desc="ppm of B0")


class ScanLabels(_Chi33Interface):
    """Turns the tensor into the labels of one scan on its own grid (pipeline.labels)."""

    input_spec = _LabelInputs
    output_spec = _LabelOutputs

    def _run_interface(self, runtime: Any) -> Any:
        inputs = self.inputs
        tensor, subject_affine = read_image(Path(inputs.tensor_file))
        cosmos, _ = read_image(Path(inputs.cosmos_file))
        field, affine = read_image(Path(inputs.field_file))
        mask, _ = read_image(Path(inputs.mask_file))
        found = scan_labels(
            tensor, cosmos, subject_affine, affine, field.shape, read_transform(Path(inputs.transform_file)), field,
            mask > 0, b0_direction=inputs.b0_direction,
        )  # fmt: skip
        for output, volume in (
            ("chi33_file", found.chi33), ("deltab_file", found.delta_b),
            ("cosmos_file", found.cosmos), ("residual_file", found.residual),
        ):  # fmt: skip
            self._save(runtime, output, volume, affine)
        return runtime
