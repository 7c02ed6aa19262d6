"""Raw data sets of simulated heads, BIDS, DICOM or both, with the truth beside them under derivatives/truth."""

from __future__ import annotations

import shutil
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np

from ...files.derivatives import check_free_space, read_json, write_dataset_description
from ...files.errors import InputError
from ...pipeline.phantom.acquisition import Protocol
from ...pipeline.phantom.living.effects import IDEAL, Effects, Preset, hyphened
from ...pipeline.phantom.living.tilts import managed_orientations
from ...pipeline.phantom.poses import HeadPose, ScanGrid, head_orientations, scan_grid
from ...pipeline.phantom.truth import brain_centred_grid_centre
from .files import write_echo, write_record, write_scan_truth, write_subject_truth
from .scans import SimulatedScan, Subject, prepared_subject
from .vendors import StoredImage, Vendor, bytes_per_voxel, digitised, stored_images

Report = Callable[[str], None]
Record = dict[str, Any]
Format = Literal["nifti", "dicom", "both"]
_BYTES_PER_VOXEL = 3.8  # of an echo's magnitude and phase on disk, compressed
_TRUTH_BYTES_PER_VOXEL = 30


@dataclass(frozen=True)
class Simulation:
    """What to simulate.

    subjects: how many; orientations: scans of each, or a number a subject; voxels: sizes (3,) in mm right-left,
    posterior-anterior, inferior-superior, taken in turn by the orientations; max_angle, oblique: degrees; matrix:
    voxels along those axes (default: a field of view of 210 x 224 x 160 mm); axcodes: directions of the array axes;
    isotropic: no white-matter anisotropy; seed: of all; format: of the raw scans; vendor: in whose numbers, whatever
    the format. The polarity of all phase is the protocol's, whatever the vendor. preset: where the effects come from;
    effects: of a living head and a real scanner, with their strengths.
    """

    subjects: int = 1
    orientations: int | tuple[int, ...] = 6
    voxels: tuple[tuple[float, float, float], ...] = ((1.0, 1.0, 1.0),)
    max_angle: float = 35.0
    oblique: float = 0.0
    matrix: tuple[int, int, int] | None = None
    axcodes: str = "RAS"
    protocol: Protocol = field(default_factory=Protocol)
    isotropic: bool = False
    seed: int = 0
    format: Format = "nifti"
    vendor: Vendor = "siemens"
    preset: Preset = "ideal"
    effects: Effects = IDEAL

    def __post_init__(self) -> None:
        if self.subjects < 1:
            raise InputError(f"the number of subjects must be at least 1, got {self.subjects}.")
        if self.seed < 0:
            raise InputError(f"seed must be at least 0, got {self.seed}.")
        choices_of = (("format", self.format, Format), ("vendor", self.vendor, Vendor), ("preset", self.preset, Preset))
        for name, value, choices in choices_of:
            if value not in get_args(choices):
                raise InputError(f"{name} must be one of {', '.join(get_args(choices))}, got {value!r}.")
        if not self.voxels:
            raise InputError("at least one voxel size is needed, got none.")
        if isinstance(self.orientations, tuple) and len(self.orientations) != self.subjects:
            raise InputError(
                f"orientations has {len(self.orientations)} numbers for {self.subjects} subject(s): give one for all, "
                "or one for each."
            )
        for count in self.scans_by_subject:
            head_orientations(count, self.max_angle, self.seed)
        if self.isotropic and (needed := [n for n in ("myelin", "tracts") if n in self.effects.names]):
            raise InputError(
                f"isotropic leaves out the fibres that {' and '.join(needed)} need{'s' if len(needed) == 1 else ''}: "
                f"leave isotropic out, or switch off what needs them (--without {','.join(map(hyphened, needed))})."
            )
        for voxel in self.voxels:
            self.grid_at(voxel, np.zeros(3), 0.0)

    def grid_at(self, voxel: tuple[float, float, float], centre: np.ndarray, azimuth: float) -> ScanGrid:
        """Return the scan grid of a voxel size around a world point (3,), tilted about a horizontal axis (degrees)."""
        return scan_grid(
            voxel, centre, matrix=self.matrix, oblique=self.oblique, oblique_azimuth=azimuth, axcodes=self.axcodes
        )

    def poses(self, count: int, seed: tuple[int, ...]) -> list[HeadPose]:
        """Return the poses of a subject's scans: an even ring, or the uneven tilts that people manage."""
        if self.effects.tilts:
            return managed_orientations(count, self.max_angle, self.effects.tilts, seed)
        return head_orientations(count, self.max_angle, seed)

    @property
    def scans_by_subject(self) -> tuple[int, ...]:
        """How many scans each subject has."""
        return self.orientations if isinstance(self.orientations, tuple) else (self.orientations,) * self.subjects

    @property
    def scans(self) -> int:
        """How many scans there are."""
        return sum(self.scans_by_subject)

    @property
    def bytes_on_disk(self) -> int:
        """About how much disk the data set takes."""
        voxels = [float(np.prod(self.grid_at(voxel, np.zeros(3), 0.0).shape)) for voxel in self.voxels]
        raw = _BYTES_PER_VOXEL if self.format != "dicom" else 0.0
        raw += bytes_per_voxel(self.vendor) if self.format != "nifti" else 0
        each = raw * len(self.protocol.echo_times) + _TRUTH_BYTES_PER_VOXEL / 4
        return int(self.scans * float(np.mean(voxels)) * each)


