"""Copies results from the working folder to the output folder: by rename, and only what differs."""

from __future__ import annotations

import filecmp
import gzip
import json
import shutil
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..files.atomic import write_atomically
from ..files.derivatives import bids_keys, sidecar_path, write_json

_LEVEL = 6


def export_file(source: Path, target: Path, sidecar: Mapping[str, Any]) -> None:
    """Copy a file to the output folder and write its JSON sidecar; both by rename, neither when already equal.

    A source that is not compressed (a raw `.nii`) is compressed where the target's name says so.
    """
    beside = sidecar_path(target)
    content = {**sidecar, **bids_keys(target)}
    packs = target.suffix == ".gz" and source.suffix != ".gz"
    if not (target.is_file() and (_holds(target, source) if packs else filecmp.cmp(source, target, shallow=False))):
        copy = _compress if packs else shutil.copyfile
        write_atomically(target, lambda temporary: copy(source, temporary), outdates=beside)
    text = json.dumps(content, indent=2, default=str) + "\n"
    if not (beside.is_file() and beside.read_text(encoding="utf-8") == text):
        write_json(beside, json.loads(text))


def _compress(source: Path, target: Path) -> None:
    """Write a file's bytes compressed, without name and time, so that the same bytes give the same file."""
    with (
        source.open("rb") as plain,
        target.open("wb") as file,
        gzip.GzipFile(filename="", mode="wb", fileobj=file, compresslevel=_LEVEL, mtime=0) as packed,
    ):
        shutil.copyfileobj(plain, packed, 1 << 20)


def _holds(target: Path, source: Path) -> bool:
    """Tell whether a compressed file holds another's bytes; a damaged one does not."""
    try:
        with source.open("rb") as plain, gzip.open(target, "rb") as packed:
            while chunk := plain.read(1 << 20):
                if packed.read(len(chunk)) != chunk:
                    return False
            return not packed.read(1)
    except (EOFError, zlib.error, gzip.BadGzipFile):
        return False
