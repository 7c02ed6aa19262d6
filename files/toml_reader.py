"""Configurations as frozen dataclasses: the strict reader of their TOML files."""

from __future__ import annotations

import dataclasses
import difflib
import tomllib
import types
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

from .errors import InputError

Config = TypeVar("Config")
_WORDS = {int: "a whole number", float: "a number", bool: "true or false", str: "a text"}


def read_config(kind: type[Config], path: str | Path) -> Config:
    """Read a dataclass from a TOML file; raises InputError naming an unknown key, a wrong type or bad TOML."""
    path = Path(path)
    try:
        table = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path} cannot be read ({error}): give a TOML file.") from error
    except tomllib.TOMLDecodeError as error:
        raise InputError(f"{path} is no valid TOML: {error}.") from error
    return from_table(kind, table, str(path))


def override(config: Config, values: Mapping[str, Any]) -> Config:
    """Return the config with the values that are not None replaced; `network.dropout` names a key of a section."""
    table = to_table(config)
    for key, value in values.items():
        if value is not None:
            section, _, name = key.rpartition(".")
            (table.setdefault(section, {}) if section else table)[name] = value
    return from_table(type(config), table, "the options")


def from_table(kind: type[Any], table: Mapping[str, Any], source: str, prefix: str = "") -> Any:
    """Build a frozen dataclass from a TOML table, strictly: every key known, every value of its type."""
    hints = get_type_hints(kind)
    known = [f.name for f in dataclasses.fields(kind)]
    values: dict[str, Any] = {}
    for key, value in table.items():
        if key not in known:
            close = difflib.get_close_matches(key, known, n=1)
            remedy = f"did you mean {prefix}{close[0]}?" if close else f"the keys are {', '.join(known)}."
            raise InputError(f"{source} has an unknown key {prefix}{key}: {remedy}")
        if dataclasses.is_dataclass(hints[key]) and isinstance(value, Mapping):
            values[key] = from_table(hints[key], value, source, f"{prefix}{key}.")
        else:
            values[key] = _checked(hints[key], value, f"{prefix}{key}", source)
    return kind(**values)


def _checked(hint: Any, value: Any, name: str, source: str) -> Any:
    if get_origin(hint) in (Union, types.UnionType):
        return None if value is None else _checked_option(hint, value, name, source)
    if get_origin(hint) is Literal:
        if value in get_args(hint):
            return value
        raise InputError(f"{name} in {source} must be one of {', '.join(map(repr, get_args(hint)))}, got {value!r}.")
    if get_origin(hint) is tuple and isinstance(value, list | tuple):
        count = None if get_args(hint)[-1] is Ellipsis else len(get_args(hint))
        if count not in (None, len(value)):
            raise InputError(f"{name} in {source} must be a list of {count} values, got {list(value)!r}.")
        return tuple(_checked(get_args(hint)[0], one, f"{name}[{i}]", source) for i, one in enumerate(value))
    if hint is float and isinstance(value, int | float) and not isinstance(value, bool):
        return float(value)
    if (
        dataclasses.is_dataclass(hint)
        or not isinstance(value, get_origin(hint) or hint)
        or (hint is int and isinstance(value, bool))
    ):
        wanted = "a list" if get_origin(hint) is tuple else _WORDS.get(hint, "a table")
        raise InputError(f"{name} in {source} must be {wanted}, got {value!r}.")
    return value


def _checked_option(hint: Any, value: Any, name: str, source: str) -> Any:
    """Return a value of a union that is not None: one of its words, or of its other type."""
    *words, other = (option for option in get_args(hint) if option is not type(None))
    if words and isinstance(value, str):
        known = get_args(words[0])
        if value not in known:
            said = ", ".join(map(repr, known))
            raise InputError(f"{name} in {source} must be {said} or {_WORDS.get(other, 'a table')}, got {value!r}.")
        return value
    return _checked(other, value, name, source)


def to_table(config: Any) -> dict[str, Any]:
    """Return a config as nested plain values, without the keys that are None (TOML has no null)."""
    return {
        f.name: to_table(value) if dataclasses.is_dataclass(value) else value
        for f in dataclasses.fields(config)
        if (value := getattr(config, f.name)) is not None
    }
