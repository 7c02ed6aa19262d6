"""How long work tells how far it is: a bar with the time left on a terminal, plain lines in a log."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.console import Console
    from rich.progress import Progress

_STEP = re.compile(r"\[(\d+)/(\d+)\] (.*)")
_EVERY = 100  # lines at most that a log gets of one task
_SPEED_PERIOD = 1800.0  # s over which the time left is estimated: one step may take minutes


@contextmanager
def progress_lines(task: str) -> Iterator[Callable[[int, int, str], None]]:
    """Yield a function of (done, total, what): a bar on a terminal, elsewhere plain lines, a hundred at most."""
    with _bar(task) as bar:
        yield _lines() if bar is None else bar.update


@contextmanager
def announcements(task: str) -> Iterator[Callable[[str], None]]:
    """Yield a function that prints a line; on a terminal a finished step ("[3/45] unwrap 1 s") moves a bar instead."""
    with _bar(task) as bar:

        def announce(line: str) -> None:
            step = _STEP.fullmatch(line)
            if bar is None or step is None:
                print(line, flush=True)
            else:
                bar.update(int(step[1]), int(step[2]), step[3])

        yield announce


@contextmanager
def latest_line(task: str) -> Iterator[Callable[[str], None]]:
    """Yield a function of a line, for work of unknown length: a terminal shows the latest, a log all of them."""
    with _bar(task, counted=False) as bar:
        if bar is None:
            yield lambda line: print(line, file=sys.stderr, flush=True)
        else:
            yield lambda line: bar.update(0, None, line)


class _Bar:
    """A bar of one task at a time: another total, or fewer steps done than before, begin a new one."""

    def __init__(self, progress: Progress, task: str) -> None:
        self._progress = progress
        self._number = progress.add_task(task, total=None)

    def update(self, done: int, total: int | None, what: str) -> None:
        task = self._progress.tasks[0]
        if task.total is not None and (total != task.total or done < task.completed):
            self._progress.reset(self._number, total=total)
        self._progress.update(self._number, completed=done, total=total, description=what)


@contextmanager
def _bar(task: str, *, counted: bool = True) -> Iterator[_Bar | None]:
    """Yield a bar on standard error, with steps and the time left where counted; None where that is no terminal."""
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeElapsedColumn,
        TimeRemainingColumn,
    )

    console = Console(stderr=True)
    if not is_interactive(console):
        yield None
        return
    counts = (MofNCompleteColumn(), TimeRemainingColumn(), TextColumn("left,")) if counted else ()
    columns = (BarColumn(), *counts, TimeElapsedColumn(), TextColumn("{task.description}", markup=False))
    with Progress(
        *columns, console=console, transient=True, speed_estimate_period=_SPEED_PERIOD,
        redirect_stdout=sys.stdout is not None and sys.stdout.isatty(),
    ) as progress:  # fmt: skip
        yield _Bar(progress, task)


def _write_directly() -> None:
    """Give a forked process the streams themselves: the bar that they were led through is its parent's, and locked."""
    for name in ("stdout", "stderr"):
        if (stream := getattr(getattr(sys, name), "rich_proxied_file", None)) is not None:
            setattr(sys, name, stream)


os.register_at_fork(after_in_child=_write_directly)


def is_interactive(console: Console) -> bool:
    """Whether a console is a terminal on which a line can be drawn anew, and no build service's."""
    return console.is_terminal and not console.is_dumb_terminal and not os.environ.get("CI")


def _lines() -> Callable[[int, int, str], None]:
    last = -1

    def line(done: int, total: int, what: str) -> None:
        nonlocal last
        step = done * _EVERY // total if total > _EVERY else done
        if step != last or done == total:
            print(f"{done}/{total} {what}", file=sys.stderr, flush=True)
        last = step

    return line
