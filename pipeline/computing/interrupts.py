"""Ctrl-C is for the command, not for the worker processes that it starts: it ends them itself."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from multiprocessing import resource_tracker


@contextmanager
def interrupts_held_back() -> Iterator[None]:
    """Let an interrupt wait until the block ends; processes and threads that are started inside never get one.

    A terminal sends Ctrl-C to every process of a command. Workers that get it too write tracebacks, and a cluster that
    is about to start or to close does not survive it.
    """
    resource_tracker.ensure_running()  # where it starts in the block, it lets interrupts through again
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})  # inherited by what is started
    came: list[int] = []  # another thread may still take one for this process
    own = threading.current_thread() is threading.main_thread()
    handler = signal.signal(signal.SIGINT, lambda number, frame: came.append(number)) if own else None
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
        if own:
            signal.signal(signal.SIGINT, handler or signal.SIG_DFL)
            if came:
                signal.raise_signal(signal.SIGINT)
