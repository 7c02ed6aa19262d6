"""HDF5 files opened to be read, on any file system.

HDF5 takes a lock on a file that it opens, and fails where the file system has none (NFS, Lustre and FUSE, by how they
are mounted). A store or a part is written under another name and renamed, so a reader needs no lock.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import h5py

from ...files.errors import InputError
from .positioned_file import PositionedFile


@contextmanager
def hdf5_reading(path: Path) -> Iterator[h5py.File]:
    """Give an HDF5 file while the context lasts, without a lock and apart from all other handles on it.

    It may not be open at the end of the process, hence the context. Raises OSError as h5py.File does.
    """
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        with h5py.File(PositionedFile(descriptor), "r") as handle:
            yield handle
    finally:
        os.close(descriptor)


def open_for_reading(path: Path) -> h5py.File:
    """Return an HDF5 file opened by HDF5 itself, to be kept: with a lock where that is possible, else without one.

    Within a process HDF5 wants all handles on a file to agree about locks, so whatever another one chose is tried too.
    Raises OSError as h5py.File does, InputError where the environment forbids to open it without a lock.
    """
    refused: OSError | None = None
    settings: tuple[Any, ...] = (None, False, True)
    for locking in settings:
        try:
            return h5py.File(path, "r", locking=locking)
        except OSError as error:
            refused = refused or error
    assert refused is not None
    stated = os.environ.get("HDF5_USE_FILE_LOCKING", "")
    if stated.upper() in ("TRUE", "1") and "lock" in str(refused):
        raise InputError(
            f"{path} cannot be locked, but HDF5_USE_FILE_LOCKING={stated} asks for it: unset HDF5_USE_FILE_LOCKING."
        ) from refused
    raise refused
