"""The `chi33` command itself: exit codes, one sentence an error, help of every command."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import chi33
import pytest
from chi33.cli import main as module
from chi33.pipeline.errors import InputError, StepError


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


def test_an_interrupt_says_how_to_go_on(command: Callable[..., Any], monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(*arguments: object, **options: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("chi33.workflows.run.run_participants", interrupt)
    ended = command("run", "a", "b")
    assert (ended.code, ended.err) == (130, "chi33: interrupted; repeat the command to go on.\n")


def test_success_is_exit_code_0_and_warnings_are_plain(command: Callable[..., Any]) -> None:
    ended = command("plan", "--angles", "0,0;25,0")
    assert ended.code == 0
    assert ended.err == ""
    assert "scan 2" in ended.out


@pytest.mark.parametrize("name", [*module.COMMANDS])
def test_help_of_every_command_explains_its_options(command: Callable[..., Any], name: str) -> None:
    ended = command(name.replace("_", "-"), "--help")
    assert ended.code == 0
    assert ended.out.startswith("Usage: chi33 " + name.replace("_", "-"))
    assert "Parameters" in ended.out


def test_the_commands_and_the_version_are_listed(command: Callable[..., Any]) -> None:
    listed = command("--help").out
    assert all(name.replace("_", "-") in listed for name in module.COMMANDS)
    assert command("--version").out.strip() == chi33.__version__
