"""Nipype's MultiProc: workers that end with the run, keep to their step's processors, and are missed when killed."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import signal
import threading
import time
import traceback
from concurrent.futures import Future, ProcessPoolExecutor
from typing import Any

from nipype.pipeline.plugins.multiproc import MultiProcPlugin, process_initializer, run_node
from threadpoolctl import threadpool_limits

_WATCH = 0.5  # s
_GRACE = 5.0  # s
_THREAD_VARIABLES = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "VECLIB_MAXIMUM_THREADS")


class WatchfulMultiProc(MultiProcPlugin):
    """MultiProc on forked workers; one that dies fails its step with BrokenProcessPool instead of being waited for.

    A step runs with as many threads as it takes processors (`n_procs` of its node, at most those of the plugin).
    """

    pool: ProcessPoolExecutor

    def __init__(self, plugin_args: dict[str, Any]) -> None:
        super().__init__(plugin_args=plugin_args)
        self.pool.shutdown()
        self._others = set(multiprocessing.active_children())
        self.pool = ProcessPoolExecutor(
            max_workers=self.processors,
            mp_context=multiprocessing.get_context("fork"),
            initializer=_start_worker,
            initargs=(self._cwd, os.getpid()),
        )

    def _submit_job(self, node: Any, updatehash: bool = False) -> int:
        self._taskid += 1
        threads = min(node.n_procs, self.processors)
        future = self.pool.submit(_run_on, threads, node, updatehash, self._taskid)
        future.add_done_callback(self._async_callback)
        self._task_obj[self._taskid] = future
        return int(self._taskid)

    def _async_callback(self, args: Future[dict[str, Any]]) -> None:
        if not args.cancelled() and args.exception() is None:
            super()._async_callback(args)

    def _get_result(self, taskid: int) -> Any:
        future = self._task_obj[taskid]
        if future.done() and (error := future.exception()) is not None:
            return {"result": None, "traceback": traceback.format_exception(error), "taskid": taskid}
        return super()._get_result(taskid)

    def stop(self) -> None:
        """End the workers, also those that are busy, and the programs that they run."""
        self.pool.shutdown(wait=False, cancel_futures=True)
        workers = set(multiprocessing.active_children()) - self._others
        for number in (signal.SIGTERM, signal.SIGKILL):
            for worker in workers:
                if worker.pid is not None and worker.is_alive():
                    _signal_group(worker.pid, number)
            end = time.monotonic() + _GRACE
            for worker in workers:
                worker.join(max(0.0, end - time.monotonic()))


def _signal_group(pid: int, number: int) -> None:
    with contextlib.suppress(ProcessLookupError):
        try:
            os.killpg(pid, number)
        except (ProcessLookupError, PermissionError):  # it has not made its group yet
            os.kill(pid, number)


def _start_worker(folder: str, parent: int) -> None:
    """Begin a worker: a process group of its own, so that Ctrl-C is the parent's alone, which then ends the group."""
    os.setpgid(0, 0)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    process_initializer(folder)
    threading.Thread(target=_end_with, args=(parent,), daemon=True).start()


def _end_with(parent: int) -> None:
    """End this process and what it runs when its parent has gone: it would hold the subject's lock for ever."""
    while os.getppid() == parent:
        time.sleep(_WATCH)
    os.killpg(0, signal.SIGKILL)


def _run_on(threads: int, node: Any, updatehash: bool, taskid: int) -> dict[str, Any]:
    """Run a step in a worker with a number of threads: of this process's libraries and of programs that it starts."""
    os.environ.update(dict.fromkeys(_THREAD_VARIABLES, str(threads)))
    with threadpool_limits(limits=threads):
        result: dict[str, Any] = run_node(node, updatehash, taskid)
    return result
