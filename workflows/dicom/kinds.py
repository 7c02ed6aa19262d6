"""What an image of a DICOM folder is: an echo of a scan, or something made of echoes, coil elements or a correction."""

from __future__ import annotations

import re
from collections.abc import Collection
from typing import Literal

from ...files.maps.field_strength import field_strength_of
from .conversion import DicomImage, Reason

Distortion = Literal["ND", "DIS2D", "DIS3D", ""]

EACH_ECHO = "export the phase of each echo"
_COMBINE = "combine the coils on the scanner (adaptive combine), or export the combined images"
_PROJECTIONS = {"SWI", "MNIP", "MINIP", "MIP", "PROJECTION"}
_DISTORTIONS: tuple[Distortion, ...] = ("DIS3D", "DIS2D", "ND")
_SIEMENS_FIELD_MAP = re.compile(r"fm[23]d\d*r|field_?mapping", re.IGNORECASE)  # two echoes, one phase difference

_OF_A_PART = {
    "mag", "magn", "magnitude", "m", "pha", "phase", "phs", "ph", "p", "real", "re", "r", "imag", "imaginary", "im",
    "i", "image", "images", "img", "nd", "dis", "2d", "norm", "filt", "filtered", "unfiltered", "raw", "map",
}  # fmt: skip

# Of ImageType, which is the scanner's own word; "PHASE MAP" is Philips' name of a phase image.
_DIFFERENCE = Reason("is a phase difference of echoes", EACH_ECHO)
_FIELD_MAP = Reason("is a field map", EACH_ECHO)
_RELAXATION = Reason("is a relaxation map")
_SUSCEPTIBILITY = Reason("is a susceptibility map")
_SEVERAL = Reason("is made of several echoes")
_STATED = (
    (r"\b(PHASE ?DIFF\w*|DIFFERENCE)\b", _DIFFERENCE),
    (r"\b(B0|B0MAP|FIELD ?MAP\w*)\b", _FIELD_MAP),
    (r"\b[TR][12] ?(\*|STAR)? ?MAP\b", _RELAXATION),
    (r"\b(IN|OUT|OPP|OPPOSED) ?PHASE\b|\b(WATER|FAT|W|F|IP|OP)\b", Reason("is a water or fat image")),
    (r"\b(QSM|SUSCEPTIBILITY)\b", _SUSCEPTIBILITY),
    (r"\b(SUM(?! OF SQUARES)|ADD|SUB|MEAN|AVERAGED?|SUBTRACTION|(COMBINED|SUMMED) ECHO\w*)\b", _SEVERAL),
)
_STATED_OF_ONE_ECHO = ((r"\bDERIVED\b.*\b[TR][12] ?(\*|STAR)", _RELAXATION),)
# Of the series' name, which the operator may have chosen: believed of a series with one echo alone.
_SOME = r"(mean|averaged?|avg|sum|summed|combined|rss)"
_NAMED = (
    (r"phase[\s_-]*diff|diff(erence)?[\s_-]*phase|(?<![a-z])p[\s_-]?diff|delta[\s_-]*phase", _DIFFERENCE),
    (r"b0[\s_-]*map(?!p)|field[\s_-]*map(?!p)|(?<![a-z])fmap(?!p)", _FIELD_MAP),
    (r"[tr][12][\s_-]*(\*|star)?[\s_-]*map(?!p)|t2[\s_-]*(\*|star)[\s_-]*images|r2[\s_-]*\*", _RELAXATION),
    (r"(qsm|chi|suscept\w*)[\s_-]*map(?!p)", _SUSCEPTIBILITY),
    (r"swi[\s_-]*images|(?<![a-z])m(in)?ip(?![a-z])", Reason("is a derived image (SWI)")),
    (rf"{_SOME}[\s_-]*(of[\s_-]*)?(all[\s_-]*)?echo|echo\w*[\s_-]*{_SOME}(?![a-z])", _SEVERAL),
)


def why_unusable(image: DicomImage) -> Reason | None:
    """Return why an image can be part of no scan, None where it can."""
    if image.fault:
        return Reason(image.fault, "copy them from the scanner" if "missing" in image.fault else "")
    if len(image.shape) != 3:
        return _why_not_one_volume(image)
    if image.echo_time <= 0:
        return Reason("states no echo time")
    if field_strength_of(image.sidecar) is None:
        return Reason("states no field strength")
    return None


