"""A store from maps made elsewhere: NIfTI files of field, label and mask, with COSMOS or chi33 as the label."""

from __future__ import annotations

import hashlib
import re
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...files.errors import Chi33Warning, InputError
from ...files.grids import on_grid_of
from ...files.maps.fields import FieldInput, read_field
from ...files.maps.sizes import size_problem
from ...files.maps.units import NOTHING_GIVEN, Given, Quantity, Scaling, conversions, scaling_of
from ...files.nifti import NiftiVolume, open_image, read_volume
from ...files.sidecars import read_sidecar, sidecar_path
from ..store.volume import FIELD, MASK, Geometry, ScalarVolume, TensorVolume, Volume
from ..store.writer import check_target
from .build import BuildSummary, Progress, build_from
from .config import BuildConfig
from .plausibility import agreement, agreement_problem, is_unexplained, label_field
from .splits import split_subjects
from .subject_source import files_fingerprint

KINDS = ("cosmos", "chi33")
_SUBJECT = re.compile(r"[A-Za-z0-9]+")
_SCAN = re.compile(r"(?:ses-[A-Za-z0-9]+_)?(?:acq|run)-[A-Za-z0-9]+")


@dataclass(frozen=True)
class ImportedScan:
    """The files of one scan, all on one grid: field, label, mask and, beside chi33, delta_b_prime.

    subject: label without sub-; scan: `acq-ori01`, the second half of the volume's id; b0_direction: unit vector of B0
    in the voxel frame, None to take the field's sidecar (B0_dir) or affine; given: unit, B0 and echo time of the field
    that win over its sidecar. What is not in ppm is converted.
    """

    subject: str
    scan: str
    field: Path
    label: Path
    mask: Path
    deltab: Path | None = None
    b0_direction: tuple[float, float, float] | None = None
    given: Given = NOTHING_GIVEN

    @property
    def paths(self) -> tuple[Path, ...]:
        """The files, delta_b_prime last where there is one."""
        return (self.field, self.label, self.mask, *((self.deltab,) if self.deltab is not None else ()))


@dataclass(frozen=True)
class ReadScan:
    """A scan as it was read: its maps in ppm, how each file became ppm, and sentences a user should read.

    direction_stated: whether B0's direction was stated, by hand or by the sidecar, and not taken from the affine.
    """

    volume: Volume
    scalings: tuple[tuple[Path, Scaling], ...]
    remarks: tuple[str, ...]
    direction_stated: bool


@dataclass(frozen=True)
class ImportedSubject:
    """A subject of imported scans, as the builder of a store reads it (a SubjectSource)."""

    subject: str
    scans: tuple[ImportedScan, ...]
    kind: str

    @property
    def scan_ids(self) -> tuple[str, ...]:
        """`sub-01/acq-ori01` of every scan."""
        return tuple(f"sub-{self.subject}/{scan.scan}" for scan in self.scans)

    @property
    def labels(self) -> tuple[str, ...]:
        """cosmos, or chi33 and deltab where every scan has both, or chi33."""
        if self.kind == "cosmos":
            return ("cosmos",)
        return ("chi33", "deltab") if self.scans[0].deltab is not None else ("chi33",)

    @property
    def voxels(self) -> tuple[int, ...]:
        """The voxels of every scan's grid."""
        return tuple(int(np.prod(open_image(scan.field).shape)) for scan in self.scans)

    def read_scan(self, number: int) -> Volume:
        """Return the maps of a scan; raises InputError as read_imported does."""
        return read_imported(self.scans[number], self.kind).volume

    def read_tensor(self) -> TensorVolume | None:
        """Return None: no tensor is imported."""
        return None

    def read_cosmos(self) -> ScalarVolume | None:
        """Return the COSMOS map of the first scan, None where the label is chi33."""
        if self.kind != "cosmos":
            return None
        volume = self.read_scan(0)
        return ScalarVolume(volume.id, self.subject, volume.channels["cosmos"], volume.channels[MASK], volume.geometry)

    def fingerprint(self) -> str:
        """Return the hash of the files, their sidecars, and what was given by hand."""
        maps = [path for scan in self.scans for path in scan.paths]
        by_hand = tuple((scan.b0_direction, scan.given) for scan in self.scans)
        return f"{files_fingerprint([*maps, *(sidecar_path(path) for path in maps)])} {self.kind} {by_hand}"


