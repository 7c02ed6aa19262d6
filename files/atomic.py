"""Files that are whole or absent: written under a temporary name in the same folder, then renamed."""

from __future__ import annotations

import errno
import os
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from .errors import StepError

NO_SPACE = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})


@contextmanager
def renamed(path: Path, temporary: Path, *, outdates: Path | None = None, settle: bool = True) -> Iterator[Path]:
    """Yield the temporary name to write to; at the end it becomes `path`, and on any error nothing is left of it.

    temporary: in the folder of path, which is made where it is missing; outdates: a file that vouches for the old
    content of path, removed just before the new one takes its place; settle: wait until the disk has the content.
    Raises the system's OSError.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield temporary
        if settle:
            with temporary.open("rb") as written:
                os.fsync(written.fileno())
        if outdates is not None:
            outdates.unlink(missing_ok=True)
        temporary.replace(path)
    finally:
        with suppress(OSError):
            temporary.unlink(missing_ok=True)


def partial_name(path: Path) -> Path:
    """Return the temporary name of a file that one process writes, with its suffix."""
    return path.with_name(f".partial.{path.name}")


@contextmanager
def atomic_path(path: Path) -> Iterator[Path]:
    """Yield the temporary name of a file as `renamed` does.

    Raises StepError where the disk is full or the folder cannot be written.
    """
    try:
        with renamed(path, partial_name(path)) as partial:
            yield partial
    except OSError as error:
        raise StepError(
            f"{path} could not be written ({error.strerror or error}), and nothing was left: free some "
            "space, or choose another folder."
        ) from error


def write_text(path: Path, text: str) -> None:
    """Write a UTF-8 text file so that it is whole or absent."""
    with atomic_path(path) as partial:
        partial.write_text(text, encoding="utf-8", newline="")


def write_atomically(path: Path, write: Callable[[Path], Any], outdates: Path | None = None) -> None:
    """Call write with a temporary path in the same folder, then rename it to path; leave no trace on failure.

    Processes may write the same file at once. outdates: as for `renamed`. Raises StepError where the disk is full or
    the folder cannot be written.
    """
    extension = "".join(Path(path.name).suffixes[-2:]) if path.name.endswith(".gz") else path.suffix
    own = path.with_name(f".{path.name.removesuffix(extension)}.{uuid.uuid4().hex}{extension}")
    try:
        with renamed(path, own, outdates=outdates, settle=False) as temporary:
            write(temporary)
    except OSError as error:
        if error.errno not in NO_SPACE:
            raise StepError(f"{path} cannot be written ({error.strerror or error}): check the folder.") from error
        raise StepError(
            f"{path} cannot be written because the disk is full or a quota is reached: free some space and repeat the "
            "command."
        ) from error
