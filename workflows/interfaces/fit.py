"""Nipype interfaces of the fit and the labels."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from nipype.interfaces.base import BaseInterfaceInputSpec, File, InputMultiPath, TraitedSpec, isdefined, traits
from numpy.typing import NDArray

from ...files.derivatives import open_image, read_image, read_transform
from ...files.errors import InputError
from ...pipeline.background import field_of_fit
from ...pipeline.background.exterior_sources import exterior_field
from ...pipeline.fits.execution import Execution
from ...pipeline.fits.methods import FitOptions, fit_fields
from ...pipeline.fits.result import Fit
from ...pipeline.fits.single_step import smv_filtered
from ...pipeline.fits.tissue.prior import CORRELATION
from ...pipeline.frames import b0_direction, voxel_frame, voxel_size
from ...pipeline.labels import Labels, reference_to_mask, scan_deviations, scan_labels
from ...pipeline.physics.prior import Prior
from ...pipeline.physics.tensors import rotate_components
from ..fit_inputs import ScanField, fit_sidecar, to_subject_frame
from ..raw.given_directions import shared_direction_problem
from ..tissue_files import WHITE_MATTER, TissueFiles
from .scan import Chi33Interface


class _FitInputs(BaseInterfaceInputSpec):
    field_files = InputMultiPath(File(exists=True), mandatory=True, desc="field a scan, ppm, own grid")
    mask_files = InputMultiPath(File(exists=True), mandatory=True, desc="where it is known, a scan")
    weight_files = InputMultiPath(File(exists=True), desc="proportional to 1 / standard deviation of the field, a scan")
    transform_files = InputMultiPath(File(exists=True), mandatory=True, desc="world of the scan to the subject frame")
    reference_file = File(
        exists=True, mandatory=True, desc="brain mask of the reference scan: grid and reference of chi"
    )
    labels = traits.List(traits.Str, mandatory=True, desc="name of each scan")
    b0_directions = traits.List(
        traits.Either(None, traits.Tuple(traits.Float, traits.Float, traits.Float)), mandatory=True,
        desc="voxel-frame B0 direction a scan; None: from its affine",
    )  # fmt: skip
    method = traits.Enum("single-step", "masked", "closed", usedefault=True, desc="single-step takes total fields")
    prior_iso = traits.Float(mandatory=True, desc="ppm")
    prior_aniso = traits.Float(mandatory=True, desc="ppm")
    prior_correlation = traits.Float(CORRELATION, usedefault=True, desc="mm, of the tensor's traceless part")
    isotropic_frequency = traits.Union(
        traits.Enum("auto"), traits.Float, default_value="auto", usedefault=True,
        desc="ppm, prior of a frequency that all scans share; 0: none",
    )  # fmt: skip
    white_matter = traits.Enum(*WHITE_MATTER, usedefault=True, desc="where the traceless part is larger")
    white_matter_file = File(exists=True, desc="probability 0-1, instead of that")
    fibre_file = File(exists=True, desc="unit vectors along the world's axes, subject grid")
    noise = traits.Either(None, traits.Float, usedefault=True, desc="ppm; None: from the data")
    iterations = traits.Either(None, traits.Int, usedefault=True, desc="None: the method's own")
    draws = traits.Int(0, usedefault=True, desc="of the posterior; 0: none")
    jackknife = traits.Int(0, usedefault=True, desc="groups of scans left out; 0: none")
    score = traits.Int(0, usedefault=True, desc="groups of scans held out for the held-out score; 0: none")
    scheduler = traits.Str(
        "threads", usedefault=True, nohash=True, desc="threads, local, or the address of a Dask scheduler"
    )
    memory = traits.Union(  # an Either loses nohash
        None, traits.Float, usedefault=True, nohash=True, desc="GB of scans in memory; None: no limit"
    )
    device = traits.Str("cpu", usedefault=True, desc="cpu or cuda")


class _FitOutputs(TraitedSpec):
    tensor_file = File(desc="six components, axes of the subject frame's world, ppm")
    cosmos_file = File(desc="ppm")
    mms_file = File(desc="mean magnetic susceptibility, ppm")
    msa_file = File(desc="magnetic susceptibility anisotropy, ppm")
    pev_file = File(desc="principal eigenvector, axes of the subject frame's world")
    frequency_file = File(desc="isotropic frequency, where it was fitted, ppm of B0")
    mask_file = File(desc="where at least one scan has a field")
    sidecar_file = File(desc="JSON: method, noise, prior, stopping, B0 directions, conditioning")
    uncertainty_file = File(desc="standard deviations, ppm: chi33 and delta B' of each scan in turn, then COSMOS")


class FitSusceptibility(Chi33Interface):
    """Brings the fields into the subject frame and fits tensor and COSMOS (pipeline.fits)."""

    input_spec = _FitInputs
    output_spec = _FitOutputs

    def _run_interface(self, runtime: Any) -> Any:
        inputs = self.inputs
        brain, affine = read_image(Path(inputs.reference_file))
        options = FitOptions(
            method=inputs.method, prior=Prior(inputs.prior_iso, inputs.prior_aniso), noise=inputs.noise,
            iterations=inputs.iterations, draws=inputs.draws, jackknife=inputs.jackknife,
            score=inputs.score, anatomy=self._tissue().options(brain > 0, affine),
        )  # fmt: skip
        self._check_directions()
        with Execution(inputs.scheduler, memory=inputs.memory, scratch=runtime.cwd) as execution:
            placed = to_subject_frame(
                self._scans(), affine, brain.shape, total=inputs.method == "single-step", keep=execution.keep
            )
            fit, uncertainty = fit_fields(
                placed.fields, placed.weights, voxel_size(affine), placed.directions, options, execution=execution,
                names=list(inputs.labels), device=inputs.device, progress=_log,
            )  # fmt: skip
        self._save_fit(runtime, fit, placed.determined, affine)
        if uncertainty is not None:
            pairs = [one for pair in zip(uncertainty.chi33, uncertainty.delta_b, strict=True) for one in pair]
            deviations = np.stack([*pairs, uncertainty.cosmos]) * placed.determined
            self._save(runtime, "uncertainty_file", deviations, affine)
        world = [(voxel_frame(affine) @ h).round(8).tolist() for h in placed.directions]
        weighted = "magnitude" if isdefined(inputs.weight_files) else "mask"
        sidecar = fit_sidecar(fit, inputs.labels, world, weights=weighted, uncertainty=uncertainty)
        self._save_json(runtime, "sidecar_file", sidecar)
        return runtime

    def _tissue(self) -> TissueFiles:
        inputs = self.inputs
        given = inputs.white_matter_file if isdefined(inputs.white_matter_file) else inputs.white_matter
        fibre = inputs.fibre_file if isdefined(inputs.fibre_file) else None
        return TissueFiles(str(given), fibre, inputs.prior_correlation, inputs.isotropic_frequency)

    def _check_directions(self) -> None:
        """Raise InputError where nothing tells how the heads lay to B0."""
        inputs = self.inputs
        images = [open_image(Path(path)) for path in inputs.field_files]
        transforms = [read_transform(Path(path)) for path in inputs.transform_files]
        problem = shared_direction_problem(
            [(image.shape[:3], image.affine) for image in images], transforms, inputs.b0_directions
        )
        if problem:
            raise InputError(problem)

    def _scans(self) -> Iterator[ScanField]:
        inputs = self.inputs
        for index, label in enumerate(inputs.labels):
            field, own = read_image(Path(inputs.field_files[index]))
            mask, _ = read_image(Path(inputs.mask_files[index]))
            weight = read_image(Path(inputs.weight_files[index]))[0] if isdefined(inputs.weight_files) else None
            transform = read_transform(Path(inputs.transform_files[index]))
            h = b0_direction(own, inputs.b0_directions[index])
            yield ScanField(label, field, mask > 0, own, transform, h, weight)

    def _save_fit(self, runtime: Any, fit: Fit, support: NDArray[np.bool_], affine: NDArray[Any]) -> None:
        frame = voxel_frame(affine)
        tensor = rotate_components(reference_to_mask(fit.tensor, support), frame)
        self._save(runtime, "tensor_file", tensor, affine)
        self._save(runtime, "cosmos_file", reference_to_mask(fit.cosmos, support), affine)
        self._save(runtime, "mask_file", support, affine, np.uint8)
        if fit.frequency is not None:
            self._save(runtime, "frequency_file", fit.frequency * support, affine)
        final = Fit(tensor, fit.cosmos, fit.noise, fit.prior, fit.orientations)
        self._save(runtime, "mms_file", final.mms, affine)
        self._save(runtime, "msa_file", final.msa * support, affine)
        self._save(runtime, "pev_file", final.principal_eigenvector * support, affine)


def _log(line: str) -> None:
    if not sys.stdout.isatty():  # a terminal shows the steps of a run as one bar
        print(line, flush=True)


class _LabelInputs(BaseInterfaceInputSpec):
    tensor_file = File(exists=True, mandatory=True)
    cosmos_file = File(exists=True, mandatory=True)
    field_file = File(exists=True, mandatory=True, desc="local field of the scan, ppm, own grid")
    mask_file = File(exists=True, mandatory=True, desc="where it is valid")
    transform_file = File(exists=True, mandatory=True)
    b0_direction = traits.Either(None, traits.Tuple(traits.Float, traits.Float, traits.Float), usedefault=True)
    uncertainty_file = File(exists=True, desc="of the fit")
    number = traits.Int(0, usedefault=True, desc="of the scan in the uncertainty, from 0")
    total_file = File(exists=True, desc="total field of the scan, of a single-step fit, ppm; with the next two")
    known_file = File(exists=True, desc="where it is known")
    fit_file = File(exists=True, desc="JSON of the fit, whose spheres the residual passes")


class _LabelOutputs(TraitedSpec):
    chi33_file = File(desc="ppm")
    deltab_file = File(desc="delta B', ppm of B0")
    cosmos_file = File(desc="ppm")
    residual_file = File(desc="ppm of B0: what the labels leave of the field that the fit saw")
    fitfield_file = File(desc="local field with the background that the fit leaves, of a single-step fit, ppm of B0")
    chi33sd_file = File(desc="standard deviation of chi33, ppm")
    deltabsd_file = File(desc="standard deviation of delta B', ppm of B0")
    cosmossd_file = File(desc="standard deviation of COSMOS, ppm")


class ScanLabels(Chi33Interface):
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
            ("chi33_file", found.chi33), ("deltab_file", found.delta_b), ("cosmos_file", found.cosmos),
        ):  # fmt: skip
            self._save(runtime, output, volume, affine)
        if isdefined(inputs.total_file):
            self._save_fields_of_fit(runtime, found, affine, mask > 0)
        else:
            self._save(runtime, "residual_file", found.residual, affine)
        if isdefined(inputs.uncertainty_file):
            self._save_deviations(runtime, subject_affine, affine, mask > 0)
        return runtime

    def _save_fields_of_fit(self, runtime: Any, found: Labels, affine: NDArray[Any], local: NDArray[np.bool_]) -> None:
        """Save what the labels leave of a total field through the spheres of a single-step fit, and the local field."""
        inputs = self.inputs
        radii = json.loads(Path(inputs.fit_file).read_text())["RadiiMm"]
        known = read_image(Path(inputs.known_file))[0] > 0
        total = read_image(Path(inputs.total_file))[0] * known
        h, size = b0_direction(affine, inputs.b0_direction), voxel_size(affine)
        left = total - exterior_field(total, known, size, h) - found.explained
        self._save(runtime, "residual_file", smv_filtered(left, known, size, radii)[0], affine)
        own = field_of_fit(total, found.explained, known, size)
        self._save(runtime, "fitfield_file", np.where(own.mask & local, own.field, 0), affine)

    def _save_deviations(
        self, runtime: Any, subject_affine: NDArray[Any], affine: NDArray[Any], local_mask: NDArray[np.bool_]
    ) -> None:
        image = open_image(Path(self.inputs.uncertainty_file))
        first = 2 * self.inputs.number
        own = [np.asarray(image.dataobj[..., index], np.float32) for index in (first, first + 1, image.shape[3] - 1)]
        transform = read_transform(Path(self.inputs.transform_file))
        found = scan_deviations(np.stack(own), subject_affine, affine, transform, local_mask)
        for output, volume in zip(("chi33sd_file", "deltabsd_file", "cosmossd_file"), found, strict=True):
            self._save(runtime, output, volume, affine)
