"""Files are whole or absent, also when the disk is full."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest
import torch
from chi33.files import atomic
from chi33.files.atomic import atomic_path, write_text
from chi33.files.errors import StepError
from chi33.training.inference.weights import save_atomically


def test_an_error_leaves_the_old_file_and_nothing_else(tmp_path: Path) -> None:
    write_text(tmp_path / "new" / "a.txt", "old")

    def write_half() -> None:
        with atomic_path(tmp_path / "new" / "a.txt") as partial:
            partial.write_text("half")
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        write_half()
    assert (tmp_path / "new" / "a.txt").read_text() == "old"
    assert [p.name for p in (tmp_path / "new").iterdir()] == ["a.txt"]


def test_a_full_disk_is_one_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(atomic.os, "fsync", full)
    with pytest.raises(StepError, match=r"a.txt could not be written \(No space left on device\)"):
        write_text(tmp_path / "a.txt", "text")
    with pytest.raises(StepError, match="No space left on device"):
        save_atomically({"a": torch.zeros(2)}, tmp_path / "a.pt")
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_cannot_be_made_is_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(StepError, match="could not be written"):
        write_text(tmp_path / "file" / "a.txt", "text")
