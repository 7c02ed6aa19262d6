"""How many threads the Fourier transforms use."""

from __future__ import annotations

import os


def fft_workers() -> int:
    """Return OMP_NUM_THREADS where it is set to a positive number, else the number of cores."""
    stated = os.environ.get("OMP_NUM_THREADS", "")
    return int(stated) if stated.isdigit() and int(stated) > 0 else os.cpu_count() or 1
