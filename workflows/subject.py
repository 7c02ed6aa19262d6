"""One subject: every scan to its local field, registration, fit, labels, and their export."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from nipype.interfaces import utility as niu
from nipype.pipeline import engine as pe

from ..files.derivatives import Derivatives
from ..files.errors import InputError
from ..pipeline.masks.consensus import LEAST_SCANS
from .config import RunConfig
from .figures.echo import shown_echo
from .fit import init_fit_wf, init_scan_labels_wf
from .interfaces.frame import MaskConsensus, MeanOfScans
from .interfaces.scan import Export, ExportIfMade
from .products import (
    DEVIATION_PRODUCTS,
    ECHO_PICTURE,
    FIELD_OF_FIT,
    LABEL_PRODUCTS,
    MEAN_PRODUCT,
    SCAN_PRODUCTS,
    SINGLE_STEP,
    Product,
    label_products,
    subject_products,
)
from .raw.dataset import RawScan, RawSubject, raise_problems
from .raw.names import names_scan
from .registration import init_registration_wf
from .scan import init_brain_mask_wf, init_scan_wf, learned_by

_SUBJECT_FRAME = "world of the reference scan (RAS+, mm); susceptibility relative to the mean over the mask"
_MEAN_FRAME = "mean of the scans' worlds (RAS+, mm); susceptibility relative to the mean over the mask"
MEAN = "mean"
_Source = tuple[Any, str]  # a node or workflow, and its output


def node_name(text: str) -> str:
    """Return a text as a Nipype node name."""
    return re.sub(r"\W", "_", text)


def reference_scan(subject: RawSubject, config: RunConfig) -> RawScan:
    """Return the subject's reference scan: the first, or the one the config names.

    A scan may be named in full (ses-a_acq-ori02), by its label (acq-ori02) or as the report has it (ori02, "ses-a
    acq-ori02"). Raises InputError where no scan, or more than one, is called so.
    """
    if config.reference in (None, MEAN):
        return subject.scans[0]
    wanted = config.reference or ""
    called = [scan for scan in subject.scans if names_scan(wanted, (scan.session or "", scan.label))]
    if len(called) == 1:
        return called[0]
    names = ", ".join(scan.name for scan in called or subject.scans)
    fault = f"means {len(called)} scans" if called else "is no scan"
    raise InputError(f"reference {config.reference} {fault} of sub-{subject.label}: choose one of {names}.")


def init_subject_wf(
    subject: RawSubject, config: RunConfig, backend: str, out_dir: Path, *, name: str | None = None
) -> pe.Workflow:
    """Return the whole workflow of a subject, from raw scans to exported label maps (to fields, where none is fitted).

    backend: "fsl" or "builtin"; out_dir: the derivatives folder, where names follow Derivatives.
    """
    workflow = pe.Workflow(name=name or f"sub_{node_name(subject.label)}_wf")
    frame = _place_scans(workflow, subject, config, backend)
    scans: list[_PlacedScan] = []
    for index, scan in enumerate(subject.scans):
        tag = node_name(scan.name)
        mask, transform, quality, record = frame.of(workflow, index, tag)
        scan_wf = init_scan_wf(scan, config, trim=config.masks is None, name=f"scan_{tag}_wf")
        workflow.connect([(mask[0], scan_wf, [(mask[1], "inputnode.brain_mask")])])
        place = Derivatives(out_dir, subject.label, scan.session)
        scans.append(_PlacedScan(scan, scan_wf, transform, place))
        for product in SCAN_PRODUCTS:
            beside = {"brain_mask": record, "total_field": (scan_wf, "outputnode.record")}.get(product.output)
            source = (scan_wf, f"outputnode.{product.output}")
            _export_scan_map(workflow, source, product, scan, place, _scan_facts(scan, config, product), beside)
        facts = _scan_facts(scan, config, ECHO_PICTURE) | {"EchoNumber": shown_echo(len(scan.echo_times)) + 1}
        path = place.figure(scan.label, suffix=ECHO_PICTURE.suffix, desc="phase")
        _export(workflow, (scan_wf, "outputnode.echo"), ECHO_PICTURE, path, f"{tag}_echo", facts)
        product = Product("transform_file", "xfm", None, None, "World of the scan to the subject frame, mm, 4x4")
        _export(workflow, transform, product, place.transform(scan.label), f"{tag}_xfm", {}, record=quality)
    place = Derivatives(out_dir, subject.label)
    reference = reference_scan(subject, config)
    if frame.mean is not None:
        _export_mean(workflow, frame.mean, place, reference)
    if config.fit != "none":
        fit_wf = _add_fit(workflow, scans, reference, config, frame.mean)
        _export_subject(workflow, fit_wf, place, reference, config, mean=frame.mean is not None)
    return workflow


@dataclass(frozen=True)
class _PlacedScan:
    """A scan, its workflow, the source of its transform to the subject frame, and where its maps go."""

    raw: RawScan
    workflow: pe.Workflow
    transform: _Source
    place: Derivatives


def _add_fit(
    workflow: pe.Workflow, scans: Sequence[_PlacedScan], reference: RawScan, config: RunConfig, mean: pe.Node | None
) -> pe.Workflow:
    """Add the fit of all scans and the labels of each to a subject's workflow; return the fit's workflow."""
    fit_wf = init_fit_wf([scan.raw for scan in scans], config)
    sources = fit_sources(config)
    merges = {one: _merge(len(scans), f"all_{one}") for one in (*sources, "transforms")}
    products = label_products(config)
    for index, scan in enumerate(scans):
        number, own, transform = f"in{index + 1}", scan.workflow, scan.transform
        labels_wf = init_scan_labels_wf(scan.raw, index, name=f"labels_{node_name(scan.raw.name)}_wf")
        whole = config.fit == "single-step"
        fitted = ("tensor_file", "cosmos_file", "uncertainty_file", *(("sidecar_file",) if whole else ()))
        local = ("local_field", "local_mask", *(("total_field", "reliable_mask") if whole else ()))
        workflow.connect(
            [
                *((own, merges[one], [(f"outputnode.{source}", number)]) for one, source in sources.items()),
                (transform[0], merges["transforms"], [(transform[1], number)]),
                (fit_wf, labels_wf, [(f"outputnode.{one}", f"inputnode.{one}") for one in fitted]),
                (own, labels_wf, [(f"outputnode.{one}", f"inputnode.{one}") for one in local]),
                (transform[0], labels_wf, [(transform[1], "inputnode.transform_file")]),
            ]
        )
        if scan.raw is reference and mean is None:
            workflow.connect([(own, fit_wf, [("outputnode.brain_mask", "inputnode.reference_file")])])
        for product in products:
            facts = _scan_facts(scan.raw, config, product)
            source = (labels_wf, f"outputnode.{product.output}")
            record = (fit_wf, "outputnode.sidecar_file")
            _export_scan_map(workflow, source, product, scan.raw, scan.place, facts, record)
    if mean is not None:
        workflow.connect([(mean, fit_wf, [("brain_file", "inputnode.reference_file")])])
    workflow.connect([(merge, fit_wf, [("out", f"inputnode.{one}")]) for one, merge in merges.items()])
    return fit_wf


@dataclass(frozen=True)
class _Frame:
    """Where the scans lie and their brains: the workflows of masks and registrations, and what joins the scans.

    consensus, mean: the nodes that agree on masks and make the mean reference, where there are such.
    """

    masks: list[pe.Workflow]
    registrations: list[pe.Workflow]
    consensus: pe.Node | None
    mean: pe.Node | None

    def of(self, workflow: pe.Workflow, index: int, tag: str) -> tuple[_Source, _Source, _Source, _Source | None]:
        """Return a scan's sources of brain mask, transform, its quality, and what is recorded of the mask."""
        pair = self.registrations[index]
        mask: _Source = (self.masks[index], "outputnode.mask_file")
        transform, quality = (pair, "outputnode.transform_file"), (pair, "outputnode.quality_file")
        record = None
        if self.consensus is not None:
            mask = _pick(workflow, (self.consensus, "mask_files"), index, f"mask_{tag}")
            record = _pick(workflow, (self.consensus, "record_files"), index, f"mask_record_{tag}")
        if self.mean is not None:
            transform = _pick(workflow, (self.mean, "transform_files"), index, f"transform_{tag}")
            quality = _pick(workflow, (self.mean, "quality_files"), index, f"quality_{tag}")
        return mask, transform, quality, record


def _merge(count: int, name: str) -> pe.Node:
    """Return the step that makes a list of as many entries, in1 and so on."""
    return pe.Node(niu.Merge(count), name=name, run_without_submitting=True)


def _pick(workflow: pe.Workflow, source: _Source, index: int, name: str) -> _Source:
    """Return the source of one entry of a list."""
    node = pe.Node(niu.Select(index=[index]), name=name, run_without_submitting=True)
    workflow.connect([(source[0], node, [(source[1], "inlist")])])
    return node, "out"


def _place_scans(workflow: pe.Workflow, subject: RawSubject, config: RunConfig, backend: str) -> _Frame:
    """Add brain masks, registrations to the reference, and what joins them, to a subject's workflow."""
    reference = reference_scan(subject, config)
    given = given_masks(subject, config)
    tags = [node_name(scan.name) for scan in subject.scans]
    masks = [
        init_brain_mask_wf(scan, config, backend, given.get(scan.name), name=f"mask_{tag}_wf")
        for scan, tag in zip(subject.scans, tags, strict=True)
    ]
    pairs = [
        init_registration_wf(scan, reference, backend, name=f"registration_{tag}_wf")
        for scan, tag in zip(subject.scans, tags, strict=True)
    ]
    fixed = masks[subject.scans.index(reference)]
    joined = {"mask_files": masks, "transform_files": pairs}
    merges = {one: _merge(len(masks), f"all_own_{one.removesuffix('_files')}s") for one in joined}
    for number, (mask, pair) in enumerate(zip(masks, pairs, strict=True), start=1):
        workflow.connect(
            [
                (mask, pair, [("outputnode.mask_file", "inputnode.mask")]),
                (fixed, pair, [("outputnode.mask_file", "inputnode.reference_mask")]),
                (mask, merges["mask_files"], [("outputnode.mask_file", f"in{number}")]),
                (pair, merges["transform_files"], [("outputnode.transform_file", f"in{number}")]),
            ]
        )
    consensus = mean = None
    if config.mask_consensus and not given and len(masks) >= LEAST_SCANS:
        consensus = pe.Node(MaskConsensus(), name="mask_consensus")
        workflow.connect([(merges[one], consensus, [("out", one)]) for one in joined])
    if config.reference == MEAN:
        mean = pe.Node(
            MeanOfScans(
                magnitude_files=[[str(path) for path in scan.magnitude] for scan in subject.scans],
                echo_times=[list(scan.echo_times) for scan in subject.scans],
            ),
            name="mean_reference",
        )
        workflow.connect([(merges["transform_files"], mean, [("out", "transform_files")])])
        agreed = (consensus, "mask_files") if consensus is not None else (merges["mask_files"], "out")
        workflow.connect([(agreed[0], mean, [(agreed[1], "mask_files")])])
    return _Frame(masks, pairs, consensus, mean)


def given_masks(subject: RawSubject, config: RunConfig) -> dict[str, Path]:
    """Return the user's brain mask of each scan by its name; none where the config names no folder.

    In the folder a scan's mask is named as chi33 names its own, sub-01_acq-ori01_desc-brain_mask.nii.gz, at any depth.
    Raises InputError naming every scan that has none, or several.
    """
    if config.masks is None:
        return {}
    folder = Path(config.masks)
    if not folder.is_dir():
        raise InputError(f"masks: {folder} is no folder: give the folder of the brain masks.")
    found, problems = {}, []
    for scan in subject.scans:
        name = Derivatives(folder, subject.label, scan.session).path(scan.label, suffix="mask", desc="brain").name
        paths = sorted(folder.rglob(name)) or sorted(folder.rglob(name.removesuffix(".gz")))
        if len(paths) != 1:
            problems.append(f"{folder} holds {len(paths)} files named {name}: give one brain mask a scan.")
        found[scan.name] = paths[0] if paths else folder
    raise_problems(problems)
    return found


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
    source: _Source,
    product: Product,
    scan: RawScan,
    place: Derivatives,
    facts: dict[str, Any],
    record: _Source | None = None,
) -> None:
    path = place.path(scan.label, suffix=product.suffix, desc=product.desc)
    _export(workflow, source, product, path, f"{node_name(scan.name)}_{product.output}", facts, record=record)


