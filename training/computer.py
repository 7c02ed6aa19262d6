"""What the computation runs on: device, precision, and settings that make a CPU fast."""

from __future__ import annotations

import ctypes
import platform
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Literal

import torch

from ..files.errors import InputError
from ..pipeline.computing.threads import available_processors
from .config import Device, Precision

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3


def choose_device(device: Device) -> torch.device:
    """Return the device of "auto" (a CUDA GPU where there is one), "cpu" or "cuda"; raises InputError without one."""
    if device not in ("auto", "cpu", "cuda"):
        raise InputError(f'device must be "auto", "cpu" or "cuda", got {device!r}.')
    if device == "cuda" and not torch.cuda.is_available():
        raise InputError("device is cuda, but PyTorch finds no CUDA GPU: use --device cpu, or install its CUDA build.")
    return torch.device("cuda" if device != "cpu" and torch.cuda.is_available() else "cpu")


def choose_precision(precision: Precision, device: torch.device) -> Literal["32-true", "bf16-mixed"]:
    """Return the precision of "auto": bf16-mixed on a GPU, 32-true on a CPU."""
    if precision != "auto":
        return precision
    return "bf16-mixed" if device.type == "cuda" else "32-true"


@contextmanager
def denormals_flushed() -> Iterator[None]:
    """Flush denormal numbers to zero while a network runs: they slow a CPU down a hundredfold. Also a decorator."""
    torch.set_flush_denormal(True)
    try:
        yield
    finally:
        torch.set_flush_denormal(False)


def prepare_cpu(threads: int | None = None) -> None:
    """Set the number of threads, and keep freed memory in the process.

    threads: None for as many as PyTorch chooses (OMP_NUM_THREADS where it is set), at most the processors granted:
    PyTorch does not know the quota of a container. If freed memory is not kept, glibc returns every activation map to
    the system and faults it in again, which costs a third of a training step.
    """
    chosen = min(torch.get_num_threads(), available_processors()) if threads is None else threads
    if chosen != torch.get_num_threads():
        torch.set_num_threads(chosen)
    if platform.libc_ver()[0] == "glibc":
        libc = ctypes.CDLL(None)
        libc.mallopt(_M_MMAP_THRESHOLD, 32 * 1024**2)
        libc.mallopt(_M_TRIM_THRESHOLD, -1)
