"""Nipype interfaces: thin shells over the functions of chi33.pipeline. Files in, files out, in the node's folder."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
from nipype.interfaces.base import (
    BaseInterfaceInputSpec,
    File,
    InputMultiPath,
    SimpleInterface,
    TraitedSpec,
    isdefined,
    traits,
)

from ..pipeline import frames
from ..pipeline.background import BACKGROUND_METHODS, remove_background, vsharp_radii
from ..pipeline.brain_mask import brain_mask
from ..pipeline.echoes import combine_echoes, reliable_mask
from ..pipeline.errors import StepError
from ..pipeline.masks import clean_mask
from ..pipeline.phase_offset import remove_phase_offset
from ..pipeline.registration import RegistrationFailed, register, without_decay
from ..pipeline.unwrap import unwrap_laplacian, unwrap_romeo
from .derivatives import read_image, write_image, write_transform
from .export import export_file
from .flirt import flirt_to_world
from .registration_figure import Head, registration_figure, write_registration_figure
from .sidecars import PhaseScale


class Chi33Interface(SimpleInterface):
    """Names outputs by file name in the node's working folder."""

    def _save(self, runtime: Any, output: str, array: Any, affine: Any, dtype: Any = np.float32) -> None:
        path = Path(runtime.cwd) / f"{output.removesuffix('_file')}.nii.gz"
        self._results[output] = str(write_image(path, array, affine, {}, dtype=dtype))

    def _save_json(self, runtime: Any, output: str, content: dict[str, Any]) -> None:
        path = Path(runtime.cwd) / f"{output.removesuffix('_file')}.json"
        path.write_text(json.dumps(content, indent=2, sort_keys=True), encoding="utf-8")
        self._results[output] = str(path)


class _BrainMaskInputs(BaseInterfaceInputSpec):
    in_file = File(exists=True, mandatory=True, desc="magnitude of the first echo")
    frac = traits.Float(0.5, usedefault=True, desc="fractional threshold, 0-1; smaller keeps more")


class _MaskOutputs(TraitedSpec):
    mask_file = File(desc="brain mask")


class BrainMask(Chi33Interface):
    """The built-in brain mask (pipeline.brain_mask)."""

    input_spec = _BrainMaskInputs
    output_spec = _MaskOutputs

    def _run_interface(self, runtime: Any) -> Any:
        magnitude, affine = read_image(Path(self.inputs.in_file))
        found = brain_mask(magnitude, affine, fractional_threshold=self.inputs.frac)
        self._save(runtime, "mask_file", found, affine, np.uint8)
        return runtime


class _CleanMaskInputs(BaseInterfaceInputSpec):
    in_file = File(exists=True, mandatory=True, desc="mask of another program")


class CleanMask(Chi33Interface):
    """A mask without islands, holes and thin bridges (pipeline.masks)."""

    input_spec = _CleanMaskInputs
    output_spec = _MaskOutputs

    def _run_interface(self, runtime: Any) -> Any:
        mask, affine = read_image(Path(self.inputs.in_file))
        self._save(runtime, "mask_file", clean_mask(mask > 0, frames.voxel_size(affine)), affine, np.uint8)
        return runtime


class _TotalFieldInputs(BaseInterfaceInputSpec):
    magnitude_files = InputMultiPath(File(exists=True), mandatory=True, desc="one an echo")
    phase_files = InputMultiPath(File(exists=True), mandatory=True, desc="one an echo, as stored")
    phase_ranges = traits.List(traits.Tuple(traits.Float, traits.Float), mandatory=True, desc="values of -pi and +pi")
    phase_sign = traits.Enum(1, -1, usedefault=True)
    echo_times = traits.List(traits.Float, mandatory=True, desc="s")
    field_strength = traits.Float(mandatory=True, desc="T")
    mask_file = File(exists=True, mandatory=True, desc="brain mask")
    unwrap = traits.Enum("romeo", "laplacian", usedefault=True)
    offset_smoothing = traits.Float(4.0, usedefault=True, desc="mm")
    residual_limit = traits.Float(0.3, usedefault=True, desc="rad")


class _TotalFieldOutputs(TraitedSpec):
    field_file = File(desc="total field, ppm of B0")
    residual_file = File(desc="departure of the echoes from a line, rad")
    reliable_file = File(desc="mask of the voxels whose field can be trusted")
    weight_file = File(desc="proportional to 1 / standard deviation of the field")


