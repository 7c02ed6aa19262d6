"""--print-config: all settings of a command, printed as the file that its --config reads; no data are needed for it."""

from __future__ import annotations

from pathlib import Path
from typing import Any


def print_settings(settings: Any, command: str) -> None:
    """Print a configuration with a comment for each of its keys."""
    from ..files.toml_writer import to_toml

    print(to_toml(settings, title=f"Settings of `chi33 {command}`; give this file to --config."), end="")


def needed(command: str, **arguments: Path | None) -> list[Path]:
    """Return a command's arguments, which only --print-config can do without; InputError naming what is missing."""
    from ..files.errors import InputError

    missing = [name.upper() for name, value in arguments.items() if value is None]
    if missing:
        usage = " ".join(["chi33", command, *(name.upper() for name in arguments)])
        verb = "is" if len(missing) == 1 else "are"
        raise InputError(f"{' and '.join(missing)} {verb} missing: write {usage}, and the options behind.")
    return [value for value in arguments.values() if value is not None]
