"""Why a workflow failed, in one sentence: from Nipype's crash files."""

from __future__ import annotations

import re
from collections.abc import Collection, Sequence
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path

from nipype.utils.filemanip import loadcrash

from ...files.errors import InputError, StepError
from ...files.os_errors import os_error_words

_TRACEBACK = "Traceback (most recent call last):"
_LONGEST = 400  # characters of a message
_OS_ERROR = re.compile(r"\w+: \[Errno (?P<number>\d+)\] (?P<said>[^:]*)(?:: '(?P<file>.*)')?")
_LESS_AT_A_TIME = "repeat the command with a smaller --n-procs or --mem, or for the fit with --fit-memory"


def explain_crash(
    error: Exception, crashes: Sequence[Path], subject: str, running: Collection[str] = ()
) -> InputError | StepError:
    """Return the failure of a workflow in one sentence: the step, what it said, and where its crash file is.

    error: what the workflow raised; crashes: the crash files it left; running: the steps that had not ended.
    """
    steps = "step " + " or ".join(sorted(name.partition(".")[2] for name in running)) if running else "a step"
    details = loadcrash(str(crashes[0])) if crashes else {}
    trace = "".join(details.get("traceback") or [])
    if isinstance(error, BrokenProcessPool) or BrokenProcessPool.__name__ in trace:
        return StepError(
            f"sub-{subject}, {steps}: its process was killed, often for want of memory: {_LESS_AT_A_TIME}."
        )
    if not crashes:
        said = f"{os_error_words(error)}." if isinstance(error, OSError) else _one_line(str(error))
        return StepError(f"sub-{subject}, {steps}: {said or type(error).__name__}")
    step = getattr(details.get("node"), "fullname", "a step").partition(".")[2] or "a step"
    kind, message = _cause(trace or str(error))
    sentence = f"sub-{subject}, step {step}: {message} (details: {crashes[0]})"
    return InputError(sentence) if kind.rpartition(".")[2] in ("InputError", "InputProblems") else StepError(sentence)


def _cause(trace: str) -> tuple[str, str]:
    """Return kind and message, on one line, of what a trace ends with; of a program that failed, its own words."""
    lines = [line.removeprefix("\t") for line in trace.splitlines()]
    if "Cmdline:" in lines and (words := _stderr(lines)):
        program = lines[lines.index("Cmdline:") + 1].split()[0]
        return "CommandError", f"{Path(program).name} failed: {words}"
    last = max((index for index, line in enumerate(lines) if line.startswith(_TRACEBACK)), default=-1)
    said = _one_line(" ".join(line for line in lines[last + 1 :] if not line.startswith("  ")))
    kind, _, message = said.partition(": ")
    if kind.startswith("chi33.") and message:
        return kind, message
    if found := _OS_ERROR.fullmatch(said):
        return kind, os_error_words(OSError(int(found["number"]), found["said"], found["file"]))
    if kind.endswith("MemoryError"):
        return kind, f"memory ran out ({message or 'no size given'}): {_LESS_AT_A_TIME}"
    return kind, said


def _stderr(lines: Sequence[str]) -> str:
    after = lines[lines.index("Stderr:") + 1 :] if "Stderr:" in lines else []
    end = next((index for index, line in enumerate(after) if line == "Traceback:"), len(after))
    return _one_line(" ".join(after[:end]))


def _one_line(text: str) -> str:
    joined = " ".join(text.split())
    return joined if len(joined) <= _LONGEST else f"... {joined[-_LONGEST:]}"
