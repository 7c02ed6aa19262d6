"""All scans of a subject: the fit in the subject frame, and the labels of every scan."""

from __future__ import annotations

from collections.abc import Sequence

from nipype.interfaces import utility as niu
from nipype.pipeline import engine as pe

from .config import RunConfig
from .interfaces.fit import FitSusceptibility, ScanLabels
from .raw.dataset import RawScan
from .tissue_files import WHITE_MATTER

FIT_OUTPUTS = (
    "tensor_file", "cosmos_file", "mms_file", "msa_file", "pev_file", "frequency_file", "mask_file",
    "sidecar_file", "uncertainty_file",
)  # fmt: skip
LABEL_OUTPUTS = (
    "chi33_file", "deltab_file", "cosmos_file", "residual_file", "fitfield_file", "chi33sd_file", "deltabsd_file",
    "cosmossd_file",
)  # fmt: skip


def init_fit_wf(scans: Sequence[RawScan], config: RunConfig, *, name: str = "fit_wf") -> pe.Workflow:
    """Return the workflow from all fields and transforms to the fit in the subject frame.

    Inputs (lists, one entry a scan in the order of `scans`): fields (total ones for the single-step fit, else local),
    masks (where they are known), weights (of the fields; used where the config says so), transforms; and
    reference_file (brain mask of the reference scan). Outputs: those of FitSusceptibility.
    """
    workflow = pe.Workflow(name=name)
    lists = {"fields": "field_files", "masks": "mask_files", "transforms": "transform_files"}
    if config.weights == "magnitude":
        lists["weights"] = "weight_files"
    inputnode = pe.Node(niu.IdentityInterface([*lists, "reference_file"]), name="inputnode")
    outputnode = pe.Node(niu.IdentityInterface(list(FIT_OUTPUTS)), name="outputnode")
    fit = pe.Node(
        FitSusceptibility(
            labels=[scan.name for scan in scans], b0_directions=[scan.b0_direction for scan in scans],
            method=config.fit, prior_iso=config.prior_iso, prior_aniso=config.prior_aniso, noise=config.noise,
            iterations=config.iterations, draws=config.draws, jackknife=config.jackknife, score=config.score,
            scheduler=config.dask, memory=config.fit_memory, device=config.device,
            prior_correlation=config.prior_correlation, isotropic_frequency=config.isotropic_frequency,
            **_tissue_inputs(config),
        ),
        name="fit",
    )  # fmt: skip
    workflow.connect(
        [
            (inputnode, fit, [*lists.items(), ("reference_file", "reference_file")]),
            (fit, outputnode, [(one, one) for one in FIT_OUTPUTS]),
        ]
    )
    return workflow


def _tissue_inputs(config: RunConfig) -> dict[str, str]:
    """Return what the fit is told of tissue; raises InputError where a file cannot be used."""
    tissue = config.tissue.check(config.fit)
    auto = tissue.white_matter in WHITE_MATTER
    found = {"white_matter" if auto else "white_matter_file": tissue.white_matter}
    return found if tissue.fibre is None else {**found, "fibre_file": tissue.fibre}


def init_scan_labels_wf(scan: RawScan, number: int = 0, *, name: str = "scan_labels_wf") -> pe.Workflow:
    """Return the workflow from a subject's fit to the labels of one scan on its own grid.

    number: of the scan among the fitted ones, from 0. Inputs: tensor_file, cosmos_file, uncertainty_file (subject
    frame, the last may be missing), local_field, local_mask, transform_file; of a single-step fit also total_field,
    reliable_mask and sidecar_file. Outputs: LABEL_OUTPUTS.
    """
    workflow = pe.Workflow(name=name)
    inputs = {
        "tensor_file": "tensor_file", "cosmos_file": "cosmos_file", "local_field": "field_file",
        "local_mask": "mask_file", "transform_file": "transform_file", "uncertainty_file": "uncertainty_file",
        "total_field": "total_file", "reliable_mask": "known_file", "sidecar_file": "fit_file",
    }  # fmt: skip
    inputnode = pe.Node(niu.IdentityInterface(list(inputs)), name="inputnode")
    outputnode = pe.Node(niu.IdentityInterface(list(LABEL_OUTPUTS)), name="outputnode")
    labels = pe.Node(ScanLabels(b0_direction=scan.b0_direction, number=number), name="labels")
    workflow.connect(
        [
            (inputnode, labels, list(inputs.items())),
            (labels, outputnode, [(one, one) for one in LABEL_OUTPUTS]),
        ]
    )
    return workflow
