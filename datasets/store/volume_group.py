"""How a volume or a tensor lies in an HDF5 file: one chunked, compressed dataset per map, and its attributes."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray

from ..build.statistics import residual_rms
from .schema import array_digest
from .volume import FIELD, MASK, Geometry, TensorVolume, Volume

FILTERS: dict[str, Any] = {"compression": "gzip", "compression_opts": 4, "shuffle": True}
_CHUNK = 32
Arrived = Callable[[], None]


def write_volume(handle: h5py.File, volume: Volume, arrived: Arrived) -> dict[str, str]:
    """Write the channels of a volume, float32 and the mask uint8, with all attributes but its split.

    arrived: called after every map, raises where it could not be written. Returns the digests of the maps by name.
    """
    group = handle.create_group(f"volumes/{volume.id}")
    digests = {}
    for name, channel in volume.channels.items():
        array = np.asarray(channel, np.uint8 if name == MASK else np.float32)
        digests.update(_write_map(group, name, array, arrived))
    _describe(group, volume.geometry, volume.subject, volume.source, volume.parent)
    if volume.rotation is not None:
        group.attrs["rotation"] = volume.rotation
    residual = residual_rms(volume)
    if residual is not None:
        group.attrs["residual_rms"] = residual
    group.attrs.update(
        snr=float(volume.snr),
        susceptibility_scale=float(volume.susceptibility_scale),
        fingerprint=volume_fingerprint(volume) if volume.source == "acquired" else "",
    )
    return digests


def write_tensor(handle: h5py.File, tensor: TensorVolume, arrived: Arrived) -> dict[str, str]:
    """Write a subject's tensor and its mask, as write_volume does."""
    group = handle.create_group(f"tensors/sub-{tensor.subject}")
    digests = _write_map(group, "chi", np.asarray(tensor.chi, np.float32), arrived)
    digests.update(_write_map(group, MASK, np.asarray(tensor.mask, np.uint8), arrived))
    _describe(group, tensor.geometry, tensor.subject, "acquired", "")
    group.attrs["frame"] = "world"
    return digests


def volume_fingerprint(volume: Volume) -> str:
    """Return the SHA-256 of the bytes of a volume's field (float32, little-endian, C order) and mask (uint8)."""
    digest = hashlib.sha256(np.ascontiguousarray(volume.channels[FIELD], "<f4").data)
    digest.update(volume.mask.astype(np.uint8).data)
    return digest.hexdigest()


def _write_map(group: h5py.Group, name: str, array: NDArray[Any], arrived: Arrived) -> dict[str, str]:
    leading = (1,) * (array.ndim - 3)
    chunks = (*leading, *(min(_CHUNK, n) for n in array.shape[-3:]))
    dataset = group.create_dataset(name, data=array, chunks=chunks, **FILTERS)
    dataset.flush()
    arrived()
    return {dataset.name: array_digest(dataset.name, array)}


def _describe(group: h5py.Group, geometry: Geometry, subject: str, source: str, parent: str) -> None:
    group.attrs.update(
        affine=geometry.affine,
        voxel_size=geometry.voxel_size,
        b0_direction=geometry.b0_direction,
        B0=geometry.b0,
        subject=subject,
        source=source,
        parent=parent,
        units="ppm",
    )
