"""What is wrong is said before any work: the output and working folders, the fit's device, the images, masks, space."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

from ...files.derivatives import check_free_space, check_output_folder, open_image
from ...files.errors import InputError, InputProblems
from ...files.folders import check_can_write
from ...pipeline.fits.closed_form import check_device
from ...pipeline.fits.execution import Execution
from ..config import RunConfig
from ..interfaces.frame import read_given_mask
from ..raw.dataset import RawSubject, check_raw
from ..report.regions import check_regions
from ..subject import given_masks, init_subject_wf

_PRODUCTS_PER_VOXEL = 26  # float32 volumes of output and working files a scan
_COMPRESSED = 0.4


def check_before_work(
    subjects: Sequence[RawSubject], config: RunConfig, backend: str, bids_dir: Path, out_dir: Path, work: Path
) -> None:
    """Check all that a run of these subjects needs; nothing is written. Raises InputError, of images in one report."""
    check_output_folder(out_dir, bids_dir, create=False)
    check_can_write(work, "choose another folder with -w")
    _check_compute(config)
    if config.rois is not None:
        check_regions(Path(config.rois))
    problems = subject_problems(subjects, lambda subject: _check_subject(subject, config, backend, out_dir))
    raise_problems_of([subject.label for subject in subjects], problems)
    _check_space(subjects, out_dir, work)


def subject_problems(subjects: Iterable[RawSubject], check: Callable[[RawSubject], None]) -> dict[str, tuple[str, ...]]:
    """Return what is wrong with each subject that does not pass a check, by its label."""
    problems = {}
    for subject in subjects:
        try:
            check(subject)
        except InputError as error:
            problems[subject.label] = InputProblems.of(error)
    return problems


def raise_problems_of(labels: Sequence[str], problems: dict[str, tuple[str, ...]]) -> None:
    """Raise InputProblems with the problems by subject, and how to run those of the labels that have none."""
    if not problems:
        return
    fine = [label for label in labels if label not in problems]
    hint = ""
    if fine:
        names = ", ".join(f"sub-{label}" for label in fine)
        have, them = ("has", "it") if len(fine) == 1 else ("have", "them")
        hint = f"{names} {have} no such problem: --participant-label {' '.join(fine)} runs {them} alone."
    raise InputProblems([line for lines in problems.values() for line in lines], hint)


def _check_subject(subject: RawSubject, config: RunConfig, backend: str, out_dir: Path) -> None:
    check_raw([subject], fewest=fewest_scans(config))
    init_subject_wf(subject, config, backend, out_dir)  # refuses what no step could work with
    problems = []
    given = given_masks(subject, config)
    for scan in subject.scans if given else ():
        try:
            read_given_mask(given[scan.name], scan.magnitude[0])
        except InputError as error:
            problems.append(str(error))
    if problems:
        raise InputProblems(problems)


def fewest_scans(config: RunConfig) -> int:
    """Return how many scans a subject needs at least."""
    return 1 if config.fit == "none" else 2


def _check_compute(config: RunConfig) -> None:
    """Raise InputError where the fit's device or Dask scheduler is not there: the fit comes after the long steps."""
    if config.fit == "none":
        return
    check_device(config.device)
    if config.dask not in ("threads", "local"):
        Execution(config.dask).close()


def _check_space(subjects: Sequence[RawSubject], out_dir: Path, work: Path) -> None:
    voxels = 0
    for subject in subjects:
        for scan in subject.scans:
            x, y, z = open_image(scan.magnitude[0]).shape[:3]
            voxels += x * y * z
    needed = int(voxels * 4 * _PRODUCTS_PER_VOXEL * _COMPRESSED)
    for folder in (out_dir, work):
        check_free_space(folder, needed)