class TotalField(Chi33Interface):
    """Unwraps the echoes and combines them into one field (pipeline.unwrap, pipeline.echoes)."""

    input_spec = _TotalFieldInputs
    output_spec = _TotalFieldOutputs

    def _run_interface(self, runtime: Any) -> Any:
        inputs = self.inputs
        mask, affine = read_image(Path(inputs.mask_file))
        inside, size = mask > 0, frames.voxel_size(affine)
        magnitude = np.stack([_volume(path) for path in inputs.magnitude_files])
        phase = np.stack(
            [
                inputs.phase_sign * PhaseScale(limits[0], limits[1], stated=True).to_radians(_volume(path))
                for path, limits in zip(inputs.phase_files, inputs.phase_ranges, strict=True)
            ]
        )
        if inputs.unwrap == "romeo":
            phase = remove_phase_offset(
                phase, magnitude, inputs.echo_times, inside, size, smoothing=inputs.offset_smoothing
            )
            unwrapped = unwrap_romeo(phase, magnitude, inputs.echo_times, inside)
        else:
            unwrapped = unwrap_laplacian(phase, size)
        del phase
        found = combine_echoes(
            unwrapped, magnitude, inputs.echo_times, inputs.field_strength, inside, size,
            offset_smoothing=inputs.offset_smoothing,
        )  # fmt: skip
        self._save(runtime, "field_file", found.field, affine)
        self._save(runtime, "residual_file", found.residual, affine)
        self._save(runtime, "weight_file", found.weight, affine)
        reliable = reliable_mask(inside, found, size, residual_limit=inputs.residual_limit)
        self._save(runtime, "reliable_file", reliable, affine, np.uint8)
        return runtime


def _volume(path: str) -> np.ndarray:
    volume, _ = read_image(Path(path))
    return volume[0] if volume.ndim == 4 else volume


class _LocalFieldInputs(BaseInterfaceInputSpec):
    field_file = File(exists=True, mandatory=True, desc="total field, ppm")
    mask_file = File(exists=True, mandatory=True, desc="where it is known")
    method = traits.Enum(*BACKGROUND_METHODS, usedefault=True)
    largest_radius = traits.Float(mandatory=True, desc="mm, of V-SHARP")
    smallest_radius = traits.Float(mandatory=True, desc="mm, of V-SHARP")
    threshold = traits.Float(mandatory=True, desc="of V-SHARP")
    b0_direction = traits.Either(
        None,
        traits.Tuple(traits.Float, traits.Float, traits.Float),
        usedefault=True,
        desc="in the voxel frame; None: from the affine",
    )


class _LocalFieldOutputs(TraitedSpec):
    field_file = File(desc="local field, ppm of B0")
    mask_file = File(desc="where it is valid")


class LocalFieldMap(Chi33Interface):
    """Removes the background field (pipeline.background)."""

    input_spec = _LocalFieldInputs
    output_spec = _LocalFieldOutputs

    def _run_interface(self, runtime: Any) -> Any:
        field, affine = read_image(Path(self.inputs.field_file))
        mask, _ = read_image(Path(self.inputs.mask_file))
        size = frames.voxel_size(affine)
        settings: dict[str, Any] = {}
        if self.inputs.method == "vsharp":
            radii = vsharp_radii(size, self.inputs.largest_radius, self.inputs.smallest_radius)
            settings = {"radii": radii, "threshold": self.inputs.threshold}
        stated = self.inputs.b0_direction
        h = frames.b0_direction_from_affine(affine) if stated is None else frames.check_b0_direction(stated)
        local = remove_background(self.inputs.method, field, mask > 0, size, b0_direction=h, **settings)
        self._save(runtime, "field_file", local.field, affine)
        self._save(runtime, "mask_file", local.mask, affine, np.uint8)
        return runtime


class _RegisterInputs(BaseInterfaceInputSpec):
    in_file = File(exists=True, mandatory=True, desc="magnitude of the moving scan")
    reference = File(exists=True, mandatory=True, desc="magnitude of the reference scan")


class _RegisterEchoesInputs(BaseInterfaceInputSpec):
    in_files = InputMultiPath(File(exists=True), mandatory=True, desc="magnitudes of the moving scan, one an echo")
    in_echo_times = traits.List(traits.Float, mandatory=True, desc="s")
    reference_files = InputMultiPath(File(exists=True), mandatory=True, desc="magnitudes of the reference scan")
    reference_echo_times = traits.List(traits.Float, mandatory=True, desc="s")
    reference_mask = File(exists=True, mandatory=True, desc="brain mask of the reference scan")
    in_mask = File(exists=True, mandatory=True, desc="brain mask of the moving scan")


class _RegisterOutputs(TraitedSpec):
    transform_file = File(desc="world-to-world 4x4, moving to reference")
    quality_file = File(desc="JSON: agreement of the brains, mutual information, correlation, rotation, scale")


