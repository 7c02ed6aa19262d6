"""Folders that are to be written: whether they can be, without making them."""

from __future__ import annotations

import os
from pathlib import Path

from .errors import InputError


def check_can_write(folder: Path, remedy: str = "choose another folder") -> None:
    """Raise InputError where a folder, which need not exist yet, could not be made or written; nothing is created."""
    place = Path(folder).absolute()
    while not os.path.lexists(place):
        place = place.parent
    if not place.is_dir():
        said = "it is a file" if place == Path(folder).absolute() else f"{place} is a file"
    elif not os.access(place, os.W_OK | os.X_OK):
        said = "permission is denied" if place == Path(folder).absolute() else f"permission is denied in {place}"
    else:
        return
    raise InputError(f"{folder} cannot be written ({said}): {remedy}.")
