"""The pictures of the report: maps with scales, outlines and words, echoes, checkerboards of registrations."""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ...files.derivatives import read_image, read_json, read_transform, sidecar_path
from ...pipeline.frames import GYROMAGNETIC_RATIO
from ...pipeline.physics.tensors import COMPONENTS, DIAGONAL
from ..figures.echo import ECHO_ROWS
from ..figures.maps import GreyScale, data_uri, planes_figure, symmetric_scale
from ..figures.registration import Head, registration_figure
from ..figures.tensor import direction_figure
from .files import ScanFiles, SubjectFiles
from .measures import DEVIATIONS, ScanMeasures, SubjectMeasures
from .view import Cuts, components, largest

CHI_SCALE = GreyScale(-0.1, 0.15)
_BRAIN_COLOUR, _LOCAL_COLOUR = "#ff9d2e", "#4cc3ff"
TITLES = {
    "magnitude": "Magnitude",
    "total": "Total field",
    "echoes": "Departure of the echoes from a line",
    "local": "Local field",
    "chi33": "χ33",
    "deltab": "δB′",
    "cosmos": "COSMOS",
    "residual": "Residual of the fitted field",
    "chi33sd": "χ33, standard deviation",
    "deltabsd": "δB′, standard deviation",
    "cosmossd": "COSMOS, standard deviation",
    "mms": "Mean magnetic susceptibility (MMS)",
    "msa": "Susceptibility anisotropy (MSA)",
}
_FIELDS = ("total", "local", "deltab", "residual", "deltabsd")  # ppm of B0, which is a frequency too
UNDETERMINED = "not determined by these orientations"
_REGISTRATION_DPI = 110


@dataclass(frozen=True)
class Picture:
    """A picture of the report: data URI, words for those who do not see it, caption, and what its outlines are."""

    uri: str
    alt: str
    title: str
    detail: str
    outlines: tuple[tuple[str, str], ...] = ()


def registration_pictures(scans: Sequence[ScanFiles], files: SubjectFiles) -> dict[str, Picture]:
    """Return for each scan but the reference a checkerboard with the reference, before and after registration."""
    there = [scan for scan in scans if scan.has_transform and scan.has(scan.path("magnitude", "MEGRE"))]
    transforms = {scan.name: read_transform(scan.transform) for scan in there}
    mean = files.path("mean", "MEGRE")
    fixed = next((scan for scan in there if np.allclose(transforms[scan.name], np.eye(4))), None)
    if files.has(mean):
        reference, name = Head(*read_image(mean)), "the mean of all scans"
    elif fixed is not None:
        reference, name = Head(*read_image(fixed.path("magnitude", "MEGRE"))), f"scan {fixed.name}"
    else:
        return {}
    pictures = {}
    for scan in there:
        if fixed is not None and scan is fixed and not files.has(mean):
            continue
        moving = Head(*read_image(scan.path("magnitude", "MEGRE")))
        figure = registration_figure(moving, reference, transforms[scan.name], names=(f"scan {scan.name}", name))
        pictures[scan.name] = Picture(
            data_uri(figure, "jpeg", dpi=_REGISTRATION_DPI),
            f"Checkerboard of scan {scan.name} and {name}, before and after registration: axial, coronal, sagittal",
            "Registration",
            f"checkerboard with {name}, by the headers and registered: edges run on across tiles where they fit",
        )
    return pictures


def picture_scales(scans: Sequence[ScanMeasures]) -> dict[str, GreyScale]:
    """One grey scale per map for all scans: fixed for susceptibility, symmetric for fields."""
    scales = {"chi33": CHI_SCALE, "cosmos": CHI_SCALE}
    for desc in ("total", "local", "deltab", "residual"):
        scales[desc] = symmetric_scale(max((scan.numbers.get(f"{desc}_size", 0.0) for scan in scans), default=0.0))
    if any("local" in scan.planes for scan in scans):
        scales["residual"] = scales["local"]
    for group, unit in ((("chi33sd", "cosmossd"), "ppm"), (("deltabsd",), "ppm"), (("echoes",), "rad")):
        largest = max((scan.numbers.get(f"{desc}_size", 0.0) for scan in scans for desc in group), default=0.0)
        scales |= dict.fromkeys(group, GreyScale(0.0, symmetric_scale(largest).high, unit))
    return scales


def scan_pictures(scan: ScanMeasures, scales: Mapping[str, GreyScale]) -> list[Picture]:
    """Return the maps of a scan and one of its echoes; of the standard deviations only chi33's.

    The first map also shows the outlines of masks.
    """
    pictures: list[Picture] = []
    masks = [("brain mask", _BRAIN_COLOUR, scan.brain), ("local field valid", _LOCAL_COLOUR, scan.local)]
    for desc, cuts in scan.planes.items():
        if desc in DEVIATIONS[1:]:
            continue
        outlines = [(name, colour, mask) for name, colour, mask in masks if mask is not None] if not pictures else []
        scale = scales.get(desc) or GreyScale(0.0, largest(cuts) or 1.0, "")
        more = _hertz(scale, scan.tesla) if desc in _FIELDS else ""
        pictures.append(
            map_picture(TITLES[desc], f" of scan {scan.name}", cuts, scale, scan.brain, outlines, more=more)
        )
        if len(pictures) == 1 and scan.echo is not None:
            pictures.append(_echo_picture(scan.echo, scan.name))
    return pictures


