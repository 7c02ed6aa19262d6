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

import numpy as np
import pytest
from chi33.cli.main import main
from chi33.files.derivatives import Derivatives, read_transform, write_image, write_transform
from chi33.files.errors import Chi33Warning
from chi33.pipeline.frames import b0_direction_from_affine, radians_per_ppm, voxel_frame
from chi33.pipeline.phantom.acquisition import Protocol
from chi33.pipeline.phantom.anatomy import build_head
from chi33.pipeline.phantom.subjects import HeadParameters
from chi33.pipeline.phantom.truth import SmoothedHead, smooth_head
from chi33.pipeline.physics.tensor_field import tensor_field
from chi33.pipeline.physics.tensors import rotate_components
from chi33.workflows.interfaces.flirt import world_to_flirt
from chi33.workflows.raw.dataset import find_subjects
from chi33.workflows.simulate.dataset import Simulation, simulate_dataset
from hypothesis import HealthCheck, settings
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter
from scipy.spatial.transform import Rotation
from xdist.scheduler import LoadScopeScheduling

# A busy machine is slow at drawing examples and at running them; neither is a fault of what is tested.
settings.register_profile("any-machine", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("any-machine")

# A suite that was started in the background ignores Ctrl-C, and so would every program it starts.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

# With several workers each has one thread: they would fight for the cores.
THREADS = "1" if "PYTEST_XDIST_WORKER" in os.environ else "2"
if THREADS == "1":
    os.environ["OMP_NUM_THREADS"] = THREADS

SIMULATION = Simulation(
    subjects=2,
    orientations=3,
    voxels=((3.0, 3.0, 3.0),),
    max_angle=30.0,
    oblique=10.0,
    protocol=Protocol(echo_times=(0.004, 0.009, 0.014, 0.019)),
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


TURNS = ((0, 0), (25, 0), (-15, 20))  # degrees about x and y
HEAD_SHAPE, HEAD_SIZE = (24, 26, 20), (6.0, 6.0, 7.0)


@dataclass(frozen=True)
class TurningHead:
    """A raw data set of one ellipsoid head whose field of view turns with it, so that all grids see the same voxels.

    tensor: ppm along the voxel frame (6, x, y, z); fields: local field of each scan, ppm; affines: of each scan.
    """

    folder: Path
    mask: NDArray[np.bool_]
    tensor: NDArray[np.float32]
    fields: tuple[NDArray[np.float32], ...]
    affines: tuple[NDArray[np.float64], ...]

    @property
    def transforms(self) -> list[NDArray[np.float64]]:
        """World of each scan to the world of the first."""
        return [self.affines[0] @ np.linalg.inv(affine) for affine in self.affines]

    @property
    def world_tensor(self) -> NDArray[np.float32]:
        """The tensor along the world of the first scan."""
        return np.asarray(rotate_components(self.tensor, voxel_frame(self.affines[0])), np.float32)

    @property
    def truth(self) -> Derivatives:
        """Names of the true masks and transforms."""
        return Derivatives(self.folder / "derivatives" / "truth", "01")

    def raw(self, scan: int, echo: int = 1, part: str = "phase", ext: str = ".nii.gz") -> Path:
        """The path of a raw file; scan and echo count from 1."""
        return Derivatives(self.folder, "01").path(
            f"acq-ori{scan:02d}_echo-{echo}_part-{part}", suffix="MEGRE", ext=ext
        )


def write_turning_head(
    folder: Path, *, turns: tuple[tuple[float, float], ...] = TURNS, mirrored: int | None = 0
) -> TurningHead:
    """Write two echoes of magnitude and phase a scan, and the true masks and transforms."""
    axes = np.meshgrid(*((np.arange(n) - (n - 1) / 2) / (0.4 * n) for n in HEAD_SHAPE), indexing="ij")
    mask = sum(axis**2 for axis in axes) < 1
    noise = np.random.default_rng(7).standard_normal((6, *HEAD_SHAPE))
    chi = gaussian_filter(noise, (0, 1.2, 1.2, 1.2)) * np.array([1, 0.1, 0.1, 1, 0.1, 1])[:, None, None, None]
    chi[[0, 3, 5]] = chi[[0, 3, 5]].mean(axis=0) + 0.1 * chi[[0, 3, 5]]
    tensor = (0.3 * chi * mask).astype(np.float32)
    fields, affines = [], []
    for number, turn in enumerate(turns, start=1):
        matrix = np.diag([*HEAD_SIZE, 1.0])
        if mirrored is not None:
            matrix[mirrored, mirrored] *= -1
        matrix[:3, :3] = Rotation.from_euler("xy", turn, degrees=True).as_matrix() @ matrix[:3, :3]
        matrix[:3, 3] = -matrix[:3, :3] @ (np.array(HEAD_SHAPE) / 2) + [2.0 * number, -3.0, 1.0]
        fields.append(tensor_field(tensor, HEAD_SIZE, b0_direction_from_affine(matrix)).astype(np.float32))
        affines.append(matrix)
    head = TurningHead(folder, mask, tensor, tuple(fields), tuple(affines))
    for number in range(1, len(turns) + 1):
        _write_turned_scan(head, number)
    return head


def _write_turned_scan(head: TurningHead, number: int) -> None:
    affine, field = head.affines[number - 1], head.fields[number - 1]
    for echo, time in enumerate((0.005, 0.012), start=1):
        stated = {"EchoTime": time, "MagneticFieldStrength": 3.0}
        phase = np.angle(np.exp(1j * (0.2 + radians_per_ppm(3.0, time) * field)))
        write_image(head.raw(number, echo), phase, affine, {**stated, "Units": "rad"})
        magnitude = 100 * np.exp(-time / 0.03) * (head.mask + 0.02)
        write_image(head.raw(number, echo, "mag"), magnitude, affine, stated)
    label = f"acq-ori{number:02d}"
    write_image(head.truth.path(label, suffix="mask", desc="brain"), head.mask, affine, {}, dtype=np.uint8)
    write_transform(head.truth.transform(label), head.transforms[number - 1])


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
        worlds = {}
        for scan in subject.scans:
            truth = Derivatives(dataset / "derivatives" / "truth", subject.label, scan.session)
            worlds[scan.magnitude[0]] = read_transform(truth.transform(scan.label))
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


def start(*words: object, environment: dict[str, str] | None = None) -> subprocess.Popen[str]:
    """Start a chi33 command as a process group of its own."""
    return subprocess.Popen(
        [sys.executable, "-m", "chi33.cli.main", *map(str, words)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": THREADS, "PYTHONSAFEPATH": "1", **(environment or {})},
        start_new_session=True,
    )


def run_chi33(*words: object, environment: dict[str, str] | None = None, timeout: float = 600) -> Ended:
    """Run a chi33 command as a user would, in a process of its own."""
    process = start(*words, environment=environment)
    try:
        out, err = process.communicate(timeout=timeout)
    except BaseException:
        os.killpg(process.pid, signal.SIGKILL)
        process.communicate()
        raise
    return Ended(process.returncode, out, err)


# Modules that share heads made once run on one worker; the longest begin first, so that no worker waits at the end.
HEADS = ("test_repeat", "test_whole_path", "test_side_by_side", "test_fit_cli", "test_report_sign")
FIRST = (*HEADS, "test_simulate_dicom", "test_brain_mask", "test_registration", "test_store_resume")


class ByModule(LoadScopeScheduling):  # type: ignore[misc]
    """Gives each module of tests to one worker, and those of HEADS all to the same one, in the order of collection."""

    def _split_scope(self, nodeid: str) -> str:
        module = nodeid.partition("::")[0]
        return "heads" if Path(module).stem in HEADS else module


def pytest_xdist_make_scheduler(config: pytest.Config, log: object) -> ByModule:
    """Use this scheduler, whatever --dist says."""
    config.option.loadscopereorder = False
    return ByModule(config, log)


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Let the longest modules come first."""
    places = {name: place for place, name in enumerate(FIRST)}
    items.sort(key=lambda item: places.get(item.path.stem, len(places)))


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
def smooth_head_of_2_mm() -> SmoothedHead:
    """A simulated head, prepared for scans of 2 mm; read only."""
    return smooth_head(build_head(HeadParameters.from_seed(4)), 2.0)


@pytest.fixture(scope="session")
def turning_head(tmp_path_factory: pytest.TempPathFactory) -> TurningHead:
    """Three orientations of an ellipsoid head on a coarse grid; read only."""
    return write_turning_head(tmp_path_factory.mktemp("turning") / "raw")


@pytest.fixture(scope="session")
def make_head() -> Callable[..., TurningHead]:
    """Writes turning heads of a test's own."""
    return write_turning_head


@pytest.fixture(scope="session")
def make_stand_ins() -> Callable[[Path, Path], StandIns]:
    """Writes stand-ins of bet and flirt for a simulated data set."""
    return write_stand_ins


@pytest.fixture
def use_fsl(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[TurningHead], StandIns]:
    """Puts stand-ins of bet and flirt for a turning head first on this process's PATH."""

    def use(head: TurningHead) -> StandIns:
        stand_ins = write_stand_ins(tmp_path / "fsl", head.folder)
        for name, value in stand_ins.environment.items():
            monkeypatch.setenv(name, value)
        return stand_ins

    return use


@pytest.fixture(scope="session")
def chi33() -> Callable[..., Ended]:
    """Runs a chi33 command in a process of its own."""
    return run_chi33


@pytest.fixture(scope="session")
def start_chi33() -> Callable[..., subprocess.Popen[str]]:
    """Starts a chi33 command as a process group of its own, to be killed."""
    return start


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