def simulate_dataset(out: Path, simulation: Simulation, *, overwrite: bool = False, report: Report = print) -> Path:
    """Write a raw BIDS data set of simulated scans to `out` and its truth to `out/derivatives/truth`; return `out`.

    The DICOM files of a subject, where they are asked for, lie in `out/sourcedata/sub-01`.
    Everything is written to a temporary folder beside `out` and renamed at the end. report: told each finished scan as
    "[2/6] sub-01: scan 2 of 3", and what else is done. Raises InputError where `out` is in use (an earlier simulation
    is replaced only with overwrite=True) or the disk is too small.
    """
    out = Path(out)
    _check_out(out, overwrite)
    check_free_space(out, simulation.bytes_on_disk)
    with _renamed_at_the_end(out) as folder:
        truth = folder / "derivatives" / "truth"
        write_dataset_description(folder, name="chi33 simulated heads", dataset_type="raw")
        write_dataset_description(truth, name="Truth of the chi33 simulated heads", source=out.name)
        labels = [f"{number:02d}" for number in range(1, simulation.subjects + 1)]
        participants = "participant_id\n" + "".join(f"sub-{label}\n" for label in labels)
        (folder / "participants.tsv").write_text(participants, encoding="utf-8")
        (folder / "README").write_text(_readme(simulation), encoding="utf-8")
        records = [
            _simulate_subject(folder, truth, number, simulation, report) for number in range(simulation.subjects)
        ]
        write_record(truth, simulation.preset, simulation.effects, records)
    return out


def _simulate_subject(folder: Path, truth_folder: Path, number: int, simulation: Simulation, report: Report) -> Record:
    label, seed = f"{number + 1:02d}", (simulation.seed, number)
    before, scans = sum(simulation.scans_by_subject[:number]), simulation.scans_by_subject[number]
    report(f"sub-{label}: building the head")
    subject = prepared_subject(seed, simulation.protocol, simulation.effects, isotropic=simulation.isotropic)
    poses = simulation.poses(scans, seed)
    azimuth = float(np.random.default_rng([*seed, 505]).uniform(0, 360))
    events = []
    for scan, pose in enumerate(poses):
        voxel = simulation.voxels[scan % len(simulation.voxels)]
        frame = simulation.grid_at(voxel, np.zeros(3), azimuth).frame
        grid = simulation.grid_at(voxel, brain_centred_grid_centre(subject.head, pose, frame), azimuth)
        simulated = subject.scan(scan, pose, grid, max(min(voxel), 1.0))
        _write_scan(folder, truth_folder, (label, scan), simulated, poses[0], simulation)
        events.append({"Scan": f"acq-ori{scan + 1:02d}", **simulated.events})
        report(f"[{before + scan + 1}/{simulation.scans}] sub-{label}: scan {scan + 1} of {scans}")
    return _subject_record(label, subject, events)


