"""How long work tells how far it is."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager


@contextmanager
def progress_lines(task: str) -> Iterator[Callable[[int, int, str], None]]:
    """Yield a function of (done, total, what): a bar on a terminal, a plain line a volume elsewhere."""
    from rich.console import Console
    from rich.progress import Progress

    console = Console(stderr=True)
    if not console.is_terminal:
        yield lambda done, total, what: print(f"{done}/{total} {what}", file=sys.stderr, flush=True)
        return
    with Progress(console=console, transient=True) as bar:
        number = bar.add_task(task)
        yield lambda done, total, what: bar.update(number, completed=done, total=total, description=what)
