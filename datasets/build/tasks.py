"""The tasks of a build, one a volume: pure functions of picklable descriptions, for this process or any worker."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from ... import __version__
from ...files.errors import InputError, StepError
from ..augmentation.named_draws import named_generator
from ..augmentation.rotation import (
    draw_scale,
    draw_snr,
    random_rotation,
    rotate_scalar_image,
    rotate_tensor_image,
    vary,
)
from ..loading.patches import PatchRule, choose_patches, no_patch_message
from ..store.hdf5_reading import hdf5_reading
from ..store.schema import store_digests
from ..store.volume import TensorVolume, Volume
from ..store.volume_part import is_whole, read_mask, write_part, write_patches
from ..store.writer import check_finite
from .config import Copies
from .subject_source import SubjectSource


@dataclass(frozen=True)
class VolumeTask:
    """A scan (counted from 0), a turned copy (from 1) or the tensor of a subject, and the part it goes to.

    fingerprint: the source's, when the build began; folder: of the parts.
    """

    source: SubjectSource
    fingerprint: str
    kind: str
    number: int
    folder: Path
    rule: PatchRule
    copies: Copies

    @property
    def id(self) -> str:
        """`sub-01/acq-ori01` of a scan, `sub-01/aug-001` of a copy, `sub-01` of a tensor."""
        subject = f"sub-{self.source.subject}"
        if self.kind == "tensor":
            return subject
        return self.source.scan_ids[self.number] if self.kind == "scan" else f"{subject}/aug-{self.number:03d}"

    @property
    def group(self) -> str:
        """The group in the store."""
        return f"tensors/{self.id}" if self.kind == "tensor" else f"volumes/{self.id}"

    @property
    def part(self) -> Path:
        """The part, named by all that goes into it."""
        options = asdict(self.copies) if self.kind == "copy" else {}
        return self.folder / _part_name(self.id, self.kind, self.fingerprint, self.number, options)


@dataclass(frozen=True)
class Made:
    """What came of a VolumeTask: the patch table and, where it is empty, the sentence why; no part without a map.

    remarks: sentences on what was made of the files that were read.
    """

    rows: NDArray[Any] | None
    refused: str | None
    part: Path | None
    remarks: tuple[str, ...] = ()


@dataclass(frozen=True)
class PatchesTask:
    """The cropped patches of one volume: the rows of the table, all of the volume in volume_part."""

    volume_part: Path
    rows: NDArray[Any]
    size: int
    channels: tuple[str, ...]

    @property
    def part(self) -> Path:
        """The part, named by all that goes into it."""
        key = hashlib.sha256(self.rows.tobytes()).hexdigest()
        return self.volume_part.parent / _part_name(self.volume_part.stem, "patches", key, self.size, self.channels)


@dataclass(frozen=True)
class DigestTask:
    """Groups of a finished file, to be read again."""

    path: Path
    groups: tuple[str, ...]


def make_volume(task: VolumeTask) -> Made:
    """Make the part of a task where it is not there yet, and choose its patches.

    Raises InputError where the maps cannot be used, StepError where a turned copy is not finite, the maps changed since
    the build began, or the disk is full.
    """
    if task.kind == "tensor":
        return _make_tensor(task)
    if is_whole(task.part):
        return _with_patches(task, read_mask(task.part, task.id))
    volume = task.source.read_scan(task.number) if task.kind == "scan" else rotated_copy(task)
    check_finite(volume.id, volume.channels.items())
    _check_unchanged(task)
    made = _with_patches(task, volume.mask)
    write_part(task.part, volume)
    return replace(made, remarks=volume.remarks)


def make_patches(task: PatchesTask) -> Path:
    """Cut the patches of a volume into their part where it is not there yet, and return it."""
    if not is_whole(task.part):
        write_patches(task.part, task.volume_part, task.rows, task.size, task.channels)
    return task.part


def digest_groups(task: DigestTask) -> dict[str, str]:
    """Return the digests of all datasets and attributes in groups of a finished store."""
    with hdf5_reading(task.path) as handle:
        return store_digests(handle, task.groups)


def rotated_copy(task: VolumeTask) -> Volume:
    """Return a turned, scaled and noisy copy of a subject's tensor, or of its COSMOS map."""
    source, copies = task.source, task.copies
    rotation = random_rotation(source.subject, task.number, max_angle=copies.max_angle, seed=copies.seed)
    name = f"aug-{task.number:03d}"
    tensor = _tensor_to_rotate(source, copies)
    cosmos = source.read_cosmos() if "cosmos" in source.labels else None
    if tensor is not None:
        volume = rotate_tensor_image(tensor, rotation, name, cosmos=cosmos)
    elif cosmos is not None and copies.augmentation != "tensor":
        volume = rotate_scalar_image(cosmos, rotation, name, labels=source.labels)
    else:
        raise InputError(_nothing_to_rotate(source.subject, copies.augmentation))
    return varied(volume, task.number, copies)


def varied(volume: Volume, number: int, copies: Copies) -> Volume:
    """Return a copy with its susceptibilities scaled and noise added, both drawn anew for every number and seed."""
    if copies.snr is None and copies.scale is None:
        return volume
    rng = named_generator(f"sub-{volume.subject}/{number}/vary", copies.seed)
    scale = 1.0 if copies.scale is None else draw_scale(copies.scale, rng)
    snr = None if copies.snr is None else draw_snr(copies.snr, rng)
    return vary(volume, snr=snr, scale=scale, rng=rng)


def _tensor_to_rotate(source: SubjectSource, copies: Copies) -> TensorVolume | None:
    wanted = copies.augmentation == "tensor" or (copies.augmentation is None and "chi33" in source.labels)
    return source.read_tensor() if wanted and "chi33" in source.labels else None


def _nothing_to_rotate(subject: str, augmentation: str | None) -> str:
    missing = {None: "neither a tensor nor a COSMOS map", "tensor": "no tensor", "cosmos": "no COSMOS map"}
    return f"sub-{subject} has {missing[augmentation]} to turn: repeat `chi33 run`, or leave out --augment."


def _make_tensor(task: VolumeTask) -> Made:
    if not is_whole(task.part):
        tensor = task.source.read_tensor()
        if tensor is None:
            return Made(None, None, None)
        _check_unchanged(task)
        write_part(task.part, tensor)
    return Made(None, None, task.part)


def _check_unchanged(task: VolumeTask) -> None:
    """Raise StepError where a part would get a name that does not say what is in it."""
    if task.source.fingerprint() != task.fingerprint:
        raise StepError(
            f"the maps of sub-{task.source.subject} changed while they were read: wait until nothing writes them, and "
            "repeat the command."
        )


def _with_patches(task: VolumeTask, mask: NDArray[Any]) -> Made:
    rule = task.rule
    rows, best = choose_patches(mask, task.id, rule)
    refused = None if len(rows) else no_patch_message(task.id, rule.size, rule.min_brain, best)
    return Made(rows, refused, task.part)


def _part_name(name: str, *content: Any) -> str:
    text = json.dumps([__version__, name, *content])
    return f"{name.replace('/', '_')}-{hashlib.sha256(text.encode()).hexdigest()[:24]}.h5"
