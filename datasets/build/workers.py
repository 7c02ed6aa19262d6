"""Runs the tasks of a build in this process, in local worker processes, or on a Dask cluster."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any, TypeVar

from ...files.errors import InputError, StepError
from ...pipeline.computing.interrupts import interrupts_held_back

CONNECT_TIMEOUT = 30.0  # s
_ONE_THREAD = {name: "1" for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")}
Task = TypeVar("Task")
Result = TypeVar("Result")


class Workers:
    """Where tasks run; get one from workers()."""

    def __init__(self, client: Any = None) -> None:
        self._client = client

    def map(self, function: Callable[[Task], Result], tasks: Sequence[Task]) -> Iterator[tuple[int, Result]]:
        """Yield (index, function(task)) as tasks end: in their order in this process, in any order on workers.

        Raises what the first failing task raises, and drops the others; StepError where a worker process died.
        """
        if self._client is None:
            for index, task in enumerate(tasks):
                yield index, function(task)
            return
        from distributed import KilledWorker, as_completed

        futures = self._client.map(function, tasks, pure=False, batch_size=None)
        index_of = {future.key: index for index, future in enumerate(futures)}
        try:
            for future in as_completed(futures):
                yield index_of[future.key], future.result()
                future.release()
        except KilledWorker as error:
            raise StepError(
                "a worker process died, most likely for want of memory: repeat the command with a smaller --n-procs; "
                "what is finished is kept."
            ) from error
        finally:
            with contextlib.suppress(Exception):  # the cluster may be gone
                self._client.cancel(futures)


@contextmanager
def workers(n_procs: int, scheduler: str | None, tasks: int) -> Iterator[Workers]:
    """Yield workers: this process where n_procs (or the number of tasks) is 1, else processes of one thread each.

    scheduler: address of a running Dask scheduler, tcp://host:8786, used instead. Raises InputError where n_procs is
    below 1 or the scheduler does not answer.
    """
    if n_procs < 1:
        raise InputError(f"--n-procs must be at least 1, got {n_procs}.")
    if scheduler is not None:
        with _connected(scheduler) as client:
            yield Workers(client)
    elif min(n_procs, tasks) <= 1:
        yield Workers()
    else:
        with _local(min(n_procs, tasks)) as client:
            yield Workers(client)


@contextmanager
def _connected(scheduler: str) -> Iterator[Any]:
    if "://" not in scheduler:
        raise InputError(f"--dask must be the address of a scheduler such as tcp://host:8786, got {scheduler!r}.")
    from distributed import Client

    try:
        client = Client(scheduler, timeout=CONNECT_TIMEOUT)
    except (OSError, TimeoutError, ValueError) as error:
        raise InputError(
            f"the Dask scheduler at {scheduler} did not answer within {CONNECT_TIMEOUT:g} s: start it, or check the "
            "address and the firewall."
        ) from error
    with client:
        yield client


@contextmanager
def _local(processes: int) -> Iterator[Any]:
    import dask
    from distributed import Client, LocalCluster

    with ExitStack() as stack:
        with interrupts_held_back():
            stack.enter_context(dask.config.set({"distributed.scheduler.allowed-failures": 0}))
            cluster = stack.enter_context(
                LocalCluster(
                    n_workers=processes,
                    threads_per_worker=1,
                    memory_limit=0,
                    dashboard_address=None,
                    host="127.0.0.1",
                    env=_ONE_THREAD,
                    silence_logs="CRITICAL",
                )
            )
            client = stack.enter_context(Client(cluster))
        yield client
