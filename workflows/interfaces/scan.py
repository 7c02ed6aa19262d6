"""Nipype interfaces: thin shells over the functions of chi33.pipeline. Files in, files out, in the node's folder."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, get_args

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

from ...files.derivatives import read_image, remove_image, write_image
from ...pipeline import frames
from ...pipeline.background import BACKGROUND_METHODS, remove_background, vsharp_radii
from ...pipeline.images.morphology import clean_mask
from ...pipeline.masks.bet import brain_mask
from ...pipeline.masks.deepbet import learned_brain_mask
from ...pipeline.masks.reliability import GROWTH, grown, reliable_mask, trimmed_brain
from ...pipeline.phase.echoes import Combination, combine_echoes
from ...pipeline.phase.filtered import field_spread, filter_warnings
from ...pipeline.phase.phase_offset import remove_phase_offset
from ...pipeline.phase.repairs import repair_phase
from ...pipeline.phase.unwrap import unwrap_laplacian, unwrap_romeo
from ..export import export_file
from ..figures.echo import EchoSlices, shown_echo, write_echo_figure
from ..raw.sidecars import PhaseScale


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
    """The built-in brain mask (pipeline.masks.bet)."""

    input_spec = _BrainMaskInputs
    output_spec = _MaskOutputs

    def _run_interface(self, runtime: Any) -> Any:
        magnitude, affine = read_image(Path(self.inputs.in_file))
        found = brain_mask(magnitude, affine, fractional_threshold=self.inputs.frac)
        self._save(runtime, "mask_file", found, affine, np.uint8)
        return runtime


class _LearnedMaskInputs(BaseInterfaceInputSpec):
    in_file = File(exists=True, mandatory=True, desc="magnitude of the first echo")
    version = traits.Str(desc="of deepbet; another one runs anew")


class LearnedMask(Chi33Interface):
    """deepbet's brain mask (pipeline.masks.deepbet)."""

    input_spec = _LearnedMaskInputs
    output_spec = _MaskOutputs

    def _run_interface(self, runtime: Any) -> Any:
        magnitude, affine = read_image(Path(self.inputs.in_file))
        self._save(runtime, "mask_file", learned_brain_mask(magnitude, affine), affine, np.uint8)
        return runtime


class _CleanMaskInputs(BaseInterfaceInputSpec):
    in_file = File(exists=True, mandatory=True, desc="mask of another program")


class CleanMask(Chi33Interface):
    """A mask without islands, holes and thin bridges (pipeline.images.morphology)."""

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
    combination = traits.Enum(*get_args(Combination), usedefault=True)
    offset_smoothing = traits.Float(4.0, usedefault=True, desc="mm")
    residual_limit = traits.Float(0.3, usedefault=True, desc="rad")
    growth = traits.Float(GROWTH, usedefault=True, desc="mm around the brain where a field may be trusted")
    trim = traits.Bool(True, usedefault=True, desc="take faint tissue off the brain mask's edge")
    filtered = traits.Str("", usedefault=True, desc="what the sidecar says of a filter")


class _TotalFieldOutputs(TraitedSpec):
    field_file = File(desc="total field, ppm of B0")
    residual_file = File(desc="departure of the echoes from a line, rad")
    brain_file = File(desc="brain mask, without faint tissue at its edge where asked for")
    reliable_file = File(desc="mask of the voxels whose field can be trusted, which may exceed the brain")
    weight_file = File(desc="proportional to 1 / standard deviation of the field")
    record_file = File(desc="JSON: what was found and taken out of the phase, with warnings")
    echo_file = File(desc="picture of one echo: phase as measured and unwrapped, and weight")


