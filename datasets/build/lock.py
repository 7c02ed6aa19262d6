"""The folder in which a build keeps its parts, held by one build at a time."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import shutil
import socket
from collections.abc import Iterable
from pathlib import Path
from types import TracebackType

from ...files.errors import InputError
from ..store.hdf5_reading import hdf5_reading
from ..store.writer import cannot_write

_LOCK = "lock"
_DONE = "done"


def parts_folder(store: Path) -> Path:
    """Return the hidden folder beside a store that keeps what an unfinished build has made."""
    return store.with_name(f".{store.name}.parts")


class PartsFolder:
    """A context manager that holds the parts folder of a store against other builds.

    A build that died holds nothing. Where the file system has no locks, the lock's text tells the process that wrote
    it; a dead one on this machine is ignored. On leaving, a folder without parts is removed.
    Raises InputError where another build holds the folder or it cannot be written.
    """

    def __init__(self, store: Path) -> None:
        self.store = store
        self.path = parts_folder(store)
        self._lock: int | None = None
        self._no_locks = ""

    def __enter__(self) -> PartsFolder:
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            self._lock = os.open(self.path / _LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
        except OSError as error:
            raise cannot_write(self.store, error) from error
        if not self._take(self._lock):
            holder = self._holder()
            os.close(self._lock)
            self._lock = None
            raise InputError(
                f"{self.store} is being written by another process{holder}: wait for it to end{self._no_locks}."
            )
        try:
            os.ftruncate(self._lock, 0)
            os.pwrite(self._lock, json.dumps({"pid": os.getpid(), "host": socket.gethostname()}).encode(), 0)
        except OSError as error:
            os.close(self._lock)
            raise cannot_write(self.store, error) from error
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if not any(self.path.glob("*.h5")):
            self.remove()
        if self._lock is not None:
            with contextlib.suppress(OSError):  # what ended the build matters more
                os.ftruncate(self._lock, 0)
            os.close(self._lock)

    def remove(self) -> None:
        """Remove the folder and all parts."""
        shutil.rmtree(self.path, ignore_errors=True)

    def keep_only(self, stems: Iterable[str]) -> None:
        """Remove what an earlier build left that this one has no use for: all but parts whose names begin so."""
        kept = tuple(stems)
        for path in self.path.iterdir():
            if path.name != _LOCK and not (path.suffix == ".h5" and path.name.startswith(kept)):
                path.unlink(missing_ok=True)

    def mark_done(self, content_hash: str) -> None:
        """Note that the parts are all in the store of this hash, so that they may go once it is in place."""
        (self.path / _DONE).write_text(content_hash)

    def _take(self, lock: int) -> bool:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        except OSError:  # a file system without locks
            self._no_locks = f", or remove {self.path / _LOCK} if it no longer runs"
            return not _alive(self._written())
        # the build before us may have removed the folder between our open and our lock
        path = self.path / _LOCK
        return path.exists() and os.path.samestat(os.fstat(lock), path.stat())

    def _written(self) -> dict[str, object]:
        with contextlib.suppress(OSError, ValueError):
            return dict(json.loads((self.path / _LOCK).read_text()))
        return {}

    def _holder(self) -> str:
        written = self._written()
        return f" ({written['pid']} on {written['host']})" if {"pid", "host"} <= written.keys() else ""


def _alive(holder: dict[str, object]) -> bool:
    """Whether the process that wrote a lock may still run; of another machine we cannot know."""
    if not holder:
        return False
    if holder.get("host") != socket.gethostname():
        return True
    try:
        os.kill(int(str(holder.get("pid"))), 0)
    except ProcessLookupError:
        return False
    except (PermissionError, ValueError):
        return True
    return True


def remove_leftovers(store: Path) -> None:
    """Remove the parts of a build that was killed just after its store was put in place."""
    folder = parts_folder(store)
    done = folder / _DONE
    if not (done.is_file() and store.is_file()):
        return
    with contextlib.suppress(OSError, KeyError), hdf5_reading(store) as handle:
        if handle.attrs["content_hash"] == done.read_text():
            shutil.rmtree(folder, ignore_errors=True)
