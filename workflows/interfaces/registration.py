"""Nipype interfaces of registration: the built-in one, FLIRT's matrices, and how well a transform fits."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from nipype.interfaces.base import BaseInterfaceInputSpec, File, InputMultiPath, TraitedSpec, traits
from numpy.typing import NDArray

from ...files.derivatives import read_image, read_transform, write_transform
from ...files.errors import StepError
from ...pipeline import frames
from ...pipeline.registration.images import without_decay
from ...pipeline.registration.similarity import Registration, RegistrationFailed, assess, register
from ..figures.registration import Head, registration_figure, write_registration_figure
from .flirt import flirt_to_world
from .scan import Chi33Interface, read_volume


class _PairInputs(BaseInterfaceInputSpec):
    in_file = File(exists=True, mandatory=True, desc="magnitude of the moving scan")
    reference = File(exists=True, mandatory=True, desc="magnitude of the reference scan")


class _EchoesInputs(BaseInterfaceInputSpec):
    in_files = InputMultiPath(File(exists=True), mandatory=True, desc="magnitudes of the moving scan, one an echo")
    in_echo_times = traits.List(traits.Float, mandatory=True, desc="s")
    reference_files = InputMultiPath(File(exists=True), mandatory=True, desc="magnitudes of the reference scan")
    reference_echo_times = traits.List(traits.Float, mandatory=True, desc="s")
    reference_mask = File(exists=True, mandatory=True, desc="brain mask of the reference scan")
    in_mask = File(exists=True, mandatory=True, desc="brain mask of the moving scan")


class _TransformOutputs(TraitedSpec):
    transform_file = File(desc="world-to-world 4x4, moving to reference")


class _RegisterOutputs(_TransformOutputs):
    quality_file = File(desc="JSON: agreement of the brains, mutual information, correlation, rotation, scale")


@dataclass(frozen=True)
class _Echoes:
    """A scan's magnitude at echo time 0 (x, y, z), where that can be told (steady), its affine and brain mask."""

    magnitude: NDArray[np.float32]
    steady: NDArray[np.bool_]
    affine: NDArray[np.float64]
    mask: NDArray[np.bool_]

    @classmethod
    def read(cls, files: list[str], times: list[float], mask: str) -> _Echoes:
        magnitude, steady, affine = without_echo_decay(files, times)
        return cls(magnitude, steady, affine, read_volume(mask) > 0)


class RegisterSimilarity(Chi33Interface):
    """The built-in registration with 7 degrees of freedom (registration.similarity); refuses with a picture."""

    input_spec = _EchoesInputs
    output_spec = _RegisterOutputs

    def _run_interface(self, runtime: Any) -> Any:
        inputs = self.inputs
        moving = _Echoes.read(inputs.in_files, inputs.in_echo_times, inputs.in_mask)
        fixed = _Echoes.read(inputs.reference_files, inputs.reference_echo_times, inputs.reference_mask)
        try:
            found = self._found(
                (moving.magnitude, moving.affine, fixed.magnitude, fixed.affine, fixed.mask),
                {"moving_mask": moving.mask, "moving_steady": moving.steady, "reference_steady": fixed.steady},
            )
        except RegistrationFailed as error:
            if error.found is None:
                raise
            heads = Head(moving.magnitude, moving.affine), Head(fixed.magnitude, fixed.affine)
            figure = registration_figure(*heads, error.found.transform, title="refused")
            picture = write_registration_figure(Path(runtime.cwd) / "refused.png", figure)
            raise StepError(f"{str(error).removesuffix('.')} (picture: {picture}).") from error
        path = write_transform(Path(runtime.cwd) / "transform.txt", found.transform)
        self._results["transform_file"] = str(path)
        quality = {
            "Quality": round(found.quality, 4), "MutualInformation": found.mutual_information,
            "Correlation": found.correlation, "Overlap": round(found.overlap, 4),
            "Warnings": [f"Registration: {found.warning}."] if found.warning else [],
        }  # fmt: skip
        if np.isfinite(found.spread):
            quality["SpreadOfHalvesMillimetres"] = round(found.spread, 2)
        self._save_json(runtime, "quality_file", {**quality, **motion(found.transform)})
        return runtime

    def _found(self, pair: tuple[Any, ...], options: dict[str, Any]) -> Registration:
        return register(*pair, **options)


class _AssessInputs(_EchoesInputs):
    transform_file = File(exists=True, mandatory=True, desc="world-to-world 4x4, moving to reference")


class AssessRegistration(RegisterSimilarity):
    """Measures and checks a transform that another tool estimated, as the built-in registration does its own."""

    input_spec = _AssessInputs

    def _found(self, pair: tuple[Any, ...], options: dict[str, Any]) -> Registration:
        return assess(read_transform(Path(self.inputs.transform_file)), *pair, **options)


def without_echo_decay(files: list[str], echo_times: list[float]) -> tuple[Any, Any, Any]:
    """Return the magnitude of a scan's echoes at echo time 0, where it can be told, and the affine."""
    first = [index for index in range(len(files)) if index < 3 or echo_times[index] <= 3 * echo_times[0]]
    _, affine = read_image(Path(files[0]))
    image, steady = without_decay(
        np.stack([read_volume(files[index]) for index in first]), [echo_times[index] for index in first]
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


class _FlirtToWorldInputs(_PairInputs):
    matrix_file = File(exists=True, mandatory=True, desc="FLIRT matrix, moving to reference")


class FlirtToWorld(Chi33Interface):
    """Converts a FLIRT matrix to a world-to-world 4x4 (workflows.interfaces.flirt)."""

    input_spec = _FlirtToWorldInputs
    output_spec = _TransformOutputs

    def _run_interface(self, runtime: Any) -> Any:
        transform = flirt_to_world(Path(self.inputs.matrix_file), self.inputs.in_file, self.inputs.reference)
        path = write_transform(Path(runtime.cwd) / "transform.txt", transform)
        self._results["transform_file"] = str(path)
        return runtime


class IdentityTransform(Chi33Interface):
    """The transform of the reference scan to itself."""

    input_spec = _PairInputs
    output_spec = _RegisterOutputs

    def _run_interface(self, runtime: Any) -> Any:
        path = write_transform(Path(runtime.cwd) / "transform.txt", np.eye(4))
        self._results["transform_file"] = str(path)
        self._save_json(runtime, "quality_file", {"MutualInformation": None, "Correlation": 1.0, **motion(np.eye(4))})
        return runtime


__all__ = [
    "AssessRegistration", "FlirtToWorld", "IdentityTransform", "RegisterSimilarity", "motion", "without_echo_decay",
]  # fmt: skip
