"""The JSON files beside images: where they lie, and how they are read."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from .errors import InputError

_EXTENSIONS = (".nii.gz", ".nii", ".txt")


def sidecar_path(path: Path) -> Path:
    """Return the JSON path beside an image or matrix: `a.nii.gz`, `a.nii` or `a.txt` to `a.json`."""
    name = Path(path).name
    for ext in _EXTENSIONS:
        if name.endswith(ext):
            return Path(path).with_name(name.removesuffix(ext) + ".json")
    return Path(path).with_suffix(".json")


def read_json(path: Path) -> dict[str, Any]:
    """Read a JSON object; InputError where it is missing, no valid JSON, or no object."""
    try:
        content = json.loads(Path(path).read_text(encoding="utf-8-sig"))
    except (OSError, ValueError) as error:
        raise InputError(f"{path} cannot be read as JSON ({one_line(error)}): correct or remove it.") from error
    if not isinstance(content, dict):
        raise InputError(f"{path} must hold a JSON object of names and values, got a {type(content).__name__}.")
    return content


def read_sidecar(path: Path) -> dict[str, Any]:
    """Return what the JSON beside an image says, {} where there is none; InputError where it is no JSON object."""
    sidecar = sidecar_path(path)
    return read_json(sidecar) if sidecar.is_file() else {}


def one_line(error: BaseException) -> str:
    """Return the words of an error without line breaks, its class where it has none."""
    return " ".join(str(error).split()) or type(error).__name__
