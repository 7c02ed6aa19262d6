"""What the terminal can take: text that its encoding lacks, and a reader of the output that has gone away."""

from __future__ import annotations

import codecs
import contextlib
import io
import os
import select
import sys
from typing import TextIO

_PLAIN = {
    "χ": "chi", "δ": "delta", "Δ": "Delta", "σ": "sigma", "γ": "gamma", "φ": "phi", "λ": "lambda", "π": "pi",
    "µ": "u", "μ": "u", "°": " deg", "²": "^2", "³": "^3", "±": "+/-", "×": "x", "·": "*", "∗": "*", "≈": "~",
    "≤": "<=", "≥": ">=", "→": "->", "←": "<-", "−": "-", "–": "-", "—": "-", "…": "...", "•": "*", "′": "'", "″": '"',
    "‘": "'", "’": "'", "“": '"', "”": '"', "∥": "||", "√": "sqrt ",
}  # fmt: skip
_ERRORS = "chi33"
_STANDARD_ERRORS = ("strict", "surrogateescape", "backslashreplace")  # of Python's own streams; another is a wish


def _transliterate(error: UnicodeError) -> tuple[str | bytes, int]:
    """Codec error handler: one character in ASCII, as its usual spelling or its escape."""
    if not isinstance(error, UnicodeEncodeError):
        raise error
    character = error.object[error.start]
    if "\udc80" <= character <= "\udcff":  # a byte of a file's name that is no text: as it is
        return bytes([ord(character) - 0xDC00]), error.start + 1
    return _PLAIN.get(character) or character.encode("ascii", "backslashreplace").decode(), error.start + 1


def make_tolerant() -> None:
    """Let standard output and error spell what their encoding lacks: δB′ is deltaB' in ASCII."""
    codecs.register_error(_ERRORS, _transliterate)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper) and stream.errors in _STANDARD_ERRORS:
            stream.reconfigure(errors=_ERRORS)


def flush() -> None:
    """Write out what is printed so far; OSError where it cannot be: not only when the interpreter ends."""
    for stream in (sys.stdout, sys.stderr):
        if stream is not None:
            stream.flush()


def reader_has_gone() -> bool:
    """Whether standard output or error is a pipe that nobody reads any more, as after `| head`."""
    return any(_is_closed_pipe(stream) for stream in (sys.stdout, sys.stderr))


def _is_closed_pipe(stream: TextIO | None) -> bool:
    try:
        descriptor = -1 if stream is None else stream.fileno()
    except (OSError, ValueError):  # no file of the operating system, or closed
        return False
    if descriptor < 0:
        return False
    poll = select.poll()
    poll.register(descriptor, select.POLLOUT)
    return any(event & select.POLLERR for _, event in poll.poll(0))


def discard_output() -> None:
    """Send what is still buffered nowhere, so that the interpreter's last flush cannot fail."""
    with contextlib.suppress(OSError, ValueError):
        nowhere = os.open(os.devnull, os.O_WRONLY)
        for stream in (sys.stdout, sys.stderr):
            with contextlib.suppress(OSError, ValueError, AttributeError):
                os.dup2(nowhere, stream.fileno())
        os.close(nowhere)
