"""The help of a command: all of its docstring."""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterator

from cyclopts import App

_HEADING = re.compile(r"^(\w[\w ]*)\n-{3,}\n", re.MULTILINE)  # of a numpydoc section
_COMMAND = re.compile(r"(?:\$ |>>> )?(?=chi33 )")


def describe(command: App) -> None:
    """Set a command's help to its docstring: summary and body above the options, its examples below them."""
    sections = docstring_sections(command.default_command)
    command.help = sections[""]
    if "Examples" in sections:
        command.help_epilogue = "**Examples**\n\n" + "\n".join(_example_lines(sections["Examples"]))


def docstring_sections(function: object) -> dict[str, str]:
    """Return the text of each numpydoc section of a docstring; what stands before them has the name ""."""
    parts = _HEADING.split((inspect.getdoc(function) or "") + "\n")
    texts = [inspect.cleandoc(text) for text in parts[::2]]
    return dict(zip(["", *parts[1::2]], texts, strict=True))


def _example_lines(text: str) -> Iterator[str]:
    """Markdown of the lines of an example: commands, and their continuation, are code with line breaks of their own."""
    continued = False
    for line in text.splitlines():
        bare = _COMMAND.sub("", line.strip(), count=1)
        if bare.startswith("chi33 ") or continued:
            yield f"`{'    ' if continued else '$ '}{bare}`  "
            continued = bare.endswith("\\")
        else:
            yield re.sub(r":{2}$", ":", bare)