def _why_not_one_volume(image: DicomImage) -> Reason:
    count = image.shape[-1] if len(image.shape) == 4 else 0
    if coil_in_name(image):
        return Reason(f"holds {count} images of single coil elements", _COMBINE)
    if image.made_by.startswith("ge") and count in (2, 3, 4):
        return Reason(
            f"holds {count} images of each slice, as GE stores magnitude, phase, real and imaginary in one series, and "
            "the tag that tells them apart (0043,102F) was taken out",
            "export it again with private tags kept",
        )
    if count:
        return Reason(
            f"holds {count} volumes of one echo (repetitions, coils apart, or parts that no header tells apart)",
            "export each as a series of its own",
        )
    return Reason(f"has {len(image.shape)} dimensions {image.shape}, a GRE echo has 3")


def why_derived(image: DicomImage, in_series: Collection[float], of_name: Collection[float]) -> Reason | None:
    """Return why an image is no echo of a scan, None where it may be one.

    in_series, of_name: the echo times of the same part in its series, and in all series of its name. Phase images of
    several echoes in one series are no difference of echoes; series of several echoes are scans, whatever their name.
    """
    alone = len(in_series) < 2
    text = " ".join(image.image_type).replace("PHASE MAP", "")
    if words := _PROJECTIONS & set(image.image_type) if image.part == "mag" else set():
        return Reason(f"is a derived image ({', '.join(sorted(words))})")
    if "_fieldmaphz" in image.name or str(image.sidecar.get("Units", "")).lower() == "hz":
        return Reason("is a field map in Hz", EACH_ECHO)
    if image.part == "phase" and alone and (between := _difference_of(image)):
        return Reason(f"is a phase difference {between}", EACH_ECHO)
    name = image.series_name.lower()
    sought = [(text, _STATED), *(((text, _STATED_OF_ONE_ECHO), (name, _NAMED)) if len(of_name) < 2 else ())]
    return next((why for where, known in sought for pattern, why in known if re.search(pattern, where)), None)


def _difference_of(image: DicomImage) -> str:
    """Return of which echoes a phase image alone in its series is the difference, "" where nothing says that it is."""
    first, second = image.sidecar.get("EchoTime1"), image.sidecar.get("EchoTime2")
    if first and second:
        return f"of the echoes at {1000 * first:g} and {1000 * second:g} ms"
    sequence = f"{image.sidecar.get('SequenceName', '')} {image.sidecar.get('PulseSequenceDetails', '')}"
    return "of two echoes (a field map's sequence)" if _SIEMENS_FIELD_MAP.search(sequence) else ""


def coil_in_name(image: DicomImage) -> str:
    """Return the coil element that dcm2niix put into the name of an image, "" where there is none."""
    found = re.search(r"_c([A-Za-z]*\d+)(?=_|$)", image.name)
    return found[1] if found else ""


def coil_elements(alike: Collection[DicomImage]) -> dict[str, Reason]:
    """Return, by name, the images of single coil elements among those of one part, echo and start."""
    stated = {image.name: str(image.sidecar.get("CoilString") or "") for image in alike}
    single = {name: coil for name, coil in stated.items() if re.fullmatch(r"[A-Za-z]*_?\d+|[A-Z]", coil)}
    found = single if len(set(single.values())) > 1 else {}
    found |= {image.name: coil for image in alike if (coil := coil_in_name(image))}
    return {name: Reason(f"is of one coil element ({coil})", _COMBINE) for name, coil in found.items()}


def distortion_of(image: DicomImage) -> Distortion:
    """Return the distortion correction that an image states: none (ND), in plane, in space; "" where it states nothing.

    "ND" is also what vendors without such a correction never write.
    """
    named = {word.upper() for word in re.split(r"[\W_]+", image.series_name)}
    for kind in _DISTORTIONS:
        if kind in image.image_type or kind in named:
            return kind
    return "DIS2D" if image.sidecar.get("NonlinearGradientCorrection") is True else ""


def is_corrected(image: DicomImage) -> bool:
    """Tell whether an image was corrected for distortion."""
    return distortion_of(image) not in ("ND", "")


def series_words(image: DicomImage) -> tuple[str, ...]:
    """Return the words of a series' name that tell scans apart: without part, echo, correction and filter."""
    words = re.findall(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+|\d+|[^\W\d_a-zA-Z]+", image.series_name)
    found: list[str] = []
    echo = False
    for word in (word.lower() for word in words):
        if not (word.isdigit() and echo) and word not in _OF_A_PART:
            found.append(word)
        echo = word in ("e", "echo", "te")
    return tuple(word for word in found if word not in ("e", "echo", "te"))
