"""What the operating system refused, in words: a full disk, a folder that may not be written, a lost file server."""

from __future__ import annotations

import errno

_WORDS = {
    errno.ENOSPC: ("the disk is full", "free some space and repeat the command"),
    errno.EDQUOT: ("a disk quota is reached", "free some space and repeat the command"),
    errno.EFBIG: ("the file system takes no larger file", "choose another folder"),
    errno.EACCES: ("permission is denied", "choose another folder, or ask its owner"),
    errno.EPERM: ("the operation is not permitted", "choose another folder, or ask its owner"),
    errno.EROFS: ("the file system is read-only", "choose another folder"),
    errno.ENOENT: ("there is no such file or folder", "check that nothing was removed meanwhile"),
    errno.ENOTDIR: ("a part of the path is a file", "check the name"),
    errno.EISDIR: ("it is a folder", "check the name"),
    errno.ENAMETOOLONG: ("the name is too long", "choose a folder with a shorter path"),
    errno.EMFILE: ("too many files are open", "raise the limit (ulimit -n) or run fewer steps at a time"),
    errno.ENFILE: ("too many files are open on this machine", "repeat the command later"),
    errno.ENOMEM: ("memory ran out", "run fewer steps at a time"),
    errno.ESTALE: ("the file server lost it (stale handle)", "repeat the command once the server is back"),
    errno.EIO: ("reading or writing failed (input/output error)", "check the disk and repeat the command"),
    errno.ETIMEDOUT: ("the file server did not answer", "repeat the command once the server is back"),
    errno.EHOSTDOWN: ("the file server is down", "repeat the command once the server is back"),
    errno.ENOTCONN: ("the file server is not connected", "repeat the command once the server is back"),
}


def os_error_words(error: OSError) -> str:
    """Return an OSError as a clause with its remedy: what failed, on which file, and what to do."""
    said, remedy = _WORDS.get(error.errno or 0, (error.strerror or str(error) or type(error).__name__, ""))
    named = f"{error.filename}: {said}" if error.filename else said
    return f"{named}; {remedy}" if remedy else named
