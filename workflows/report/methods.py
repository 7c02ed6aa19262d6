"""The methods paragraph of the report with its references, and provenance and the fit's record as rows of tables.

The record of a fit is the sidecar of the tensor map: every key of it may be missing, as in older derivatives.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from math import isfinite
from typing import Any

import numpy as np

from ... import __version__
from ...pipeline.frames import GYROMAGNETIC_RATIO
from ...pipeline.masks.consensus import LEAST_SCANS
from .references import REFERENCES, citation_key

_FIT_NAMES = {
    "closed": "closed form, from local fields",
    "masked": "iterative within the masks, from local fields",
    "single-step": "single step, from total fields",
}


@dataclass(frozen=True)
class Methods:
    """The methods as sentences with numbered citations and the references in that order.

    keys: of REFERENCES, in that order; markdown: the sentences with citations by key, `[@liu2009cosmos]`.
    """

    text: str
    keys: tuple[str, ...] = ()
    markdown: str = ""

    @property
    def references(self) -> tuple[str, ...]:
        """The references in words."""
        return tuple(REFERENCES[key].words for key in self.keys)


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


def recorded(record: Mapping[str, Any], name: str) -> float | None:
    """Return a finite number of a fit's record; None where there is none."""
    value = record.get(name)
    return float(value) if isinstance(value, int | float) and isfinite(value) else None


def write_methods(provenance: Mapping[str, Any], record: Mapping[str, Any] | None = None) -> Methods:
    """Return the methods paragraph that provenance and the fit's record support: a step neither names is left out."""
    template = " ".join(_sentences(provenance, record or {}))
    if not template:
        return Methods("The provenance of these files names no processing step.")
    cited: list[str] = []

    def numbers(keys: list[str]) -> str:
        cited.extend(key for key in keys if key not in cited)
        return ", ".join(str(cited.index(key) + 1) for key in keys)

    text = _cite(template, numbers)
    return Methods(text, tuple(cited), _cite(template, lambda keys: "; ".join(f"@{citation_key(key)}" for key in keys)))


def _cite(template: str, citation: Callable[[list[str]], str]) -> str:
    """Replace each `{key,key}` of known references by a citation in brackets."""

    def one(match: re.Match[str]) -> str:
        keys = match[1].split(",")
        return f"[{citation(keys)}]" if set(keys) <= REFERENCES.keys() else match[0]

    return re.sub(r"\{([a-z,]+)\}", one, template)


def _sentences(provenance: Mapping[str, Any], record: Mapping[str, Any]) -> list[str]:
    kind = _kind(provenance, record)
    steps = [_mask(provenance), _field(provenance), _background(provenance, kind), _registration(provenance)]
    steps += _fit(kind, provenance, record)
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
    if lookup(provenance, "masks"):
        return "Brain masks were given."
    if lookup(provenance, "mask_method") == "deepbet":
        version = (lookup(provenance, "tools") or {}).get("deepbet", "")
        said = f"The brain was masked in each scan with the networks of {f'deepbet {version}'.strip()} {{deepbet}}."
    else:
        threshold = lookup(provenance, "bet_threshold")
        said = f"The brain was masked in each scan with {tool} {{bet}}" + _given("fractional threshold", threshold)
        said += "."
    if lookup(provenance, "mask_consensus") and len(lookup(provenance, "scans") or ()) >= LEAST_SCANS:
        said += " Masks that disagreed with the majority of the other scans were replaced by it in the subject frame."
    return said


def _field(provenance: Mapping[str, Any]) -> str:
    method = lookup(provenance, "unwrap")
    names = {"romeo": "with ROMEO {romeo}, run by niimath,", "laplacian": "with the Laplacian method {laplacian}"}
    if method not in names:
        return ""
    signs = {int(one) for one in (lookup(provenance, "signs") or {}).values()} or {lookup(provenance, "phase_sign")}
    reversed_in = {
        frozenset({-1}): " after its sign was reversed",
        frozenset({1, -1}): " after that of some scans was reversed",
    }
    sign = reversed_in.get(frozenset(signs), "")
    by = "a line through the phase of each voxel, weighted by the squared magnitude, with an intercept for the coil "
    by += "phase that was smoothed over space"
    if lookup(provenance, "combination") == "average":
        by = "the plain mean over echoes of phase over 2πγB0TE {modl}"
    return (
        f"Phase was unwrapped {names[method]}{sign} and the echoes were combined to a total field in ppm of B0 by {by}."
    )


