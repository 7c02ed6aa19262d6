"""Nipype interfaces over all scans of a subject: brain masks given or agreed on, and the mean of all as reference."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from nipype.interfaces.base import BaseInterfaceInputSpec, File, InputMultiPath, OutputMultiPath, TraitedSpec, traits
from numpy.typing import NDArray

from ...files.derivatives import read_image, read_transform, write_image, write_json, write_transform
from ...pipeline.images.morphology import check_given_mask
from ...pipeline.masks.consensus import ScanMask, consensus_masks
from ...pipeline.registration.mean_reference import ReferenceScan, mean_reference
from .registration import motion, without_echo_decay
from .scan import Chi33Interface


class _GivenMaskInputs(BaseInterfaceInputSpec):
    in_file = File(exists=True, mandatory=True, desc="magnitude of the first echo")
    given_file = File(exists=True, mandatory=True, desc="brain mask of the user")


class _GivenMaskOutputs(TraitedSpec):
    mask_file = File(desc="brain mask")


class GivenMask(Chi33Interface):
    """A brain mask that the user gives, on its scan's grid (pipeline.images.morphology)."""

    input_spec = _GivenMaskInputs
    output_spec = _GivenMaskOutputs

    def _run_interface(self, runtime: Any) -> Any:
        self._save(runtime, "mask_file", *read_given_mask(self.inputs.given_file, self.inputs.in_file), np.uint8)
        return runtime


def read_given_mask(path: str | Path, magnitude_path: str | Path) -> tuple[NDArray[np.bool_], NDArray[np.float64]]:
    """Return a user's mask (x, y, z) and its scan's affine; raises InputError where it does not fit the scan."""
    values, own = read_image(Path(path))
    magnitude, affine = read_image(Path(magnitude_path))
    magnitude = magnitude[0] if magnitude.ndim == 4 else magnitude
    found = check_given_mask(values, magnitude.shape, affine, own, magnitude=magnitude, name=str(path))
    return found, affine


class _ConsensusInputs(BaseInterfaceInputSpec):
    mask_files = InputMultiPath(File(exists=True), mandatory=True, desc="brain mask a scan, own grid")
    transform_files = InputMultiPath(File(exists=True), mandatory=True, desc="world of the scan to one frame, a scan")


class _ConsensusOutputs(TraitedSpec):
    mask_files = OutputMultiPath(File(), desc="brain mask a scan, repaired where it disagreed")
    record_files = OutputMultiPath(File(), desc="JSON a scan: Dice with the consensus, what was repaired and why")


class MaskConsensus(Chi33Interface):
    """Repairs brain masks that disagree with those of the other scans (pipeline.masks.consensus)."""

    input_spec = _ConsensusInputs
    output_spec = _ConsensusOutputs

    def _run_interface(self, runtime: Any) -> Any:
        scans = []
        for mask_file, transform_file in zip(self.inputs.mask_files, self.inputs.transform_files, strict=True):
            mask, affine = read_image(Path(mask_file))
            scans.append(ScanMask(mask > 0, affine, read_transform(Path(transform_file))))
        masks, records = [], []
        for number, (scan, verdict) in enumerate(zip(scans, consensus_masks(scans), strict=True), start=1):
            path = Path(runtime.cwd) / f"mask-{number:02d}.nii.gz"
            masks.append(str(write_image(path, verdict.mask, scan.affine, {}, dtype=np.uint8)))
            record: dict[str, Any] = {"MaskRepaired": verdict.reason if verdict.repaired else None}
            if np.isfinite(verdict.dice):
                record["MaskConsensusDice"] = round(verdict.dice, 4)
            records.append(str(write_json(Path(runtime.cwd) / f"record-{number:02d}.json", record)))
        self._results["mask_files"], self._results["record_files"] = masks, records
        return runtime


class _MeanInputs(BaseInterfaceInputSpec):
    magnitude_files = traits.List(traits.List(File(exists=True)), mandatory=True, desc="echoes a scan")
    echo_times = traits.List(traits.List(traits.Float), mandatory=True, desc="s, a scan")
    mask_files = InputMultiPath(File(exists=True), mandatory=True, desc="brain mask a scan")
    transform_files = InputMultiPath(File(exists=True), mandatory=True, desc="world of the scan to one scan's world")


class _MeanOutputs(TraitedSpec):
    mean_file = File(desc="mean magnitude")
    brain_file = File(desc="brain mask of the mean")
    transform_files = OutputMultiPath(File(), desc="world of the scan to the mean frame, a scan")
    quality_files = OutputMultiPath(File(), desc="JSON a scan: agreement with the mean, rotation, scale")


class MeanOfScans(Chi33Interface):
    """The mean of all scans in the mean of their frames, and their transforms to it (mean_reference)."""

    input_spec = _MeanInputs
    output_spec = _MeanOutputs

    def _run_interface(self, runtime: Any) -> Any:
        inputs, scans = self.inputs, []
        for files, times, mask_file, transform_file in zip(
            inputs.magnitude_files, inputs.echo_times, inputs.mask_files, inputs.transform_files, strict=True
        ):
            magnitude, steady, affine = without_echo_decay(files, times)
            mask, _ = read_image(Path(mask_file))
            scans.append(ReferenceScan(magnitude, affine, read_transform(Path(transform_file)), mask > 0, steady))
        found = mean_reference(scans)
        assert found.brain is not None  # every scan has a mask
        self._save(runtime, "mean_file", found.magnitude, found.affine)
        self._save(runtime, "brain_file", found.brain, found.affine, np.uint8)
        transforms, qualities = [], []
        for number, (transform, quality) in enumerate(zip(found.transforms, found.qualities, strict=True), start=1):
            path = Path(runtime.cwd) / f"transform-{number:02d}.txt"
            transforms.append(str(write_transform(path, transform)))
            record = {"Quality": round(quality, 4), **motion(transform)}
            qualities.append(str(write_json(Path(runtime.cwd) / f"quality-{number:02d}.json", record)))
        self._results["transform_files"], self._results["quality_files"] = transforms, qualities
        return runtime
