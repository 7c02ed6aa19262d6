"""Where the parts of a fit run: threads of this process or a Dask cluster, and within which memory.

Tasks are pure functions of arrays, mapped in order, so that results depend neither on the scheduler nor on how the
work was cut.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any, TypeVar

import numpy as np
from numpy.typing import DTypeLike, NDArray

from ...files.errors import InputError
from ..computing.interrupts import interrupts_held_back
from ..computing.threads import fft_workers

CONNECT_TIMEOUT = 30.0  # s
_SCATTERED = 1 << 20  # bytes: larger arrays are sent to a cluster once, beside the task
Result = TypeVar("Result")


class Execution:
    """Runs tasks on threads ("threads"), on a local cluster ("local") or on a cluster by address ("tcp://…").

    workers: tasks at a time on threads (default: the processors granted, at most OMP_NUM_THREADS); memory: GB that
    volumes of the scans may take before they go to temporary files in `scratch` (default: no limit). Use as a context,
    or call close().
    """

    def __init__(
        self,
        scheduler: str = "threads",
        *,
        workers: int | None = None,
        memory: float | None = None,
        scratch: str | os.PathLike[str] | None = None,
    ) -> None:
        if workers is not None and workers < 1:
            raise InputError(f"the number of workers must be at least 1, got {workers}.")
        if memory is not None and not memory > 0:
            raise InputError(f"memory must be a positive number of GB, got {memory}.")
        self.scheduler = scheduler
        self.workers = workers or fft_workers()
        self._budget = np.inf if memory is None else memory * 1e9
        self._scratch_parent = scratch
        self._scratch: Path | None = None
        self._pool: ThreadPoolExecutor | None = None
        self._pool_process = os.getpid()
        self._client, self._cluster = _connect(scheduler, self.workers)

    def __enter__(self) -> Execution:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Leave the cluster and remove temporary files."""
        if self._client is not None:
            self._client.close()
        if self._cluster is not None:
            self._cluster.close()
        self._client = self._cluster = None
        if self._pool is not None:
            self._pool.shutdown(wait=False)
            self._pool = None
        if self._scratch is not None:
            shutil.rmtree(self._scratch, ignore_errors=True)
            self._scratch = None

    @property
    def in_memory(self) -> bool:
        """Whether nothing has gone to temporary files."""
        return self._scratch is None

    def map(self, function: Callable[..., Result], *arguments: Iterable[Any]) -> list[Result]:
        """Return [function(*items) for items in zip(*arguments)], computed on the scheduler."""
        if self._client is not None:
            return self._map_on_cluster(function, *arguments)
        return self.map_here(function, *arguments)

    def map_here(self, function: Callable[..., Result], *arguments: Iterable[Any]) -> list[Result]:
        """Return the same on threads of this process, whatever the scheduler: for work in place on shared arrays."""
        calls = [_Call(function, items) for items in zip(*arguments, strict=True)]
        return list(self._threads().map(lambda call: call(), calls))

    def _threads(self) -> ThreadPoolExecutor:
        """Return threads of this process, made anew after a fork, which keeps none."""
        if self._pool is None or self._pool_process != os.getpid():
            self._pool, self._pool_process = ThreadPoolExecutor(self.workers), os.getpid()
        return self._pool

    def map_batches(
        self, function: Callable[..., Result], *arguments: Sequence[Any]
    ) -> Iterator[tuple[slice, list[Result]]]:
        """Yield map's results in batches as large as the tasks at a time, so that few results are held at once."""
        size = self.workers if self._client is None else max(1, sum(self._client.nthreads().values()))
        for start in range(0, len(arguments[0]), size):
            batch = slice(start, min(start + size, len(arguments[0])))
            yield batch, self.map(function, *(one[batch] for one in arguments))

    def fill(
        self,
        out: NDArray[Any],
        function: Callable[[Any], NDArray[Any]],
        items: Sequence[Any],
        into: Callable[[NDArray[Any], Any], None] | None = None,
    ) -> None:
        """Set out[i] = function(items[i]); on threads each task writes its own result, so that none is held twice.

        into: what does the same in place, into(out[i], items[i]), where out is of this process.
        """

        def store(index: int) -> None:
            if into is not None:
                into(out[index], items[index])
            else:
                out[index] = function(items[index])

        if self._client is None:
            self.map_here(store, range(len(items)))
            return
        for batch, parts in self.map_batches(function, items):
            for index, part in zip(range(batch.start, batch.stop), parts, strict=True):
                out[index] = part

    def allocate(self, shape: tuple[int, ...], dtype: DTypeLike) -> NDArray[Any]:
        """Return an uninitialised array, in memory while the budget lasts, else in a temporary file."""
        size = int(np.prod(shape)) * np.dtype(dtype).itemsize
        if size <= self._budget:
            self._budget -= size
            return np.empty(shape, dtype)
        if self._scratch is None:
            self._scratch = Path(tempfile.mkdtemp(prefix="chi33-fit-", dir=self._scratch_parent))
        handle, name = tempfile.mkstemp(dir=self._scratch)
        os.close(handle)
        return np.memmap(name, dtype, "w+", shape=shape)

    def keep(self, volume: NDArray[Any]) -> NDArray[Any]:
        """Return a volume, or where the budget is used up a copy of it in a temporary file."""
        if self._budget == np.inf:
            return np.ascontiguousarray(volume)
        kept = self.allocate(volume.shape, volume.dtype)
        kept[...] = volume
        return np.asarray(kept)

    def share(self, array: NDArray[Any]) -> Any:
        """Return a stand-in for an array that many tasks take: sent to a cluster once, itself on threads."""
        return array if self._client is None else self._client.scatter(np.asarray(array), hash=False, broadcast=True)

    def _map_on_cluster(self, function: Callable[..., Result], *arguments: Iterable[Any]) -> list[Result]:
        sent: dict[int, tuple[Any, Any]] = {}  # the array is kept, so that its id stays its own

        def placed(item: Any) -> Any:
            if not isinstance(item, np.ndarray) or item.nbytes <= _SCATTERED:
                return item
            if id(item) not in sent:
                sent[id(item)] = (item, self._client.scatter(np.asarray(item), hash=False))
            return sent[id(item)][1]

        tasks = [[placed(item) for item in items] for items in zip(*arguments, strict=True)]
        return list(self._client.gather([self._client.submit(function, *items, pure=False) for items in tasks]))


