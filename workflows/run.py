"""`chi33 run`: subjects through their workflows, with provenance, stage times, and failures in one sentence."""

from __future__ import annotations

import fcntl
import gc
import importlib.metadata
import logging
import os
import platform
import shutil
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from nipype import config as nipype_config
from nipype import logging as nipype_logging
from nipype.pipeline import engine as pe

from .. import __version__
from ..pipeline.errors import InputError
from ..pipeline.fits.closed_form import check_device
from ..pipeline.fits.execution import Execution
from .config import RunConfig
from .crashes import explain_crash
from .derivatives import (
    Derivatives,
    check_free_space,
    check_output_folder,
    open_image,
    read_json,
    sidecar_path,
    write_dataset_description,
    write_json,
)
from .frame_interfaces import read_given_mask
from .plugin import WatchfulMultiProc
from .raw import RawSubject, check_raw, find_subjects, raise_problems
from .report import write_group_index, write_subject_report
from .report_regions import check_regions, simulated_regions
from .subject import given_masks, init_subject_wf, plan_lines, remove_stale

Announce = Callable[[str], None]
_TOOLS = ("numpy", "scipy", "nibabel", "nipype", "SimpleITK", "brainextractor", "niimath", "fslpy")
_LOCK_WAIT = 60.0  # s
_PRODUCTS_PER_VOXEL = 26  # float32 volumes of output and working files a scan


@dataclass
class StageClock:
    """Collects how long each step took, announces the ends, and keeps the times for a run that is repeated."""

    announce: Announce
    total: int
    file: Path
    started: dict[str, float] = field(default_factory=dict)
    seconds: dict[str, float] = field(default_factory=dict)
    done: set[str] = field(default_factory=set)

    def __post_init__(self) -> None:
        """Read the times of earlier runs."""
        self.earlier: dict[str, float] = read_json(self.file) if self.file.is_file() else {}

    def steps(self) -> dict[str, float]:
        """Return the seconds each step took, in this run or, where it was kept, in the one that did it."""
        return {name: self.seconds.get(name, self.earlier.get(name, 0.0)) for name in sorted(self.done)}

    def __call__(self, node: pe.Node, status: str) -> None:
        """Nipype's status callback."""
        name = node.fullname
        if status == "start":
            self.started[name] = time.monotonic()
        elif status == "end" and name not in self.done:
            self.done.add(name)
            if name in self.started:
                self.seconds[name] = round(time.monotonic() - self.started[name], 2)
                write_json(self.file, {**self.earlier, **self.seconds})
            if not getattr(node, "run_without_submitting", False):  # exports, and what only picks from a list
                took = f" {self.seconds[name]:.1f} s" if name in self.seconds else " (kept)"
                self.announce(f"[{len(self.done)}/{self.total}] {name.partition('.')[2]}{took}")


def choose_backend(config: RunConfig) -> str:
    """Return "fsl" or "builtin"; raises InputError where FSL is asked for and bet or flirt is not on PATH."""
    missing = [tool for tool in ("bet", "flirt") if shutil.which(tool) is None]
    if config.backend == "fsl" and missing:
        raise InputError(f"--backend fsl needs {' and '.join(missing)} on PATH: install FSL, or use --backend builtin.")
    if config.backend == "auto":
        return "builtin" if missing else "fsl"
    return config.backend


