"""One volume, tensor or set of cropped patches in a file of its own, as the workers of a build leave it.

A part is whole or not there: it is written to a temporary name, brought to the disk and renamed. Its name holds the
digest of all it was made from, so a part that is there need not be made again.
"""

from __future__ import annotations

import contextlib
import json
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray

from ..build.statistics import Moments, masked_moments
from .guarded_file import GuardedFile, disk_full, new_hdf5
from .hdf5_reading import hdf5_reading
from .volume import MASK, TensorVolume, Volume
from .volume_group import FILTERS, write_tensor, write_volume

PATCHES = "patches"


def is_whole(part: Path) -> bool:
    """Whether a part is there and can be read."""
    try:
        with hdf5_reading(part) as handle:
            return "digests" in handle.attrs
    except OSError:
        return False


def write_part(part: Path, content: Volume | TensorVolume) -> None:
    """Write a volume (with its moments) or a tensor; raises DiskFullError where the disk runs full."""
    with _new_part(part) as (handle, file):
        if isinstance(content, Volume):
            digests = write_volume(handle, content, file.check)
            handle.attrs["moments"] = json.dumps(masked_moments(content))
        else:
            digests = write_tensor(handle, content, file.check)
        handle.attrs["digests"] = json.dumps(digests)


def write_patches(part: Path, volume_part: Path, rows: NDArray[Any], size: int, channels: tuple[str, ...]) -> None:
    """Write the patches (n, channel, p, p, p) that the rows of a table cut from the volume in another part."""
    with hdf5_reading(volume_part) as source:
        group = source[f"volumes/{rows['volume'][0].decode()}"]
        volume = np.empty((len(channels), *group[MASK].shape), np.float32)
        for index, channel in enumerate(channels):
            volume[index] = group[channel][()]
    patch = (len(channels), size, size, size)
    with _new_part(part) as (handle, file):
        data = handle.create_dataset(PATCHES, (len(rows), *patch), np.float32, chunks=(1, *patch), **FILTERS)
        for number, row in enumerate(rows):
            i, j, k = (int(row[axis]) for axis in "ijk")
            data[number] = volume[:, i : i + size, j : j + size, k : k + size]
            file.check()
        handle.attrs["digests"] = "{}"


def part_digests(handle: h5py.File) -> dict[str, str]:
    """Return the digests of the maps of an open part, by the names they have in the store."""
    return dict(json.loads(handle.attrs["digests"]))


def part_moments(handle: h5py.File) -> Moments:
    """Return what masked_moments found in the volume of an open part."""
    return {name: (int(n), mean, squares) for name, (n, mean, squares) in json.loads(handle.attrs["moments"]).items()}


def read_mask(part: Path, volume_id: str) -> NDArray[np.uint8]:
    """Return the mask (x, y, z) of the volume in a part."""
    with hdf5_reading(part) as handle:
        return np.asarray(handle[f"volumes/{volume_id}/{MASK}"][()])


@contextmanager
def _new_part(part: Path) -> Iterator[tuple[h5py.File, GuardedFile]]:
    """Yield an open file that becomes the part where all went well, and else nothing."""
    partial = part.with_name(f"{part.name}.{socket.gethostname()}-{os.getpid()}.tmp")
    try:
        with new_hdf5(partial) as (handle, file):
            yield handle, file
        partial.replace(part)
    except BaseException as error:
        with contextlib.suppress(OSError):
            partial.unlink(missing_ok=True)
        full = disk_full(error, part.parent)
        if full is not None:
            raise full from error
        raise
