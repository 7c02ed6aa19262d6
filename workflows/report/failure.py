"""The report of a run that failed, and the errors that a report states."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ... import __version__
from .methods import flatten, lookup
from .template import render_failed

_STEP = re.compile(r"\bstep (\S+(?: or \S+)*): ")
_CRASH = re.compile(r"\(details: (.+?)\)\s*$")


def stated_errors(provenance: Mapping[str, Any]) -> tuple[str, ...]:
    """Return the errors that a run's provenance states."""
    stated = provenance.get("errors") or ()
    return (stated,) if isinstance(stated, str) else tuple(str(one) for one in stated)


def failed_page(out_dir: Path, subject: str, error: str, provenance: Mapping[str, Any], *, date: str) -> str:
    """Return the page of a failed run as HTML; arguments as of write_error_report."""
    step, crash = _STEP.search(error), _CRASH.search(error)
    log = Path(out_dir) / "logs" / f"sub-{subject}.log"
    told = {
        "Step": lookup(provenance, "step") or (step[1] if step else None),
        "Log": lookup(provenance, "log") or (log if log.is_file() else None),
        "Crash file": lookup(provenance, "crash") or (crash[1] if crash else None),
    }
    others = [one for one in stated_errors(provenance) if one != error]
    shown = {key: value for key, value in provenance.items() if key not in ("errors", "stages", "steps")}
    return render_failed(
        title=f"sub-{subject}",
        version=__version__,
        date=date,
        summary=f"failed, run of {date}",
        errors=[error, *others],
        rows=[(name, str(value)) for name, value in told.items() if value],
        maps=_maps_words(Path(out_dir), subject),
        record=list(flatten(shown)),
    )


def _maps_words(out_dir: Path, subject: str) -> str:
    folder = out_dir / f"sub-{subject}"
    if not any(folder.rglob("*.nii.gz")):
        return f"The run left no maps of sub-{subject}. Mend the cause and repeat the command: what was done is kept."
    return (
        f"The maps in the folder {folder.name} are those of an earlier run or of a part of this one, so none is shown; "
        "do not use them. Mend the cause and repeat the command: what was done is kept."
    )
