"""One subject: every scan to its local field, registration, fit, labels, and their export."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from nipype.interfaces import utility as niu
from nipype.pipeline import engine as pe

from ..pipeline.errors import InputError
from .config import RunConfig
from .derivatives import Derivatives, sidecar_path
from .interfaces import Export
from .labels import init_fit_wf, init_scan_labels_wf
from .raw import RawScan, RawSubject
from .registration import init_registration_wf
from .scan import init_scan_wf


@dataclass(frozen=True)
class _Product:
    """One exported file: where it comes from, its name, and what its sidecar says."""

    output: str
    suffix: str
    desc: str | None = None
    units: str | None = "ppm"
    description: str = ""


_SCAN_PRODUCTS = (
    _Product("magnitude", "MEGRE", "magnitude", "arbitrary", "Magnitude of the first echo"),
    _Product("brain_mask", "mask", "brain", None, "Brain"),
    _Product("local_mask", "mask", "local", None, "Where the local field is valid"),
    _Product("total_field", "fieldmap", "total", "ppm", "Total field, ppm of B0, paramagnetic positive"),
    _Product("local_field", "fieldmap", "local", "ppm", "Local field, ppm of B0"),
)
_LABEL_PRODUCTS = (
    _Product("chi33_file", "Chimap", "chi33", "ppm", "Apparent susceptibility along B0 of this scan, h'chi h"),
    _Product(
        "deltab_file", "fieldmap", "deltab", "ppm", "Field of the tensor components across B0 (delta B'), ppm of B0"
    ),
    _Product("cosmos_file", "Chimap", "cosmos", "ppm", "COSMOS susceptibility on this scan's grid"),
    _Product("residual_file", "fieldmap", "residual", "ppm", "Local field less (dipole * chi33 + delta B')"),
)
_DEVIATION_PRODUCTS = (
    _Product("chi33sd_file", "Chimap", "chi33sd", "ppm", "Standard deviation of chi33 of this scan"),
    _Product("deltabsd_file", "fieldmap", "deltabsd", "ppm", "Standard deviation of delta B' of this scan, ppm of B0"),
    _Product("cosmossd_file", "Chimap", "cosmossd", "ppm", "Standard deviation of COSMOS on this scan's grid"),
)
_SUBJECT_PRODUCTS = (
    _Product("tensor_file", "Chimap", "tensor", "ppm", "Susceptibility tensor: xx, xy, xz, yy, yz, zz"),
    _Product("cosmos_file", "Chimap", "cosmos", "ppm", "COSMOS susceptibility"),
    _Product("mms_file", "Chimap", "mms", "ppm", "Mean magnetic susceptibility"),
    _Product("msa_file", "Chimap", "msa", "ppm", "Magnetic susceptibility anisotropy"),
    _Product("pev_file", "Chimap", "pev", None, "Principal eigenvector of the tensor: x, y, z"),
    _Product(
        "mask_file",
        "mask",
        "local",
        None,
        "Where at least one scan has a field for the fit",
    ),
)
_SUBJECT_FRAME = "world of the reference scan (RAS+, mm); susceptibility relative to the mean over the mask"


def node_name(text: str) -> str:
    """Return a text as a Nipype node name."""
    return re.sub(r"\W", "_", text)


def reference_scan(subject: RawSubject, config: RunConfig) -> RawScan:
    """Return the subject's reference scan: the first, or the one the config names; InputError where it is not there."""
    if config.reference is None:
        return subject.scans[0]
    for scan in subject.scans:
        if config.reference in (scan.name, scan.label):
            return scan
    names = ", ".join(scan.name for scan in subject.scans)
    raise InputError(f"reference {config.reference} is no scan of sub-{subject.label}: choose one of {names}.")


def init_subject_wf(
    subject: RawSubject, config: RunConfig, backend: str, out_dir: Path, *, name: str | None = None
) -> pe.Workflow:
    """Return the whole workflow of a subject, from raw scans to exported label maps.

    backend: "fsl" or "builtin"; out_dir: the derivatives folder, where names follow Derivatives.
    """
    workflow = pe.Workflow(name=name or f"sub_{node_name(subject.label)}_wf")
    reference = reference_scan(subject, config)
    fit_wf = init_fit_wf(subject.scans, config)
    sources = fit_sources(config)
    merges = {one: pe.Node(niu.Merge(len(subject.scans)), name=f"all_{one}") for one in (*sources, "transforms")}
    reference_node = pe.Node(niu.IdentityInterface(["brain_mask"]), name="reference")
    workflow.connect([(reference_node, fit_wf, [("brain_mask", "inputnode.reference_file")])])
    for index, scan in enumerate(subject.scans):
        tag, number = node_name(scan.name), f"in{index + 1}"
        scan_wf = init_scan_wf(scan, config, backend, name=f"scan_{tag}_wf")
        registration_wf = init_registration_wf(scan, reference, backend, name=f"registration_{tag}_wf")
        labels_wf = init_scan_labels_wf(scan, index, name=f"labels_{tag}_wf")
        workflow.connect(
            [
                (reference_node, registration_wf, [("brain_mask", "inputnode.reference_mask")]),
                *((scan_wf, merges[one], [(f"outputnode.{source}", number)]) for one, source in sources.items()),
                (registration_wf, merges["transforms"], [("outputnode.transform_file", number)]),
                (
                    fit_wf,
                    labels_wf,
                    [
                        (f"outputnode.{one}", f"inputnode.{one}")
                        for one in ("tensor_file", "cosmos_file", "uncertainty_file")
                    ],
                ),
                (
                    scan_wf,
                    labels_wf,
                    [(f"outputnode.{one}", f"inputnode.{one}") for one in ("local_field", "local_mask")],
                ),
                (registration_wf, labels_wf, [("outputnode.transform_file", "inputnode.transform_file")]),
            ]
        )
        if scan is reference:
            workflow.connect([(scan_wf, reference_node, [("outputnode.brain_mask", "brain_mask")])])
        place = Derivatives(out_dir, subject.label, scan.session)
        products = (*_LABEL_PRODUCTS, *(_DEVIATION_PRODUCTS if config.draws or config.jackknife else ()))
        facts = _scan_facts(scan, config)
        for product in _SCAN_PRODUCTS:
            _export_scan_map(workflow, scan_wf, product, scan, place, facts)
        for product in products:
            _export_scan_map(workflow, labels_wf, product, scan, place, facts, (fit_wf, "sidecar_file"))
        _export_transform(workflow, registration_wf, place.transform(scan.label), tag)
    workflow.connect([(merge, fit_wf, [("out", f"inputnode.{one}")]) for one, merge in merges.items()])
    _export_subject(workflow, fit_wf, Derivatives(out_dir, subject.label), reference)
    return workflow


