"""The record of a subject's run: what ran, with which versions and settings, and how long it took."""

from __future__ import annotations

import importlib.metadata
import platform
import sys
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from ... import __version__
from ...pipeline.masks.deepbet import PACKAGE as DEEPBET
from ..config import RunConfig
from ..raw.dataset import RawSubject
from .clock import StageClock, stage_seconds, wall_seconds
from .resources import Resources

_TOOLS = ("numpy", "scipy", "nibabel", "nipype", "SimpleITK", "brainextractor", "niimath", "fslpy")


def provenance(
    subject: RawSubject, config: RunConfig, backend: str, clock: StageClock, began: datetime, resources: Resources
) -> dict[str, Any]:
    """Return the record of a run that began at `began` and ends now.

    `steps`: seconds of each step; `stages`: wall-clock seconds of each kind of step, so that steps that ran side by
    side count once; `work_seconds`: wall-clock seconds of all steps together, kept ones with the time they once took;
    `seconds`: of this run.
    """
    ended = datetime.now(UTC)
    tools = (*_TOOLS, *((DEEPBET,) if config.mask_method == "deepbet" else ()))
    steps = {name: one for name, one in clock.steps().items() if ".export_" not in name}
    return {
        "chi33_version": __version__,
        "python": platform.python_version(),
        "platform": platform.platform(),
        "command": " ".join([Path(sys.argv[0]).name, *sys.argv[1:]]),
        "began": began.isoformat(timespec="seconds"),
        "ended": ended.isoformat(timespec="seconds"),
        "seconds": round((ended - began).total_seconds(), 2),
        "work_seconds": round(wall_seconds(steps.values()), 2),
        "backend": backend,
        "processes": resources.processors,
        "memory_gb": round(resources.memory_gb, 2),
        "tools": {tool: importlib.metadata.version(tool) for tool in tools} | _fsl_version(backend),
        "config": {key: value for key, value in asdict(config).items() if value is not None},
        "signs": {scan.name: config.phase_sign or scan.phase_sign for scan in subject.scans},
        "scans": [scan.name for scan in subject.scans],
        "steps": {name: round(one.seconds, 2) for name, one in steps.items()},
        "stages": [{"stage": stage, "seconds": seconds} for stage, seconds in stage_seconds(steps).items()],
    }


def _fsl_version(backend: str) -> dict[str, str]:
    if backend != "fsl":
        return {}
    from nipype.interfaces.fsl import Info

    return {"FSL": str(Info.version() or "unknown")}
