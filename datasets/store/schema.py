"""The store: one HDF5 file of volumes, tensors, patch tables and statistics, and how it is opened.

/                          attrs: schema "chi33-store", version, chi33_version, config (JSON), content_hash, split_hash
/volumes/<sub>/<ori>/      field chi33 deltab cosmos mask [magnitude chi33sd]
                           attrs: affine voxel_size b0_direction B0 subject split source parent rotation units,
                           residual_rms (ppm, with chi33 and deltab) snr susceptibility_scale fingerprint
/tensors/<sub>/            chi (6,x,y,z) mask, attrs as above up to units, frame
/patches/<split>           table: volume, i, j, k, brain_fraction; attrs: patch_size, min_brain, rule, seed, and where
                           the rule is a grid stride or grid
/patches/<split>_data      optional: (n, channel, p, p, p), one chunk a patch; attrs: channels
/statistics/<channel>      attrs: mean, std, count over the training split, inside the mask

Version 2 added split_hash, residual_rms, snr, susceptibility_scale, fingerprint, and the named patch rules.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray

from ...files.errors import InputError
from ...pipeline.frames import FloatArray
from ..build.splits import split_hash
from ..build.statistics import ChannelStatistics
from .hdf5_reading import hdf5_reading, open_for_reading
from .volume import SPLITS, Geometry

SCHEMA = "chi33-store"
VERSION = 2
DIGESTED = ("volumes", "tensors", "patches")
_DAMAGED = "copy it again, or build it again with `chi33 build-dataset`"


@dataclass(frozen=True)
class VolumeEntry:
    """One volume of a store without its voxels; id is `sub-01/acq-ori01`, its group /volumes/<id>.

    fingerprint: SHA-256 of the field and the mask of an acquired volume, else ""; residual_rms: what the labels leave
    of the field, in ppm, NaN where unknown; snr and susceptibility_scale as in Volume.
    """

    id: str
    subject: str
    split: str
    source: str
    parent: str
    rotation: FloatArray | None
    geometry: Geometry
    shape: tuple[int, int, int]
    channels: tuple[str, ...]
    fingerprint: str = ""
    residual_rms: float = float("nan")
    snr: float = float("inf")
    susceptibility_scale: float = 1.0


@dataclass(frozen=True)
class PatchTable:
    """The patches of one split: rows (volume, i, j, k, brain_fraction), edge in voxels, and how they were chosen.

    stride (voxels) or grid (positions per axis) where the rule is a grid.
    """

    rows: NDArray[Any]
    patch_size: int
    min_brain: float
    rule: str
    seed: int
    data_channels: tuple[str, ...]
    stride: int | None = None
    grid: tuple[int, ...] | None = None

    def __len__(self) -> int:
        return len(self.rows)


@dataclass(frozen=True)
class Store:
    """What a store holds, without voxels and without an open file, so it travels between processes."""

    path: Path
    version: int
    chi33_version: str
    config: Mapping[str, Any]
    content_hash: str
    volumes: tuple[VolumeEntry, ...]
    tensors: tuple[str, ...]
    patches: Mapping[str, PatchTable]
    statistics: Mapping[str, ChannelStatistics]
    split_hash: str = ""

    def of_split(self, split: str) -> tuple[VolumeEntry, ...]:
        """Return the volumes of a split; raises InputError where the split is unknown."""
        if split not in SPLITS:
            raise InputError(f"split must be one of {', '.join(SPLITS)}, got {split!r}.")
        return tuple(volume for volume in self.volumes if volume.split == split)

    def subjects(self, split: str) -> tuple[str, ...]:
        """Return the subject labels of a split, sorted."""
        return tuple(sorted({volume.subject for volume in self.of_split(split)}))

    def open(self) -> h5py.File:
        """Return the file open for reading; any number of processes may, also where the file system has no locks."""
        return open_for_reading(self.path)

    @contextmanager
    def reading(self) -> Iterator[h5py.File]:
        """Give the file for reading while the context lasts; raises InputError where what is read there is damaged."""
        try:
            with hdf5_reading(self.path) as handle:
                yield handle
        except OSError as error:
            raise unreadable(self.path, error) from error


def open_store(path: str | Path, *, verify: bool = False) -> Store:
    """Open a store: what it holds, without voxels and without an open file.

    Parameters
    ----------
    path
        HDF5 file of `chi33 build-dataset`.
    verify
        Also read every voxel and compare with the content hash.

    Returns
    -------
        A `Store`.

    Raises
    ------
    InputError
        Where the file is missing, not HDF5, truncated, of another schema, of a newer version, incomplete, or (verify)
        altered.
    """
    path = Path(path)
    if not path.is_file():
        raise InputError(f"{path} is no file: give a store written by `chi33 build-dataset`.")
    try:
        with hdf5_reading(path) as handle:
            _check_root(handle, path)
            store = _read_store(handle, path)
            if verify and content_hash(store_digests(handle)) != store.content_hash:
                raise InputError(f"{path} does not match its content hash, so its data were altered: {_DAMAGED}.")
            return store
    except InputError:
        raise
    except OSError as error:
        raise unreadable(path, error) from error
    except (KeyError, RuntimeError, ValueError) as error:
        reason = " ".join(str(error).split()).strip("'\"")
        raise InputError(f"{path} is an incomplete or damaged store ({reason}): {_DAMAGED}.") from error


def unreadable(path: Path, error: OSError) -> InputError:
    """Return what to raise where a store cannot be opened or read to the end."""
    if error.errno is not None:  # the system's refusal says nothing of what the file holds
        return InputError(f"{path} cannot be read ({error.strerror}): check the disk, and that you may read the file.")
    return InputError(f"{path} {_what_is_wrong(path, error)}: {_DAMAGED}.")


def _what_is_wrong(path: Path, error: OSError) -> str:
    if not h5py.is_hdf5(path):
        return "is no HDF5 file"
    if "truncated" in str(error):
        return f"is truncated ({path.stat().st_size} bytes are left)"
    return f"cannot be read ({' '.join(str(error).split())})"


def _check_root(handle: h5py.File, path: Path) -> None:
    schema = handle.attrs.get("schema")
    if schema != SCHEMA:
        raise InputError(
            f"{path} has schema {schema!r}, not {SCHEMA!r}: give a store written by `chi33 build-dataset`."
        )
    version = int(handle.attrs["version"])
    if version > VERSION:
        raise InputError(
            f"{path} has store version {version}, but this chi33 reads up to version {VERSION}: install a newer chi33."
        )


def _read_store(handle: h5py.File, path: Path) -> Store:
    volumes = tuple(
        _read_entry(f"{subject}/{orientation}", group)
        for subject, orientations in handle["volumes"].items()
        for orientation, group in orientations.items()
    )
    statistics = {
        name: ChannelStatistics(float(group.attrs["mean"]), float(group.attrs["std"]), int(group.attrs["count"]))
        for name, group in handle["statistics"].items()
    }
    patches = {split: _read_patches(handle, split) for split in SPLITS if split in handle["patches"]}
    return Store(
        path=path,
        version=int(handle.attrs["version"]),
        chi33_version=str(handle.attrs["chi33_version"]),
        config=json.loads(handle.attrs["config"]),
        content_hash=str(handle.attrs["content_hash"]),
        volumes=volumes,
        tensors=tuple(handle["tensors"]),
        patches=patches,
        statistics=statistics,
        split_hash=str(handle.attrs.get("split_hash") or split_hash({v.subject: v.split for v in volumes})),
    )


def _read_entry(volume_id: str, group: h5py.Group) -> VolumeEntry:
    attrs = group.attrs
    geometry = Geometry(
        np.array(attrs["affine"], np.float64), np.array(attrs["b0_direction"], np.float64), float(attrs["B0"])
    )
    x, y, z = group["mask"].shape
    return VolumeEntry(
        id=volume_id,
        subject=str(attrs["subject"]),
        split=str(attrs["split"]),
        source=str(attrs["source"]),
        parent=str(attrs["parent"]),
        rotation=np.array(attrs["rotation"], np.float64) if "rotation" in attrs else None,
        geometry=geometry,
        shape=(int(x), int(y), int(z)),
        channels=tuple(group),
        fingerprint=str(attrs.get("fingerprint", "")),
        residual_rms=float(attrs.get("residual_rms", "nan")),
        snr=float(attrs.get("snr", "inf")),
        susceptibility_scale=float(attrs.get("susceptibility_scale", 1.0)),
    )


def _read_patches(handle: h5py.File, split: str) -> PatchTable:
    table = handle[f"patches/{split}"]
    data = handle.get(f"patches/{split}_data")
    return PatchTable(
        rows=table[()],
        patch_size=int(table.attrs["patch_size"]),
        min_brain=float(table.attrs["min_brain"]),
        rule=str(table.attrs["rule"]),
        seed=int(table.attrs["seed"]),
        data_channels=() if data is None else tuple(json.loads(data.attrs["channels"])),
        stride=int(table.attrs["stride"]) if "stride" in table.attrs else None,
        grid=tuple(int(n) for n in table.attrs["grid"]) if "grid" in table.attrs else None,
    )


def array_digest(name: str, array: NDArray[Any]) -> str:
    """Return the SHA-256 of one dataset: its name, type, shape and little-endian bytes."""
    ordered = np.ascontiguousarray(array, dtype=array.dtype.newbyteorder("<"))
    kind = [(column, ordered.dtype[column].str) for column in ordered.dtype.names or ()] or ordered.dtype.str
    digest = hashlib.sha256(f"{name} {kind} {ordered.shape}\n".encode())
    digest.update(ordered.view(np.uint8).data if ordered.size else b"")
    return digest.hexdigest()


def attrs_digest(name: str, attrs: Mapping[str, Any]) -> str:
    """Return the SHA-256 of the attributes of a group or dataset, in the order of their names."""
    digest = hashlib.sha256(f"{name}\n".encode())
    for key in sorted(attrs):
        value = attrs[key]
        content = value.encode() if isinstance(value, str) else np.asarray(value).tobytes()
        digest.update(f"{key} {len(content)}\n".encode() + content)
    return digest.hexdigest()


def content_hash(digests: Mapping[str, str]) -> str:
    """Return the hash of a store from its digests by name, whatever the order they came in."""
    lines = "\n".join(f"{name} {digests[name]}" for name in sorted(digests))
    return hashlib.sha256(lines.encode()).hexdigest()


def store_digests(handle: h5py.File, groups: Sequence[str] = DIGESTED) -> dict[str, str]:
    """Return the digests of all a training reads: datasets (by name) and attributes (name@), one at a time in memory.

    groups: which of the file's. The materialised patches are copies of these and left out.
    """
    digests: dict[str, str] = {}

    def visit(name: str, item: h5py.Group | h5py.Dataset) -> None:
        if item.name.startswith("/patches/") and item.name.endswith("_data"):
            return
        if isinstance(item, h5py.Dataset):
            digests[item.name] = array_digest(item.name, item[()])
        if len(item.attrs):
            digests[f"{item.name}@"] = attrs_digest(item.name, item.attrs)

    for name in groups:
        visit(name, handle[name])
        handle[name].visititems(visit)
    return digests
