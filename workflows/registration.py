"""Two scans of one head: the world-to-world similarity between them."""

from __future__ import annotations

from typing import Any

from nipype.interfaces import fsl
from nipype.interfaces import utility as niu
from nipype.pipeline import engine as pe

from .interfaces.registration import AssessRegistration, FlirtToWorld, IdentityTransform, RegisterSimilarity
from .raw.dataset import RawScan


def init_registration_wf(
    scan: RawScan, reference: RawScan, backend: str, *, name: str = "registration_wf"
) -> pe.Workflow:
    """Return the workflow that registers a scan to the reference scan with 7 degrees of freedom.

    Inputs: reference_mask and mask (brains of the reference and of the scan). Outputs: transform_file (4x4, world of
    the scan to world of the reference), quality_file (JSON). backend: "fsl" (FLIRT on the first-echo magnitudes) or
    "builtin" (SimpleITK); both results are held against the same least quality. The reference itself gets the identity.
    """
    workflow = pe.Workflow(name=name)
    inputnode = pe.Node(niu.IdentityInterface(["reference_mask", "mask"]), name="inputnode")
    outputnode = pe.Node(niu.IdentityInterface(["transform_file", "quality_file"]), name="outputnode")
    workflow.add_nodes([inputnode])
    images = {"in_file": str(scan.magnitude[0]), "reference": str(reference.magnitude[0])}
    if scan is reference:
        last = pe.Node(IdentityTransform(**images), name="register")
    elif backend == "fsl":
        search = [-60, 60]
        flirt = pe.Node(
            fsl.FLIRT(
                dof=7, cost="corratio", searchr_x=search, searchr_y=search, searchr_z=search, output_type="NIFTI_GZ",
                **images,
            ),
            name="flirt",
        )  # fmt: skip
        to_world = pe.Node(FlirtToWorld(**images), name="to_world")
        last = pe.Node(AssessRegistration(**_echoes(scan, reference)), name="assess")
        workflow.connect(
            [
                (flirt, to_world, [("out_matrix_file", "matrix_file")]),
                (to_world, last, [("transform_file", "transform_file")]),
            ]
        )
    else:
        last = pe.Node(RegisterSimilarity(**_echoes(scan, reference)), name="register")
    if scan is not reference:
        workflow.connect([(inputnode, last, [("reference_mask", "reference_mask"), ("mask", "in_mask")])])
    workflow.connect([(last, outputnode, [("transform_file", "transform_file"), ("quality_file", "quality_file")])])
    return workflow


def _echoes(scan: RawScan, reference: RawScan) -> dict[str, Any]:
    return {
        "in_files": [str(path) for path in scan.magnitude],
        "in_echo_times": list(scan.echo_times),
        "reference_files": [str(path) for path in reference.magnitude],
        "reference_echo_times": list(reference.echo_times),
    }
