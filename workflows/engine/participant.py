"""One subject from its raw scans to its report: locked, executed, cleared of stale files, recorded, described."""

from __future__ import annotations

import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from nipype.pipeline import engine as pe

from ... import __version__
from ...files.derivatives import Derivatives, read_json, sidecar_path, write_json
from ...files.errors import InputError, StepError
from ...files.locks import hold
from ...files.manifest import Manifest
from ...files.os_errors import os_error_words
from ..config import RunConfig
from ..raw.dataset import RawSubject
from ..subject import init_subject_wf, reference_scan
from .clock import StageClock
from .finished import INPUTS, OUTPUTS, inputs_digest, outputs_digest, was_finished
from .outputs import begin_outputs, exported_files, files_not_made, finish_outputs
from .provenance import provenance
from .resources import Resources, assign_resources, memory_warning
from .session import configure_nipype, execute, logged, write_graph

Announce = Callable[[str], None]


@dataclass(frozen=True)
class Job:
    """What a run is made with, the same for every subject.

    backend: "fsl" or "builtin"; out_dir, work: absolute folders of the derivatives and of intermediate results; rois:
    regions of the report, a label map.
    """

    config: RunConfig
    backend: str
    out_dir: Path
    work: Path
    resources: Resources
    announce: Announce
    write_graph: bool = False
    rois: Path | None = None

    @property
    def log_dir(self) -> Path:
        """Where logs, provenance, manifests and locks lie."""
        return self.out_dir / "logs"


def run_subject(subject: RawSubject, job: Job) -> Path:
    """Run a subject, or find that another run has just finished it; return its report's path.

    Raises InputError or StepError in one sentence; the subject's error report and provenance are then written.
    """
    name = f"sub-{subject.label}"
    with (
        hold(job.log_dir / f".{name}.lock", f"{name} in {job.out_dir}", job.announce),
        hold(job.work / f".{name}.lock", f"{name} in the working folder {job.work}", job.announce,
             remedy="-w names another working folder"),
    ):  # fmt: skip
        report = Derivatives(job.out_dir, subject.label).report
        if not job.write_graph and was_finished(job.out_dir, subject, job.config, job.backend, job.rois):
            job.announce(f"{name}: finished by another run: {report}")
            return report
        began = datetime.now(UTC)
        try:
            with one_sentence(name, job.log_dir / f"{name}.log"):
                return _run_subject(subject, job, began)
        except (InputError, StepError) as error:
            _record_failure(subject, job, str(error), began)
            raise


@contextmanager
def one_sentence(name: str, log: Path) -> Iterator[None]:
    """Turn whatever is raised into InputError or StepError; the trace of what was not foreseen goes to the log."""
    try:
        yield
    except (InputError, StepError, BrokenPipeError):  # the last: nobody listens to what is announced
        raise
    except OSError as error:
        raise StepError(f"{name}: {os_error_words(error)}.") from error
    except Exception as error:
        said = " ".join(str(error).split()) or "no message"
        with suppress(OSError), log.open("a", encoding="utf-8") as file:
            file.write(traceback.format_exc())
        raise StepError(f"{name}: {type(error).__name__}: {said} (details: {log}).") from error


def _run_subject(subject: RawSubject, job: Job, began: datetime) -> Path:
    name, config, out_dir = f"sub-{subject.label}", job.config, job.out_dir
    crash_dir = job.work / "crash" / name
    configure_nipype(crash_dir, job.log_dir)
    workflow = subject_workflow(subject, job)
    if job.write_graph:
        write_graph(workflow, job.log_dir / f"{name}_graph", job.announce)
    if (warning := memory_warning(workflow, job.resources)) is not None:
        job.announce(f"warning: {name}: {warning}")
    files = exported_files(workflow)
    clock = StageClock(job.announce, len(workflow.list_node_names()), job.work / f"{name}_seconds.json")
    begin_outputs(out_dir, subject.label, files)
    digest = inputs_digest(subject, config, job.backend, job.rois)  # of the input as it is before it is read
    with logged(job.log_dir / f"{name}.log"):
        execute(workflow, clock, job.resources, crash_dir, subject.label)
    files -= files_not_made(workflow)
    facts = {
        "Fit": config.fit,
        "Reference": config.reference or reference_scan(subject, config).name,
        "Scans": [scan.name for scan in subject.scans],
    }
    finish_outputs(Manifest.of(out_dir, subject.label, files, facts))
    record = provenance(subject, config, job.backend, clock, began, job.resources)
    record |= _fit_record(subject, job)
    report, provenance_file = _write_report(subject, job, record), _provenance_file(subject, job)
    write_json(provenance_file, record)
    whole = Manifest.of(out_dir, subject.label, {*files, report, provenance_file}, facts)
    finish_outputs(replace(whole, facts=facts | {INPUTS: digest, OUTPUTS: outputs_digest(whole)}))
    return report


def subject_workflow(subject: RawSubject, job: Job) -> pe.Workflow:
    """Return a subject's workflow with its working folder and what each step takes of the machine."""
    workflow = init_subject_wf(subject, job.config, job.backend, job.out_dir)
    workflow.base_dir = str(job.work / f"chi33-{__version__}")  # results of another version are not this one's
    assign_resources(workflow, subject, job.config, job.resources)
    return workflow


def _provenance_file(subject: RawSubject, job: Job) -> Path:
    return job.log_dir / f"sub-{subject.label}_provenance.json"


def _fit_record(subject: RawSubject, job: Job) -> dict[str, Any]:
    """Return what the fit found out, for the provenance, and say its warnings."""
    if job.config.fit == "none":
        return {}
    tensor = Derivatives(job.out_dir, subject.label).path(space="subject", desc="tensor", suffix="Chimap")
    fit = read_json(sidecar_path(tensor))
    for warning in fit["Warnings"]:
        job.announce(f"warning: sub-{subject.label}: {warning}")
    return {"noise": fit["FieldNoisePpm"], "warnings": fit["Warnings"]}


def _write_report(subject: RawSubject, job: Job, record: dict[str, Any]) -> Path:
    from ..report.page import write_subject_report

    for stage in record["stages"]:
        job.announce(f"{stage['stage']}: {stage['seconds']:.1f} s")
    job.announce(f"sub-{subject.label}: {record['seconds']:.1f} s without the report")
    shown = {key: value for key, value in record.items() if key != "steps"}
    options: dict[str, Any] = {} if job.rois is None else {"rois": job.rois}
    report = write_subject_report(
        job.out_dir, subject.label, shown,
        warned=lambda line: job.announce(f"warning: sub-{subject.label}: {line}"), **options,
    )  # fmt: skip
    job.announce(f"report: {report}")
    return report


def _record_failure(subject: RawSubject, job: Job, sentence: str, began: datetime) -> None:
    """Write provenance and report of a subject that failed; what cannot be written is only said."""
    from ..report.page import write_error_report

    record = {
        "chi33_version": __version__,
        "began": began.isoformat(timespec="seconds"),
        "ended": datetime.now(UTC).isoformat(timespec="seconds"),
        "backend": job.backend,
        "scans": [scan.name for scan in subject.scans],
        "error": sentence,
        "log": str(job.log_dir / f"sub-{subject.label}.log"),
    }
    try:
        write_json(_provenance_file(subject, job), record)
        job.announce(f"report: {write_error_report(job.out_dir, subject.label, sentence, record)}")
    except (InputError, StepError, OSError) as error:
        job.announce(f"warning: sub-{subject.label}: its failure could not be recorded ({error})")