def run_participants(
    bids_dir: Path,
    out_dir: Path,
    *,
    config: RunConfig,
    participant_labels: Sequence[str] | None = None,
    work_dir: Path | None = None,
    n_procs: int | None = None,
    dry_run: bool = False,
    write_graph: bool = False,
    announce: Announce = print,
) -> list[Path]:
    """Run every subject of a BIDS dataset and return their reports' paths.

    Raw input is checked as a whole before any work; a repeated call does only what is missing or changed. With
    dry_run nothing is computed or written. Raises InputError or StepError in one sentence.
    """
    if n_procs is not None and n_procs < 1:
        raise InputError(f"--n-procs must be at least 1, got {n_procs}.")
    bids_dir, out_dir = Path(bids_dir).absolute(), Path(out_dir).absolute()
    subjects = find_subjects(
        bids_dir,
        participant_labels,
        echo_times=config.echo_times,
        field_strength=config.field_strength,
        phase_range=config.phase_range,
        phase_sign=config.phase_sign,
    )
    backend = choose_backend(config)
    if config.rois is not None:
        check_regions(Path(config.rois))
    work = Path(work_dir).absolute() if work_dir else out_dir.with_name(out_dir.name + "-work")
    if dry_run:
        check_raw(subjects, data=False, fewest=_fewest(config))
        for subject in subjects:
            for line in plan_lines(subject, config, backend, init_subject_wf(subject, config, backend, out_dir)):
                announce(line)
        return []
    _check_compute(config)
    announce(f"checking {sum(len(s.scans) for s in subjects)} scans of {len(subjects)} subject(s)")
    check_raw(subjects, fewest=_fewest(config))
    _check_given_masks(subjects, config)
    _check_space(subjects, out_dir, work)
    check_output_folder(out_dir, bids_dir)
    write_dataset_description(out_dir, source=bids_dir)
    reports = []
    for subject in subjects:
        with _lock(work):
            reports.append(
                _run_subject(subject, config, backend, bids_dir, out_dir, work, n_procs, write_graph, announce)
            )
    write_group_index(out_dir)
    return reports


def _fewest(config: RunConfig) -> int:
    """Return how many scans a subject needs at least."""
    return 1 if config.fit == "none" else 2


def _check_compute(config: RunConfig) -> None:
    """Raise InputError where the fit's device or Dask scheduler is not there: the fit comes after the long steps."""
    if config.fit == "none":
        return
    check_device(config.device)
    if config.dask not in ("threads", "local"):
        Execution(config.dask).close()


def _check_given_masks(subjects: Sequence[RawSubject], config: RunConfig) -> None:
    """Raise InputError naming every mask of the user that does not fit its scan."""
    problems = []
    for subject in subjects:
        given = given_masks(subject, config)
        for scan in subject.scans if given else ():
            try:
                read_given_mask(given[scan.name], scan.magnitude[0])
            except InputError as error:
                problems.append(str(error))
    raise_problems(problems)


def _check_space(subjects: Sequence[RawSubject], out_dir: Path, work: Path) -> None:
    voxels = 0
    for subject in subjects:
        for scan in subject.scans:
            x, y, z = open_image(scan.magnitude[0]).shape[:3]
            voxels += x * y * z
    check_free_space(out_dir, int(voxels * 4 * _PRODUCTS_PER_VOXEL * 0.4))
    check_free_space(work, int(voxels * 4 * _PRODUCTS_PER_VOXEL * 0.4))


@contextmanager
def _lock(work: Path) -> Iterator[None]:
    """Hold the working folder for one run; processes that a killed run left behind are waited for."""
    try:
        work.mkdir(parents=True, exist_ok=True)
        handle = open(work / ".lock", "w")  # noqa: SIM115
    except OSError as error:
        raise InputError(f"{work} cannot be written ({error.strerror}): choose another folder with -w.") from error
    with handle:
        end = time.monotonic() + _LOCK_WAIT
        while True:
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except OSError as error:
                if time.monotonic() > end:
                    raise InputError(
                        f"another run is using the working folder {work}: wait for it, or choose another with -w."
                    ) from error
                time.sleep(0.5)
        yield


