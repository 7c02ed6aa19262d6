"""Shared by the tests of workflows, of commands and end to end: small simulated heads, FSL's stand-ins, commands."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from chi33.cli.main import main
from chi33.pipeline.errors import Chi33Warning
from chi33.pipeline.phantom.acquisition import Protocol
from chi33.workflows.derivatives import Derivatives, read_transform, write_transform
from chi33.workflows.flirt import world_to_flirt
from chi33.workflows.raw import find_subjects
from chi33.workflows.simulate import Simulation, simulate_dataset

SIMULATION = Simulation(
    subjects=2,
    orientations=3,
    voxels=((3.5, 3.5, 3.5),),
    max_angle=30.0,
    oblique=10.0,
    protocol=Protocol(echo_times=(0.004, 0.009, 0.014)),
    seed=3,
)

_BET = """#!/bin/sh
# Stands in for FSL's bet: the mask is the true brain of the scan.
echo "bet $*" >> "{record}"
cp "$1" "$2" || exit 1
cp "{answers}/$(basename "$1")" "${{2%.nii.gz}}_mask.nii.gz"
"""
_FLIRT = """#!/bin/sh
# Stands in for FSL's flirt: the matrix is the true one between the two scans.
echo "flirt $*" >> "{record}"
while [ $# -gt 0 ]; do
  case "$1" in -in) moving=$2 ;; -ref) reference=$2 ;; -out) out=$2 ;; -omat) matrix=$2 ;; esac
  shift
done
cp "{answers}/$(basename "$moving")-to-$(basename "$reference").mat" "$matrix" && cp "$reference" "$out"
"""


@dataclass(frozen=True)
class StandIns:
    """Programs named bet and flirt that answer with the truth of simulated scans, and the record of their calls."""

    environment: dict[str, str]
    record: Path

    def calls(self, program: str) -> list[list[str]]:
        """The arguments of every call of a program."""
        lines = self.record.read_text().splitlines() if self.record.exists() else []
        return [line.split()[1:] for line in lines if line.split()[0] == program]


def write_stand_ins(folder: Path, dataset: Path) -> StandIns:
    """Write stand-ins for a simulated data set into a folder."""
    answers, programs, record = folder / "answers", folder / "bin", folder / "calls.txt"
    for made in (answers, programs, folder / "etc"):
        made.mkdir(parents=True)
    (folder / "etc" / "fslversion").write_text("6.0.7.99\n")
    for subject in find_subjects(dataset):
        truth = Derivatives(dataset / "derivatives" / "truth", subject.label)
        worlds = {scan.magnitude[0]: read_transform(truth.transform(scan.label)) for scan in subject.scans}
        for scan in subject.scans:
            shutil.copy(truth.path(scan.label, suffix="mask", desc="brain"), answers / scan.magnitude[0].name)
        reference = subject.scans[0].magnitude[0]
        for moving, world in worlds.items():
            matrix = world_to_flirt(world, moving, reference)
            write_transform(answers / f"{moving.name}-to-{reference.name}.mat", matrix)
    for name, text in (("bet", _BET), ("flirt", _FLIRT)):
        (programs / name).write_text(text.format(record=record, answers=answers))
        (programs / name).chmod(0o755)
    path = f"{programs}{os.pathsep}{os.environ['PATH']}"
    return StandIns({"PATH": path, "FSLDIR": str(folder), "FSLOUTPUTTYPE": "NIFTI_GZ"}, record)


@dataclass(frozen=True)
class Ended:
    """How a command ended: its exit code and what it printed."""

    code: int
    out: str
    err: str


def start_chi33(*words: object, environment: dict[str, str] | None = None) -> subprocess.Popen[str]:
    """Start a chi33 command as a process group of its own."""
    return subprocess.Popen(
        [sys.executable, "-m", "chi33.cli.main", *map(str, words)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "2", "PYTHONSAFEPATH": "1", **(environment or {})},
        start_new_session=True,
    )


def run_chi33(*words: object, environment: dict[str, str] | None = None, timeout: float = 600) -> Ended:
    """Run a chi33 command as a user would, in a process of its own."""
    process = start_chi33(*words, environment=environment)
    try:
        out, err = process.communicate(timeout=timeout)
    except BaseException:
        os.killpg(process.pid, signal.SIGKILL)
        process.communicate()
        raise
    return Ended(process.returncode, out, err)


@pytest.fixture(scope="session")
def simulated(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A raw data set of two simulated heads with three orientations each; read only."""
    folder = tmp_path_factory.mktemp("simulated")
    yield simulate_dataset(folder / "raw", SIMULATION, report=lambda line: None)
    shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(scope="session")
def fsl(simulated: Path, tmp_path_factory: pytest.TempPathFactory) -> StandIns:
    """Stand-ins of bet and flirt for the simulated heads, for processes of their own."""
    return write_stand_ins(tmp_path_factory.mktemp("fsl") / "stand-ins", simulated)


@pytest.fixture(scope="session")
def chi33() -> Callable[..., Ended]:
    """Runs a chi33 command in a process of its own."""
    return run_chi33


@pytest.fixture
def command(capsys: pytest.CaptureFixture[str]) -> Callable[..., Ended]:
    """Runs a chi33 command in this process."""

    def run(*words: object) -> Ended:
        capsys.readouterr()
        code: object = 0
        with warnings.catch_warnings():
            warnings.simplefilter("default", Chi33Warning)
            try:
                main([str(word) for word in words])
            except SystemExit as stop:
                code = stop.code or 0
        printed = capsys.readouterr()
        assert isinstance(code, int)
        return Ended(code, printed.out, printed.err)

    return run
