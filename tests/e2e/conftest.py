"""The labels that the end-to-end tests share: one head by the built-in tools, the other by FSL's stand-ins."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest


@dataclass(frozen=True)
class Labels:
    """Derivatives of both simulated heads, and how sub-01 was run."""

    out: Path
    command: tuple[object, ...]
    printed: str


@pytest.fixture(scope="session")
def finished(
    simulated: Path, fsl: Any, chi33: Callable[..., Any], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Labels]:
    """Labels of both simulated heads; a test leaves them as they were."""
    out = tmp_path_factory.mktemp("path") / "labels"
    common = ("run", simulated, out, "participant", "--n-procs", "2", "--participant-label")
    command = (*common, "01", "--backend", "builtin")
    ended = chi33(*command)
    assert ended.code == 0, ended.err
    other = chi33(*common, "sub-02", "--backend", "fsl", environment=fsl.environment)
    assert other.code == 0, other.err
    yield Labels(out, command, ended.out)
    shutil.rmtree(out.parent, ignore_errors=True)


@pytest.fixture(scope="session")
def labels(finished: Labels) -> Path:
    """The folder of the labels."""
    return finished.out