class RegisterSimilarity(Chi33Interface):
    """The built-in registration with 7 degrees of freedom (pipeline.registration)."""

    input_spec = _RegisterEchoesInputs
    output_spec = _RegisterOutputs

    def _run_interface(self, runtime: Any) -> Any:
        inputs = self.inputs
        moving, moving_steady, moving_affine = without_echo_decay(inputs.in_files, inputs.in_echo_times)
        fixed, fixed_steady, fixed_affine = without_echo_decay(inputs.reference_files, inputs.reference_echo_times)
        try:
            found = register(
                moving, moving_affine, fixed, fixed_affine, _volume(inputs.reference_mask) > 0,
                moving_mask=_volume(inputs.in_mask) > 0, moving_steady=moving_steady, reference_steady=fixed_steady,
            )  # fmt: skip
        except RegistrationFailed as error:
            if error.found is None:
                raise
            figure = registration_figure(
                Head(moving, moving_affine), Head(fixed, fixed_affine), error.found.transform, title="refused"
            )
            picture = write_registration_figure(Path(runtime.cwd) / "refused.png", figure)
            raise StepError(f"{str(error).removesuffix('.')} (picture: {picture}).") from error
        path = write_transform(Path(runtime.cwd) / "transform.txt", found.transform)
        self._results["transform_file"] = str(path)
        quality = {
            "Quality": round(found.quality, 4), "MutualInformation": found.mutual_information,
            "Correlation": found.correlation, "Overlap": round(found.overlap, 4),
        }  # fmt: skip
        self._save_json(runtime, "quality_file", {**quality, **motion(found.transform)})
        return runtime


def without_echo_decay(files: list[str], echo_times: list[float]) -> tuple[Any, Any, Any]:
    """Return the magnitude of a scan's echoes at echo time 0, where it can be told, and the affine."""
    first = [index for index in range(len(files)) if index < 3 or echo_times[index] <= 3 * echo_times[0]]
    _, affine = read_image(Path(files[0]))
    image, steady = without_decay(
        np.stack([_volume(files[index]) for index in first]), [echo_times[index] for index in first]
    )
    return image, steady, affine


def motion(transform: Any) -> dict[str, Any]:
    """Return the rotation in degrees, translation in mm and scale of a world-to-world 4x4, as a sidecar holds them."""
    rotation, scale = frames.rotation_and_scale(transform)
    return {
        "RotationDegrees": frames.rotation_angle(rotation),
        "Scale": scale,
        "TranslationMillimetres": np.asarray(transform)[:3, 3].tolist(),
    }


class _FlirtToWorldInputs(_RegisterInputs):
    matrix_file = File(exists=True, mandatory=True, desc="FLIRT matrix, moving to reference")


class FlirtToWorld(Chi33Interface):
    """Converts a FLIRT matrix to a world-to-world 4x4 (workflows.flirt)."""

    input_spec = _FlirtToWorldInputs
    output_spec = _RegisterOutputs

    def _run_interface(self, runtime: Any) -> Any:
        transform = flirt_to_world(Path(self.inputs.matrix_file), self.inputs.in_file, self.inputs.reference)
        path = write_transform(Path(runtime.cwd) / "transform.txt", transform)
        self._results["transform_file"] = str(path)
        self._save_json(runtime, "quality_file", motion(transform))
        return runtime


class IdentityTransform(Chi33Interface):
    """The transform of the reference scan to itself."""

    input_spec = _RegisterInputs
    output_spec = _RegisterOutputs

    def _run_interface(self, runtime: Any) -> Any:
        path = write_transform(Path(runtime.cwd) / "transform.txt", np.eye(4))
        self._results["transform_file"] = str(path)
        self._save_json(runtime, "quality_file", {"MutualInformation": None, "Correlation": 1.0, **motion(np.eye(4))})
        return runtime


class _ExportInputs(BaseInterfaceInputSpec):
    in_file = File(exists=True, mandatory=True)
    out_file = traits.Str(mandatory=True, desc="absolute path in the output folder")
    sidecar = traits.Dict(usedefault=True, desc="keys of the JSON sidecar")
    sidecar_file = File(exists=True, desc="JSON with more keys")


class _ExportOutputs(TraitedSpec):
    out_file = File()


class Export(Chi33Interface):
    """Puts a result into the output folder, with its sidecar, by rename; always runs, copies only what differs."""

    input_spec = _ExportInputs
    output_spec = _ExportOutputs
    _always_run = True

    def _run_interface(self, runtime: Any) -> Any:
        sidecar = dict(self.inputs.sidecar)
        if isdefined(self.inputs.sidecar_file):
            sidecar.update(json.loads(Path(self.inputs.sidecar_file).read_text(encoding="utf-8")))
        export_file(Path(self.inputs.in_file), Path(self.inputs.out_file), sidecar)
        self._results["out_file"] = self.inputs.out_file
        return runtime


__all__ = [
    "BrainMask", "Chi33Interface", "CleanMask", "Export", "FlirtToWorld", "IdentityTransform", "LocalFieldMap",
    "RegisterSimilarity", "TotalField", "motion", "without_echo_decay",
]  # fmt: skip
