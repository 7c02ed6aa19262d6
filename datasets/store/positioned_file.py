"""A file for h5py that is read at a position of its own."""

from __future__ import annotations

import io
import os


class PositionedFile(io.RawIOBase):
    """The file of a descriptor, for h5py: read at a position of its own, so it shares none and takes no lock.

    The descriptor stays its owner's to close.
    """

    def __init__(self, descriptor: int) -> None:
        super().__init__()
        self._descriptor = descriptor
        self._position = 0

    def readable(self) -> bool:
        """Return True."""
        return True

    def seekable(self) -> bool:
        """Return True."""
        return True

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        """Move to a byte of the file."""
        start = {os.SEEK_SET: 0, os.SEEK_CUR: self._position, os.SEEK_END: os.fstat(self._descriptor).st_size}
        self._position = start[whence] + offset
        return self._position

    def tell(self) -> int:
        """Return the byte the next read starts at."""
        return self._position

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]
        """Fill a buffer from the file, with zeros after its end."""
        view = memoryview(buffer).cast("B")
        count = os.preadv(self._descriptor, [view], self._position)
        view[count:] = bytes(len(view) - count)
        self._position += len(view)
        return len(view)