def _background(provenance: Mapping[str, Any], kind: str) -> str:
    method = str(lookup(provenance, "background") or "vsharp")
    if method == "vsharp":
        largest, threshold = lookup(provenance, "vsharp_largest_radius"), lookup(provenance, "vsharp_threshold")
        if largest is None and threshold is None:
            return ""
        smallest = lookup(provenance, "vsharp_smallest_radius")
        radii = f"radii {smallest} to {largest} mm" if smallest else f"radii up to {largest} mm"
        details = [radii] * (largest is not None) + [f"threshold {threshold}"] * (threshold is not None)
        used = f"V-SHARP {{sharp,spheres,vsharp}} ({', '.join(details)})"
    else:
        used = {"resharp": "RESHARP {resharp}", "pdf": "projection onto dipole fields {pdf}",
                "ismv": "the iterative spherical mean value method {ismv}",
                "lbv": "the Laplacian boundary value method {lbv}"}[method]  # fmt: skip
    if kind == "single-step":
        return f"Local fields, which the fit did not use, were made with {used}."
    return f"The background field was removed with {used}."


def _registration(provenance: Mapping[str, Any]) -> str:
    backend, reference = lookup(provenance, "backend"), lookup(provenance, "reference")
    tools = {
        "fsl": "FSL FLIRT {flirt}",
        "builtin": "SimpleITK {sitk} (similarity, Mattes mutual information {mattes}), refined by robust least squares "
        "in the brain",
    }
    images = {"fsl": "of the first echo", "builtin": "extrapolated to echo time 0"}
    if backend not in tools:
        return ""
    target = f"the reference scan {reference}" if reference else "the reference scan"
    if reference == "mean":
        target = "one another and then to their mean image, in the mean of their frames,"
    return (
        f"Magnitudes {images[backend]} were registered to {target} with 7 degrees of freedom by {tools[backend]}; the "
        "rotation part gave the direction of B0 of each scan in the subject frame."
    )


def _kind(provenance: Mapping[str, Any], record: Mapping[str, Any]) -> str:
    return str(record.get("Fit") or lookup(provenance, "fit"))


def _fit(kind: str, provenance: Mapping[str, Any], record: Mapping[str, Any]) -> list[str]:
    ways = {
        "closed": "in closed form, point by point in k-space",
        "masked": "to the local fields within the masks of the scans, by preconditioned conjugate gradients",
        "single-step": "in a single step {single} to the total fields, the background removed inside the fit, by "
        "preconditioned conjugate gradients",
    }
    if kind not in ways:
        return []
    noise = recorded(record, "FieldNoisePpm") or lookup(provenance, "noise")
    given = {f"Prior{part.title()}Ppm": lookup(provenance, f"prior_{part}") for part in ("iso", "aniso")}
    priors = _priors({key: value for key, value in given.items() if value is not None} | dict(record))
    prior = f" of {priors[0]} (isotropic part) and {priors[1]} (traceless part)" if priors else ""
    assumed = f" and field noise of {noise:.3g} ppm" if isinstance(noise, float) else ""
    return [
        f"A scalar map (COSMOS {{cosmos}}) and the susceptibility tensor {{sti}} were fitted {ways[kind]}, with "
        f"Gaussian priors{prior}{assumed}.",
        _tissue(record),
        _filter(kind, record),
        _weights(kind, record),
        _stopping(record),
        "For each scan the apparent susceptibility along B0, χ33, and the field of the transverse part, δB′, were "
        "computed from the tensor on that scan's own grid {modl}. Susceptibilities are relative to the mean over the "
        "brain mask.",
        *_uncertainty(record),
    ]


def _filter(kind: str, record: Mapping[str, Any]) -> str:
    if kind != "single-step":
        return ""
    radii = _listed(record.get("RadiiMm"))
    spheres = f"spheres of radius {', '.join(radii)} mm" if radii else "spheres of several radii"
    return (
        "Data and model passed one filter, the field less its mean over a sphere {sharp,vsharp}, at each voxel with "
        f"the largest of {spheres} that fits into the scan's mask; nothing was deconvolved."
    )


