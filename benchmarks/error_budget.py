"""What each step costs the labels, alone and together: python benchmarks/error_budget.py SIMULATED OUT [--fits …].

SIMULATED: of `chi33 simulate`, with its truth; OUT: of `chi33 run` on it. In each row one step is the run's own and all
others are the truth; the first has the fit alone, the last the run as it is. Printed is, for each fit, the error of
chi33 (normalised, demeaned, where the run's local field is valid; mean and range over the scans) and its slope; then,
for the total fields of the steps, the error of the local field that V-SHARP leaves there.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import nibabel as nib
import numpy as np
from chi33.files.derivatives import Derivatives, read_image, read_transform
from chi33.pipeline.background import vsharp
from chi33.pipeline.fits.methods import FitOptions, fit_fields
from chi33.pipeline.fits.tissue.prior import TissueOptions
from chi33.pipeline.frames import b0_direction_from_affine, radians_per_ppm, voxel_size
from chi33.pipeline.labels import scan_labels
from chi33.pipeline.phase.echoes import OFFSET_SMOOTHING, combine_echoes
from chi33.pipeline.phase.phase_offset import remove_phase_offset
from chi33.workflows.fit_inputs import ScanField, to_subject_frame
from chi33.workflows.raw.dataset import RawScan, find_subjects, load_magnitude, load_phase
from numpy.typing import NDArray

FITS = ("single-step", "masked", "closed")


@dataclass(frozen=True)
class Scan:
    """A scan's truth and what a run found: derivatives of both by name."""

    raw: RawScan
    truth: Derivatives
    found: Derivatives

    def true(self, desc: str, suffix: str = "fieldmap") -> NDArray[np.float32]:
        """Return a map of the truth."""
        return read_image(self.truth.path(self.raw.label, suffix=suffix, desc=desc))[0]

    def own(self, desc: str, suffix: str = "fieldmap") -> NDArray[np.float32]:
        """Return a map of the run."""
        return read_image(self.found.path(self.raw.label, suffix=suffix, desc=desc))[0]

    @property
    def affine(self) -> NDArray[np.float64]:
        """Voxel to world (4, 4)."""
        return np.asarray(nib.load(self.truth.path(self.raw.label, suffix="mask", desc="brain")).affine)


@dataclass(frozen=True)
class Given:
    """What a fit is given of a scan: fields in ppm, masks and the transform to the subject frame."""

    total: NDArray[np.float32]
    local: NDArray[np.float32]
    mask: NDArray[np.bool_]
    local_mask: NDArray[np.bool_]
    transform: NDArray[np.float64]


def exact(scan: Scan) -> Given:
    """Return the truth."""
    mask = scan.true("brain", "mask") > 0
    return Given(
        scan.true("total") * mask, scan.true("local") * mask, mask, mask,
        read_transform(scan.truth.transform(scan.raw.label)),
    )  # fmt: skip


def removed(scan: Scan, given: Given) -> Given:
    """Return the same with the local field that V-SHARP leaves of its total field."""
    found = vsharp(given.total, given.mask, voxel_size(scan.affine))
    return replace(given, local=found.field, local_mask=found.mask)


def combined(scan: Scan) -> NDArray[np.float32]:
    """Return the total field of the raw phase, unwrapped by the truth."""
    echoes, mask = range(len(scan.raw.echo_times)), scan.true("brain", "mask") > 0
    phase = np.stack([load_phase(scan.raw, e) for e in echoes])
    magnitude = np.stack([load_magnitude(scan.raw, e) for e in echoes])
    size, times = voxel_size(scan.affine), list(scan.raw.echo_times)
    phase = remove_phase_offset(phase, magnitude, times, mask, size, smoothing=OFFSET_SMOOTHING)
    per_ppm = np.array([radians_per_ppm(scan.raw.field_strength, t) for t in times], np.float32)
    expected = per_ppm[:, None, None, None] * scan.true("total")
    phase = phase + 2 * np.pi * np.round((expected - phase) / (2 * np.pi))
    return combine_echoes(phase.astype(np.float32), magnitude, times, scan.raw.field_strength, mask, size).field


