"""The files of a simulated scan: raw magnitude and phase of each echo, and its truth under the names of derivatives."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
from numpy.typing import NDArray

from ...files.derivatives import Derivatives, bids_keys, sidecar_path, write_image, write_json, write_transform
from ...files.nifti import nifti_image
from ...pipeline.phantom.acquisition import Echo, Protocol
from ...pipeline.phantom.anatomy import ROI_LABELS
from ...pipeline.phantom.living.effects import EFFECTS, Effects, hyphened
from ...pipeline.phantom.living.lesions import LESION_LABELS
from ...pipeline.phantom.poses import ScanGrid
from ...pipeline.phantom.truth import ScanTruth
from ...pipeline.physics.tensors import eigenvalues, principal_eigenvector
from ..raw.sidecars import LARGEST_PHASE

_LARGEST = 65535
_MAGNITUDE_STEP = 1 / 4  # stored magnitudes are 1000 x the brain's mean of the first echo, in quarters


def write_echo(folder: Path, subject: str, scan: str, echo: Echo, grid: ScanGrid, protocol: Protocol) -> None:
    """Write the magnitude (16 bits, scaled) and phase of one echo as NIfTI with sidecars, under raw BIDS names.

    The phase is float32 in radians, never outside -pi to pi, so that it is exactly what the echo holds.
    """
    raw = Derivatives(folder, subject)
    sidecar = {
        "Manufacturer": "chi33 simulator",
        "MagneticFieldStrength": protocol.b0,
        "EchoTime": echo.echo_time,
        "EchoNumber": echo.number,
        "RepetitionTime": protocol.repetition_time,
        "FlipAngle": protocol.flip_angle,
        "MRAcquisitionType": "3D",
        "ScanningSequence": "GR",
    }
    magnitude = raw.path(f"{scan}_echo-{echo.number}_part-mag", suffix="MEGRE")
    steps = np.clip(np.rint(1000 * echo.magnitude / _MAGNITUDE_STEP), 0, _LARGEST).astype(np.uint16)
    _write_raw(magnitude, steps, grid.affine, slope=_MAGNITUDE_STEP)
    write_json(sidecar_path(magnitude), {**sidecar, "Units": "arbitrary"})
    phase = raw.path(f"{scan}_echo-{echo.number}_part-phase", suffix="MEGRE")
    _write_raw(phase, np.clip(echo.phase, -LARGEST_PHASE, LARGEST_PHASE), grid.affine)
    write_json(sidecar_path(phase), {**sidecar, "Units": "rad", "PhaseSign": protocol.phase_sign})


def _write_raw(path: Path, values: NDArray[Any], affine: NDArray[Any], slope: float = 1.0) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    nib.save(nifti_image(values, affine, slope=slope), path)


def write_scan_truth(
    folder: Path,
    subject: str,
    scan: str,
    truth: ScanTruth,
    transform: NDArray[Any],
    protocol: Protocol,
    extra: Mapping[str, tuple[NDArray[Any], str]],
) -> None:
    """Write masks, fields, labels, regions and the transform to the reference scan's world of one scan.

    The maps in ppm are zero outside the brain; transform: world to world (4, 4), moving to reference; extra: more
    fields in ppm by the name of their desc, each with its description.
    """
    files = Derivatives(folder, subject)
    affine, mask = truth.grid.affine, truth.brain_mask
    sidecar = {"B0_dir": truth.b0_direction.tolist(), "MagneticFieldStrength": protocol.b0, "Description": ""}
    for desc in ("brain", "local"):
        path = files.path(scan, suffix="mask", desc=desc)
        write_image(
            path, mask, affine, {**sidecar, **bids_keys(path), "Type": "Brain", "Description": "brain"}, dtype=np.uint8
        )
    maps = {
        ("total", "fieldmap"): (truth.total_field, "field of all sources after the shim"),
        ("local", "fieldmap"): (truth.local_field, "field of the brain's own susceptibility tensor in free space"),
        ("deltab", "fieldmap"): (truth.delta_b, "deltaB', the part of the local field that chi33 does not explain"),
        ("chi33", "Chimap"): (truth.chi33, "apparent susceptibility along B0, against the mean over the brain"),
        ("cosmos", "Chimap"): (truth.mms, "mean magnetic susceptibility, against the mean over the brain"),
        **{(desc, "fieldmap"): described for desc, described in extra.items()},
    }
    for (desc, suffix), (values, description) in maps.items():
        path = files.path(scan, suffix=suffix, desc=desc)
        content = {**sidecar, **bids_keys(path), "Units": "ppm", "Description": description}
        write_image(path, values * mask, affine, content)
    regions = files.path(scan, suffix="dseg", desc="rois")
    write_image(regions, truth.labels, affine, {**sidecar, "Description": "tissues and nuclei"}, dtype=np.uint8)
    lesions = {label: name for label, name in LESION_LABELS.items() if (truth.labels == label).any()}
    _write_region_names(regions, {**ROI_LABELS, **lesions})
    write_transform(files.transform(scan), transform)


def _write_region_names(regions: Path, names: Mapping[int, str]) -> None:
    lines = ["index\tname", *(f"{index}\t{name}" for index, name in names.items())]
    path = regions.with_name(regions.name.removesuffix(".nii.gz") + ".tsv")
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")


def write_record(folder: Path, preset: str, effects: Effects, subjects: list[dict[str, Any]]) -> None:
    """Write what was simulated: the preset, the strength of every effect, and of each subject what it drew."""
    strengths = {
        hyphened(name): {"Strength": value, "Unit": EFFECTS[name].unit, "Description": EFFECTS[name].what}
        for name, value in asdict(effects).items()
    }
    write_json(folder / "simulation.json", {"Preset": preset, "Effects": strengths, "Subjects": subjects})


def write_subject_truth(folder: Path, subject: str, truth: ScanTruth, protocol: Protocol) -> None:
    """Write the tensor and its invariants in the subject frame, the world of the reference scan, on its grid."""
    files = Derivatives(folder, subject)
    mask, affine = truth.brain_mask, truth.grid.affine
    tensor = truth.world_tensor
    inside = tensor[:, mask]
    values = eigenvalues(inside)
    msa, pev = np.zeros(mask.shape, np.float32), np.zeros((3, *mask.shape), np.float32)
    msa[mask] = values[0] - (values[1] + values[2]) / 2
    pev[:, mask] = principal_eigenvector(inside)
    maps = {
        "tensor": (
            tensor,
            "ppm",
            "susceptibility tensor: xx, xy, xz, yy, yz, zz along the world axes of the reference scan",
        ),
        "mms": (truth.mms, "ppm", "mean magnetic susceptibility"),
        "cosmos": (truth.mms, "ppm", "isotropic susceptibility: the mean magnetic susceptibility"),
        "msa": (msa, "ppm", "magnetic susceptibility anisotropy"),
        "pev": (pev, "1", "principal eigenvector along the world axes of the reference scan"),
    }
    for desc, (volume, units, description) in maps.items():
        path = files.path(suffix="Chimap", desc=desc, space="subject")
        content = {**bids_keys(path), "Units": units, "Description": description, "Frame": "subject"}
        content["MagneticFieldStrength"] = protocol.b0
        write_image(path, volume, affine, content)
    path = files.path(suffix="mask", desc="brain", space="subject")
    content = {**bids_keys(path), "Type": "Brain", "Description": "brain"}
    write_image(path, mask, affine, content, dtype=np.uint8)
