"""The methods paragraph of the report with its references, and provenance as rows of a table."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from .. import __version__

_REFERENCES = {
    "bids": "Gorgolewski KJ, Auer T, Calhoun VD, et al. The brain imaging data structure, a format for organizing and "
    "describing outputs of neuroimaging experiments. Sci Data 2016;3:160044. doi:10.1038/sdata.2016.44",
    "nipype": "Gorgolewski K, Burns CD, Madison C, et al. Nipype: a flexible, lightweight and extensible neuroimaging "
    "data processing framework in Python. Front Neuroinform 2011;5:13. doi:10.3389/fninf.2011.00013",
    "bet": "Smith SM. Fast robust automated brain extraction. Hum Brain Mapp 2002;17:143–155. doi:10.1002/hbm.10062",
    "romeo": "Dymerska B, Eckstein K, Bachrata B, et al. Phase unwrapping with a rapid opensource minimum spanning "
    "tree algorithm (ROMEO). Magn Reson Med 2021;85:2294–2308. doi:10.1002/mrm.28563",
    "laplacian": "Schofield MA, Zhu Y. Fast phase unwrapping algorithm for interferometric applications. "
    "Opt Lett 2003;28:1194–1196. doi:10.1364/OL.28.001194",
    "sharp": "Schweser F, Deistung A, Lehr BW, Reichenbach JR. Quantitative imaging of intrinsic magnetic tissue "
    "properties using MRI signal phase. NeuroImage 2011;54:2789–2807. doi:10.1016/j.neuroimage.2010.10.070",
    "vsharp": "Wu B, Li W, Guidon A, Liu C. Whole brain susceptibility mapping using compressed sensing. "
    "Magn Reson Med 2012;67:137–147. doi:10.1002/mrm.23000",
    "flirt": "Jenkinson M, Bannister P, Brady M, Smith S. Improved optimization for the robust and accurate linear "
    "registration and motion correction of brain images. NeuroImage 2002;17:825–841. doi:10.1006/nimg.2002.1132",
    "sitk": "Lowekamp BC, Chen DT, Ibáñez L, Blezek D. The design of SimpleITK. Front Neuroinform 2013;7:45. "
    "doi:10.3389/fninf.2013.00045",
    "mattes": "Mattes D, Haynor DR, Vesselle H, Lewellen TK, Eubank W. PET-CT image registration in the chest using "
    "free-form deformations. IEEE Trans Med Imaging 2003;22:120–128. doi:10.1109/TMI.2003.809072",
    "cosmos": "Liu T, Spincemaille P, de Rochefort L, Kressler B, Wang Y. Calculation of susceptibility through "
    "multiple orientation sampling (COSMOS). Magn Reson Med 2009;61:196–204. doi:10.1002/mrm.21828",
    "sti": "Liu C. Susceptibility tensor imaging. Magn Reson Med 2010;63:1471–1477. doi:10.1002/mrm.22482",
    "modl": "Feng R, Zhao J, Wang H, et al. MoDL-QSM: model-based deep learning for quantitative susceptibility "
    "mapping. NeuroImage 2021;240:118376. doi:10.1016/j.neuroimage.2021.118376",
}


@dataclass(frozen=True)
class Methods:
    """The methods as sentences with numbered citations, and the references in that order."""

    text: str
    references: tuple[str, ...]


def lookup(provenance: Mapping[str, Any], name: str) -> Any:
    """Return the value of a key nearest to the top of nested mappings; None where it is nowhere."""
    level: list[Mapping[str, Any]] = [provenance]
    while level:
        for mapping in level:
            if mapping.get(name) is not None:
                return mapping[name]
        level = [value for mapping in level for value in mapping.values() if isinstance(value, Mapping)]
    return None


def flatten(provenance: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, str]]:
    """Yield (key, value) rows of nested mappings and lists, keys joined by dots; lists of plain values in one row."""
    for key, value in provenance.items():
        name = f"{prefix}{key}"
        if isinstance(value, Mapping):
            yield from flatten(value, f"{name}.")
        elif _is_list(value) and any(isinstance(one, Mapping) or _is_list(one) for one in value):
            yield from flatten({str(i + 1): one for i, one in enumerate(value)}, f"{name}.")
        elif _is_list(value):
            yield name, ", ".join(map(_plain, value))
        else:
            yield name, _plain(value)


def write_methods(provenance: Mapping[str, Any]) -> Methods:
    """Return the methods paragraph that provenance supports: a step it does not name is not described."""
    cited: list[str] = []
    sentences = [_finish(template, cited) for template in _sentences(provenance)]
    if not sentences:
        return Methods("The provenance of these files names no processing step.", ())
    return Methods(" ".join(sentences), tuple(_REFERENCES[key] for key in cited))


def _finish(template: str, cited: list[str]) -> str:
    """Replace each `{key,key}` by numbers in order of first citation."""
    out, *parts = template.split("{")
    for part in parts:
        keys, rest = part.split("}", 1)
        for key in keys.split(","):
            if key not in cited:
                cited.append(key)
        out += "[" + ", ".join(str(cited.index(key) + 1) for key in keys.split(",")) + "]" + rest
    return out


def _sentences(provenance: Mapping[str, Any]) -> list[str]:
    steps = [_mask(provenance), _field(provenance), _background(provenance), _registration(provenance)]
    steps += _fit(provenance)
    named = [step for step in steps if step]
    if not named:
        return []
    software = lookup(provenance, "tools")
    versions = [f"{name} {version}" for name, version in software.items()] if isinstance(software, Mapping) else []
    opening = f"Data in BIDS {{bids}} were processed with chi33 {lookup(provenance, 'chi33_version') or __version__} "
    opening += "in a Nipype workflow {nipype}"
    return [opening + (f" (software: {', '.join(versions)})." if versions else "."), *named]


def _mask(provenance: Mapping[str, Any]) -> str:
    tool = {"fsl": "FSL BET", "builtin": "the BET algorithm (brainextractor)"}.get(str(lookup(provenance, "backend")))
    if tool is None:
        return ""
    threshold = lookup(provenance, "bet_threshold")
    return f"The brain was masked in each scan with {tool} {{bet}}" + _given("fractional threshold", threshold) + "."


def _field(provenance: Mapping[str, Any]) -> str:
    method = lookup(provenance, "unwrap")
    names = {"romeo": "with ROMEO {romeo}, run by niimath,", "laplacian": "with the Laplacian method {laplacian}"}
    if method not in names:
        return ""
    sign = " after its sign was reversed" if lookup(provenance, "phase_sign") == -1 else ""
    return (
        f"Phase was unwrapped {names[method]}{sign} and the echoes were combined to a total field in ppm of B0 by a "
        "line through the phase of each voxel, weighted by the squared magnitude, with an intercept for the coil phase "
        "that was smoothed over space."
    )


def _background(provenance: Mapping[str, Any]) -> str:
    largest, threshold = lookup(provenance, "vsharp_largest_radius"), lookup(provenance, "vsharp_threshold")
    if largest is None and threshold is None:
        return ""
    smallest = lookup(provenance, "vsharp_smallest_radius")
    radii = f"radii {smallest} to {largest} mm" if smallest else f"radii up to {largest} mm"
    details = [radii] * (largest is not None) + [f"threshold {threshold}"] * (threshold is not None)
    return f"The background field was removed with V-SHARP {{sharp,vsharp}} ({', '.join(details)})."


def _registration(provenance: Mapping[str, Any]) -> str:
    backend, reference = lookup(provenance, "backend"), lookup(provenance, "reference")
    tools = {
        "fsl": "FSL FLIRT {flirt}",
        "builtin": "SimpleITK {sitk} (similarity, Mattes mutual information {mattes}, refined by correlation)",
    }
    images = {"fsl": "of the first echo", "builtin": "extrapolated to echo time 0"}
    if backend not in tools:
        return ""
    target = f"the reference scan {reference}" if reference else "the reference scan"
    return (
        f"Magnitudes {images[backend]} were registered to {target} with 7 degrees of freedom by {tools[backend]}; the "
        "rotation part gave the direction of B0 of each scan in the subject frame."
    )


def _fit(provenance: Mapping[str, Any]) -> list[str]:
    kind = lookup(provenance, "fit")
    ways = {
        "closed": "in closed form, point by point in k-space,",
        "masked": "inside the mask, by preconditioned conjugate gradients,",
        "single-step": "in a single step from the total fields, by preconditioned conjugate gradients,",
    }
    if kind not in ways:
        return []
    iso, aniso, noise = (lookup(provenance, name) for name in ("prior_iso", "prior_aniso", "noise"))
    prior = f" of {iso} ppm (isotropic part) and {aniso} ppm (traceless part)" if iso and aniso else ""
    assumed = f" and field noise of {noise:.3g} ppm" if isinstance(noise, float) else ""
    return [
        f"A scalar map (COSMOS {{cosmos}}) and the susceptibility tensor {{sti}} were fitted {ways[kind]} with "
        f"Gaussian priors{prior}{assumed}.",
        "For each scan the apparent susceptibility along B0, χ33, and the field of the transverse part, δB′, were "
        "computed from the tensor on that scan's own grid {modl}. Susceptibilities are relative to the mean over the "
        "brain mask.",
    ]


def _given(name: str, value: Any) -> str:
    return "" if value is None else f" ({name} {value})"


def _is_list(value: Any) -> bool:
    return isinstance(value, Sequence) and not isinstance(value, str | bytes)


def _plain(value: Any) -> str:
    if value is None:
        return "not set"
    if isinstance(value, bool):
        return "yes" if value else "no"
    return f"{value:.6g}" if isinstance(value, float) else str(value)