class TotalField(Chi33Interface):
    """Unwraps the echoes and combines them into one field (pipeline.phase.unwrap, pipeline.phase.echoes)."""

    input_spec = _TotalFieldInputs
    output_spec = _TotalFieldOutputs

    def _run_interface(self, runtime: Any) -> Any:
        inputs = self.inputs
        mask, affine = read_image(Path(inputs.mask_file))
        brain, size = mask > 0, frames.voxel_size(affine)
        magnitude = np.stack([read_volume(path) for path in inputs.magnitude_files])
        inside = grown(brain, size, inputs.growth) & (magnitude.min(axis=0) > 0) | brain
        phase = np.stack(
            [
                inputs.phase_sign * PhaseScale(limits[0], limits[1], stated=True).to_radians(read_volume(path))
                for path, limits in zip(inputs.phase_files, inputs.phase_ranges, strict=True)
            ]
        )
        picture = shown_echo(len(phase))
        measured = phase[picture].astype(np.float32)
        repaired = repair_phase(phase, magnitude, inputs.echo_times, brain)
        phase = repaired.phase
        if inputs.unwrap == "romeo":
            phase = remove_phase_offset(
                phase, magnitude, inputs.echo_times, inside, size, smoothing=inputs.offset_smoothing
            )
            unwrapped = unwrap_romeo(phase, magnitude, inputs.echo_times, inside)
        else:
            unwrapped = unwrap_laplacian(phase, size)
        del phase
        echo = EchoSlices.of(brain, affine, measured, unwrapped[picture], magnitude[picture] ** 2)
        echo_path = Path(runtime.cwd) / "echo.jpg"
        self._results["echo_file"] = str(write_echo_figure(echo_path, echo))
        found = combine_echoes(
            unwrapped, magnitude, inputs.echo_times, inputs.field_strength, inside, size,
            offset_smoothing=inputs.offset_smoothing, method=inputs.combination,
        )  # fmt: skip
        reliable = reliable_mask(inside, found, size, brain=brain, residual_limit=inputs.residual_limit)
        shown = brain | reliable
        for name, volume in (("field", found.field), ("residual", found.residual), ("weight", found.weight)):
            self._save(runtime, f"{name}_file", volume * shown, affine)
        self._save(runtime, "reliable_file", reliable, affine, np.uint8)
        kept = trimmed_brain(brain, magnitude[0], size) if inputs.trim else brain
        self._save(runtime, "brain_file", kept, affine, np.uint8)
        spread = field_spread(found.field, reliable & brain)
        warnings = [*repaired.warnings, *filter_warnings(spread, inputs.filtered)]
        record = {**repaired.record, "FieldSpreadPpm": round(spread, 4), "Warnings": warnings}
        self._save_json(runtime, "record_file", record)
        return runtime


def read_volume(path: str) -> np.ndarray:
    """Return a volume (x, y, z), of several the first."""
    volume, _ = read_image(Path(path))
    return volume[0] if volume.ndim == 4 else volume


class _LocalFieldInputs(BaseInterfaceInputSpec):
    field_file = File(exists=True, mandatory=True, desc="total field, ppm")
    mask_file = File(exists=True, mandatory=True, desc="where it is known")
    brain_file = File(exists=True, desc="brain mask, outside which the local field is not given")
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
        h = frames.b0_direction(affine, stated)
        local = remove_background(self.inputs.method, field, mask > 0, size, b0_direction=h, **settings)
        valid = local.mask
        if isdefined(self.inputs.brain_file):
            valid = valid & (read_image(Path(self.inputs.brain_file))[0] > 0)
        self._save(runtime, "field_file", local.field * valid, affine)
        self._save(runtime, "mask_file", valid, affine, np.uint8)
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


class _ExportIfMadeInputs(_ExportInputs):
    in_file = File(exists=True, desc="not connected, or not made: what an earlier run wrote is removed")


class ExportIfMade(Export):
    """Export of a result that a step makes or not, as its data are."""

    input_spec = _ExportIfMadeInputs

    def _run_interface(self, runtime: Any) -> Any:
        if isdefined(self.inputs.in_file):
            return super()._run_interface(runtime)
        remove_image(Path(self.inputs.out_file))
        return runtime


__all__ = [
    "BrainMask",
    "Chi33Interface",
    "CleanMask",
    "Export",
    "ExportIfMade",
    "LearnedMask",
    "LocalFieldMap",
    "TotalField",
    "read_volume",
]