def remove_stale(subject: RawSubject, config: RunConfig, out_dir: Path) -> None:
    """Remove the standard deviations that an earlier run wrote of a fit, where this run made none."""
    if config.draws or config.jackknife:
        return
    for scan in subject.scans:
        place = Derivatives(out_dir, subject.label, scan.session)
        for product in _DEVIATION_PRODUCTS:
            path = place.path(scan.label, suffix=product.suffix, desc=product.desc)
            for one in (sidecar_path(path), path):  # an image without a sidecar is an unfinished one
                one.unlink(missing_ok=True)


def fit_sources(config: RunConfig) -> dict[str, str]:
    """Return which outputs of a scan's workflow the fit takes, by input of the fit's workflow."""
    whole = config.fit == "single-step"
    sources = {
        "fields": "total_field" if whole else "local_field",
        "masks": "reliable_mask" if whole else "local_mask",
    }
    return {**sources, "weights": "weight"} if config.weights == "magnitude" else sources


def _export_scan_map(
    workflow: pe.Workflow,
    source: pe.Workflow,
    product: _Product,
    scan: RawScan,
    place: Derivatives,
    facts: dict[str, Any],
    record: tuple[pe.Workflow, str] | None = None,
) -> None:
    path = place.path(scan.label, suffix=product.suffix, desc=product.desc)
    _export(workflow, source, product, path, f"{node_name(scan.name)}_{product.output}", facts, record=record)


def _scan_facts(scan: RawScan, config: RunConfig) -> dict[str, Any]:
    facts: dict[str, Any] = {
        "Sources": [path.name for path in (*scan.magnitude, *scan.phase)],
        "EchoTimes": list(scan.echo_times),
        "MagneticFieldStrength": scan.field_strength,
        "PhaseSign": scan.phase_sign * config.phase_sign,
        "BackgroundRemoval": config.background,
    }
    if scan.b0_direction is not None:
        facts["B0_dir"] = list(scan.b0_direction)
    return facts


def _export(
    workflow: pe.Workflow,
    source: pe.Workflow,
    product: _Product,
    path: Path,
    name: str,
    facts: Mapping[str, Any],
    *,
    record: tuple[pe.Workflow, str] | None = None,
) -> None:
    """Add the step that exports one output of a workflow; record: workflow and output of a JSON for its sidecar."""
    sidecar: dict[str, Any] = {"Description": product.description}
    if product.units:
        sidecar["Units"] = product.units
    if product.suffix == "mask":
        sidecar["Type"] = "Brain"
    node = pe.Node(
        Export(out_file=str(path), sidecar={**sidecar, **facts}), name=f"export_{name}", run_without_submitting=True
    )
    workflow.connect([(source, node, [(f"outputnode.{product.output}", "in_file")])])
    if record:
        workflow.connect([(record[0], node, [(f"outputnode.{record[1]}", "sidecar_file")])])


def _export_transform(workflow: pe.Workflow, source: pe.Workflow, path: Path, tag: str) -> None:
    product = _Product("transform_file", "xfm", None, None, "World of the scan to the subject frame, mm, 4x4")
    _export(workflow, source, product, path, f"{tag}_xfm", {}, record=(source, "quality_file"))


def _export_subject(workflow: pe.Workflow, fit_wf: pe.Workflow, place: Derivatives, reference: RawScan) -> None:
    facts = {"ReferenceScan": reference.name, "Frame": _SUBJECT_FRAME}
    for product in _SUBJECT_PRODUCTS:
        path = place.path(space="subject", suffix=product.suffix, desc=product.desc)
        _export(workflow, fit_wf, product, path, product.output, facts, record=(fit_wf, "sidecar_file"))


def plan_lines(subject: RawSubject, config: RunConfig, backend: str, workflow: pe.Workflow) -> list[str]:
    """Return what a run of this subject would do, a line each."""
    reference = reference_scan(subject, config)
    lines = [
        f"sub-{subject.label}: {len(subject.scans)} scans, backend {backend}, reference {reference.name}, "
        f"{len(workflow.list_node_names())} steps"
    ]
    for scan in subject.scans:
        times = ", ".join(f"{1e3 * t:g}" for t in scan.echo_times)
        lines.append(f"  {scan.name}: {len(scan.echo_times)} echoes ({times} ms), {scan.field_strength:g} T")
    return [*lines, "  " + ", ".join(f"{key}={value}" for key, value in asdict(config).items() if value is not None)]
