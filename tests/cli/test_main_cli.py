"""The `chi33` command itself: exit codes, one sentence an error, help of every command."""

from __future__ import annotations

import errno
import gzip
import importlib
import inspect
import json
import os
import re
import signal
import subprocess
import sys
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import chi33
import h5py
import numpy as np
import pytest
from chi33.cli import main as module
from chi33.cli.command_help import docstring_sections
from chi33.files.errors import InputError, StepError
from nibabel.filebasedimages import ImageFileError


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["run", "a", "b", "--bogus", "3"], "--bogus"),
        (["run", "a"], "OUT_DIR"),
        (["run", "a", "b", "group"], "group"),
        (["run", "a", "b", "--n-procs", "two"], "two"),
        (["run", "a", "b", "--backend", "afni"], "afni"),
        (["train", "a.h5", "b", "--epochs", "many"], "many"),
        (["segment", "a"], "segment"),
    ],
)
def test_a_wrong_command_line_is_one_sentence_and_exit_code_2(
    command: Callable[..., Any], words: list[str], sentence: str
) -> None:
    ended = command(*words)
    assert ended.code == 2
    assert ended.out == ""
    assert ended.err.startswith("chi33: ")
    assert ended.err.count("\n") == 1
    assert sentence in ended.err


@pytest.mark.parametrize(("error", "code"), [(InputError, 2), (StepError, 1)])
def test_errors_of_commands_are_sentences_with_their_exit_code(
    command: Callable[..., Any], monkeypatch: pytest.MonkeyPatch, error: type[Exception], code: int
) -> None:
    def fail(*arguments: object, **options: object) -> None:
        raise error("the moon is full: wait for the morning.")

    monkeypatch.setattr("chi33.workflows.run.run_participants", fail)
    ended = command("run", "a", "b")
    assert (ended.code, ended.err) == (code, "chi33: the moon is full: wait for the morning.\n")


@pytest.fixture
def fails(command: Callable[..., Any], monkeypatch: pytest.MonkeyPatch) -> Callable[[BaseException], Any]:
    """Runs a command whose work raises an error."""

    def run(error: BaseException) -> Any:
        def fail(*arguments: object, **options: object) -> None:
            raise error

        monkeypatch.setattr("chi33.workflows.run.run_participants", fail)
        return command("run", "a", "b")

    return run


def raised(action: Callable[[], object]) -> BaseException:
    with pytest.raises(BaseException) as caught:  # noqa: PT011
        action()
    return caught.value


def of_the_system(number: int, path: str | None = None) -> OSError:
    return OSError(number, os.strerror(number), path)


@pytest.mark.parametrize(("error", "code", "words"), [
    (of_the_system(errno.ENOENT, "/data/mask.nii"), 2, ["/data/mask.nii", "no such file"]),
    (of_the_system(errno.EACCES, "/data/out"), 2, ["/data/out", "permission is denied"]),
    (of_the_system(errno.EISDIR, "/data/out"), 2, ["/data/out", "a folder"]),
    (of_the_system(errno.ENOTDIR, "/data/a/b"), 2, ["/data/a/b", "a file"]),
    (of_the_system(errno.EROFS, "/cdrom/out"), 2, ["/cdrom/out", "read-only"]),
    (of_the_system(errno.ENOSPC, "/data/out.h5"), 1, ["/data/out.h5", "disk is full"]),
    (of_the_system(errno.EIO), 1, ["input/output error"]),
    (of_the_system(errno.ECONNREFUSED), 1, ["Connection refused"]),
    (raised(lambda: np.empty((10**7, 10**7, 10**4))), 1, ["memory", "Unable to allocate"]),
    (MemoryError(), 1, ["memory"]),
    (ImageFileError("Cannot work out file type of \"x.nii\""), 1, ["a file cannot be read", "x.nii"]),
    (raised(lambda: gzip.decompress(b"no gzip")), 1, ["a file cannot be read"]),
    (EOFError("Compressed file ended before the end-of-stream marker"), 1, ["a file cannot be read", "ended"]),
    (raised(lambda: zlib.decompress(b"x")), 1, ["a file cannot be read"]),
    (raised(lambda: json.loads("{")), 1, ["a file cannot be read"]),
    (raised(lambda: b"\xff".decode("utf-8")), 1, ["a file cannot be read"]),
    (ImportError("libGL.so.1: cannot open shared object file"), 1, ["libGL.so.1", "install chi33 again"]),
    (ZeroDivisionError("division\n  by zero"), 1, ["ZeroDivisionError: division by zero", "report", "CHI33_DEBUG=1"]),
])  # fmt: skip
def test_what_other_libraries_raise_is_a_sentence_too(
    fails: Callable[[BaseException], Any], error: BaseException, code: int, words: list[str]
) -> None:
    ended = fails(error)
    assert ended.code == code
    assert ended.err.startswith("chi33: ")
    assert ended.err.count("\n") == 1
    for word in words:
        assert word in ended.err


