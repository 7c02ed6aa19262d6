"""Configurations as TOML: bare, as a run keeps its own, or as a page to edit with a comment for every key.

The comments come from the docstring of the dataclass, where each key stands as `key: what it is;` (`one, other: …;`
for several); the reader is files.toml_reader.read_config.
"""

from __future__ import annotations

import dataclasses
import inspect
import json
import re
import textwrap
import types
from collections.abc import Iterator
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

_WIDTH = 100


def to_toml(config: Any, *, title: str = "") -> str:
    """Return a dataclass as TOML that reads back to an equal one.

    Without a title, only what is set. With one, every key, each below a comment that says what it is, what it may be
    and its default; a key that is not set is itself a comment.
    """
    if not title:
        return "\n".join(_entries(config, commented=False)) + "\n"
    return "\n\n".join([_comment(title), *_entries(config, commented=True)]) + "\n"


def key_descriptions(kind: type) -> dict[str, str]:
    """Return what the docstring of a dataclass says of each of its keys."""
    names = sorted((field.name for field in dataclasses.fields(kind)), key=len, reverse=True)
    name = rf"(?:{'|'.join(names)})"
    text = " ".join((inspect.getdoc(kind) or "").partition("\n\n")[2].split())
    pieces = re.split(rf"(?:^|(?<=[;.] ))({name}(?:, {name})*): ", text)
    said = zip(pieces[1::2], pieces[2::2], strict=True)
    return {key: text.strip(" ;.") for keys, text in said for key in keys.split(", ")}


def _entries(config: Any, *, commented: bool) -> Iterator[str]:
    hints, said = get_type_hints(type(config)), key_descriptions(type(config))
    fields = dataclasses.fields(config)
    sections = [field.name for field in fields if dataclasses.is_dataclass(getattr(config, field.name))]
    for field in (field for field in fields if field.name not in sections):
        value = getattr(config, field.name)
        comment = _comment(f"{said[field.name]}. {_choice(hints[field.name])}; {_default(field)}.") if commented else ""
        if value is not None:
            yield f"{comment}\n{field.name} = {_literal(value)}".lstrip("\n")
        elif commented:
            yield f"{comment}\n# {field.name} ="
    for name in sections:
        yield f"[{name}]" if commented else f"\n[{name}]"
        yield from _entries(getattr(config, name), commented=commented)


def _comment(text: str) -> str:
    return textwrap.fill(
        text[:1].upper() + text[1:], _WIDTH, initial_indent="# ", subsequent_indent="# ",
        break_long_words=False, break_on_hyphens=False,
    )  # fmt: skip


def _choice(hint: Any) -> str:
    """Return what a value may be."""
    if get_origin(hint) in (Union, types.UnionType):
        return ", or ".join(_choice(option) for option in get_args(hint) if option is not type(None))
    if get_origin(hint) is Literal:
        return f"One of {', '.join(map(_literal, get_args(hint)))}"
    if get_origin(hint) is tuple:
        parts = get_args(hint)
        return "A list of numbers" if parts[-1] is Ellipsis else f"A list of {len(parts)} numbers"
    return {int: "A whole number", float: "A number", bool: "True or false", str: "A text"}[hint]


def _default(field: dataclasses.Field[Any]) -> str:
    return "not set by default" if field.default is None else f"default {_literal(field.default)}"


def _literal(value: Any) -> str:
    """Return a plain value in TOML."""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, str):
        return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")
    if isinstance(value, list | tuple):
        return f"[{', '.join(map(_literal, value))}]"
    return repr(value)  # also of inf and nan, which TOML writes as Python does
