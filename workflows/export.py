"""Copies results from the working folder to the output folder: by rename, and only what differs."""

from __future__ import annotations

import filecmp
import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from .derivatives import bids_keys, sidecar_path, write_atomically, write_json


def export_file(source: Path, target: Path, sidecar: Mapping[str, Any]) -> None:
    """Copy a file to the output folder and write its JSON sidecar; both by rename, neither when already equal."""
    beside = sidecar_path(target)
    content = {**sidecar, **bids_keys(target)}
    if not (target.is_file() and filecmp.cmp(source, target, shallow=False)):
        write_atomically(target, lambda temporary: shutil.copyfile(source, temporary), outdates=beside)
    text = json.dumps(content, indent=2, default=str) + "\n"
    if not (beside.is_file() and beside.read_text(encoding="utf-8") == text):
        write_json(beside, json.loads(text))
