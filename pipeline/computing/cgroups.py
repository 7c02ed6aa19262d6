"""What a container or a batch system grants of a Linux machine: the limits of this process's control groups."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

_ROOT = Path("/")
_MOUNT = Path("sys/fs/cgroup")
_UNLIMITED = 1 << 60  # bytes: version 1 writes a number near 2**63 where there is no limit


def cpu_quota(root: Path = _ROOT) -> float | None:
    """Return the processors that the control groups grant, e.g. 2.5, or None where they set no limit.

    root: where /proc and /sys lie. A group's limit holds for all below it, so the least of the lineage counts.
    """
    quotas = []
    for folder in _lineage(root, ""):
        quota, _, period = _text(folder / "cpu.max").partition(" ")
        quotas.append(_ratio(quota, period))
    for folder in _lineage(root, "cpu"):
        quotas.append(_ratio(_text(folder / "cpu.cfs_quota_us"), _text(folder / "cpu.cfs_period_us")))
    return min((quota for quota in quotas if quota is not None), default=None)


def memory_limit(root: Path = _ROOT) -> int | None:
    """Return the bytes of memory that the control groups grant, or None where they set no limit."""
    limits = [_number(_text(folder / "memory.max")) for folder in _lineage(root, "")]
    limits += [_number(_text(folder / "memory.limit_in_bytes")) for folder in _lineage(root, "memory")]
    return min((int(limit) for limit in limits if limit is not None and 0 < limit < _UNLIMITED), default=None)


def _lineage(root: Path, controller: str) -> Iterator[Path]:
    """Yield the folder of this process's group and of all above it; controller "" is version 2."""
    for line in _text(root / "proc/self/cgroup").splitlines():
        _, _, rest = line.partition(":")
        names, _, path = rest.partition(":")
        if controller not in names.split(","):
            continue
        for mount in dict.fromkeys([names, *names.split(",")]) if controller else ("", "unified"):
            top = root / _MOUNT / mount
            group = top / path.lstrip("/")  # seen from inside a container the path may not be there: its parents are
            yield from (folder for folder in (group, *group.parents) if folder.is_relative_to(top))


def _ratio(quota: str, period: str) -> float | None:
    granted, each = _number(quota), _number(period)
    return granted / each if granted and each and granted > 0 and each > 0 else None


def _number(text: str) -> float | None:
    try:
        return float(text)
    except ValueError:  # "max", or no such file
        return None


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="ascii", errors="replace").strip()
    except OSError:
        return ""
