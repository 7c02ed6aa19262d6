"""How many processors and how much memory a run has, and how much of it each step takes.

Memory is estimated from the matrix of the subject's largest scan, with bytes a voxel measured on simulated heads at 3,
2 and 1.5 mm: peak resident memory of the step, less that of Python with its packages, which workers share.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from math import prod
from pathlib import Path

from nipype.pipeline import engine as pe

from ...files.derivatives import open_image
from ...pipeline.computing.cgroups import memory_limit
from ...pipeline.computing.threads import available_processors, stated_threads
from ..config import RunConfig
from ..raw.dataset import RawSubject

_PART = 0.9  # of the memory that is there
_LEAST_GB = 0.2  # of any step


@dataclass(frozen=True)
class Resources:
    """What a run may use: processors, and GB of memory that steps at a time may take together.

    threads: the most that one step may use (a user's OMP_NUM_THREADS), None for no limit but the processors.
    """

    processors: int
    memory_gb: float
    threads: int | None = None

    def shared_by(self, tasks: int) -> int:
        """Return the threads of each of so many steps that run side by side; 1 for the whole machine."""
        share = max(1, self.processors // max(1, tasks))
        return share if self.threads is None else min(share, self.threads)


def grant(n_procs: int | None = None, mem_gb: float | None = None) -> Resources:
    """Return what is asked for, or else what this process is granted of the machine."""
    return Resources(n_procs or available_processors(), mem_gb or _PART * available_memory() / 1e9, stated_threads())


def available_memory(root: Path = Path("/")) -> int:
    """Return the bytes of memory that are free, at most what the control groups allow."""
    free = _free_memory(root)
    limit = memory_limit(root)
    return free if limit is None else min(free, limit)


def _free_memory(root: Path) -> int:
    try:
        lines = (root / "proc/meminfo").read_text(encoding="ascii").splitlines()
        (free,) = (line.split()[1] for line in lines if line.startswith("MemAvailable:"))
        return 1024 * int(free)
    except (OSError, ValueError):  # no Linux
        return int(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"))


@dataclass(frozen=True)
class SubjectSize:
    """What the memory of a subject's steps grows with: voxels and echoes of its largest scan, and the scans."""

    voxels: int
    echoes: int
    scans: int

    @classmethod
    def of(cls, subject: RawSubject) -> SubjectSize:
        """Read the headers of a subject's scans."""
        shapes = [open_image(scan.magnitude[0]).shape[:3] for scan in subject.scans]
        echoes = max(len(scan.echo_times) for scan in subject.scans)
        return cls(max(prod(shape) for shape in shapes), echoes, len(shapes))


_BYTES_PER_VOXEL: dict[str, Callable[[SubjectSize], float]] = {  # by interface
    "GivenMask": lambda size: 60,
    "BrainMask": lambda size: 100,
    "LearnedMask": lambda size: 100,
    "BET": lambda size: 60,
    "CleanMask": lambda size: 90,
    "FLIRT": lambda size: 100,
    "RegisterSimilarity": lambda size: 160,
    "AssessRegistration": lambda size: 120,
    "MaskConsensus": lambda size: 90 + 4 * size.scans,
    "MeanOfScans": lambda size: 160 + 20 * size.scans,
    "TotalField": lambda size: 130 + 30 * size.echoes,  # with niimath beside it
    "LocalFieldMap": lambda size: 110,
    "FitSusceptibility": lambda size: 280 + 15 * size.scans,
    "ScanLabels": lambda size: 180,
}
_FIXED_GB = {  # whatever the matrix: grids of a fixed size, compiled code
    "BrainMask": 0.5,
    "LearnedMask": 1.1,
    "RegisterSimilarity": 0.1,
    "MeanOfScans": 0.1,
    "FitSusceptibility": 0.2,
}
_FIT_TASK = 20  # bytes a voxel of each scan that the fit works on at a time
_FIT_KEPT = 8  # of each scan's field and weight, which --fit-memory sends to files
_FIT_SPREAD = (60, 13)  # of the uncertainty, and a scan
_WHOLE = {"FitSusceptibility", "MaskConsensus", "MeanOfScans"}  # run alone, on all processors
_SHARED = {"TotalField", "LocalFieldMap", "ScanLabels"}  # run side by side, one a scan; all others have one thread


def memory_gb(interface: str, size: SubjectSize, config: RunConfig, threads: int = 1) -> float:
    """Return about how much memory a step takes at its peak, GB, by the name of its interface."""
    if interface not in _BYTES_PER_VOXEL:
        return _LEAST_GB
    per_voxel = float(_BYTES_PER_VOXEL[interface](size))
    in_files = 0.0
    if interface == "FitSusceptibility":
        per_voxel += _FIT_TASK * min(threads, size.scans)
        if config.draws or config.jackknife:
            per_voxel += _FIT_SPREAD[0] + _FIT_SPREAD[1] * size.scans
        if config.fit_memory is not None:
            in_files = max(0.0, size.voxels * _FIT_KEPT * size.scans / 1e9 - config.fit_memory)
    return _LEAST_GB + _FIXED_GB.get(interface, 0.0) + size.voxels * per_voxel / 1e9 - in_files


def assign_resources(workflow: pe.Workflow, subject: RawSubject, config: RunConfig, resources: Resources) -> None:
    """Tell every step of a subject's workflow how much memory it takes, and how many processors it gets."""
    size = SubjectSize.of(subject)
    for name in workflow.list_node_names():
        node = workflow.get_node(name)
        kind = type(node.interface).__name__
        side_by_side = 1 if kind in _WHOLE else size.scans if kind in _SHARED else resources.processors
        node.n_procs = resources.shared_by(side_by_side)
        node._mem_gb = memory_gb(kind, size, config, node.n_procs)  # Nipype has no setter


def memory_warning(workflow: pe.Workflow, resources: Resources) -> str | None:
    """Return a sentence where a step takes more memory than there is: it runs alone, and may be killed."""
    needs = {name: float(workflow.get_node(name).mem_gb) for name in workflow.list_node_names()}
    largest = max(needs, key=lambda name: needs[name])
    if needs[largest] <= resources.memory_gb:
        return None
    return (
        f"step {largest} takes about {needs[largest]:.1f} GB of memory, but {resources.memory_gb:.1f} GB are there: it "
        "may be killed; --fit-memory keeps a fit's scans in files."
    )
