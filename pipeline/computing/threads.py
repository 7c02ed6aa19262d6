"""How many processors this process may use, and how many threads the Fourier transforms take."""

from __future__ import annotations

import os

from .cgroups import cpu_quota


def available_processors() -> int:
    """Return the processors granted to this process: its affinity and the quota of its control groups, at least 1.

    A container limited to 2.5 processors of 64 gets 2; `os.cpu_count()` would say 64.
    """
    affinity = getattr(os, "sched_getaffinity", None)
    granted = len(affinity(0)) if affinity else os.cpu_count() or 1
    quota = cpu_quota()
    return max(1, granted if quota is None else min(granted, int(quota)))


def stated_threads() -> int | None:
    """Return the user's OMP_NUM_THREADS, of a list ("4,2") the first; None where it is no positive number."""
    stated = os.environ.get("OMP_NUM_THREADS", "").partition(",")[0].strip()
    return int(stated) if stated.isdecimal() and int(stated) > 0 else None


def fft_workers() -> int:
    """Return the processors granted, or OMP_NUM_THREADS where that is less."""
    stated = stated_threads()
    return available_processors() if stated is None else min(stated, available_processors())
