"""Files that are whole or absent: written under a temporary name in the same folder, then renamed."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from .errors import StepError


@contextmanager
def atomic_path(path: Path) -> Iterator[Path]:
    """Yield the temporary name to write to; at the end it becomes `path`, and on any error nothing is left of it.

    The folder is made where it is missing; the name keeps its suffix. Raises StepError where the disk is full or the
    folder cannot be written.
    """
    partial = path.with_name(f".partial.{path.name}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield partial
        with open(partial, "rb") as written:
            os.fsync(written.fileno())
        os.replace(partial, path)
    except OSError as error:
        raise StepError(
            f"{path} could not be written ({error.strerror or error}), and nothing was left: free some "
            "space, or choose another folder."
        ) from error
    finally:
        with suppress(OSError):
            partial.unlink(missing_ok=True)


def write_text(path: Path, text: str) -> None:
    """Write a UTF-8 text file so that it is whole or absent."""
    with atomic_path(path) as partial:
        partial.write_text(text, encoding="utf-8", newline="")
