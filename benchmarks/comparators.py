"""What others compute, on a run's own fields: python benchmarks/comparators.py OUT TRUTH [--methods closed lsqr …].

OUT: of `chi33 run`; TRUTH: of `chi33 simulate`, or a folder of maps sub-01_ori01_chi33.nii.gz and so on of another
simulator. Every method has the run's local (or total) fields, masks and transforms, and its maps become labels by the
run's own code. Printed is one Markdown table, means over the scans: error (normalised, demeaned), slope and r of chi33
where the method is valid and, as "common", the error where all are; r and slope of delta B'; the share of the brain
that is valid.

cosmos, closed: in the intersection of the masks, divided in k-space, or with a small ridge. lsqr: the six components in
that mask by plain LSQR (Liu 2010, Li 2012). mmsr: besides, no anisotropy outside white matter and a mean susceptibility
that is smooth but for the edges of the magnitude (Li 2014). asti: nine components, isotropic in CSF, smooth in white
matter but for edges (Cao 2021, Shi 2022). sscosmos: one scalar from total fields behind one spherical filter
(Chatnuntawech 2017). Simplified: the penalties are quadratic; white matter and CSF are classes of a first COSMOS map
(--white-matter and --csf give better ones, in the subject frame); weights and iterations are those of the least error
of chi33 on one head of `chi33 simulate` (3 mm, 6 scans) and the same for all heads.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import nibabel as nib
import numpy as np
from chi33.files.derivatives import read_image, read_transform
from chi33.files.sidecars import read_sidecar
from chi33.pipeline.background import smv_kernel
from chi33.pipeline.fits.model.grid import FIT_PADDING, make_grid
from chi33.pipeline.frames import b0_direction_from_affine, voxel_frame, voxel_size
from chi33.pipeline.images.morphology import depth_inside, extrapolated
from chi33.pipeline.images.resample import resample_inside
from chi33.pipeline.labels import reference_to_mask, scan_labels
from chi33.pipeline.physics.tensors import rotate_components
from chi33.workflows.fit_inputs import ScanField, SubjectFields, to_subject_frame
from numpy.typing import NDArray
from scipy import ndimage
from scipy.cluster.vq import kmeans2

sys.path.insert(0, str(Path(__file__).parent))  # not there under PYTHONSAFEPATH
from comparator_fits import ASYMMETRIC, SYMMETRIC, Penalty, Problem, closed_form, cosmos, traceless

METHODS = ("cosmos", "closed", "lsqr", "mmsr", "asti", "sscosmos")
ITERATIONS = {"lsqr": 8, "mmsr": 10, "asti": 10, "sscosmos": 60}  # LSQR semi-converges: best on the head tuned on
ISOTROPIC, MORPHOLOGY = 1.0, 0.1  # weights of the penalties beside fields of weight 1
SPHERE = 6.0  # mm
EDGES = 0.3  # of the voxels, those with the steepest magnitude


@dataclass(frozen=True)
class Scan:
    """A scan of the run on its own grid, and its truth by name: chi33, deltab, brain."""

    name: str
    prefix: Path
    truth: dict[str, Path]

    def own(self, name: str) -> NDArray[np.float32]:
        """Return a map of the run."""
        return read_image(Path(f"{self.prefix}_{name}.nii.gz"))[0]

    def true(self, name: str) -> NDArray[np.float32]:
        """Return a map of the truth."""
        return read_image(self.truth[name])[0]

    @cached_property
    def affine(self) -> NDArray[np.float64]:
        """Voxel to world (4, 4)."""
        return np.asarray(nib.load(f"{self.prefix}_desc-local_fieldmap.nii.gz").affine, np.float64)

    @cached_property
    def transform(self) -> NDArray[np.float64]:
        """World of the scan to the subject frame (4, 4), as the run found it."""
        return read_transform(Path(f"{self.prefix}_from-orig_to-subject_mode-image_xfm.txt"))

    @cached_property
    def b0_direction(self) -> NDArray[np.float64]:
        """B0 in the voxel frame."""
        stated = read_sidecar(Path(f"{self.prefix}_desc-local_fieldmap.json")).get("B0_dir")
        return b0_direction_from_affine(self.affine) if stated is None else np.asarray(stated, np.float64)

    def placed(self, total: bool) -> ScanField:
        """Return what a fit takes of the scan."""
        kind, mask = ("total", "reliable") if total else ("local", "local")
        values, inside = self.own(f"desc-{kind}_fieldmap"), self.own(f"desc-{mask}_mask") > 0
        return ScanField(self.name, values * inside, inside, self.affine, self.transform, self.b0_direction)


def find_scans(out: Path, truth: Path, subject: str) -> list[Scan]:
    """Return the scans of a subject of a run with their truth, of either simulator."""
    scans = []
    for path in sorted(out.glob(f"sub-{subject}/**/*_desc-local_fieldmap.nii.gz")):
        stem = path.name.removesuffix("_desc-local_fieldmap.nii.gz")
        ours = {"chi33": "desc-chi33_Chimap", "deltab": "desc-deltab_fieldmap", "brain": "desc-brain_mask"}
        names = {key: f"{stem}_{name}.nii.gz" for key, name in ours.items()}
        folder = next((one.parent for one in sorted(truth.rglob(names["chi33"]))), None)
        if folder is None:
            others = {"chi33": "chi33", "deltab": "deltab", "brain": "mask"}
            names = {key: f"{stem.replace('_acq-', '_')}_{name}.nii.gz" for key, name in others.items()}
            folder = next((one.parent for one in sorted(truth.rglob(names["chi33"]))), None)
        if folder is None:
            raise SystemExit(f"{truth} has no truth of {stem}: give the folder of the simulated head's truth.")
        scans.append(Scan(stem, path.with_name(stem), {key: folder / name for key, name in names.items()}))
    if not scans:
        raise SystemExit(f"{out} has no local fields of sub-{subject}: give the output folder of chi33 run.")
    return scans


@dataclass(frozen=True)
class Maps:
    """What a method found on the reference grid: a tensor (6, x, y, z) along its axes, or a scalar; where valid."""

    tensor: NDArray[np.float32] | None
    scalar: NDArray[np.float32]
    valid: NDArray[np.bool_]


@dataclass
class Subject:
    """The scans in the subject frame, and tissue maps there."""

    scans: list[Scan]
    affine: NDArray[np.float64]
    shape: tuple[int, ...]
    given: dict[str, Path]

    def fields(self, total: bool) -> SubjectFields:
        """Return the fields of all scans in the subject frame."""
        return to_subject_frame((s.placed(total) for s in self.scans), self.affine, self.shape, total=total)

    @cached_property
    def local(self) -> Problem:
        """The local fields in the intersection of their masks, which every method of local fields has."""
        found = self.fields(total=False)
        common = np.logical_and.reduce([np.asarray(w) > 0 for w in found.weights])
        grid = make_grid(common, voxel_size(self.affine), found.directions, FIT_PADDING)
        inside = np.ascontiguousarray(grid.crop(common))
        return Problem(grid, [grid.crop(f) * inside for f in found.fields], [inside] * len(self.scans), inside)

    @cached_property
    def tissue(self) -> tuple[NDArray[np.bool_], NDArray[np.bool_], NDArray[np.bool_]]:
        """White matter, CSF and what is no edge, in the box of the local fields."""
        grid, inside = self.local.grid, self.local.support
        first = cosmos(self.local)[0]
        soft = ndimage.gaussian_filter(first, 2.0 / grid.voxel_size)
        centres, classes = kmeans2(soft[inside].astype(float), 3, minit="++", seed=0)
        ranks = np.zeros(inside.shape, int)
        ranks[inside] = 1 + np.argsort(np.argsort(centres))[classes]
        found = {"white_matter": ranks == 1, "csf": ndimage.binary_opening(ranks == 2)}
        for name, path in self.given.items():
            found[name] = grid.crop(read_image(path)[0] > 0.5) & inside
        magnitude = Path(f"{self.scans[0].prefix}_desc-magnitude_MEGRE.nii.gz")
        seen = grid.crop(read_image(magnitude)[0]) if magnitude.is_file() else first
        steep = ndimage.generic_gradient_magnitude(np.asarray(seen, np.float32), ndimage.sobel)
        return found["white_matter"], found["csf"], inside & (steep <= np.quantile(steep[inside], 1 - EDGES))

    def whole(self, problem: Problem, maps: NDArray) -> NDArray[np.float32]:
        """Return maps of the box on the reference grid."""
        return np.asarray(problem.grid.embed(np.asarray(maps, np.float32)))


def compute(method: str, subject: Subject) -> Maps:
    """Return the maps of a method."""
    problem, layout = subject.local, SYMMETRIC
    if method == "sscosmos":
        problem = _filtered(subject)
        found = problem.solve(None, ITERATIONS[method])
    elif method == "cosmos":
        found = cosmos(problem)
    elif method == "closed":
        found = closed_form(problem)
    else:
        white, csf, flat = subject.tissue
        inside, mean = problem.support, np.eye(6)[[0, 3, 5]].sum(axis=0, keepdims=True) / 3
        penalties: list[Penalty] = []
        if method == "mmsr":
            penalties = [Penalty(ISOTROPIC, traceless(layout), inside & ~white), Penalty(MORPHOLOGY, mean, flat, True)]
        elif method == "asti":
            layout = ASYMMETRIC
            penalties = [
                Penalty(ISOTROPIC, traceless(layout), csf),
                Penalty(MORPHOLOGY, np.eye(9), white & flat, True),
            ]
        problem = Problem(problem.grid, problem.fields, problem.masks, inside, penalties=penalties)
        found = problem.solve(layout, ITERATIONS[method])
        if method == "asti":
            found = np.stack([(found[3 * j + m] + found[3 * m + j]) / 2 for j in range(3) for m in range(j, 3)])
    maps, valid = subject.whole(problem, found), subject.whole(problem, problem.support) > 0
    return Maps(None, maps[0], valid) if len(maps) == 1 else Maps(maps, maps[[0, 3, 5]].mean(axis=0), valid)


def _filtered(subject: Subject) -> Problem:
    """Return the problem of the total fields behind one spherical filter, where the sphere fits into every mask."""
    found = subject.fields(total=True)
    known = np.logical_and.reduce([np.asarray(w) > 0 for w in found.weights])
    grid = make_grid(known, voxel_size(subject.affine), found.directions, FIT_PADDING)
    inside = np.ascontiguousarray(grid.crop(known))
    deep = depth_inside(inside, grid.voxel_size) > SPHERE
    kernel = (1 - smv_kernel(grid.padded, grid.voxel_size, SPHERE)).astype(np.float32)
    fields = [
        grid.inverse(kernel * grid.forward(extrapolated(grid.crop(one), inside, grid.voxel_size)))
        for one in found.fields
    ]
    return Problem(grid, fields, [deep] * len(fields), deep, filtering=kernel)


@dataclass(frozen=True)
class Labels:
    """The labels of a method on one scan's grid, and where they hold; delta_b: None where the method has none."""

    chi33: NDArray[np.float32]
    delta_b: NDArray[np.float32] | None
    valid: NDArray[np.bool_]


