"""Nipype's MultiProc, whose worker processes end with the run and which notices when one is killed."""

from __future__ import annotations

import multiprocessing
import os
import threading
import time
import traceback
from concurrent.futures import Future, ProcessPoolExecutor
from typing import Any

from nipype.pipeline.plugins.multiproc import MultiProcPlugin, process_initializer

_WATCH = 0.5  # s


class WatchfulMultiProc(MultiProcPlugin):
    """MultiProc on forked workers; one that dies fails its step with BrokenProcessPool instead of being waited for."""

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

    def _async_callback(self, args: Future[dict[str, Any]]) -> None:
        if not args.cancelled() and args.exception() is None:
            super()._async_callback(args)

    def _get_result(self, taskid: int) -> Any:
        future = self._task_obj[taskid]
        if future.done() and (error := future.exception()) is not None:
            return {"result": None, "traceback": traceback.format_exception(error), "taskid": taskid}
        return super()._get_result(taskid)

    def stop(self) -> None:
        """End the workers, also those that are busy."""
        self.pool.shutdown(wait=False, cancel_futures=True)
        for worker in set(multiprocessing.active_children()) - self._others:
            worker.terminate()
            worker.join()


def _start_worker(folder: str, parent: int) -> None:
    process_initializer(folder)
    threading.Thread(target=_end_with, args=(parent,), daemon=True).start()


def _end_with(parent: int) -> None:
    """End this process when its parent has gone, killed as it may be: it would hold the working folder for ever."""
    while os.getppid() == parent:
        time.sleep(_WATCH)
    os._exit(1)
