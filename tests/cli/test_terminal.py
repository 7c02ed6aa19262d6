"""What commands show on terminals and in logs: encodings that lack characters, bars, plain lines."""

from __future__ import annotations

import io
import multiprocessing
import os
import subprocess
import sys
from collections.abc import Callable

import pytest
from chi33.cli.main import COMMANDS
from chi33.cli.progress import _bar, announcements, latest_line, progress_lines
from chi33.cli.streams import make_tolerant

SAID = "χ33 − δB′ … ×2, 5°, ±3 µm² → D∗χ ≤ λ • “x”"
IN_ASCII = 'chi33 - deltaB\' ... x2, 5 deg, +/-3 um^2 -> D*chi <= lambda * "x"'


@pytest.mark.parametrize(("encoding", "shown"), [
    ("ascii", IN_ASCII),
    ("utf-8", SAID),
    ("latin-1", IN_ASCII.replace(" deg", "°").replace("+/-", "±").replace("um^2", "µm²").replace("x2", "×2")),
])  # fmt: skip
def test_what_an_encoding_lacks_is_spelled(monkeypatch: pytest.MonkeyPatch, encoding: str, shown: str) -> None:
    for errors in ("strict", "backslashreplace", "surrogateescape"):
        written = io.BytesIO()
        monkeypatch.setattr("sys.stdout", io.TextIOWrapper(written, encoding=encoding, errors=errors))
        make_tolerant()
        print(SAID, end="", flush=True)
        assert written.getvalue() == shown.encode(encoding)


def test_names_of_files_that_no_encoding_has_are_shown_as_they_are_or_escaped(monkeypatch: pytest.MonkeyPatch) -> None:
    for encoding, shown in (("ascii", rb"\u5c71" + b"\xff"), ("utf-8", "山".encode() + b"\xff")):
        written = io.BytesIO()
        monkeypatch.setattr("sys.stdout", io.TextIOWrapper(written, encoding=encoding, errors="strict"))
        make_tolerant()
        print("山" + os.fsdecode(b"\xff"), end="", flush=True)
        assert written.getvalue() == shown


def test_the_wish_of_a_user_for_another_way_holds(monkeypatch: pytest.MonkeyPatch) -> None:
    written = io.BytesIO()
    monkeypatch.setattr("sys.stdout", io.TextIOWrapper(written, encoding="ascii", errors="replace"))
    make_tolerant()
    print("χ33", end="", flush=True)
    assert written.getvalue() == b"?33"


@pytest.mark.parametrize("environment", [
    {"PYTHONIOENCODING": "ascii"},
    {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"},
], ids=["ascii", "C"])  # fmt: skip
def test_tables_helps_and_errors_show_on_any_terminal(environment: dict[str, str]) -> None:
    commands = [[name.replace("_", "-"), "--help"] for name in COMMANDS]
    commands += [["plan", "--angles", "0,0;25,0;-25,0;0,25;0,-25;20,20"], ["inspect", "/none/χ33.h5"]]
    script = (
        "import sys\n"
        "from chi33.cli.main import main\n"
        f"for words in {commands!a}:\n"
        "    try:\n"
        "        main(words)\n"
        "    except SystemExit as stop:\n"
        "        assert stop.code in (None, 0) or words[0] == 'inspect', (words, stop.code)\n"
    )
    ended = subprocess.run(
        [sys.executable, "-X", "utf8=0", "-c", script], capture_output=True, check=False, timeout=120,
        env={**os.environ, "PYTHONSAFEPATH": "1", **environment},
    )  # fmt: skip
    assert (ended.returncode, ended.stderr) == (
        0, b"chi33: /none/chi33.h5 is no file: give a store written by `chi33 build-dataset`.\n",
    )  # fmt: skip
    assert b"chi33, ppm" in ended.stdout
    assert b"\\u" not in ended.stdout


@pytest.fixture
def terminal(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Makes standard error a terminal, of a kind and with an environment."""

    def become(term: str = "xterm", **environment: str) -> None:
        monkeypatch.delenv("CI", raising=False)
        monkeypatch.delenv("NO_COLOR", raising=False)
        for name, value in {"TERM": term, "TTY_COMPATIBLE": "1", "COLUMNS": "200", **environment}.items():
            monkeypatch.setenv(name, value)

    return become


def tell_of_a_run() -> None:
    with announcements("run") as announce:
        announce("checking 2 scans")
        for number in range(1, 3):
            announce(f"[{number}/2] ori0{number}.unwrap 1.2 s")
        announce("warning: [two] scans")


def test_a_log_gets_every_line_and_no_bar(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TTY_COMPATIBLE", "0")
    tell_of_a_run()
    with latest_line("fit") as tell:
        tell("COSMOS: iteration 1")
    with progress_lines("export") as progress:
        progress(1, 2, "sub-01")
    printed = capsys.readouterr()
    assert printed.out.splitlines() == [
        "checking 2 scans", "[1/2] ori01.unwrap 1.2 s", "[2/2] ori02.unwrap 1.2 s", "warning: [two] scans",
    ]  # fmt: skip
    assert printed.err.splitlines() == ["COSMOS: iteration 1", "1/2 sub-01"]


def test_a_terminal_gets_a_bar_with_the_time_left_instead_of_the_steps(
    capsys: pytest.CaptureFixture[str], terminal: Callable[..., None]
) -> None:
    terminal()
    tell_of_a_run()
    printed = capsys.readouterr()
    assert printed.out.splitlines() == ["checking 2 scans", "warning: [two] scans"]
    assert "2/2" in printed.err
    assert "left" in printed.err
    assert "ori02.unwrap 1.2 s" in printed.err


@pytest.mark.parametrize("kind", [{"term": "dumb"}, {"CI": "true"}])
def test_where_lines_cannot_be_drawn_anew_there_is_no_bar(
    capsys: pytest.CaptureFixture[str], terminal: Callable[..., None], kind: dict[str, str]
) -> None:
    terminal(**kind)
    tell_of_a_run()
    printed = capsys.readouterr()
    assert "[2/2] ori02.unwrap 1.2 s" in printed.out.splitlines()
    assert printed.err == ""


def test_the_next_subject_begins_the_bar_anew(terminal: Callable[..., None]) -> None:
    terminal()
    with _bar("run") as bar:
        assert bar is not None
        (task,) = bar._progress.tasks
        for number in range(1, 4):
            bar.update(number, 3, f"sub-01 step {number}")
        assert (task.completed, task.total, task.finished, task.description) == (3, 3, True, "sub-01 step 3")
        bar.update(1, 3, "sub-02 step 1")
        assert (task.completed, task.finished) == (1, False)
        bar.update(2, 5, "sub-03 step 2")
        assert (task.completed, task.total) == (2, 5)


def test_a_forked_worker_writes_past_the_bar(terminal: Callable[..., None]) -> None:
    terminal()
    with _bar("run"):
        assert hasattr(sys.stderr, "rich_proxied_file")
        worker = multiprocessing.get_context("fork").Process(
            target=lambda: sys.exit(hasattr(sys.stderr, "rich_proxied_file"))
        )
        worker.start()
        worker.join(timeout=60)
    assert worker.exitcode == 0


def test_a_long_task_gets_a_hundred_lines_in_a_log_and_the_last_one(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TTY_COMPATIBLE", "0")
    with progress_lines("predict") as progress:
        for number in range(1, 1235):
            progress(number, 1234, f"tile {number}")
    lines = capsys.readouterr().err.splitlines()
    assert 90 <= len(lines) <= 102
    assert lines[-1] == "1234/1234 tile 1234"