def _hertz(scale: GreyScale, tesla: float | None) -> str:
    """Return a scale of a field in Hz; empty where the field strength is not known."""
    if tesla is None:
        return ""
    low, high = (value * GYROMAGNETIC_RATIO * tesla for value in (scale.low, scale.high))
    return f" ({low:.3g} to {high:.3g} Hz at {tesla:.4g} T)".replace("-", "\N{MINUS SIGN}")


def _echo_picture(path: Path, name: str) -> Picture:
    """Return the picture of one echo that the run left."""
    record = read_json(sidecar_path(path))
    number, times = record.get("EchoNumber"), record.get("EchoTimes") or ()
    named = f"Echo {number}" if number else "One echo"
    if isinstance(number, int) and 0 < number <= len(times):
        named += f" of {len(times)} ({1000 * times[number - 1]:.4g} ms)"
    rows = ", ".join(ECHO_ROWS)
    return Picture(
        uri=f"data:image/jpeg;base64,{base64.b64encode(path.read_bytes()).decode('ascii')}",
        alt=f"{named} of scan {name} in an axial, a coronal and a sagittal slice; rows: {rows}.",
        title=named,
        detail=f"rows: {rows}",
    )


def map_picture(
    title: str,
    of: str,
    cuts: Cuts,
    scale: GreyScale,
    brain: Cuts | None,
    outlines: Sequence[tuple[str, str, Cuts]] = (),
    *,
    more: str = "",
    undetermined: bool = False,
) -> Picture:
    """Return the picture of a map. more: words after its scale; undetermined: it is not measured, and drawn faint."""
    detail = (scale.words if scale.unit else "arbitrary units") + more
    detail = f"{UNDETERMINED}; {detail}" if undetermined else detail
    drawn = "".join(f", with the outline of the {name}" for name, _, _ in outlines)
    return Picture(
        uri=planes_figure(
            cuts, scale, [(mask, colour) for _, colour, mask in outlines], brain=brain,
            undetermined=UNDETERMINED if undetermined else "",
        ),
        alt=f"{title}{of} in axial, coronal and sagittal slices, {detail}{drawn}.",
        title=title,
        detail=detail,
        outlines=tuple((name, colour) for name, colour, _ in outlines),
    )  # fmt: skip


def subject_pictures(subject: SubjectMeasures, *, undetermined: bool = False) -> list[Picture]:
    """Return the maps of the subject; undetermined: the orientations leave MSA and eigenvector to the prior."""
    planes, of = subject.planes, " in the subject frame"
    pictures = [
        map_picture(TITLES[desc], of, planes[desc], CHI_SCALE, subject.brain)
        for desc in ("cosmos", "mms")
        if desc in planes
    ]
    if "msa" in planes:
        scale = GreyScale(0.0, symmetric_scale(largest(planes["msa"])).high)
        pictures.append(map_picture(TITLES["msa"], of, planes["msa"], scale, subject.brain, undetermined=undetermined))
        if "pev" in planes:
            full = subject.full_msa or scale.high
            pictures.append(_direction_picture(planes["pev"], planes["msa"], full, undetermined=undetermined))
    return pictures


def _direction_picture(direction: Cuts, anisotropy: Cuts, full: float, *, undetermined: bool) -> Picture:
    title = "Principal eigenvector, weighted by MSA"
    detail = f"colour: its direction; brightness: MSA, full from {full:g} ppm on"
    colours = ": left-right red, front-back green, up-down blue"
    if undetermined:
        detail, colours = f"{UNDETERMINED}, so without its colours", ""
    return Picture(
        uri=direction_figure(direction, anisotropy, full, undetermined=UNDETERMINED if undetermined else ""),
        alt=f"{title}, in the subject frame in axial, coronal and sagittal slices{colours}; {detail}.",
        title=title,
        detail=detail,
    )


def tensor_pictures(subject: SubjectMeasures, *, undetermined: bool = False) -> list[Picture]:
    """Return the six components, those off the diagonal on one symmetric scale; undetermined: as subject_pictures."""
    if "tensor" not in subject.planes:
        return []
    tensor, brain = subject.planes["tensor"], subject.brain
    off = [i for i in range(len(COMPONENTS)) if i not in DIAGONAL]
    scale = symmetric_scale(max(largest(components(tensor, i)) for i in off))
    return [
        map_picture(
            f"Tensor component {name}",
            " along the axes of the subject frame",
            components(tensor, i),
            CHI_SCALE if i in DIAGONAL else scale,
            brain,
            undetermined=undetermined,
        )
        for i, name in enumerate(COMPONENTS)
    ]
