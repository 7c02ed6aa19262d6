"""`chi33 run`: the subjects of a data set through their workflows; one that fails does not stop the others.

What only a subject with work left needs (Nipype, the report's figures) is imported when there is one, so that the
repetition of a finished run is quick.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from ..files.derivatives import Derivatives, check_output_folder, write_dataset_description
from ..files.errors import InputError, InputProblems, StepError
from ..files.locks import hold
from ..files.os_errors import os_error_words
from ..pipeline.masks.deepbet import deepbet_version, network_files
from .config import BET_THRESHOLD, RunConfig
from .engine.finished import was_finished
from .raw.dataset import RawSubject, check_raw, find_subjects
from .raw.given_directions import with_directions
from .raw.names import subject_folders
from .report.regions import simulated_regions

if TYPE_CHECKING:
    from .engine.participant import Job

Announce = Callable[[str], None]


def choose_backend(config: RunConfig) -> str:
    """Return "fsl" or "builtin"; raises InputError where FSL is asked for and bet or flirt is not on PATH."""
    missing = [tool for tool in ("bet", "flirt") if shutil.which(tool) is None]
    if config.backend == "fsl" and missing:
        raise InputError(f"--backend fsl needs {' and '.join(missing)} on PATH: install FSL, or use --backend builtin.")
    if config.backend == "auto":
        return "builtin" if missing else "fsl"
    return config.backend


def choose_masks(config: RunConfig) -> RunConfig:
    """Return the config with "bet" or "deepbet" for mask_method "auto"; raises InputError where deepbet is missing."""
    if config.masks is not None:
        return config
    if config.mask_method == "deepbet":
        network_files()
    if config.mask_method != "auto":
        return config
    asked = config.backend == "fsl" or config.bet_threshold != BET_THRESHOLD
    return replace(config, mask_method="bet" if asked or deepbet_version() is None else "deepbet")


def default_work_dir(bids_dir: Path, out_dir: Path) -> Path:
    """Return the working folder where none is given: OUT-work beside the output, but never inside the data set.

    For an output BIDS/derivatives/chi33 that is BIDS-chi33-work beside the data set: intermediate results are no
    derivatives.
    """
    resolved, root = out_dir.resolve(), bids_dir.resolve()
    if not resolved.is_relative_to(root) or resolved == root:
        return out_dir.with_name(f"{out_dir.name}-work")
    parts = [part for part in resolved.relative_to(root).parts if part != "derivatives"]
    return root.with_name("-".join([root.name, *parts, "work"]))


def run_participants(
    bids_dir: Path,
    out_dir: Path,
    *,
    config: RunConfig,
    participant_labels: Sequence[str] | None = None,
    work_dir: Path | None = None,
    n_procs: int | None = None,
    mem_gb: float | None = None,
    session_labels: Sequence[str] | None = None,
    scans: Sequence[str] | None = None,
    dry_run: bool = False,
    write_graph: bool = False,
    announce: Announce = print,
) -> list[Path]:
    """Run every subject of a BIDS dataset and return their reports' paths.

    n_procs: processors, by default those granted to this process; mem_gb: memory that steps at a time may take, by
    default what is there; session_labels, scans: which scans are taken (`find_subjects`). What is wrong with the input
    is said before any work; a repeated call does only what is missing or changed, and nothing for a subject that was
    finished. dry_run: the checks alone; nothing is written but the graph, where it is asked for. Raises InputError or
    StepError in one sentence, after the other subjects are done where one fails at work.
    """
    for option, value in (("--n-procs", n_procs), ("--mem", mem_gb)):
        if value is not None and not value > 0:
            raise InputError(f"{option} must be {'positive' if option == '--mem' else 'at least 1'}, got {value}.")
    bids_dir, out_dir = Path(bids_dir).absolute(), Path(out_dir).absolute()
    with _os_errors():
        subjects = _find(bids_dir, participant_labels, config, session_labels, scans)
        subjects = with_directions(subjects, Path(config.b0_directions) if config.b0_directions else None)
        backend = choose_backend(config)
        config = choose_masks(config)
        os.environ.setdefault("FSLOUTPUTTYPE", "NIFTI_GZ")  # FSL's own default; Nipype warns where it is not set
        rois = Path(config.rois) if config.rois else simulated_regions(bids_dir)
        todo = []
        for subject in subjects:
            if not write_graph and was_finished(out_dir, subject, config, backend, rois):
                report = Derivatives(out_dir, subject.label).report
                announce(f"sub-{subject.label}: finished before, nothing to do (report: {report})")
            else:
                todo.append(subject)
        if todo:
            from .engine.participant import Job
            from .engine.resources import grant

            work = Path(work_dir).absolute() if work_dir else default_work_dir(bids_dir, out_dir)
            resources, say = grant(n_procs, mem_gb), _once(announce)
            job = Job(config, backend, out_dir, work, resources, say, write_graph, rois)
            (_dry_run if dry_run else _run)(todo, job, bids_dir)
        elif not dry_run and not (out_dir / "index.html").exists():
            _write_index(out_dir, announce)
    return [] if dry_run else [Derivatives(out_dir, subject.label).report for subject in subjects]


def _find(
    bids_dir: Path,
    labels: Sequence[str] | None,
    config: RunConfig,
    sessions: Sequence[str] | None,
    scans: Sequence[str] | None,
) -> list[RawSubject]:
    """Return the subjects that have scans, or raise every problem of names and sidecars and name who has none."""
    find = partial(
        find_subjects, bids_dir, echo_times=config.echo_times, field_strength=config.field_strength,
        phase_range=config.phase_range, phase_sign=config.phase_sign, session_labels=sessions, scans=scans,
    )  # fmt: skip
    try:
        every = find(labels)
        return [subject for subject in every if subject.scans] or list(every)
    except InputError as error:
        names = [folder.name.removeprefix("sub-") for folder in subject_folders(bids_dir, labels)]
        found: list[RawSubject] = []
        problems: dict[str, tuple[str, ...]] = {}
        for name in names:
            try:
                found += find([name], check_selection=False)
            except InputError as fault:
                problems[name] = InputProblems.of(fault)
        if not problems:
            raise
        # one report: what the headers of the other subjects say belongs in it
        from .engine.checks import fewest_scans, raise_problems_of, subject_problems

        fewest = fewest_scans(config)
        problems |= subject_problems(found, lambda subject: check_raw([subject], data=False, fewest=fewest))
        raise_problems_of(names, problems)
        raise AssertionError("problems were raised") from error


def _dry_run(subjects: Sequence[RawSubject], job: Job, bids_dir: Path) -> None:
    from .engine.checks import check_before_work
    from .engine.participant import subject_workflow
    from .engine.session import write_graph
    from .subject import plan_lines

    check_before_work(subjects, job.config, job.backend, bids_dir, job.out_dir, job.work)
    for subject in subjects:
        workflow = subject_workflow(subject, job)
        for line in plan_lines(subject, job.config, job.backend, workflow):
            job.announce(line)
        if job.write_graph:
            write_graph(workflow, job.log_dir / f"sub-{subject.label}_graph", job.announce)
    job.announce(f"working folder: {job.work}")


def _run(subjects: Sequence[RawSubject], job: Job, bids_dir: Path) -> None:
    from .engine.checks import check_before_work
    from .engine.participant import run_subject

    job.announce(f"checking {sum(len(s.scans) for s in subjects)} scans of {len(subjects)} subject(s)")
    check_before_work(subjects, job.config, job.backend, bids_dir, job.out_dir, job.work)
    check_output_folder(job.out_dir, bids_dir)
    write_dataset_description(job.out_dir, source=bids_dir)
    job.announce(f"working folder: {job.work}")
    failures: dict[str, InputError | StepError] = {}
    for subject in subjects:
        try:
            run_subject(subject, job)
        except BrokenPipeError:
            raise
        except (InputError, StepError, OSError) as error:
            said = StepError(f"sub-{subject.label}: {os_error_words(error)}.") if isinstance(error, OSError) else error
            failures[subject.label] = said
            if len(subjects) > 1:
                job.announce(f"failed: {said}")
    _write_index(job.out_dir, job.announce, failed=bool(failures))
    _raise_failures(failures, len(subjects))


def _write_index(out_dir: Path, announce: Announce, *, failed: bool = False) -> None:
    """Write the index of all subjects of the output folder; several runs that end at a time do so in turn."""
    from .report.page import write_group_index

    try:
        with hold(out_dir / "logs" / ".index.lock", f"the index of {out_dir}", announce):
            write_group_index(out_dir)
    except (InputError, StepError, OSError) as error:
        if not failed:
            raise
        announce(f"warning: no index was written ({error})")  # why subjects failed matters more


def _raise_failures(failures: dict[str, InputError | StepError], count: int) -> None:
    if not failures:
        return
    if count == 1:
        raise next(iter(failures.values()))
    done = f"{len(failures)} of {count} subjects failed"
    if len(failures) == 1:
        raise StepError(f"{done}: {next(iter(failures.values()))}")
    raise StepError("\n".join([f"{done}:", *(f"- {error}" for error in failures.values())]))


@contextmanager
def _os_errors() -> Iterator[None]:
    """Say in one sentence what the operating system refuses, wherever that happens."""
    try:
        yield
    except BrokenPipeError:  # nobody listens to what is announced
        raise
    except OSError as error:
        raise StepError(f"{os_error_words(error)}.") from error


def _once(announce: Announce) -> Announce:
    """Return a function that announces every line, but a note once."""
    said: set[str] = set()

    def say(line: str) -> None:
        if not line.startswith("note: ") or line not in said:
            announce(line)
        said.add(line)

    return say
