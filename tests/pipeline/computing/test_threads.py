"""How many processors and threads are taken: what the system grants, and what the user asks for at most."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from chi33.pipeline.computing import threads
from chi33.pipeline.computing.cgroups import cpu_quota, memory_limit
from chi33.pipeline.computing.threads import available_processors, fft_workers


def _system(root: Path, groups: str, files: dict[str, str]) -> Path:
    """A root folder with /proc/self/cgroup and files below /sys/fs/cgroup."""
    (root / "proc/self").mkdir(parents=True)
    (root / "proc/self/cgroup").write_text(groups)
    for name, content in files.items():
        path = root / "sys/fs/cgroup" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content + "\n")
    return root


@pytest.mark.parametrize(("groups", "files", "quota"), [
    ("0::/job/step\n", {"job/cpu.max": "250000 100000", "job/step/cpu.max": "max 100000"}, 2.5),
    ("0::/job/step\n", {"job/cpu.max": "250000 100000", "job/step/cpu.max": "50000 100000"}, 0.5),
    ("0::/\n", {"cpu.max": "max 100000"}, None),
    ("0::/seen/from/outside\n", {"cpu.max": "300000 100000"}, 3.0),
    ("3:cpuset:/\n1:cpu,cpuacct:/docker/a\n", {"cpu,cpuacct/docker/a/cpu.cfs_quota_us": "150000",
                                                "cpu,cpuacct/docker/a/cpu.cfs_period_us": "100000"}, 1.5),
    ("1:cpu:/\n", {"cpu/cpu.cfs_quota_us": "-1", "cpu/cpu.cfs_period_us": "100000"}, None),
    ("", {}, None),
])  # fmt: skip
def test_the_least_quota_of_the_control_groups_counts(
    tmp_path: Path, groups: str, files: dict[str, str], quota: float | None
) -> None:
    assert cpu_quota(_system(tmp_path, groups, files)) == quota


@pytest.mark.parametrize(("groups", "files", "limit"), [
    ("0::/job/step\n", {"job/memory.max": "8000000000", "job/step/memory.max": "max"}, 8_000_000_000),
    ("4:memory:/slurm/uid\n", {"memory/slurm/uid/memory.limit_in_bytes": "4000000000",
                                "memory/memory.limit_in_bytes": "9223372036854771712"}, 4_000_000_000),
    ("4:memory:/\n", {"memory/memory.limit_in_bytes": "9223372036854771712"}, None),
    ("0::/\n", {"memory.max": "max"}, None),
])  # fmt: skip
def test_the_least_memory_of_the_control_groups_counts(
    tmp_path: Path, groups: str, files: dict[str, str], limit: int | None
) -> None:
    assert memory_limit(_system(tmp_path, groups, files)) == limit


@pytest.mark.parametrize(("affinity", "quota", "granted"), [
    (64, None, 64), (64, 2.5, 2), (4, 16.0, 4), (64, 0.5, 1), (1, 3.0, 1)
])  # fmt: skip
def test_affinity_and_quota_both_hold(
    monkeypatch: pytest.MonkeyPatch, affinity: int, quota: float | None, granted: int
) -> None:
    monkeypatch.setattr(os, "cpu_count", lambda: 128)
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(affinity)), raising=False)
    monkeypatch.setattr(threads, "cpu_quota", lambda: quota)
    assert available_processors() == granted


def test_without_affinity_the_cores_count(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(os, "sched_getaffinity", raising=False)
    monkeypatch.setattr(os, "cpu_count", lambda: 12)
    monkeypatch.setattr(threads, "cpu_quota", lambda: None)
    assert available_processors() == 12


@pytest.mark.parametrize(("stated", "workers"), [
    ("3", 3), ("64", 8), ("2,4", 2), ("", 8), ("0", 8), ("many", 8), (" 5 ", 5)
])  # fmt: skip
def test_the_users_number_of_threads_is_an_upper_bound(
    monkeypatch: pytest.MonkeyPatch, stated: str, workers: int
) -> None:
    monkeypatch.setattr(threads, "available_processors", lambda: 8)
    monkeypatch.setenv("OMP_NUM_THREADS", stated)
    assert fft_workers() == workers


def test_nobody_else_counts_cores() -> None:
    root = Path(threads.__file__).parents[2]
    paths = [path for folder in ("pipeline", "workflows") for path in (root / folder).rglob("*.py")]
    assert paths
    assert [path.name for path in paths if "cpu_count" in path.read_text(encoding="utf-8")] == ["threads.py"]