def steps() -> dict[str, Callable[[Scan], Given]]:
    """Return the rows: what a fit is given where one step is the run's own."""

    def unwrapped(scan: Scan) -> Given:
        inside = (scan.own("reliable", "mask") > 0) & (scan.true("brain", "mask") > 0)
        return removed(scan, replace(exact(scan), total=scan.own("total") * inside, mask=inside))

    def masked(scan: Scan) -> Given:  # what the mask loses; what it holds beside the brain, the phase's line takes off
        inside = (scan.own("reliable", "mask") > 0) & (scan.true("brain", "mask") > 0)
        return removed(scan, replace(exact(scan), total=scan.true("total") * inside, mask=inside))

    def registered(scan: Scan) -> Given:
        return replace(exact(scan), transform=read_transform(scan.found.transform(scan.raw.label)))

    def together(scan: Scan) -> Given:
        return Given(
            scan.own("total"), scan.own("local"), scan.own("reliable", "mask") > 0, scan.own("local", "mask") > 0,
            read_transform(scan.found.transform(scan.raw.label)),
        )  # fmt: skip

    return {
        "fit": exact,
        "registration": registered,
        "background": lambda scan: removed(scan, exact(scan)),
        "background, phase noise and combination": lambda s: removed(s, replace(exact(s), total=combined(s))),
        "background, combination and unwrapping": unwrapped,
        "background and what the brain mask loses": masked,
        "all, each as the run made it": together,
    }


def score(found: NDArray, truth: NDArray) -> tuple[float, float]:
    """Return the normalised error and the slope of demeaned values."""
    a, b = found - found.mean(), truth - truth.mean()
    return float(np.linalg.norm(a - b) / np.linalg.norm(b)), float((a @ b) / (b @ b))


def label_scores(scans: list[Scan], given: list[Given], method: str) -> list[tuple[float, float]]:
    """Return error and slope of chi33 of each scan."""
    total = method == "single-step"
    fields = [
        ScanField(
            scan.raw.name, one.total if total else one.local, one.mask if total else one.local_mask, scan.affine,
            one.transform, b0_direction_from_affine(scan.affine),
        )
        for scan, one in zip(scans, given, strict=True)
    ]  # fmt: skip
    affine, shape = scans[0].affine, given[0].mask.shape
    placed = to_subject_frame(fields, affine, shape, total=total)
    options = FitOptions(method=method, anatomy=TissueOptions())
    fit, _ = fit_fields(placed.fields, placed.weights, voxel_size(affine), placed.directions, options)
    scores = []
    for scan, one in zip(scans, given, strict=True):
        labels = scan_labels(
            fit.tensor, fit.cosmos, affine, scan.affine, one.mask.shape, one.transform, one.local, one.mask
        )
        where = _where(scan)
        scores.append(score(labels.chi33[where], scan.true("chi33", "Chimap")[where]))
    return scores


def _where(scan: Scan) -> NDArray[np.bool_]:
    return (scan.own("local", "mask") > 0) & (scan.true("brain", "mask") > 0)


def field_scores(scans: list[Scan], given: list[Given]) -> Iterator[float]:
    """Yield the error of the local field of each scan."""
    for scan, one in zip(scans, given, strict=True):
        where = _where(scan) & one.local_mask
        yield score(one.local[where], scan.true("local")[where])[0]


def main() -> None:
    """Print the table of a subject."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])  # type: ignore[union-attr]
    parser.add_argument("simulated", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--subject", default="01")
    parser.add_argument("--fits", nargs="+", default=FITS, choices=FITS)
    parser.add_argument("--rows", nargs="+", choices=tuple(steps()), help="only these")
    asked = parser.parse_args()
    (subject,) = find_subjects(asked.simulated, [asked.subject])
    truth = Derivatives(asked.simulated / "derivatives" / "truth", subject.label)
    found = Derivatives(asked.out, subject.label)
    scans = [Scan(raw, truth, found) for raw in subject.scans]
    print(f"| the run's own | {' | '.join(f'χ33, {fit}' for fit in asked.fits)} | local field |")
    print("| --- |" + " --- |" * (len(asked.fits) + 1))
    for name, make in steps().items():
        if asked.rows and name not in asked.rows:
            continue
        given = [make(scan) for scan in scans]
        cells = []
        for fit in asked.fits:
            errors, slopes = zip(*label_scores(scans, given, fit), strict=True)
            cells.append(f"{np.mean(errors):.3f} ({min(errors):.3f}–{max(errors):.3f}), slope {np.mean(slopes):.2f}")
        fields = list(field_scores(scans, given))
        print(f"| {name} | {' | '.join(cells)} | {min(fields):.2f}–{max(fields):.2f} |", flush=True)


if __name__ == "__main__":
    main()
