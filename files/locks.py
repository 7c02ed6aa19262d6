"""One process at a time: a lock on a file, which names its holder and ends with it.

`flock` is used as it is, for three reasons: a killed run's child processes, which inherit the open file, keep the lock
until they have ended too; the file's text tells who holds it; and an error that only means "this file system has no
locks" is told from "somebody holds it".
"""

from __future__ import annotations

import errno
import fcntl
import json
import os
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from datetime import datetime
from pathlib import Path

from .errors import InputError
from .os_errors import os_error_words

Announce = Callable[[str], None]
_HELD = {errno.EWOULDBLOCK, errno.EAGAIN, errno.EACCES}
_NO_LOCKS = {errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP, errno.ENOTSUP, errno.EINVAL}
_POLL = 0.2  # s
_REMIND = 600.0  # s


@dataclass(frozen=True)
class Holder:
    """The process that holds a lock: the machine's name, the process's number, and since when (local time)."""

    host: str
    pid: int
    since: str

    @classmethod
    def this_process(cls) -> Holder:
        """Return what this process writes into the locks that it takes."""
        return cls(socket.gethostname(), os.getpid(), datetime.now().strftime("%Y-%m-%d %H:%M"))

    @property
    def words(self) -> str:
        """E.g. "process 4711 on node7, since 2024-05-01 10:32"."""
        return f"process {self.pid} on {self.host}, since {self.since}"


@contextmanager
def hold(path: Path, work: str, announce: Announce, *, remedy: str = "") -> Iterator[None]:
    """Hold the lock on a file, which is made where it is not there, while the context lasts; wait for it if need be.

    work: what the lock protects, for messages ("sub-01 in /data/out"); announce: told at once, and every ten minutes,
    that this process waits, and for whom; remedy: what else can be done than wait. A file system that has no locks is
    no reason to stop: that is said, and the context is entered. Raises InputError where the file cannot be opened.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
    except OSError as error:
        raise InputError(f"{path.parent} cannot be written: {os_error_words(error)}.") from error
    try:
        with suppress(OSError):  # who may write the folder may take its locks
            os.fchmod(handle, path.parent.stat().st_mode & 0o666)
        if (refusal := _take(handle, work, announce, remedy)) is not None:
            announce(
                f"note: {path.parent} has no file locks ({os.strerror(refusal)}), so two runs of one subject at a time "
                "would go unnoticed: start only one"
            )
        yield
    finally:
        os.close(handle)  # a child process that lives on keeps the lock


def _take(handle: int, work: str, announce: Announce, remedy: str) -> int | None:
    """Wait for the lock and write the holder into it; return the error's number where there are no locks."""
    said = -_REMIND
    while (refusal := _try(handle)) in _HELD:
        if time.monotonic() - said >= _REMIND:
            said = time.monotonic()
            holder = _holder(handle)
            named = f" ({holder.words})" if holder else ""
            announce(f"waiting for another run of {work}{named}{'; ' + remedy if remedy else ''}")
        time.sleep(_POLL)
    os.ftruncate(handle, 0)
    os.pwrite(handle, json.dumps(asdict(Holder.this_process())).encode(), 0)
    return refusal


def _try(handle: int) -> int | None:
    """Try to lock an open file: None where it is locked now, else the error's number, of _HELD or _NO_LOCKS."""
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno in _HELD | _NO_LOCKS:
            return error.errno
        raise
    return None


def _holder(handle: int) -> Holder | None:
    try:
        content = json.loads(os.pread(handle, 4096, 0))
        return Holder(str(content["host"]), int(content["pid"]), str(content["since"]))
    except (OSError, ValueError, KeyError, TypeError):  # it is being written, or another program's
        return None