def labels_of(maps: Maps, subject: Subject, scan: Scan) -> Labels:
    """Return the labels of a scan that the run's own code makes of a method's maps."""
    scalar = reference_to_mask(maps.scalar, maps.valid)
    tensor = np.zeros((6, *scalar.shape), np.float32)
    if maps.tensor is None:
        tensor[[0, 3, 5]] = scalar
    else:
        tensor = rotate_components(reference_to_mask(maps.tensor, maps.valid), voxel_frame(subject.affine))
    inside = scan.own("desc-local_mask") > 0
    found = scan_labels(
        tensor, scalar, subject.affine, scan.affine, inside.shape, scan.transform,
        scan.own("desc-local_fieldmap"), inside, b0_direction=scan.b0_direction, brain=maps.valid,
    )  # fmt: skip
    back = np.linalg.inv(scan.transform)
    _, known = resample_inside(scalar, maps.valid, subject.affine, scan.affine, inside.shape, back)
    valid = known & (scan.true("brain") > 0)
    return Labels(found.chi33, None if maps.tensor is None else found.delta_b, valid)


def agreement(found: NDArray, truth: NDArray) -> tuple[float, float, float]:
    """Return normalised error, slope and correlation of demeaned values."""
    a, b = found - found.mean(dtype=float), truth - truth.mean(dtype=float)
    r = float((a @ b) / max(np.linalg.norm(a) * np.linalg.norm(b), 1e-30))
    return float(np.linalg.norm(a - b) / np.linalg.norm(b)), float((a @ b) / (b @ b)), r