def read_imported(scan: ImportedScan, kind: str) -> ReadScan:
    """Return the maps of a scan in ppm on the field's grid, and what was made of its files.

    Raises InputError where a file is unreadable, not finite in the mask, on another grid, or in a unit that cannot be.
    """
    found = read_field(
        scan.field, scan.mask, given=scan.given, b0_direction=scan.b0_direction, option="--b0-directions"
    )
    channels: dict[str, NDArray[Any]] = {FIELD: found.field}
    scalings, remarks = [(scan.field, found.scaling)], [*found.remarks]
    maps: list[tuple[str, Path, Quantity]] = [(kind, scan.label, "susceptibility")]
    if scan.deltab is not None:
        maps.append(("deltab", scan.deltab, "field"))
    for name, path, quantity in maps:
        volume, said = on_grid_of(read_volume(path), NiftiVolume(scan.field, found.field, found.affine, oriented=True))
        scaling = scaling_of(path, read_sidecar(path), quantity)
        channels[name] = _finite(scaling.apply(volume.values), found, path)
        scalings.append((path, scaling))
        remarks += [said] if said else []
    channels[MASK] = found.mask.astype(np.uint8)
    strength = found.scaling.strength or found.strength
    geometry = Geometry(found.affine, found.b0_direction, float("nan") if strength is None else strength.tesla)
    volume_id = f"sub-{scan.subject}/{scan.scan}"
    channels = {name: np.ascontiguousarray(values) for name, values in channels.items()}
    return ReadScan(
        Volume(volume_id, scan.subject, channels, geometry), tuple(scalings), tuple(remarks), found.direction_stated
    )


def _finite(values: NDArray[np.float32], field: FieldInput, path: Path) -> NDArray[np.float32]:
    """Return the values of a map with 0 for what is not finite outside the mask; InputError where it is inside."""
    finite = np.isfinite(values)
    if bad := int((field.mask & ~finite).sum()):
        raise InputError(f"{path} holds NaN or infinity in {bad} voxels inside its mask: repair the map or the mask.")
    return np.where(finite, values, np.float32(0))


def import_volumes(
    scans: Sequence[ImportedScan],
    path: Path,
    config: BuildConfig | None = None,
    *,
    kind: str = "cosmos",
    overwrite: bool = False,
    progress: Progress | None = None,
    n_procs: int | None = 1,
) -> BuildSummary:
    """Write the store `path` from files of field, label and mask; kind: cosmos or chi33, what the label is.

    Every scan is read and checked first: one grid, finite, a mask with voxels, units that can be converted to ppm, and
    sizes that ppm allow; a field that
    is several times its label's field, or of the opposite sign, is refused, and one that its label does not explain is
    warned of. Raises InputError with the first of these and how many more there are; StepError where the disk is full.
    """
    config = config or BuildConfig()
    check_target(path, overwrite=overwrite)
    subjects = group_subjects(scans, kind)
    if kind == "chi33" and config.augment:
        raise InputError("--augment needs COSMOS maps or tensors to turn, and χ33 is neither: leave it out.")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", Chi33Warning)  # the builder says it again
        split_subjects([subject.subject for subject in subjects], config.val_subjects, config.test_subjects)
    _check_scans(subjects, progress or (lambda *_: None))
    return build_from(subjects, path, config, overwrite=overwrite, progress=progress, n_procs=n_procs)


def _check_scans(subjects: Sequence[ImportedSubject], progress: Progress) -> None:
    """Read and check every scan, one in memory at a time; raises InputError with the first problem and their number."""
    places = [(subject, number) for subject in subjects for number in range(len(subject.scans))]
    problems: list[str] = []
    scalings: list[tuple[Path, Scaling]] = []
    remarks: list[str] = []
    placed: dict[tuple[object, ...], tuple[str, bytes]] = {}
    for done, (subject, number) in enumerate(places):
        progress(done, len(places), f"checking {subject.scan_ids[number]}")
        try:
            found = read_imported(subject.scans[number], subject.kind)
            check_scan(found.volume, subject.scans[number])
            remarks += _shared_grid(found, subject.kind, placed)
        except InputError as error:
            problems.append(str(error))
            continue
        scalings += found.scalings
        remarks += found.remarks
    if problems:
        more = len(problems) - 1
        others = f" ({more} more scan{'s' if more > 1 else ''} cannot be imported either.)" if more else ""
        raise InputError(problems[0] + others)
    for said in dict.fromkeys([*conversions(scalings), *remarks]):
        warnings.warn(said, Chi33Warning, stacklevel=3)


