"""What the system refuses is said with the file and what to do."""

from __future__ import annotations

import errno
import os

import pytest
from chi33.files.os_errors import os_error_words


@pytest.mark.parametrize(("number", "words"), [
    (errno.ENOSPC, "/a/b: the disk is full; free some space and repeat the command"),
    (errno.EACCES, "/a/b: permission is denied; choose another folder, or ask its owner"),
    (errno.EROFS, "/a/b: the file system is read-only; choose another folder"),
    (errno.ESTALE, "/a/b: the file server lost it (stale handle); repeat the command once the server is back"),
    (errno.ELOOP, f"/a/b: {os.strerror(errno.ELOOP)}"),
])  # fmt: skip
def test_a_refusal_names_its_file_and_the_remedy(number: int, words: str) -> None:
    assert os_error_words(OSError(number, os.strerror(number), "/a/b")) == words


def test_a_refusal_without_number_or_file_still_says_something() -> None:
    assert os_error_words(OSError(errno.ENOSPC, "full")) == "the disk is full; free some space and repeat the command"
    assert os_error_words(OSError("lost")) == "lost"
    assert os_error_words(OSError()) == "OSError"