def _configure_nipype(work: Path, log_dir: Path) -> None:
    log_dir.mkdir(parents=True, exist_ok=True)
    nipype_config.update_config(
        {
            "execution": {
                "crashdump_dir": str(work / "crash"),
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
    (work / "crash").mkdir(exist_ok=True)


def _run_subject(
    subject: RawSubject,
    config: RunConfig,
    backend: str,
    bids_dir: Path,
    out_dir: Path,
    work: Path,
    n_procs: int | None,
    write_graph: bool,
    announce: Announce,
) -> Path:
    log_dir = out_dir / "logs"
    _configure_nipype(work, log_dir)
    workflow = init_subject_wf(subject, config, backend, out_dir)
    workflow.base_dir = str(work / f"chi33-{__version__}")  # results of another version are not this one's
    if write_graph:
        _write_graph(workflow, log_dir / f"sub-{subject.label}_graph", announce)
    began = datetime.now(UTC)
    provenance_file = log_dir / f"sub-{subject.label}_provenance.json"
    clock = StageClock(announce, len(workflow.list_node_names()), work / f"sub-{subject.label}_seconds.json")
    processes = n_procs or os.cpu_count() or 1
    with _logged(log_dir / f"sub-{subject.label}.log"), _threads(max(1, (os.cpu_count() or 1) // processes)):
        _execute(workflow, clock, processes, work / "crash", subject.label)
    remove_stale(subject, config, out_dir)
    provenance = _provenance(subject, config, backend, clock, began, processes)
    if config.fit != "none":
        tensor = Derivatives(out_dir, subject.label).path(space="subject", desc="tensor", suffix="Chimap")
        fit = read_json(sidecar_path(tensor))
        provenance |= {"noise": fit["FieldNoisePpm"], "warnings": fit["Warnings"]}
        for warning in fit["Warnings"]:
            announce(f"warning: sub-{subject.label}: {warning}")
    write_json(provenance_file, provenance)
    for stage in provenance["stages"]:
        announce(f"{stage['stage']}: {stage['seconds']:.1f} s")
    shown = {key: value for key, value in provenance.items() if key != "steps"}
    report = write_subject_report(
        out_dir,
        subject.label,
        shown,
        warned=lambda line: announce(f"warning: sub-{subject.label}: {line}"),
        rois=Path(config.rois) if config.rois else simulated_regions(bids_dir),
    )
    announce(f"report: {report}")
    return report


def _execute(workflow: pe.Workflow, clock: StageClock, processes: int, crash_dir: Path, subject: str) -> None:
    before = set(crash_dir.glob("*.pklz"))
    plugin = WatchfulMultiProc({"status_callback": clock, "n_procs": processes, "raise_insufficient": False})
    gc.freeze()  # the engine collects garbage at every poll; what is loaded already need not be searched
    try:
        workflow.run(plugin=plugin)
    except Exception as error:
        crashes = sorted(set(crash_dir.glob("*.pklz")) - before)
        raise explain_crash(error, crashes, subject, clock.started.keys() - clock.done) from error
    finally:
        gc.unfreeze()
        plugin.stop()


@contextmanager
def _logged(path: Path) -> Iterator[None]:
    """Send Nipype's log to a file, away from the terminal."""
    handler = logging.FileHandler(path, encoding="utf-8")
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
        handler.close()


@contextmanager
def _threads(count: int) -> Iterator[None]:
    """Give worker processes, which inherit the environment, this many threads each."""
    names = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "NUMBA_NUM_THREADS")
    kept = {name: os.environ.get(name) for name in names}
    os.environ.update(dict.fromkeys(names, str(count)))
    try:
        yield
    finally:
        for name, value in kept.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


def _write_graph(workflow: pe.Workflow, stem: Path, announce: Announce) -> None:
    kind = "svg" if shutil.which("dot") else "dot"  # Graphviz draws; without it the description is left
    workflow.write_graph(dotfilename=str(stem.with_suffix(".dot")), graph2use="colored", format=kind)
    announce(f"graph: {stem.with_suffix('.' + kind)}")


def _provenance(
    subject: RawSubject, config: RunConfig, backend: str, clock: StageClock, began: datetime, processes: int
) -> dict[str, Any]:
    totals: dict[str, float] = {}
    steps = {name: seconds for name, seconds in clock.steps().items() if ".export_" not in name}
    for name, seconds in steps.items():
        stage = name.rpartition(".")[2].rstrip("0123456789").rstrip("_")
        if not stage.startswith("all") and seconds > 0:
            totals[stage] = totals.get(stage, 0) + seconds
    return {
        "chi33_version": __version__,
        "python": platform.python_version(),
        "platform": platform.platform(),
        "command": " ".join([Path(sys.argv[0]).name, *sys.argv[1:]]),
        "began": began.isoformat(timespec="seconds"),
        "ended": datetime.now(UTC).isoformat(timespec="seconds"),
        "backend": backend,
        "processes": processes,
        "tools": {tool: importlib.metadata.version(tool) for tool in _TOOLS} | _fsl_version(backend),
        "config": {key: value for key, value in asdict(config).items() if value is not None},
        "scans": [scan.name for scan in subject.scans],
        "steps": steps,
        "stages": [{"stage": stage, "seconds": round(total, 2)} for stage, total in totals.items()],
    }


def _fsl_version(backend: str) -> dict[str, str]:
    if backend != "fsl":
        return {}
    from nipype.interfaces.fsl import Info

    return {"FSL": str(Info.version() or "unknown")}