def _shared_grid(found: ReadScan, kind: str, placed: dict[tuple[object, ...], tuple[str, bytes]]) -> list[str]:
    """Return a warning where two scans of a subject on one grid get one direction of B0, none stating its own.

    Raises InputError where they have one and the same label too, so that several fields were brought to one grid.
    placed: the first scan of every grid seen so far, and the digest of its label.
    """
    if found.direction_stated:
        return []
    volume = found.volume
    label = hashlib.sha256(volume.channels[kind].data).digest()
    grid = (volume.subject, volume.mask.shape, *volume.geometry.affine.round(3).ravel().tolist())
    other, same = placed.setdefault(grid, (volume.id, label))
    if other == volume.id:
        return []
    shared = f"{other} and {volume.id} lie on one grid and state no B0_dir, so both get the same direction of B0"
    remedy = "give --b0-directions, or B0_dir in the sidecars of their fields"
    if same == label:
        raise InputError(f"{shared}, although they have one label: {remedy}.")
    return [f"{shared}: where they were resampled to one grid, {remedy}."]


def group_subjects(scans: Sequence[ImportedScan], kind: str) -> tuple[ImportedSubject, ...]:
    """Return scans as subjects, sorted by label; raises InputError for labels and names that cannot be or are twice."""
    if kind not in KINDS:
        raise InputError(f"--label-kind must be one of {', '.join(KINDS)}, got {kind!r}.")
    if not scans:
        raise InputError("there is no scan to import: give --field, --label, --mask and --subjects, or --table.")
    if kind == "cosmos" and (given := next((scan.deltab for scan in scans if scan.deltab), None)):
        raise InputError(f"δB′ ({given}) goes with --label-kind chi33; COSMOS has none: leave it out.")
    with_deltab = [scan for scan in scans if scan.deltab is not None]
    if with_deltab and len(with_deltab) < len(scans):
        without = next(scan for scan in scans if scan.deltab is None)
        raise InputError(f"sub-{without.subject} {without.scan} has no δB′, but others have: give it for all or none.")
    grouped: dict[str, list[ImportedScan]] = {}
    for scan in scans:
        _check_names(scan)
        members = grouped.setdefault(scan.subject, [])
        if any(other.scan == scan.scan for other in members):
            raise InputError(f"sub-{scan.subject} has two scans named {scan.scan}: give each a name of its own.")
        members.append(scan)
    return tuple(ImportedSubject(subject, tuple(grouped[subject]), kind) for subject in sorted(grouped))


def _check_names(scan: ImportedScan) -> None:
    if not _SUBJECT.fullmatch(scan.subject):
        raise InputError(f"the subject label {scan.subject!r} must be letters and digits: rename it, such as 01.")
    if not _SCAN.fullmatch(scan.scan):
        raise InputError(f"the scan name {scan.scan!r} must be like acq-ori01 or run-1: rename it.")


def check_scan(volume: Volume, scan: ImportedScan) -> None:
    """Raise InputError where a scan's maps cannot be in ppm or contradict each other; warn where they do not fit.

    Files are named as they were given. The field is compared with the one of its label: D * label, plus delta_b_prime.
    """
    inside = volume.mask
    label = "cosmos" if "cosmos" in volume.channels else "chi33"
    files = {FIELD: scan.field, label: scan.label, "deltab": scan.deltab}
    for name, path in files.items():
        if name != FIELD and name in volume.channels and (wrong := size_problem(name, volume.channels[name][inside])):
            what = "the susceptibility" if name == label else "the field"
            raise InputError(f"{path} {wrong}: give {what} in ppm, or state its Units in its sidecar.")
    model = label_field(volume.channels[label], volume.channels.get("deltab"), volume.geometry, inside)
    found = agreement(volume.channels[FIELD], model, inside)
    if wrong := agreement_problem(found):
        raise InputError(f"{scan.field} {wrong}.")
    if is_unexplained(found):
        warnings.warn(
            f"{scan.field} has little to do with the field of {scan.label} (correlation {found.correlation:.2f}): "
            "check that both are of one scan, and its B0 direction.",
            Chi33Warning,
            stacklevel=2,
        )
