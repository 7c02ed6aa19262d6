"""One scan: brain mask, total field, local field."""

from __future__ import annotations

from pathlib import Path

from nipype.interfaces import fsl
from nipype.interfaces import utility as niu
from nipype.pipeline import engine as pe

from ..files.errors import InputError
from ..files.headers import stated_length_unit
from ..pipeline.masks.deepbet import PACKAGE, deepbet_version
from .config import RunConfig
from .interfaces.frame import GivenMask
from .interfaces.scan import BrainMask, CleanMask, LearnedMask, LocalFieldMap, TotalField
from .raw.dataset import RawScan

SCAN_OUTPUTS = (
    "magnitude", "brain_mask", "total_field", "reliable_mask", "weight", "residual", "record", "local_field",
    "local_mask", "echo",
)  # fmt: skip


def init_brain_mask_wf(
    scan: RawScan, config: RunConfig, backend: str, given: Path | None = None, *, name: str = "brain_mask_wf"
) -> pe.Workflow:
    """Return the workflow that masks the brain of a scan's first-echo magnitude.

    Outputs: mask_file. backend: "fsl" (BET) or "builtin" (BET's algorithm by brainextractor), unless the config says
    deepbet; given: the user's mask, which is taken as it is.
    """
    workflow = pe.Workflow(name=name)
    inputnode = pe.Node(niu.IdentityInterface(["in_file"]), name="inputnode")
    inputnode.inputs.in_file = str(scan.magnitude[0])
    outputnode = pe.Node(niu.IdentityInterface(["mask_file"]), name="outputnode")
    if given is not None:
        taken = pe.Node(GivenMask(given_file=str(given)), name="given_mask")
        workflow.connect(
            [(inputnode, taken, [("in_file", "in_file")]), (taken, outputnode, [("mask_file", "mask_file")])]
        )
        return workflow
    if config.mask_method == "deepbet":
        learned = pe.Node(LearnedMask(version=deepbet_version() or ""), name=PACKAGE)
        workflow.connect(
            [(inputnode, learned, [("in_file", "in_file")]), (learned, outputnode, [("mask_file", "mask_file")])]
        )
        return workflow
    if backend == "fsl" and (unit := stated_length_unit(scan.magnitude[0])) in ("meter", "micron"):
        raise InputError(
            f"{scan.magnitude[0]} states its lengths in {unit}s, which FSL reads as mm: give --backend builtin, or "
            "convert its header to mm."
        )
    if backend == "builtin":
        bet = pe.Node(BrainMask(frac=config.bet_threshold), name="bet")
        workflow.connect([(inputnode, bet, [("in_file", "in_file")]), (bet, outputnode, [("mask_file", "mask_file")])])
        return workflow
    bet = pe.Node(fsl.BET(frac=config.bet_threshold, mask=True, robust=True, output_type="NIFTI_GZ"), name="bet")
    clean = pe.Node(CleanMask(), name="clean")
    workflow.connect(
        [
            (inputnode, bet, [("in_file", "in_file")]),
            (bet, clean, [("mask_file", "in_file")]),
            (clean, outputnode, [("mask_file", "mask_file")]),
        ]
    )
    return workflow


def learned_by(config: RunConfig) -> str | None:
    """Return the name and version of what makes learned brain masks; None where they are not learned."""
    return f"{PACKAGE} {deepbet_version()}" if config.mask_method == "deepbet" else None


def init_scan_wf(scan: RawScan, config: RunConfig, *, trim: bool = True, name: str = "scan_wf") -> pe.Workflow:
    """Return the workflow from a scan's raw echoes and brain mask to its local field, on the scan's own grid.

    Inputs: brain_mask. Outputs: magnitude (first echo), brain_mask (without faint tissue at its edge if trim),
    total_field (ppm of B0), reliable_mask (where it can be trusted, which may exceed the brain), weight (proportional
    to 1 / its standard deviation), residual (rad), local_field (ppm of B0), local_mask, echo (picture of one echo's
    phase and weight).
    """
    workflow = pe.Workflow(name=name)
    inputnode = pe.Node(niu.IdentityInterface(["magnitude", "brain_mask"]), name="inputnode")
    inputnode.inputs.magnitude = str(scan.magnitude[0])
    outputnode = pe.Node(niu.IdentityInterface(list(SCAN_OUTPUTS)), name="outputnode")
    total = pe.Node(
        TotalField(
            magnitude_files=[str(path) for path in scan.magnitude],
            phase_files=[str(path) for path in scan.phase],
            phase_ranges=[(scale.low, scale.high) for scale in scan.phase_scale],
            phase_sign=config.phase_sign or scan.phase_sign,
            echo_times=list(scan.echo_times),
            field_strength=scan.field_strength,
            unwrap=config.unwrap,
            combination=config.combination,
            offset_smoothing=config.offset_smoothing,
            residual_limit=config.residual_limit,
            filtered=scan.filtered,
            trim=trim,
        ),
        name="total_field",
    )
    local = pe.Node(
        LocalFieldMap(
            method=config.background,
            b0_direction=scan.b0_direction,
            largest_radius=config.vsharp_largest_radius,
            smallest_radius=config.vsharp_smallest_radius,
            threshold=config.vsharp_threshold,
        ),
        name="local_field",
    )
    workflow.connect(
        [
            (inputnode, total, [("brain_mask", "mask_file")]),
            (
                total,
                local,
                [("field_file", "field_file"), ("reliable_file", "mask_file"), ("brain_file", "brain_file")],
            ),
            (inputnode, outputnode, [("magnitude", "magnitude")]),
            (total, outputnode, [("brain_file", "brain_mask")]),
            (total, outputnode, [("field_file", "total_field"), ("residual_file", "residual")]),
            (total, outputnode, [("reliable_file", "reliable_mask"), ("weight_file", "weight")]),
            (total, outputnode, [("record_file", "record"), ("echo_file", "echo")]),
            (local, outputnode, [("field_file", "local_field"), ("mask_file", "local_mask")]),
        ]
    )
    return workflow
