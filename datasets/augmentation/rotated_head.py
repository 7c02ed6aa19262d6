"""A head held on a device as cubic B-splines, and turned there: labels and field of any head position, in torch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ...files.errors import InputError
from ...pipeline.frames import FloatArray
from ...pipeline.images.spline_maps import spline_maps
from ...pipeline.images.torch_resample import TorchSplineMaps
from ...pipeline.labels import reference_to_mask
from ...pipeline.physics.torch_field import fields_along_z
from ..store.schema import Store, VolumeEntry
from ..store.volume import FIELD, MASK, Geometry, ScalarVolume, TensorVolume
from .rotation import B0_DIRECTION, magnetisation_weights, outline, outline_grid

KINDS = ("tensor", "cosmos")


@dataclass(frozen=True)
class RotatedHead:
    """What rotate_tensor_image or rotate_scalar_image makes of a head, on a device.

    maps: (x, y, z) float32 in ppm; mask: bool.
    """

    maps: Mapping[str, Tensor]
    mask: Tensor
    geometry: Geometry

    @property
    def field_rms(self) -> Tensor:
        """The root mean square of the field inside the mask in ppm, a scalar on the device."""
        inside = (self.maps[FIELD] * self.mask).double().square().sum()
        return (inside / self.mask.sum()).sqrt().float()


@dataclass(frozen=True)
class RotatableHead:
    """A subject's tensor, or a COSMOS map, on a device; extremes (n, 3) and shape of its mask say how far it reaches.

    id: sub-01, or the volume's whose COSMOS map it is.
    """

    id: str
    subject: str
    splines: TorchSplineMaps
    extremes: NDArray[np.int64]
    shape: tuple[int, ...]
    geometry: Geometry

    @classmethod
    def of(cls, source: TensorVolume | ScalarVolume, device: torch.device | str) -> RotatableHead:
        """Prepare a tensor (six maps) or a COSMOS map (one) on a device."""
        splines = spline_maps(reference_to_mask(source.chi, source.mask), source.mask, source.geometry.affine)
        name = source.id if isinstance(source, ScalarVolume) else f"sub-{source.subject}"
        on_device = TorchSplineMaps.of(splines, device)
        return cls(name, source.subject, on_device, outline(source.mask), source.mask.shape, source.geometry)

    def turn(self, rotation: FloatArray) -> RotatedHead:
        """Return the head rotated by a rotation (3, 3), world to world, as rotate_tensor_image does."""
        geometry, shape, transform = outline_grid(self.extremes, self.shape, self.geometry, rotation)
        tensor = self.splines.coefficients.shape[1] == 6
        mixed = self.splines.mixed(magnetisation_weights(rotation)) if tensor else self.splines.coefficients
        magnetisation, mask = self.splines.evaluate(mixed, geometry.affine, shape, transform)
        del mixed
        dipolar, across = fields_along_z(magnetisation, geometry.voxel_size)
        along = magnetisation[-1].clone()
        if across is None:
            return RotatedHead({FIELD: dipolar, "chi33": along, "cosmos": along}, mask, geometry)
        return RotatedHead({FIELD: dipolar.add_(across), "chi33": along, "deltab": across}, mask, geometry)


def read_sources(store: Store, split: str, kind: str) -> list[TensorVolume | ScalarVolume]:
    """Return the tensors ("tensor") or the scans' COSMOS maps ("cosmos") of a split, in the order of their names.

    Raises InputError where the kind is unknown or the store has none for this split.
    """
    if kind not in KINDS:
        raise InputError(f"kind must be one of {', '.join(KINDS)}, got {kind!r}.")
    volumes = store.of_split(split)
    sources: list[TensorVolume | ScalarVolume] = []
    with store.reading() as handle:
        if kind == "tensor":
            for subject in store.subjects(split):
                if f"sub-{subject}" in store.tensors:
                    group = handle[f"tensors/sub-{subject}"]
                    geometry = Geometry(group.attrs["affine"], B0_DIRECTION.copy(), float(group.attrs["B0"]))
                    sources.append(TensorVolume(subject, group["chi"][()], group[MASK][()], geometry))
        else:
            for volume in volumes:
                if volume.source == "acquired" and "cosmos" in volume.channels:
                    sources.append(_read_cosmos(volume, handle[f"volumes/{volume.id}"]))
    if not sources:
        what = "tensors" if kind == "tensor" else "acquired volumes with COSMOS maps"
        other = next(one for one in KINDS if one != kind)
        raise InputError(f"{store.path} has no {what} in {split} to turn: choose kind {other!r}, or another split.")
    return sources


def _read_cosmos(volume: VolumeEntry, group: Mapping[str, NDArray[Any]]) -> ScalarVolume:
    return ScalarVolume(volume.id, volume.subject, group["cosmos"][()], group[MASK][()], volume.geometry)
