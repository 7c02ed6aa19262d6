"""The pictures of the report: maps with their scales, outlines and words, and checkerboards of registrations."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from ..pipeline.tensors import COMPONENTS, DIAGONAL
from .derivatives import Derivatives, is_complete, read_image, read_transform
from .figures import GreyScale, Planes, data_uri, planes_figure, symmetric_scale
from .figures_tensor import direction_figure
from .registration_figure import Head, registration_figure
from .report_measures import DEVIATIONS, ScanFiles, ScanMeasures, SubjectMeasures

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
    "residual": "Residual of the local field",
    "chi33sd": "χ33, standard deviation",
    "deltabsd": "δB′, standard deviation",
    "cosmossd": "COSMOS, standard deviation",
    "mms": "Mean magnetic susceptibility (MMS)",
    "msa": "Susceptibility anisotropy (MSA)",
}
_REGISTRATION_DPI = 110


@dataclass(frozen=True)
class Picture:
    """A picture of the report: data URI, words for those who do not see it, caption, and what its outlines are."""

    uri: str
    alt: str
    title: str
    detail: str
    outlines: tuple[tuple[str, str], ...] = ()


def registration_pictures(scans: Sequence[ScanFiles], files: Derivatives) -> dict[str, Picture]:
    """Return for each scan but the reference a checkerboard with the reference, before and after registration."""
    there = [scan for scan in scans if scan.transform.is_file() and is_complete(scan.path("magnitude", "MEGRE"))]
    transforms = {scan.name: read_transform(scan.transform) for scan in there}
    mean = files.path(space="subject", suffix="MEGRE", desc="mean")
    fixed = next((scan for scan in there if np.allclose(transforms[scan.name], np.eye(4))), None)
    if is_complete(mean):
        reference, name = Head(*read_image(mean)), "the mean of all scans"
    elif fixed is not None:
        reference, name = Head(*read_image(fixed.path("magnitude", "MEGRE"))), f"scan {fixed.name}"
    else:
        return {}
    pictures = {}
    for scan in there:
        if fixed is not None and scan is fixed and not is_complete(mean):
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
    """The maps of a scan, of the standard deviations only chi33's; the first one also shows the outlines of masks."""
    pictures: list[Picture] = []
    masks = [("brain mask", _BRAIN_COLOUR, scan.brain), ("local field valid", _LOCAL_COLOUR, scan.local)]
    for desc, planes in scan.planes.items():
        if desc in DEVIATIONS[1:]:
            continue
        outlines = [(name, colour, mask) for name, colour, mask in masks if mask is not None] if not pictures else []
        scale = scales.get(desc) or GreyScale(0.0, planes.size or 1.0, "")
        pictures.append(map_picture(TITLES[desc], f" of scan {scan.name}", planes, scale, scan.brain, outlines))
    return pictures


def map_picture(
    title: str,
    of: str,
    planes: Planes,
    scale: GreyScale,
    brain: Planes | None,
    outlines: Sequence[tuple[str, str, Planes]] = (),
) -> Picture:
    detail = scale.words if scale.unit else "arbitrary units"
    drawn = "".join(f", with the outline of the {name}" for name, _, _ in outlines)
    return Picture(
        uri=planes_figure(planes, scale, [(mask, colour) for _, colour, mask in outlines], brain=brain),
        alt=f"{title}{of} in an axial, a coronal and a sagittal slice, {detail}{drawn}.",
        title=title,
        detail=detail,
        outlines=tuple((name, colour) for name, colour, _ in outlines),
    )


def subject_pictures(subject: SubjectMeasures) -> list[Picture]:
    planes = subject.planes
    pictures: list[Picture] = []
    for desc in ("cosmos", "mms"):
        if desc in planes:
            pictures.append(map_picture(TITLES[desc], " in the subject frame", planes[desc], CHI_SCALE, subject.brain))
    if "msa" in planes:
        scale = GreyScale(0.0, symmetric_scale(planes["msa"].size).high)
        pictures.append(map_picture(TITLES["msa"], " in the subject frame", planes["msa"], scale, subject.brain))
        if "pev" in planes:
            pictures.append(_direction_picture(planes["pev"], planes["msa"], subject.full_msa or scale.high))
    return pictures


def _direction_picture(direction: Planes, anisotropy: Planes, full: float) -> Picture:
    title = "Principal eigenvector, weighted by MSA"
    detail = f"colour: its direction; brightness: MSA, full from {full:g} ppm on"
    return Picture(
        uri=direction_figure(direction, anisotropy, full),
        alt=f"{title}, in the subject frame in an axial, a coronal and a sagittal slice: left-right red, front-back "
        f"green, up-down blue; {detail}.",
        title=title,
        detail=detail,
    )


def tensor_pictures(subject: SubjectMeasures) -> list[Picture]:
    """The six components; those off the diagonal on one symmetric scale."""
    if "tensor" not in subject.planes:
        return []
    tensor, brain = subject.planes["tensor"], subject.brain
    off = [i for i in range(len(COMPONENTS)) if i not in DIAGONAL]
    scale = symmetric_scale(max(tensor.component(i).size for i in off))
    return [
        map_picture(
            f"Tensor component {name}",
            " along the axes of the subject frame",
            tensor.component(i),
            CHI_SCALE if i in DIAGONAL else scale,
            brain,
        )
        for i, name in enumerate(COMPONENTS)
    ]
