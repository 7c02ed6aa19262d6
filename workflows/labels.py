"""All scans of a subject: the fit in the subject frame, and the labels of every scan."""

from __future__ import annotations

from collections.abc import Sequence

from nipype.interfaces import utility as niu
from nipype.pipeline import engine as pe

from .config import RunConfig
from .fit_interfaces import FitSusceptibility, ScanLabels
from .raw import RawScan

FIT_OUTPUTS = ("tensor_file", "cosmos_file", "mms_file", "msa_file", "pev_file", "mask_file", "sidecar_file")
LABEL_OUTPUTS = ("chi33_file", "deltab_file", "cosmos_file", "residual_file")


def init_labels_wf(scans: Sequence[RawScan], config: RunConfig, *, name: str = "labels_wf") -> pe.Workflow:
    """Return the workflow from local fields and transforms to the fit and the labels.

    Inputs (lists, one entry a scan in the order of `scans`): local_fields, local_masks, transforms; and
    reference_file (brain mask of the reference scan). Outputs: those of FitSusceptibility, and the lists chi33_file,
    deltab_file, cosmos_label_file, residual_file.
    """
    workflow = pe.Workflow(name=name)
    lists = ["local_fields", "local_masks", "transforms"]
    inputnode = pe.Node(niu.IdentityInterface([*lists, "reference_file"]), name="inputnode")
    label_names = ["chi33_file", "deltab_file", "cosmos_label_file", "residual_file"]
    outputnode = pe.Node(niu.IdentityInterface([*FIT_OUTPUTS, *label_names]), name="outputnode")
    directions = [scan.b0_direction for scan in scans]
    fit = pe.Node(
        FitSusceptibility(
            labels=[scan.name for scan in scans], b0_directions=directions,
            prior_iso=config.prior_iso, prior_aniso=config.prior_aniso, noise=config.noise,
        ),
        name="fit",
        mem_gb=8,
        n_procs=2,
    )  # fmt: skip
    scan_labels = pe.MapNode(
        ScanLabels(),
        iterfield=["field_file", "mask_file", "transform_file", "b0_direction"],
        name="scan_labels",
        mem_gb=3,
    )
    scan_labels.inputs.b0_direction = directions
    workflow.connect(
        [
            (
                inputnode,
                fit,
                [
                    ("local_fields", "field_files"),
                    ("local_masks", "mask_files"),
                    ("transforms", "transform_files"),
                    ("reference_file", "reference_file"),
                ],
            ),
            (
                inputnode,
                scan_labels,
                [("local_fields", "field_file"), ("local_masks", "mask_file"), ("transforms", "transform_file")],
            ),
            (fit, scan_labels, [("tensor_file", "tensor_file"), ("cosmos_file", "cosmos_file")]),
            (fit, outputnode, [(one, one) for one in FIT_OUTPUTS]),
            (
                scan_labels,
                outputnode,
                list(zip(LABEL_OUTPUTS, label_names, strict=True)),
            ),
        ]
    )
    return workflow
