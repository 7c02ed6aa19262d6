"""Holds every background removal against the truth of simulated heads.

    python benchmarks/background.py TRUTH [TRUTH ...] [--found OUT] [--scans 3] [--methods pdf,lbv]

TRUTH is `derivatives/truth` of `chi33 simulate`: total fields and masks are exact. With --found, the output of
`chi33 run` on the first TRUTH is measured too: its total fields, where it trusted them. One line a method and set,
means over scans: error (norm of the difference over the norm of the truth, both demeaned where valid), slope, share of
the brain that is valid, and time as a multiple of V-SHARP's.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import nibabel as nib
import numpy as np
from chi33.pipeline.background import BACKGROUND_METHODS, LocalField, remove_background
from chi33.pipeline.frames import b0_direction_from_affine, voxel_size
from numpy.typing import NDArray


@dataclass(frozen=True)
class Case:
    """A total field in ppm and its mask, the true local field and brain, and the affine of their grid."""

    total: NDArray[np.float32]
    mask: NDArray[np.bool_]
    local: NDArray[np.float32]
    brain: NDArray[np.bool_]
    affine: NDArray[np.float64]


@dataclass(frozen=True)
class Score:
    """How well one local field agrees with the truth; seconds: that it took."""

    error: float
    slope: float
    valid: float
    seconds: float


def load(path: Path) -> NDArray[np.float32]:
    """Return a volume."""
    return np.asarray(nib.load(path).dataobj, np.float32)


def cases(truth: Path, found: Path | None, scans: int) -> Iterator[Case]:
    """Yield scans of the data set, evenly spread: of exact total fields, or of those a run found."""
    paths = sorted(truth.glob("sub-*/anat/*_desc-total_fieldmap.nii.gz"))
    for path in paths[:: max(1, len(paths) // scans)][:scans]:
        image = nib.load(path)
        beside = path if found is None else found / path.relative_to(truth)
        if not beside.exists():
            continue
        brain = load(_named(path, "brain_mask")) > 0
        mask = brain
        if found is not None:
            mask = load(_named(beside, "reliable_mask")) > 0
        yield Case(load(beside), mask, load(_named(path, "local_fieldmap")), brain, image.affine)


def _named(path: Path, name: str) -> Path:
    return path.with_name(path.name.replace("total_fieldmap", name))


def removed(method: str, case: Case) -> tuple[LocalField, float]:
    """Return the local field of a method with its default settings, and the seconds it took."""
    h = b0_direction_from_affine(case.affine)
    start = time.perf_counter()
    local = remove_background(method, case.total, case.mask, voxel_size(case.affine), b0_direction=h)
    return local, time.perf_counter() - start


def score(method: str, case: Case) -> Score:
    """Return the agreement of a method with the truth of a scan."""
    local, seconds = removed(method, case)
    both = local.mask & case.brain
    a, b = (v[both] - v[both].mean(dtype=np.float64) for v in (local.field, case.local))
    error = float(np.linalg.norm(a - b) / np.linalg.norm(b))
    return Score(error, float((a @ b) / (b @ b)), float(both.sum() / case.brain.sum()), seconds)


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("truth", type=Path, nargs="+")
    parser.add_argument("--found", type=Path, help="output of chi33 run on the first data set")
    parser.add_argument("--scans", type=int, default=3, help="of each data set")
    parser.add_argument("--methods", default=",".join(BACKGROUND_METHODS))
    given = parser.parse_args()
    sets: list[tuple[str, Path, Path | None]] = [(str(path), path, None) for path in given.truth]
    if given.found:
        sets.append((str(given.found), given.truth[0], given.found))
    print(f"{'method':8s} {'error':>6s} {'slope':>6s} {'valid':>6s} {'time':>6s}  scans, set")
    for name, truth, found in sets:
        together = list(cases(truth, found, given.scans))
        reference = 0.0
        for method in dict.fromkeys(["vsharp", *given.methods.split(",")]):
            scores = [score(method, case) for case in together]
            error, slope, valid, seconds = np.mean([(s.error, s.slope, s.valid, s.seconds) for s in scores], axis=0)
            reference = reference or seconds
            ratio = seconds / reference
            print(f"{method:8s} {error:6.3f} {slope:6.3f} {valid:6.3f} {ratio:6.1f}  {len(scores)}, {name}", flush=True)


if __name__ == "__main__":
    main()