def _scan_facts(scan: RawScan, config: RunConfig, product: Product) -> dict[str, Any]:
    facts: dict[str, Any] = {
        "Sources": [path.name for path in (*scan.magnitude, *scan.phase)],
        "EchoTimes": list(scan.echo_times),
        **scan.field_facts,
        "PhaseSign": config.phase_sign or scan.phase_sign,
    }
    more = {
        "BackgroundRemoval": _background_removal(config, product),
        "BrainMaskMethod": learned_by(config) if product.output == "brain_mask" else None,
        "B0_dir": scan.b0_direction and list(scan.b0_direction),
    }
    return facts | {key: value for key, value in more.items() if value is not None}


def _background_removal(config: RunConfig, product: Product) -> str | None:
    """How the background of what a file shows was removed; None where it holds it still, or is no field or label."""
    if product.output in ("local_field", "local_mask"):
        return config.background
    if product in (*LABEL_PRODUCTS, FIELD_OF_FIT, *DEVIATION_PRODUCTS):
        return SINGLE_STEP if config.fit == "single-step" else config.background
    return None


def _export(
    workflow: pe.Workflow,
    source: _Source,
    product: Product,
    path: Path,
    name: str,
    facts: Mapping[str, Any],
    *,
    record: _Source | None = None,
) -> None:
    """Add the step that exports one output; record: source of a JSON for its sidecar."""
    sidecar: dict[str, Any] = {"Description": product.description}
    if product.units:
        sidecar["Units"] = product.units
    if product.suffix == "mask":
        sidecar["Type"] = "Brain"
    kind = ExportIfMade if product.depends else Export
    node = pe.Node(
        kind(out_file=str(path), sidecar={**sidecar, **facts}), name=f"export_{name}", run_without_submitting=True
    )
    workflow.connect([(source[0], node, [(source[1], "in_file")])])
    if record:
        workflow.connect([(record[0], node, [(record[1], "sidecar_file")])])


def _frame_facts(reference: RawScan, *, mean: bool) -> dict[str, Any]:
    facts: dict[str, Any] = dict(reference.field_facts)
    if mean:
        return facts | {"ReferenceScan": MEAN, "Frame": _MEAN_FRAME}
    return facts | {"ReferenceScan": reference.name, "Frame": _SUBJECT_FRAME}


def _export_mean(workflow: pe.Workflow, mean: pe.Node, place: Derivatives, reference: RawScan) -> None:
    product = MEAN_PRODUCT
    path = place.path(space="subject", suffix=product.suffix, desc=product.desc)
    _export(workflow, (mean, product.output), product, path, product.output, _frame_facts(reference, mean=True))


def _export_subject(
    workflow: pe.Workflow, fit_wf: pe.Workflow, place: Derivatives, reference: RawScan, config: RunConfig, *, mean: bool
) -> None:
    facts = _frame_facts(reference, mean=mean)
    for product in subject_products(config):
        path = place.path(space="subject", suffix=product.suffix, desc=product.desc)
        source = (fit_wf, f"outputnode.{product.output}")
        _export(workflow, source, product, path, product.output, facts, record=(fit_wf, "outputnode.sidecar_file"))


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