def _weights(kind: str, record: Mapping[str, Any]) -> str:
    if kind == "closed":
        return ""
    ways = {
        "mask": "Every voxel of a scan's mask had the same weight.",
        "magnitude": "Voxels of a scan's mask were weighted by the inverse standard deviation of their field, "
        "estimated from the magnitude.",
    }
    return ways.get(str(record.get("Weights")), "")


def _stopping(record: Mapping[str, Any]) -> str:
    done, scalar = recorded(record, "Iterations"), recorded(record, "IterationsCosmos")
    if done is None:
        return ""
    also = f" for the tensor and {scalar:.0f} for COSMOS" if scalar is not None else ""
    ended = _ending(record)
    return f"The iteration took {done:.0f} steps{also}" + (f" and ended {ended}." if ended else ".")


def _ending(record: Mapping[str, Any]) -> str:
    """How an iteration ended, after the word "ended"; empty where it is not recorded."""
    tolerance, change = recorded(record, "StoppingTolerance"), recorded(record, "LastRelativeChange")
    done, limit, by = recorded(record, "Iterations"), recorded(record, "IterationLimit"), record.get("StoppedBy")
    if by == "tolerance":
        below = f" by less than {_per_cent(tolerance)} of itself" if tolerance is not None else " little enough"
        return f"when χ33 changed{below} in a step"
    if by == "iteration limit":
        words = "at its limit" + (f" of {limit:.0f}" if limit is not None else "")
        words += " after the noise was estimated" if limit is not None and (done or 0) > limit else ""
        still = f", when χ33 still changed by {_per_cent(change)} of itself" if change is not None else ""
        return words + still + (f" (tolerance {_per_cent(tolerance)})" if tolerance is not None else "")
    return ""


def _uncertainty(record: Mapping[str, Any]) -> list[str]:
    draws, groups = (recorded(record, f"Uncertainty{name}") or 0 for name in ("Draws", "JackknifeGroups"))
    ways = [f"{draws:.0f} draws of the posterior by perturb-and-solve {{perturb}}"] if draws else []
    ways += [f"a jackknife over {groups:.0f} groups of scans"] if groups else []
    if not ways:
        return []
    larger = ", the larger of the two variances counting" if len(ways) == 2 else ""
    left_out = " ".join(str(record.get("UncertaintyLeavesOut") or "").split()).rstrip(". ")
    return [
        f"Standard deviations of the maps were estimated voxel by voxel with {' and '.join(ways)}{larger}.",
        *([f"They leave out {left_out}."] if left_out else []),
    ]


def uncertainty_words(record: Mapping[str, Any]) -> str:
    """Return how the standard deviations were made and what they leave out, without citations; empty if unknown."""
    return re.sub(r" \{[a-z,]+\}", "", " ".join(_uncertainty(record)))


