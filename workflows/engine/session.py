"""One workflow through Nipype: its settings, its log, its graph, and its failure in one sentence."""

from __future__ import annotations

import gc
import logging
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from nipype import config as nipype_config
from nipype import logging as nipype_logging
from nipype.pipeline import engine as pe

from .clock import StageClock
from .crashes import explain_crash
from .plugin import WatchfulMultiProc
from .resources import Resources

Announce = Callable[[str], None]


def configure_nipype(crash_dir: Path, log_dir: Path) -> None:
    """Set what every workflow of a run has in common, and make the folders of crash files and logs."""
    log_dir.mkdir(parents=True, exist_ok=True)
    crash_dir.mkdir(parents=True, exist_ok=True)
    nipype_config.update_config(
        {
            "execution": {
                "crashdump_dir": str(crash_dir),
                "hash_method": "content",
                "stop_on_first_crash": "true",
                "remove_unnecessary_outputs": "false",
                "poll_sleep_duration": "0.1",
                "check_version": "false",
            },
            "logging": {"log_directory": str(log_dir), "log_to_file": "false"},
            "monitoring": {"enabled": "false"},
        }
    )


def execute(workflow: pe.Workflow, clock: StageClock, resources: Resources, crash_dir: Path, subject: str) -> None:
    """Run a workflow; raises InputError or StepError in one sentence. No worker outlives the call."""
    before = set(crash_dir.glob("*.pklz"))
    plugin = WatchfulMultiProc(
        {
            "status_callback": clock,
            "n_procs": resources.processors,
            "memory_gb": resources.memory_gb,
            "raise_insufficient": False,
        }
    )
    gc.freeze()  # the engine collects garbage at every poll; what is loaded already need not be searched
    try:
        workflow.run(plugin=plugin)
    except BrokenPipeError:  # nobody listens to what the clock announces
        raise
    except Exception as error:
        if isinstance(error, OSError) and error.filename is None:  # Nipype's own files lie in the working folder
            error.filename = workflow.base_dir
        crashes = sorted(set(crash_dir.glob("*.pklz")) - before)
        raise explain_crash(error, crashes, subject, clock.started.keys() - clock.done) from error
    finally:
        gc.unfreeze()
        plugin.stop()


class _LogFile(logging.FileHandler):
    """A log that cannot be written (the disk is full) is not the failure to be told."""

    def handleError(self, record: logging.LogRecord) -> None:
        """Say nothing."""


@contextmanager
def logged(path: Path) -> Iterator[None]:
    """Send Nipype's log to a file, away from the terminal."""
    handler = _LogFile(path, encoding="utf-8")
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(name)s %(message)s"))
    loggers = [nipype_logging.getLogger(name) for name in ("nipype.workflow", "nipype.interface", "nipype.utils")]
    parents = [logging.getLogger(name) for name in ("nipype", "concurrent.futures")]
    kept = [parent.handlers[:] for parent in parents]
    for parent in parents:
        parent.handlers = [handler]
    try:
        for one in loggers:
            one.setLevel(logging.INFO)
        yield
    finally:
        for parent, handlers in zip(parents, kept, strict=True):
            parent.handlers = handlers
        with suppress(OSError):
            handler.close()


def write_graph(workflow: pe.Workflow, stem: Path, announce: Announce) -> None:
    """Draw a workflow as SVG, or leave Graphviz's description of it where Graphviz is not installed."""
    kind = "svg" if shutil.which("dot") else "dot"
    logger = nipype_logging.getLogger("nipype.workflow")
    level, logger.level = logger.level, logging.WARNING  # the announcement says it
    try:
        workflow.write_graph(dotfilename=str(stem.with_suffix(".dot")), graph2use="colored", format=kind)
    finally:
        logger.level = level
    announce(f"graph: {stem.with_suffix('.' + kind)}")