def table(rows: dict[str, list[Labels]], seconds: dict[str, float], scans: list[Scan]) -> str:
    """Return the Markdown table of the methods' labels, means over the scans."""
    common = [np.logical_and.reduce([labels[i].valid for labels in rows.values()]) for i in range(len(scans))]
    lines = [
        "| method | chi33 error | slope | r | error, common | delta B' r | slope | valid | s |",
        "| --- | --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    for name, labels in rows.items():
        figures = []
        for scan, one, shared in zip(scans, labels, common, strict=True):
            chi, across, brain = scan.true("chi33"), scan.true("deltab"), scan.true("brain") > 0
            here = agreement(one.chi33[one.valid], chi[one.valid])
            there = agreement(one.chi33[shared], chi[shared])[0]
            second = (np.nan, np.nan)
            if one.delta_b is not None:
                _, slope, r = agreement(one.delta_b[one.valid], across[one.valid])
                second = (r, slope)
            figures.append([*here, there, *second, one.valid.sum() / brain.sum()])
        cells = ["–" if np.isnan(v) else f"{v:.3f}" for v in np.mean(figures, axis=0)]
        lines.append(" | ".join([f"| {name}", *cells, f"{seconds[name]:.0f} |" if name in seconds else "– |"]))
    return "\n".join(lines)


def own_labels(scan: Scan, name: str, delta_b: bool) -> Labels:
    """Return the run's own labels."""
    valid = (scan.own("desc-local_mask") > 0) & (scan.true("brain") > 0)
    across = scan.own("desc-deltab_fieldmap") if delta_b else None
    return Labels(scan.own(f"desc-{name}_Chimap"), across, valid)


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    parser.add_argument("truth", type=Path)
    parser.add_argument("--participant-label", default="01")
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=list(METHODS))
    parser.add_argument("--white-matter", type=Path, help="mask or probability in the subject frame, of a better one")
    parser.add_argument("--csf", type=Path, help="the same of CSF")
    options = parser.parse_args()
    scans = find_scans(options.out, options.truth, options.participant_label)
    given = {"white_matter": options.white_matter, "csf": options.csf}
    chi33_map = Path(f"{scans[0].prefix}_desc-chi33_Chimap.nii.gz")
    image = next(
        iter(sorted(options.out.glob(f"sub-{options.participant_label}/**/*_space-subject_desc-tensor_Chimap.nii.gz"))),
        None,
    )
    grid = nib.load(image if image is not None else f"{scans[0].prefix}_desc-local_fieldmap.nii.gz")
    subject = Subject(
        scans, np.asarray(grid.affine, np.float64), tuple(grid.shape[:3]), {k: v for k, v in given.items() if v}
    )
    rows: dict[str, list[Labels]] = {}
    seconds: dict[str, float] = {}
    if chi33_map.is_file():
        rows["chi33"] = [own_labels(scan, "chi33", True) for scan in scans]
        rows["chi33's COSMOS"] = [own_labels(scan, "cosmos", False) for scan in scans]
    prepare: list[Callable[[], object]] = [lambda: subject.local, lambda: subject.tissue]
    for step in prepare:
        step()
    for method in options.methods:
        start = time.perf_counter()
        maps = compute(method, subject)
        seconds[method] = time.perf_counter() - start
        rows[method] = [labels_of(maps, subject, scan) for scan in scans]
        print(f"{method}: {seconds[method]:.0f} s", flush=True)
    print(table(rows, seconds, scans))


if __name__ == "__main__":
    main()
