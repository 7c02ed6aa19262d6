"""Where the maps of a subject come from: what the builder of a store asks of a source, and the source of a folder."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np

from ...files.errors import InputError
from ...files.maps.sizes import plausible_names, size_problem
from ...files.maps.units import Scaling
from ...files.sidecars import sidecar_path
from ..store.volume import FIELD, MASK, ScalarVolume, TensorVolume, Volume
from .derivatives_finder import find_derivatives
from .derivatives_reader import SubjectFiles, map_shape, read_cosmos, read_scan, read_tensor, scaling_in


class SubjectSource(Protocol):
    """One subject's maps, read one at a time; picklable, as workers in other processes read them."""

    @property
    def subject(self) -> str:
        """The label, without sub-."""
        ...

    @property
    def scan_ids(self) -> tuple[str, ...]:
        """`sub-01/acq-ori01` of every scan."""
        ...

    @property
    def labels(self) -> tuple[str, ...]:
        """Which of chi33, deltab and cosmos the scans have."""
        ...

    @property
    def voxels(self) -> tuple[int, ...]:
        """The voxels of every scan's grid."""
        ...

    def read_scan(self, number: int) -> Volume:
        """Return the maps of a scan, counted from 0; raises InputError where they cannot be used."""
        ...

    def read_tensor(self) -> TensorVolume | None:
        """Return the subject's tensor, None where there is none."""
        ...

    def read_cosmos(self) -> ScalarVolume | None:
        """Return the subject's COSMOS map, None where there is none."""
        ...

    def fingerprint(self) -> str:
        """Return a hash that changes with what is read: paths, sizes and times of change of the files."""
        ...


@dataclass(frozen=True)
class DerivativesSource:
    """A subject of a derivatives folder, as find_derivatives found it."""

    files: SubjectFiles

    @property
    def subject(self) -> str:
        """The label, without sub-."""
        return self.files.subject

    @property
    def scan_ids(self) -> tuple[str, ...]:
        """`sub-01/acq-ori01` of every scan."""
        return tuple(scan.id for scan in self.files.scans)

    @property
    def labels(self) -> tuple[str, ...]:
        """Which of chi33, deltab and cosmos the scans have."""
        return self.files.scans[0].labels

    @property
    def voxels(self) -> tuple[int, ...]:
        """The voxels of every scan's grid; raises InputError where a header cannot be read."""
        return tuple(int(np.prod(map_shape(scan.paths[FIELD]))) for scan in self.files.scans)

    def read_scan(self, number: int) -> Volume:
        """Return the maps of a scan.

        Raises InputError as derivatives_reader.read_scan does, and where a map is of a size that ppm do not allow.
        """
        files = self.files.scans[number]
        volume = read_scan(files)
        for name in plausible_names(tuple(volume.channels)):
            if wrong := size_problem(name, volume.channels[name][volume.mask]):
                raise InputError(f"{files.paths[name]} {wrong}: give the map in ppm, and check the mask.")
        return volume

    def read_tensor(self) -> TensorVolume | None:
        """Return the tensor in the subject's space, None where there is none."""
        return read_tensor(self.files) if "tensor" in self.files.space else None

    def read_cosmos(self) -> ScalarVolume | None:
        """Return the COSMOS map, None where there is none."""
        return read_cosmos(self.files)

    def scalings(self) -> list[tuple[Path, Scaling]]:
        """Return how every map that states its unit becomes ppm; raises InputError where that cannot be told."""
        scans = [path for scan in self.files.scans for name, path in scan.paths.items() if name != MASK]
        space = [self.files.space[name] for name in ("tensor", "cosmos") if name in self.files.space]
        return [(path, scaling_in(path)) for path in [*scans, *space]]

    def fingerprint(self) -> str:
        """Return the hash of the subject's files and their sidecars."""
        maps = [path for scan in self.files.scans for path in scan.paths.values()] + list(self.files.space.values())
        return files_fingerprint([*maps, *(sidecar_path(path) for path in maps)])


def sources_of(derivatives: Path) -> tuple[DerivativesSource, ...]:
    """Return the subjects of a derivatives folder; raises InputError as find_derivatives does."""
    return tuple(DerivativesSource(files) for files in find_derivatives(derivatives.absolute()))


def files_fingerprint(paths: Iterable[Path]) -> str:
    """Return the SHA-256 of the paths, sizes and times of change of files; those that are missing count as such.

    The time of the last change of the inode too: a copy that keeps the times of its source, of a map of the same size
    (any two of one scan that are not compressed), is a change.
    """
    digest = hashlib.sha256()
    for path in sorted(set(paths)):
        stat = path.stat() if path.exists() else None
        seen = stat and (stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns)
        digest.update(f"{path.absolute()} {seen}\n".encode())
    return digest.hexdigest()
