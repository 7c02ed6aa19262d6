"""A file HDF5 may write to on a disk that runs full.

HDF5 does not survive a failing write: it reports it late or not at all, and the process can end in a segmentation
fault when the file is closed. So writes here never fail: the first error is kept, what follows is dropped, and the
writer asks after every step.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
from collections.abc import Iterator
from pathlib import Path

import h5py

from ...files.atomic import NO_SPACE
from ...files.errors import InputError, StepError
from .positioned_file import PositionedFile


class DiskFullError(StepError):
    """The disk ran full; what was being written is gone."""


def disk_full(error: BaseException, path: Path) -> DiskFullError | None:
    """Return what to raise where an error means that the disk of path ran full, else None."""
    if not isinstance(error, OSError) or error.errno not in NO_SPACE:
        return None
    return DiskFullError(
        f"the disk ran full while {path} was written, and nothing was left behind: free some space, or choose another "
        "disk."
    )


class GuardedFile(PositionedFile):
    """A new file at path, locked against a second writer; raises InputError where another process writes it."""

    def __init__(self, path: Path) -> None:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)  # a file in use is not truncated
        super().__init__(descriptor)
        self._raw = os.fdopen(descriptor, "r+b", buffering=0)
        self.error: OSError | None = None
        if not self._lock(path):
            self._raw.close()
            raise InputError(f"{path} is being written by another process: wait for it to end.")
        os.ftruncate(self._raw.fileno(), 0)

    def _lock(self, path: Path) -> bool:
        try:
            fcntl.flock(self._raw, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        except OSError:
            return True  # a file system without locks
        # the writer before us may have renamed the file between our open and our lock
        return path.exists() and os.path.samestat(os.fstat(self._raw.fileno()), path.stat())

    def check(self) -> None:
        """Raise the first error a write met."""
        if self.error is not None:
            raise self.error

    def writable(self) -> bool:
        """Return True."""
        return True

    def write(self, buffer: bytes | memoryview) -> int:  # type: ignore[override]
        """Write a buffer; an error is kept for check() and the rest of the file's life writes nothing."""
        view = memoryview(buffer).cast("B")
        done = 0
        while done < len(view) and self.error is None:
            try:
                done += os.pwrite(self._raw.fileno(), view[done:], self._position + done)
            except OSError as error:
                self.error = error
        self._position += len(view)
        return len(view)

    def truncate(self, size: int | None = None) -> int:
        """Set the length of the file."""
        length = self._position if size is None else size
        try:
            os.ftruncate(self._raw.fileno(), length)
        except OSError as error:
            self.error = self.error or error
        return length

    def settle(self) -> None:
        """Have the file reach the disk and let readers in; raises the error of a write that did not arrive."""
        self.check()
        os.fsync(self._raw.fileno())
        with contextlib.suppress(OSError):
            fcntl.flock(self._raw, fcntl.LOCK_SH | fcntl.LOCK_NB)

    def close(self) -> None:
        """Close the file and release its lock."""
        with contextlib.suppress(OSError):
            self._raw.close()
        super().close()


@contextlib.contextmanager
def new_hdf5(path: Path) -> Iterator[tuple[h5py.File, GuardedFile]]:
    """Give a new HDF5 file and the guarded file under it; at the end of the context it is whole and on the disk.

    Raises the error of the first write that did not arrive; the file is then its caller's to remove.
    """
    file = GuardedFile(path)
    try:
        handle = h5py.File(file, "w")
        try:
            yield handle, file
        except BaseException as error:
            with contextlib.suppress(Exception):  # the file is thrown away, whatever state it is in
                handle.close()
            if file.error is not None:
                raise file.error from error
            raise
        handle.close()
        file.settle()
    finally:
        file.close()