def _subject_record(label: str, subject: Subject, events: list[Record]) -> Record:
    parameters = asdict(subject.head.parameters)
    return {
        "Subject": f"sub-{label}",
        "Head": {name: value for name, value in parameters.items() if name != "seed"},
        "Effects": {hyphened(name): value for name, value in asdict(subject.effects).items()},
        "Scans": events,
    }


def _write_scan(
    folder: Path,
    truth_folder: Path,
    name: tuple[str, int],
    simulated: SimulatedScan,
    reference: HeadPose,
    simulation: Simulation,
) -> None:
    label, number = name
    truth, grid, protocol = simulated.truth, simulated.truth.grid, simulation.protocol
    scan = f"acq-ori{number + 1:02d}"
    stored: list[StoredImage] = []
    for echo in simulated.echoes:
        images = list(stored_images(echo, simulation.vendor))
        if simulation.format != "dicom":
            write_echo(folder, label, scan, digitised(echo, images, simulation.vendor), grid, protocol)
        if simulation.format != "nifti":
            stored += images
    if stored:
        from .dicom import ScanHeader, write_dicom_scan  # pydicom is loaded only where it is needed

        header = ScanHeader(simulation.vendor, label, simulation.seed, number, grid, protocol)
        write_dicom_scan(folder / "sourcedata" / f"sub-{label}", header, stored)
    transform = truth.pose.transform_to(reference)
    write_scan_truth(truth_folder, label, scan, truth, transform, protocol, simulated.extra)
    if number == 0:
        write_subject_truth(truth_folder, label, truth, protocol)


def _check_out(out: Path, overwrite: bool) -> None:
    if out.exists() and not out.is_dir():
        raise InputError(f"{out} is a file: give a folder for the simulated data set.")
    if not out.is_dir() or not any(out.iterdir()):
        return
    description = out / "dataset_description.json"
    made_here = description.is_file() and read_json(description).get("Name") == "chi33 simulated heads"
    if not made_here:
        raise InputError(f"{out} holds files that no simulation wrote: choose another folder.")
    if not overwrite:
        raise InputError(f"{out} holds a simulated data set already: pass --overwrite to replace it.")


@contextmanager
def _renamed_at_the_end(out: Path) -> Iterator[Path]:
    token = uuid.uuid4().hex
    folder, old = out.with_name(f".{out.name}.{token}"), out.with_name(f".{out.name}.{token}.old")
    try:
        folder.mkdir(parents=True)
    except OSError as error:
        raise InputError(f"{out.parent} cannot be written ({error.strerror}): choose another folder.") from error
    try:
        yield folder
        if out.exists():
            out.replace(old)
        folder.replace(out)
    finally:
        if old.exists() and not out.exists():  # interrupted between the two renames
            old.replace(out)
        for leftover in (folder, old):
            shutil.rmtree(leftover, ignore_errors=True)


def _readme(simulation: Simulation) -> str:
    orientations = ", ".join(map(str, dict.fromkeys(simulation.scans_by_subject)))
    sizes = "; ".join(" x ".join(f"{edge:g}" for edge in voxel) for voxel in simulation.voxels)
    return (
        "Multi-echo gradient-echo scans of simulated heads, made by `chi33 simulate`.\n\n"
        f"{simulation.subjects} subject(s), {orientations} head orientation(s) up to "
        f"{simulation.max_angle:g} degrees, voxels of {sizes} mm, slices {simulation.oblique:g} degrees oblique, "
        f"{simulation.protocol.b0:g} T, signal-to-noise ratio {simulation.protocol.snr:g}, seed {simulation.seed}.\n"
        "The anatomy follows the ICBM 152 2009a template. What is true of each scan lies in derivatives/truth.\n"
        + _effects_line(simulation.effects)
        + ("" if simulation.format == "nifti" else f"The DICOM files, as {simulation.vendor}, lie in sourcedata.\n")
    )


def _effects_line(effects: Effects) -> str:
    if not effects.names:
        return ""
    return f"Effects of a living head and a real scanner: {', '.join(map(hyphened, effects.names))}.\n"
