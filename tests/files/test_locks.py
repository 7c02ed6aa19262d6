"""Locks between processes: one waits and says for whom, and what has no locks does not stop the work."""

from __future__ import annotations

import errno
import fcntl
import multiprocessing
import os
import socket
import threading
import time
from pathlib import Path
from typing import Any

import pytest
from chi33.files import locks
from chi33.files.errors import InputError
from chi33.files.locks import hold

_FORK = multiprocessing.get_context("fork")


def _hold_until(path: Path, held: Any, leave: Any, order: Any) -> None:
    with hold(path, "sub-01 in /out", lambda line: None):
        held.set()
        leave.wait(30)
        order.put("first leaves")


def test_the_second_process_waits_and_says_for_whom(tmp_path: Path) -> None:
    path = tmp_path / "logs" / ".sub-01.lock"
    held, leave, order = _FORK.Event(), _FORK.Event(), _FORK.Queue()
    first = _FORK.Process(target=_hold_until, args=(path, held, leave, order))
    first.start()
    assert held.wait(30)
    lines: list[str] = []
    timer = threading.Timer(0.5, leave.set)
    timer.start()
    with hold(path, "sub-01 in /out", lines.append, remedy="-w names another folder"):
        assert order.get(timeout=30) == "first leaves"
    first.join()
    (line,) = lines
    assert line.startswith(f"waiting for another run of sub-01 in /out (process {first.pid} on {socket.gethostname()}")
    assert line.endswith("; -w names another folder")


def test_one_that_waits_long_says_so_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(locks, "_REMIND", 0.3)
    monkeypatch.setattr(locks, "_POLL", 0.05)
    lines: list[str] = []
    with open(tmp_path / "lock", "w") as other:  # nothing is known of this holder
        fcntl.flock(other, fcntl.LOCK_EX)
        threading.Timer(0.8, lambda: fcntl.flock(other, fcntl.LOCK_UN)).start()
        with hold(tmp_path / "lock", "sub-01", lines.append):
            pass
    assert set(lines) == {"waiting for another run of sub-01"}
    assert len(lines) >= 2


def test_a_child_left_behind_is_waited_for(tmp_path: Path) -> None:
    """A worker of a killed run still writes: the lock is its, too."""
    path = tmp_path / ".lock"
    reader, writer = os.pipe()
    if (parent := os.fork()) == 0:  # pragma: no cover
        with hold(path, "sub-01", lambda line: None):
            if os.fork() == 0:
                time.sleep(1.0)
                os.write(writer, b"the child ends")
            os._exit(0)  # as if killed: nothing is released
    os.waitpid(parent, 0)
    with hold(path, "sub-01", lambda line: None):
        os.set_blocking(reader, False)
        assert os.read(reader, 100) == b"the child ends"
    os.close(reader)
    os.close(writer)


@pytest.mark.parametrize("number", [errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP])
def test_a_file_system_without_locks_is_no_other_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    def refuse(*arguments: object) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(fcntl, "flock", refuse)
    lines: list[str] = []
    with hold(tmp_path / "logs" / "lock", "sub-01", lines.append):
        pass
    (line,) = lines
    assert line == (
        f"note: {tmp_path / 'logs'} has no file locks ({os.strerror(number)}), so two runs of one subject at a time "
        "would go unnoticed: start only one"
    )


def test_other_failures_are_not_taken_for_another_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*arguments: object) -> None:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    monkeypatch.setattr(fcntl, "flock", fail)
    with pytest.raises(OSError, match="Input/output error"), hold(tmp_path / "lock", "sub-01", print):
        pass


def test_a_lock_that_cannot_be_made_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match=r"file/logs cannot be written: .*: a part of the path is a file; check the"):
        hold(tmp_path / "file" / "logs" / "lock", "sub-01", print).__enter__()


def test_a_lock_may_be_taken_by_all_who_may_write_its_folder(tmp_path: Path) -> None:
    tmp_path.chmod(0o770)
    with hold(tmp_path / "lock", "sub-01", print):
        pass
    assert (tmp_path / "lock").stat().st_mode & 0o777 == 0o660