def test_an_hdf5_file_that_cannot_be_opened_is_a_sentence(
    fails: Callable[[BaseException], Any], tmp_path: Path
) -> None:
    (tmp_path / "s.h5").write_bytes(b"no HDF5" * 100)
    ended = fails(raised(lambda: h5py.File(tmp_path / "s.h5", "r")))
    assert ended.code == 1
    assert "file signature not found" in ended.err
    ended = fails(raised(lambda: h5py.File(tmp_path / "none.h5", "r")))
    assert ended.code == 2
    assert "none.h5" in ended.err
    assert ended.err.count("\n") == 1


def test_a_traceback_is_shown_on_demand_alone(
    fails: Callable[[BaseException], Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert "Traceback" not in fails(ZeroDivisionError("division by zero")).err
    monkeypatch.setenv("CHI33_DEBUG", "1")
    ended = fails(InputError("the moon is full: wait."))
    assert ended.err.startswith("Traceback (most recent call last):")
    assert ended.err.endswith("\nchi33: the moon is full: wait.\n")
    assert ended.code == 2


@pytest.mark.parametrize(("work", "words", "sentence"), [
    ("chi33.workflows.run.run_participants", ["run", "a", "b"], "interrupted; repeat the command to go on."),
    ("chi33.workflows.simulate.dataset.simulate_dataset", ["simulate", "a"],
     "interrupted; repeat the command to start again."),
    ("chi33.training.inference.predict.predict", ["predict", "w", "--field", "f", "--mask", "m", "--out", "o"],
     "interrupted; repeat the command to start again."),
])  # fmt: skip
def test_an_interrupt_says_what_to_do(
    command: Callable[..., Any], monkeypatch: pytest.MonkeyPatch, work: str, words: list[str], sentence: str
) -> None:
    def interrupt(*arguments: object, **options: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(work, interrupt)
    ended = command(*words)
    assert (ended.code, ended.err) == (130, f"chi33: {sentence}\n")


def test_ctrl_c_in_a_simulation_ends_it_in_one_sentence_and_leaves_nothing(
    start_chi33: Callable[..., subprocess.Popen[str]], tmp_path: Path
) -> None:
    process = start_chi33("simulate", tmp_path / "raw", "--voxel", "4", "--orientations", "3")
    assert process.stdout is not None
    assert process.stdout.readline() == "sub-01: building the head\n"
    os.killpg(process.pid, signal.SIGINT)
    _, err = process.communicate(timeout=60)
    assert (process.returncode, err) == (130, "chi33: interrupted; repeat the command to start again.\n")
    assert list(tmp_path.iterdir()) == []


SCRIPT = "from chi33.cli.main import main\nmain(['plan', '--angles', '0,0;25,0;-25,0;0,25;0,-25;20,20'])"


def in_a_process(script: str, **options: Any) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHONSAFEPATH": "1", **options.pop("env", {})}
    return subprocess.run(
        [sys.executable, "-c", script], text=True, check=False, timeout=120, env=environment, **options
    )  # fmt: skip


def test_a_reader_that_has_gone_ends_a_command_without_a_word() -> None:
    for unbuffered in ("", "1"):
        reader, writer = os.pipe()
        os.close(reader)
        try:
            ended = in_a_process(SCRIPT, stdout=writer, stderr=subprocess.PIPE, env={"PYTHONUNBUFFERED": unbuffered})
        finally:
            os.close(writer)
        assert (ended.returncode, ended.stderr) == (141, "")


def test_help_into_a_closed_pipe_is_quiet_as_well() -> None:
    reader, writer = os.pipe()
    os.close(reader)
    script = "from chi33.cli.main import main; main(['run', '--help'])"
    try:
        ended = in_a_process(script, stdout=writer, stderr=subprocess.PIPE)
    finally:
        os.close(writer)
    assert (ended.returncode, ended.stderr) == (141, "")


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full here, a file that is always full")
def test_output_that_cannot_be_written_is_a_failure() -> None:
    with open("/dev/full", "w") as full:
        ended = in_a_process(SCRIPT, stdout=full, stderr=subprocess.PIPE)
    assert ended.returncode == 1
    assert ended.stderr.startswith("chi33: the disk is full; free some space and repeat the command.")
    assert ended.stderr.count("\n") == 1


def test_success_is_exit_code_0_and_warnings_are_plain(command: Callable[..., Any]) -> None:
    ended = command("plan", "--angles", "0,0;25,0")
    assert ended.code == 0
    assert ended.err == ""
    assert "scan 2" in ended.out


def written_out(name: str) -> str:
    return name.replace("_", "-")


@pytest.mark.parametrize("name", [*module.COMMANDS])
def test_help_of_a_command_shows_every_word_of_its_docstring(
    command: Callable[..., Any], monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.setenv("COLUMNS", "1000")  # names and texts of options in columns of one line each
    ended = command(written_out(name), "--help")
    assert (ended.code, ended.err) == (0, "")
    assert ended.out.startswith(f"Usage: chi33 {written_out(name)}")
    shown = " ".join(ended.out.replace("│", " ").split())
    function = getattr(importlib.import_module(f"chi33.cli.{name}"), name)
    said = docstring_sections(function)
    assert {"", "Parameters"} <= set(said)
    names = [line for line in said["Parameters"].splitlines() if line and not line.startswith(" ")]
    assert sorted(names) == sorted(inspect.signature(function).parameters)
    parameters = re.split("|".join(rf"^{name}$" for name in names), said["Parameters"], flags=re.MULTILINE)
    for text in (said[""], *parameters, said.get("Examples", "")):
        words = text.replace("`", "").replace("::", ":").split()
        told = iter(shown.replace("$ chi33", "chi33").split())
        assert all(word in told for word in words), text  # in this order, with other columns between where it is narrow


@pytest.mark.parametrize("name", [*module.COMMANDS])
def test_help_of_a_command_ends_with_examples(command: Callable[..., Any], name: str) -> None:
    assert len(docstring_sections(getattr(importlib.import_module(f"chi33.cli.{name}"), name))[""].split("\n\n")) > 1
    help_text = command(written_out(name), "--help").out
    assert "\nExamples" in help_text
    assert f"\n$ chi33 {written_out(name)} " in help_text.rpartition("\nExamples")[2]


def test_examples_are_commands_that_the_parser_takes() -> None:
    import shlex

    taken = 0
    for name in module.COMMANDS:
        said = docstring_sections(getattr(importlib.import_module(f"chi33.cli.{name}"), name)).get("Examples", "")
        for line in said.replace("\\\n", " ").splitlines():
            if (words := shlex.split(line.strip(), comments=True))[:1] == ["chi33"]:
                words = words[1 : words.index(">") if ">" in words else None]
                module.app.parse_args(words, exit_on_error=False, print_error=False)
                taken += 1
    assert taken > 4


def test_the_commands_the_exit_codes_and_the_version_are_listed(command: Callable[..., Any]) -> None:
    listed = command("--help").out
    assert all(name.replace("_", "-") in listed for name in module.COMMANDS)
    said = " ".join(listed.split())
    assert "Exit codes: 0 done; 1 a step failed; 2 the input or the command line is wrong; 130 interrupted." in said
    assert "CHI33_DEBUG=1" in said
    assert command("--version").out.strip() == chi33.__version__
