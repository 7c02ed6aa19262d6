"""Every failure of a command as one sentence and an exit code."""

from __future__ import annotations

import errno
import os
import traceback

from cyclopts import CycloptsError

from ..files.errors import InputError, StepError
from ..files.os_errors import os_error_words

FAILED, WRONG_INPUT, INTERRUPTED, NO_READER = 1, 2, 130, 141
DEBUG = "CHI33_DEBUG"
_LONGEST = 600  # characters of a message of another library
_WRONG_PATH = (
    errno.ENOENT, errno.EACCES, errno.EPERM, errno.EISDIR, errno.ENOTDIR, errno.EEXIST, errno.EROFS, errno.ENAMETOOLONG,
    errno.ELOOP,
)  # fmt: skip
_READERS = ("h5py", "nibabel", "pydicom", "gzip", "zlib", "lzma", "json", "struct")  # of files, by their modules' names
_GO_ON = ("run", "build-dataset", "import-volumes")  # commands that keep what is finished


def explain(error: BaseException, command: str = "") -> tuple[str, int]:
    """Return the sentence of a failure and the exit code: 1 a step failed, 2 wrong input, 130 interrupted."""
    said = _one_line(error)
    if isinstance(error, CycloptsError):
        return f"{' '.join(str(error).split())} (see --help)", WRONG_INPUT
    if isinstance(error, InputError):
        return str(error), WRONG_INPUT
    if isinstance(error, StepError):
        return str(error), FAILED
    if isinstance(error, KeyboardInterrupt):
        return f"interrupted; repeat the command to {'go on' if command in _GO_ON else 'start again'}.", INTERRUPTED
    if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError":
        return (
            f"the memory does not suffice ({said}): close other programs, use smaller data, or a larger machine.",
            FAILED,
        )
    if isinstance(error, OSError) and error.errno is not None:
        return f"{_of_the_system(error)}.", WRONG_INPUT if error.errno in _WRONG_PATH else FAILED
    module = type(error).__module__.partition(".")[0]
    if isinstance(error, OSError | EOFError | UnicodeDecodeError) or module in _READERS:
        return f"a file cannot be read or written ({said}): it may be damaged or of another kind.", FAILED
    if isinstance(error, ImportError):
        return f"a package that chi33 needs cannot be loaded ({said}): install chi33 again.", FAILED
    return f"unexpected {said}. Please report this, with what {DEBUG}=1 before the command shows.", FAILED


def _of_the_system(error: OSError) -> str:
    own_words = error.filename is None and error.strerror and error.strerror != os.strerror(error.errno or 0)
    return " ".join(str(error.strerror).split()) if own_words else os_error_words(error)  # HDF5's name the file


def _one_line(error: BaseException) -> str:
    kind, said = type(error).__name__, " ".join(str(error).split())
    line = f"{kind}: {said}" if said else kind
    return line if len(line) <= _LONGEST else f"{line[:_LONGEST]} ..."


def trace(error: BaseException) -> str:
    """Return the traceback of a failure where CHI33_DEBUG asks for it, else nothing."""
    if os.environ.get(DEBUG, "0") in ("", "0"):
        return ""
    return "".join(traceback.format_exception(error))


def is_closed_pipe(error: BaseException) -> bool:
    """Whether a failure came of a pipe that was closed, at any depth of its causes."""
    seen: BaseException | None = error
    while seen is not None:
        if isinstance(seen, BrokenPipeError):
            return True
        seen = seen.__cause__ or seen.__context__
    return False
