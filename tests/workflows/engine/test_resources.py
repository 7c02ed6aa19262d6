"""What a run may use, and what each step is estimated to take of it."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
from chi33.files.derivatives import write_image
from chi33.pipeline.fits.execution import Execution
from chi33.workflows.config import RunConfig
from chi33.workflows.engine import resources as module
from chi33.workflows.engine.resources import (
    Resources,
    SubjectSize,
    assign_resources,
    available_memory,
    grant,
    memory_gb,
    memory_warning,
)
from chi33.workflows.raw.dataset import find_subjects
from chi33.workflows.subject import init_subject_wf

CONFIG = RunConfig()
HEAD = SubjectSize(voxels=7_500_000, echoes=5, scans=12)  # 210 x 224 x 160 mm at 1 mm
STEPS = sorted(module._BYTES_PER_VOXEL)


def _workflow(head: Any, resources: Resources, config: RunConfig = CONFIG) -> Any:
    (subject,) = find_subjects(head.folder)
    workflow = init_subject_wf(subject, config, "builtin", Path("/out"))
    assign_resources(workflow, subject, config, resources)
    return workflow


@pytest.mark.parametrize(("threads", "fit", "scan"), [(None, 64, 21), (8, 8, 8), (1, 1, 1)])
def test_the_fit_gets_all_processors_and_three_scans_share_them(
    turning_head: Any, threads: int | None, fit: int, scan: int
) -> None:
    workflow = _workflow(turning_head, Resources(64, 500.0, threads))
    got = {name: workflow.get_node(name).n_procs for name in workflow.list_node_names()}
    assert got["fit_wf.fit"] == fit
    assert got["scan_acq_ori02_wf.total_field"] == got["labels_acq_ori03_wf.labels"] == scan
    assert got["mask_acq_ori01_wf.bet"] == got["registration_acq_ori02_wf.register"] == 1


def test_more_scans_than_processors_have_one_each(turning_head: Any) -> None:
    workflow = _workflow(turning_head, Resources(2, 8.0))
    assert workflow.get_node("scan_acq_ori01_wf.total_field").n_procs == 1
    assert workflow.get_node("fit_wf.fit").n_procs == 2


def test_what_is_asked_for_is_granted_and_otherwise_what_is_there(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "available_processors", lambda: 6)
    monkeypatch.setattr(module, "available_memory", lambda: 10_000_000_000)
    monkeypatch.setenv("OMP_NUM_THREADS", "3")
    assert grant() == Resources(6, 9.0, 3)
    assert grant(2, 4.5) == Resources(2, 4.5, 3)
    monkeypatch.delenv("OMP_NUM_THREADS")
    assert grant().threads is None


def test_memory_is_what_is_free_within_the_control_group(tmp_path: Path) -> None:
    (tmp_path / "proc/self").mkdir(parents=True)
    (tmp_path / "proc/meminfo").write_text("MemTotal: 64000000 kB\nMemAvailable: 32000000 kB\n")
    (tmp_path / "proc/self/cgroup").write_text("0::/\n")
    assert available_memory(tmp_path) == 32_000_000 * 1024
    (tmp_path / "sys/fs/cgroup").mkdir(parents=True)
    (tmp_path / "sys/fs/cgroup/memory.max").write_text("4000000000\n")
    assert available_memory(tmp_path) == 4_000_000_000


@pytest.mark.parametrize("step", STEPS)
def test_estimates_grow_with_the_matrix_and_never_shrink_with_scans_echoes_or_threads(step: str) -> None:
    here = memory_gb(step, HEAD, CONFIG)
    assert here > memory_gb(step, replace(HEAD, voxels=HEAD.voxels // 8), CONFIG) > 0
    for larger in (replace(HEAD, echoes=9), replace(HEAD, scans=30)):
        assert memory_gb(step, larger, CONFIG) >= here
    assert memory_gb(step, HEAD, CONFIG, threads=16) >= here


@pytest.mark.parametrize(("backend", "masks"), [("fsl", "bet"), ("builtin", "bet"), ("builtin", "deepbet")])
def test_every_step_that_reads_images_has_an_estimate(turning_head: Any, backend: str, masks: Any) -> None:
    (subject,) = find_subjects(turning_head.folder)
    workflow = init_subject_wf(subject, RunConfig(reference="mean", mask_method=masks), backend, Path("/out"))
    kinds = {type(workflow.get_node(name).interface).__name__ for name in workflow.list_node_names()}
    light = {"Merge", "Select", "IdentityInterface", "IdentityTransform", "FlirtToWorld", "Export", "ExportIfMade"}
    assert kinds - light
    assert kinds - light <= set(STEPS)


def test_uncertainty_costs_memory_and_files_save_it() -> None:
    plain = memory_gb("FitSusceptibility", HEAD, CONFIG)
    assert memory_gb("FitSusceptibility", HEAD, replace(CONFIG, draws=2)) > plain
    assert 0 < memory_gb("FitSusceptibility", HEAD, replace(CONFIG, fit_memory=0.1)) < plain
    assert memory_gb("FitSusceptibility", HEAD, replace(CONFIG, fit_memory=100.0)) == plain


def test_a_step_larger_than_the_memory_is_said_before(turning_head: Any) -> None:
    needed = float(_workflow(turning_head, Resources(2, 8.0)).get_node("mask_acq_ori01_wf.bet").mem_gb)
    few = Resources(2, 0.5)
    said = memory_warning(_workflow(turning_head, few), few)
    assert said is not None
    assert said.startswith(f"step mask_acq_ori01_wf.bet takes about {needed:.1f} GB of memory, but 0.5 GB are there")
    assert memory_warning(_workflow(turning_head, Resources(2, 8.0)), Resources(2, 8.0)) is None


_MEASURE = """
import json, re, sys
from chi33.workflows.interfaces import fit, scan
kind, inputs = json.loads(sys.argv[1])
node = getattr(scan, kind, None) or getattr(fit, kind)
node = node(**{key: [tuple(one) for one in value] if key == "phase_ranges" else value for key, value in inputs.items()})
peak = lambda: 1024 * int(re.search(r"VmHWM:\\s+(\\d+)", open("/proc/self/status").read())[1])
before = peak()
node.run(cwd=sys.argv[2])
print(peak() - before)
"""


def _measured(kind: str, folder: Path, **inputs: Any) -> int:
    """Return by how much a step raises the peak memory of a process, bytes."""
    done = subprocess.run(
        [sys.executable, "-c", _MEASURE, json.dumps([kind, inputs]), str(folder)], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    return int(done.stdout.split()[-1])


def test_estimates_are_at_least_what_steps_take(tmp_path: Path) -> None:
    shape, affine, times = (96, 96, 64), np.diag([2.0, 2.0, 3.0, 1.0]), [0.005, 0.01]
    size = SubjectSize(int(np.prod(shape)), len(times), 1)
    axes = np.meshgrid(*(np.linspace(-1.3, 1.3, n) for n in shape), indexing="ij")
    mask = sum(axis**2 for axis in axes) < 1

    def put(name: str, volume: Any, dtype: Any = np.float32) -> str:
        return str(write_image(tmp_path / f"{name}.nii.gz", volume, affine, {}, dtype=dtype))

    field = put("field", 0.05 * axes[0] * axes[1] * mask)
    brain = put("mask", mask, np.uint8)
    magnitude = put("magnitude", 100.0 * mask + 1)
    phase = [put(f"phase{n}", np.angle(np.exp(2000j * t * nib.load(field).get_fdata()))) for n, t in enumerate(times)]
    total = _measured(
        "TotalField", tmp_path, magnitude_files=[magnitude] * 2, phase_files=phase, mask_file=brain,
        phase_ranges=[(-np.pi, np.pi)] * 2, echo_times=times, field_strength=3.0,
    )  # fmt: skip
    local = _measured(
        "LocalFieldMap", tmp_path, field_file=field, mask_file=brain, largest_radius=12.0, smallest_radius=3.0,
        threshold=0.15,
    )  # fmt: skip
    for step, taken in (("TotalField", total), ("LocalFieldMap", local)):
        assert 0 < taken < 1e9 * memory_gb(step, size, CONFIG), step


def test_a_fit_works_on_as_many_tasks_as_its_step_has_processors(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("chi33.pipeline.computing.threads.available_processors", lambda: 64)
    monkeypatch.setenv("OMP_NUM_THREADS", "12")  # as a worker sets it for a step with 12 processors
    assert Execution().workers == 12