def fit_rows(record: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Return what a fit's record says of the fit as rows of a table; what it does not say is left out."""
    rows = [("Method", _FIT_NAMES.get(str(record.get("Fit")), str(record.get("Fit") or "")))]
    noise, limit = recorded(record, "FieldNoisePpm"), recorded(record, "IterationLimit")
    tesla = recorded(record, "MagneticFieldStrength")
    hertz = f" ({noise * GYROMAGNETIC_RATIO * tesla:.2g} Hz at {tesla:.4g} T)" if noise is not None and tesla else ""
    rows.append(("Field noise", f"{noise:.3g} ppm{hertz}" if noise is not None else ""))
    rows.append(("Prior, isotropic and traceless part", ", ".join(_priors(record))))
    rows += _tissue_rows(record)
    done = [recorded(record, name) for name in ("Iterations", "IterationsCosmos")]
    counts = ", ".join(f"{one:.0f}" for one in done if one is not None)
    rows.append(("Iterations, tensor and COSMOS" if None not in done else "Iterations", counts))
    by = str(record.get("StoppedBy") or "")
    reached = f"{by} of {limit:.0f}" if by == "iteration limit" and limit is not None else by
    rows.append(("Stopped by", reached))
    change, tolerance = recorded(record, "LastRelativeChange"), recorded(record, "StoppingTolerance")
    asked = f" (tolerance {_per_cent(tolerance)})" if tolerance is not None else ""
    rows.append(("Last change of χ33", f"{_per_cent(change)}{asked}" if change is not None else ""))
    radii, counted = (_listed(record.get(key)) for key in ("RadiiMm", "RadiiWeights"))
    rows.append(("Radii of the spheres", f"{', '.join(radii)} mm" if radii else ""))
    rows.append(("Weights of the radii", ", ".join(counted)))
    weights = record.get("Weights") if record.get("Fit") != "closed" else None
    rows.append(("Weights of voxels", {"mask": "alike", "magnitude": "from the magnitude"}.get(str(weights), "")))
    draws, groups, seed = (recorded(record, f"Uncertainty{name}") for name in ("Draws", "JackknifeGroups", "Seed"))
    seeded = f" (seed {seed:.0f})" if seed is not None and draws else ""
    rows.append(("Draws of the posterior", f"{draws:.0f}{seeded}" if draws else ""))
    rows.append(("Jackknife groups", f"{groups:.0f}" if groups else ""))
    rows += _score_rows(record)
    return [row for row in rows if row[1]]


def _score_rows(record: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Return the held-out score as rows: the median over scans, and its range."""
    if not record.get("ScoreGroups"):
        return []
    rows = [("Groups of scans held out", f"{record['ScoreGroups']}")]
    for key, title in (
        ("ScoreTensor", "Missed of a held-out scan's field, tensor"),
        ("ScoreCosmos", "The same, COSMOS"),
        ("ScoreNoise", "The same, by the noise of the scan alone"),
    ):
        values = [float(one) for one in record.get(key) or ()]
        if values:
            told = f"{_per_cent(float(np.median(values)))} ({_per_cent(min(values))} to {_per_cent(max(values))})"
            rows.append((title, told))
    return rows


def _tissue_rows(record: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Return rows on what the prior of the traceless part knew, and by how much it shrinks delta B'."""
    elsewhere, length, slope = (
        recorded(record, key) for key in ("PriorAnisoElsewherePpm", "PriorCorrelationMm", "ExpectedSlopeDeltaB")
    )
    share = recorded(record, "WhiteMatterShare")
    white = str(record.get("WhiteMatter") or "")
    held = ""
    if share is not None and elsewhere is not None:
        held = f", {_per_cent(share)} of the brain; {elsewhere:g} ppm elsewhere"
    return [
        ("White matter in the prior", f"{white}{held}" if white else ""),
        ("Correlation of the traceless part", f"{length:g} mm" if length else ""),
        ("Expected slope of δB′ against the truth", f"{slope:.2f}" if slope is not None else ""),
    ]


def _tissue(record: Mapping[str, Any]) -> str:
    """Return the sentence on the prior of the traceless part; empty where it is the same in all voxels."""
    elsewhere, length = recorded(record, "PriorAnisoElsewherePpm"), recorded(record, "PriorCorrelationMm")
    parts = []
    if elsewhere is not None:
        found = "given" if record.get("WhiteMatter") == "given" else "found in the susceptibility of a first fit"
        parts.append(f"that width held in white matter ({found}) and {elsewhere:g} ppm elsewhere")
    if length:
        parts.append(f"neighbours were correlated over {length:g} mm")
    return f"Of the traceless part, {' and '.join(parts)}." if parts else ""


def _listed(values: Any) -> list[str]:
    """Return the numbers of a record's list in words; none where it is no list."""
    listed = values if isinstance(values, list | tuple) else ()
    return [f"{float(one):.3g}" for one in listed if isinstance(one, int | float)]


def _priors(record: Mapping[str, Any]) -> list[str]:
    """Return the two standard deviations of the prior in words; none where one of them is not recorded."""
    keys = ("PriorIsoPpm", "PriorAnisoPpm")
    values = [recorded(record, key) for key in keys]
    known = all(key in record for key in keys)
    return [f"{one:g} ppm" if one is not None else "infinite width" for one in values] if known else []


def _per_cent(value: float) -> str:
    return f"{100 * value:.2g}\N{NO-BREAK SPACE}%"


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