class _Call:
    """A function with its arguments, opaque to Dask's search for nested tasks."""

    def __init__(self, function: Callable[..., Any], arguments: tuple[Any, ...]) -> None:
        self._function, self._arguments = function, arguments

    def __call__(self) -> Any:
        return self._function(*self._arguments)


def _connect(scheduler: str, workers: int) -> tuple[Any, Any]:
    if scheduler == "threads":
        return None, None
    if scheduler != "local" and "://" not in scheduler:
        raise InputError(
            f"dask must be 'threads', 'local' or the address of a scheduler such as tcp://host:8786, got {scheduler!r}."
        )
    from distributed import Client, LocalCluster

    if scheduler == "local":
        with interrupts_held_back():
            cluster = LocalCluster(
                n_workers=workers, threads_per_worker=1, dashboard_address=None, memory_limit=0, host="127.0.0.1"
            )
            return Client(cluster), cluster
    try:
        return Client(scheduler, timeout=CONNECT_TIMEOUT), None
    except (OSError, TimeoutError, ValueError) as error:
        raise InputError(
            f"the Dask scheduler at {scheduler} did not answer within {CONNECT_TIMEOUT:g} s: start it, or check the "
            "address and the firewall."
        ) from error


@contextmanager
def execution_or_threads(execution: Execution | None) -> Iterator[Execution]:
    """Yield the execution given, or threads that are closed afterwards."""
    if execution is not None:
        yield execution
        return
    with Execution() as threads:
        yield threads
