"""Two scans of one head: the world-to-world similarity between them."""

from __future__ import annotations

from nipype.interfaces import fsl
from nipype.interfaces import utility as niu
from nipype.pipeline import engine as pe

from .interfaces import FlirtToWorld, IdentityTransform, RegisterSimilarity


def init_registration_wf(backend: str, *, name: str = "registration_wf") -> pe.Workflow:
    """Return the workflow that registers a scan to the reference with 7 degrees of freedom.

    Inputs: in_file, reference (first-echo magnitudes), reference_mask (brain). Outputs: transform_file (4x4, world of in_file to world of
    reference), quality_file (JSON). backend: "fsl" (FLIRT), "builtin" (SimpleITK), or "identity" for the reference.
    """
    workflow = pe.Workflow(name=name)
    inputnode = pe.Node(niu.IdentityInterface(["in_file", "reference", "reference_mask"]), name="inputnode")
    outputnode = pe.Node(niu.IdentityInterface(["transform_file", "quality_file"]), name="outputnode")
    images = [("in_file", "in_file"), ("reference", "reference")]
    if backend == "fsl":
        flirt = pe.Node(
            fsl.FLIRT(
                dof=7, cost="corratio", searchr_x=[-60, 60], searchr_y=[-60, 60], searchr_z=[-60, 60],
                output_type="NIFTI_GZ",
            ),
            name="flirt",
            mem_gb=1.5,
        )  # fmt: skip
        last = pe.Node(FlirtToWorld(), name="to_world")
        workflow.connect([(inputnode, flirt, images), (flirt, last, [("out_matrix_file", "matrix_file")])])
    else:
        interface = IdentityTransform() if backend == "identity" else RegisterSimilarity()
        last = pe.Node(interface, name="register", mem_gb=1.5)
        if backend != "identity":
            images = [*images, ("reference_mask", "reference_mask")]
    workflow.connect(
        [
            (inputnode, last, images),
            (last, outputnode, [("transform_file", "transform_file"), ("quality_file", "quality_file")]),
        ]
    )
    return workflow
