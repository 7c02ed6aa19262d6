"""The workflows as graphs: which steps there are, what feeds them, and the names of all they export."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
from chi33.files.errors import InputError
from chi33.workflows.config import RunConfig
from chi33.workflows.raw.dataset import RawSubject, find_subjects
from chi33.workflows.registration import init_registration_wf
from chi33.workflows.scan import init_brain_mask_wf, init_scan_wf
from chi33.workflows.subject import init_subject_wf, node_name, plan_lines, reference_scan
from nipype.pipeline import engine as pe

SCAN_FILES = [
    "desc-brain_mask", "desc-local_mask", "desc-total_fieldmap", "desc-local_fieldmap", "desc-chi33_Chimap",
    "desc-deltab_fieldmap", "desc-cosmos_Chimap", "desc-residual_fieldmap",
]  # fmt: skip
DEVIATION_FILES = ["desc-chi33sd_Chimap", "desc-deltabsd_fieldmap", "desc-cosmossd_Chimap"]
SUBJECT_FILES = [f"desc-{desc}_Chimap" for desc in ("tensor", "cosmos", "mms", "msa", "pev")]


@pytest.fixture
def subject(turning_head: Any) -> RawSubject:
    (found,) = find_subjects(turning_head.folder)
    return found


def _steps(workflow: pe.Workflow) -> dict[str, Any]:
    return {name: workflow.get_node(name) for name in workflow.list_node_names()}


def test_a_subject_exports_every_derivative_of_every_scan(subject: RawSubject, tmp_path: Path) -> None:
    workflow = init_subject_wf(subject, RunConfig(), "builtin", tmp_path)
    exported = {
        Path(node.inputs.out_file).relative_to(tmp_path): node
        for name, node in _steps(workflow).items()
        if name.startswith("export_")
    }
    anat = Path("sub-01/anat")
    for scan in ("ori01", "ori02", "ori03"):
        for what in SCAN_FILES:
            assert anat / f"sub-01_acq-{scan}_{what}.nii.gz" in exported
        assert anat / f"sub-01_acq-{scan}_from-orig_to-subject_mode-image_xfm.txt" in exported
    for what in SUBJECT_FILES:
        assert anat / f"sub-01_space-subject_{what}.nii.gz" in exported
    for path, node in exported.items():
        sidecar = node.inputs.sidecar
        assert sidecar["Description"]
        if path.name.endswith(("fieldmap.nii.gz", "Chimap.nii.gz")) and "pev" not in path.name:
            assert sidecar["Units"] == ("rad" if "desc-echoes" in path.name else "ppm")
        if "space-subject" in path.name:
            assert sidecar["MagneticFieldStrength"] == 3.0
        if "acq-" in path.name and not path.name.endswith("xfm.txt"):
            assert sidecar["EchoTimes"] == [0.005, 0.012]
            assert sidecar["MagneticFieldStrength"] == 3.0
            assert all("acq-" in name for name in sidecar["Sources"])


def test_a_scans_echo_is_exported_as_a_picture(subject: RawSubject, tmp_path: Path) -> None:
    workflow = init_subject_wf(subject, RunConfig(fit="none"), "builtin", tmp_path)
    node = workflow.get_node("export_acq_ori02_echo")
    assert Path(node.inputs.out_file) == tmp_path / "sub-01" / "figures" / "sub-01_acq-ori02_desc-phase_MEGRE.jpg"
    assert (node.inputs.sidecar["EchoNumber"], node.inputs.sidecar["EchoTimes"]) == (2, [0.005, 0.012])
    assert _inputs(workflow, "export_acq_ori02_echo", ("in_file",)) == {"in_file": "scan_acq_ori02_wf.outputnode.echo"}


@pytest.mark.parametrize(("config", "label"), [
    (RunConfig(), "single-step (SMV of total fields)"), (RunConfig(fit="masked", background="lbv"), "lbv"),
    (RunConfig(fit="closed"), "vsharp"), (RunConfig(background="pdf", draws=4), "single-step (SMV of total fields)"),
])  # fmt: skip
def test_sidecars_name_the_background_removal_of_what_they_stand_beside(
    subject: RawSubject, tmp_path: Path, config: RunConfig, label: str
) -> None:
    workflow = init_subject_wf(subject, config, "builtin", tmp_path)
    told = {
        name.removeprefix("export_acq_ori02_"): node.inputs.sidecar.get("BackgroundRemoval")
        for name, node in _steps(workflow).items()
        if name.startswith("export_acq_ori02_")
    }
    for name in ("local_field", "local_mask"):
        assert told.pop(name) == config.background
    for name in ("magnitude", "brain_mask", "reliable_mask", "total_field", "residual", "echo", "xfm"):
        assert told.pop(name) is None  # the background is in it, or it is no field
    assert {"chi33_file", "deltab_file", "cosmos_file", "residual_file"} <= set(told)
    assert set(told.values()) == {label}


def _exported(workflow: pe.Workflow) -> list[str]:
    return [Path(node.inputs.out_file).name for name, node in _steps(workflow).items() if name.startswith("export_")]


@pytest.mark.parametrize(("config", "count"), [
    (RunConfig(), 0), (RunConfig(draws=2), 3), (RunConfig(jackknife=3, fit="closed"), 3),
])  # fmt: skip
def test_standard_deviations_are_exported_where_they_are_asked_for(
    subject: RawSubject, tmp_path: Path, config: RunConfig, count: int
) -> None:
    workflow = init_subject_wf(subject, config, "builtin", tmp_path)
    for what in DEVIATION_FILES:
        names = [name for name in _exported(workflow) if name.endswith(f"_{what}.nii.gz")]
        assert names == [f"sub-01_acq-ori{i:02d}_{what}.nii.gz" for i in range(1, count + 1)]


def _inputs(workflow: pe.Workflow, target: str, fields: tuple[str, ...]) -> dict[str, str]:
    """Which step and output feeds each input of a step, through all nesting."""
    flat = workflow._create_flat_graph()
    found = {}
    for source, step, data in flat.edges(data=True):
        if step.fullname.partition(".")[2] != target:
            continue
        for output, name in data["connect"]:
            if name in fields:
                found[name] = f"{source.fullname.partition('.')[2]}.{output}"
    return found


@pytest.mark.parametrize(("config", "field", "mask"), [
    (RunConfig(), "total_field", "reliable_mask"),
    (RunConfig(fit="masked"), "local_field", "local_mask"),
    (RunConfig(fit="closed"), "local_field", "local_mask"),
])  # fmt: skip
def test_the_single_step_fit_takes_total_fields_where_they_can_be_trusted_the_others_local_ones(
    subject: RawSubject, tmp_path: Path, config: RunConfig, field: str, mask: str
) -> None:
    workflow = init_subject_wf(subject, config, "builtin", tmp_path)
    assert _inputs(workflow, "all_fields", ("in1",)) == {"in1": f"scan_acq_ori01_wf.outputnode.{field}"}
    assert _inputs(workflow, "all_masks", ("in2",)) == {"in2": f"scan_acq_ori02_wf.outputnode.{mask}"}
    assert _inputs(workflow, "all_weights", ("in3",)) == {"in3": "scan_acq_ori03_wf.outputnode.weight"}
    # the labels' residual is of the field that was fitted
    names = ("local_field", "local_mask", "uncertainty_file", "total_field", "reliable_mask", "sidecar_file")
    fed = _inputs(workflow, "labels_acq_ori01_wf.inputnode", names)
    total = {
        "total_field": "scan_acq_ori01_wf.outputnode.total_field",
        "reliable_mask": "scan_acq_ori01_wf.outputnode.reliable_mask",
        "sidecar_file": "fit_wf.outputnode.sidecar_file",
    }
    assert fed == {
        **(total if field == "total_field" else {}),
        "local_field": "scan_acq_ori01_wf.outputnode.local_field",
        "local_mask": "scan_acq_ori01_wf.outputnode.local_mask",
        "uncertainty_file": "fit_wf.outputnode.uncertainty_file",
    }


def test_without_weights_none_are_gathered(subject: RawSubject, tmp_path: Path) -> None:
    workflow = init_subject_wf(subject, RunConfig(weights="mask"), "builtin", tmp_path)
    assert "all_weights" not in workflow.list_node_names()
    fed = _inputs(workflow, "fit_wf.inputnode", ("fields", "masks", "weights", "transforms", "reference_file"))
    assert set(fed) == {"fields", "masks", "transforms", "reference_file"}


def test_every_label_tells_the_fit_it_came_from(subject: RawSubject, tmp_path: Path) -> None:
    workflow = init_subject_wf(subject, RunConfig(draws=2), "builtin", tmp_path)
    told = {"sidecar_file": "fit_wf.outputnode.sidecar_file"}
    for what in ("chi33", "deltab", "cosmos", "residual", "chi33sd", "deltabsd", "cosmossd"):
        assert _inputs(workflow, f"export_acq_ori02_{what}_file", ("sidecar_file",)) == told
    assert _inputs(workflow, "export_tensor_file", ("sidecar_file",)) == told
    assert _inputs(workflow, "export_acq_ori02_local_field", ("sidecar_file",)) == {}


def test_only_the_reference_gets_the_identity(subject: RawSubject, tmp_path: Path) -> None:
    workflow = init_subject_wf(subject, RunConfig(reference="acq-ori02"), "builtin", tmp_path)
    kinds = {
        name: type(node.interface).__name__ for name, node in _steps(workflow).items() if name.endswith(".register")
    }
    assert kinds == {
        "registration_acq_ori01_wf.register": "RegisterSimilarity",
        "registration_acq_ori02_wf.register": "IdentityTransform",
        "registration_acq_ori03_wf.register": "RegisterSimilarity",
    }
    moving = workflow.get_node("registration_acq_ori03_wf.register").inputs
    assert "acq-ori03_echo-1" in moving.in_files[0]
    assert "acq-ori02_echo-1" in moving.reference_files[0]
    tensor = workflow.get_node("export_tensor_file").inputs.sidecar
    assert tensor["ReferenceScan"] == "acq-ori02"


def test_reference_is_the_first_or_the_named(subject: RawSubject) -> None:
    assert reference_scan(subject, RunConfig()).name == "acq-ori01"
    assert reference_scan(subject, RunConfig(reference="acq-ori03")).name == "acq-ori03"
    with pytest.raises(InputError, match=r"reference ori9 is no scan of sub-01: choose one of acq-ori01, acq-ori02"):
        reference_scan(subject, RunConfig(reference="ori9"))


def test_reference_may_be_named_without_its_entity_where_that_names_one_scan(subject: RawSubject) -> None:
    assert reference_scan(subject, RunConfig(reference="ori03")).name == "acq-ori03"
    twice = dataclasses.replace(
        subject, scans=tuple(dataclasses.replace(subject.scans[0], session=session) for session in ("1", "2"))
    )
    assert reference_scan(twice, RunConfig(reference="ses-2_acq-ori01")).name == "ses-2_acq-ori01"
    assert reference_scan(twice, RunConfig(reference="ses-2 ori01")).name == "ses-2_acq-ori01"
    for word in ("ori01", "acq-ori01"):
        with pytest.raises(InputError, match=rf"{word} means 2 scans of sub-01: choose one of ses-1_acq-ori01, ses-2_"):
            reference_scan(twice, RunConfig(reference=word))


def test_parameters_reach_their_steps(subject: RawSubject) -> None:
    config = RunConfig(
        bet_threshold=0.3, unwrap="laplacian", phase_sign=-1, background="pdf", vsharp_largest_radius=15.0,
        vsharp_smallest_radius=6.0,
        vsharp_threshold=0.05, residual_limit=0.4, offset_smoothing=6.0,
    )  # fmt: skip
    scan = dataclasses.replace(subject.scans[1], phase_sign=-1)
    workflow = init_scan_wf(scan, config)
    total = workflow.get_node("total_field").inputs
    assert (total.unwrap, total.phase_sign, total.residual_limit, total.offset_smoothing) == ("laplacian", -1, 0.4, 6.0)
    assert total.echo_times == [0.005, 0.012]
    assert [Path(path) for path in total.phase_files] == list(scan.phase)
    local = workflow.get_node("local_field").inputs
    assert (local.largest_radius, local.smallest_radius, local.threshold) == (15.0, 6.0, 0.05)
    assert (local.method, local.b0_direction) == ("pdf", None)
    assert init_brain_mask_wf(scan, config, "builtin").get_node("bet").inputs.frac == 0.3
    for backend in ("builtin", "fsl"):
        learned = init_brain_mask_wf(scan, RunConfig(mask_method="deepbet"), backend).get_node("deepbet")
        assert type(learned.interface).__name__ == "LearnedMask"
    given = RunConfig(
        prior_iso=0.1, noise=0.001, fit="masked", iterations=7, draws=3, jackknife=4, dask="local", fit_memory=2.5,
        device="cuda",
    )  # fmt: skip
    workflow = init_subject_wf(subject, given, "builtin", Path("out"))
    fit = workflow.get_node("fit_wf.fit").inputs
    assert (fit.prior_iso, fit.prior_aniso, fit.noise, fit.method, fit.iterations) == (0.1, 0.004, 0.001, "masked", 7)
    assert (fit.draws, fit.jackknife, fit.scheduler, fit.memory, fit.device) == (3, 4, "local", 2.5, "cuda")
    assert (fit.white_matter, fit.prior_correlation) == ("auto", 3.0)
    assert fit.labels == ["acq-ori01", "acq-ori02", "acq-ori03"]
    labels = [workflow.get_node(f"labels_acq_ori{i:02d}_wf.labels").inputs.number for i in (1, 2, 3)]
    assert labels == [0, 1, 2]
    usual = init_subject_wf(subject, RunConfig(), "builtin", Path("out")).get_node("fit_wf.fit").inputs
    assert (usual.method, usual.noise, usual.iterations, usual.draws) == ("single-step", None, None, 0)
    assert (usual.scheduler, usual.memory, usual.device) == ("threads", None, "cpu")


def test_a_stated_b0_direction_reaches_fit_labels_and_sidecars(subject: RawSubject, tmp_path: Path) -> None:
    tilted = (0.0, 0.6, 0.8)
    scans = (subject.scans[0], dataclasses.replace(subject.scans[1], b0_direction=tilted), subject.scans[2])
    workflow = init_subject_wf(dataclasses.replace(subject, scans=scans), RunConfig(), "builtin", tmp_path)
    assert workflow.get_node("fit_wf.fit").inputs.b0_directions == [None, tilted, None]
    assert workflow.get_node("labels_acq_ori02_wf.labels").inputs.b0_direction == tilted
    exports = {name: node for name, node in _steps(workflow).items() if name.startswith("export_acq_ori02_chi33")}
    assert [node.inputs.sidecar["B0_dir"] for node in exports.values()] == [list(tilted)]


def test_sessions_have_folders_and_names_of_their_own(subject: RawSubject, tmp_path: Path) -> None:
    scans = tuple(dataclasses.replace(scan, session=f"s{i}", label="acq-a") for i, scan in enumerate(subject.scans))
    workflow = init_subject_wf(dataclasses.replace(subject, scans=scans), RunConfig(), "builtin", tmp_path)
    files = [node.inputs.out_file for name, node in _steps(workflow).items() if name.startswith("export_")]
    assert len(set(files)) == len(files)
    assert str(tmp_path / "sub-01/ses-s1/anat/sub-01_ses-s1_acq-a_desc-chi33_Chimap.nii.gz") in files
    assert str(tmp_path / "sub-01/anat/sub-01_space-subject_desc-tensor_Chimap.nii.gz") in files


def test_node_names_hold_no_punctuation() -> None:
    assert node_name("ses-a_acq-ori01") == "ses_a_acq_ori01"


def test_plan_lines_say_what_would_run(subject: RawSubject, tmp_path: Path) -> None:
    config = RunConfig(prior_iso=0.07)
    workflow = init_subject_wf(subject, config, "fsl", tmp_path)
    first, *scans, settings = plan_lines(subject, config, "fsl", workflow)
    assert first.startswith("sub-01: 3 scans, backend fsl, reference acq-ori01, ")
    assert first.endswith(f" {len(workflow.list_node_names())} steps")
    assert scans == [f"  acq-ori{i:02d}: 2 echoes (5, 12 ms), 3 T" for i in (1, 2, 3)]
    assert "prior_iso=0.07" in settings
    assert "noise" not in settings


@pytest.mark.parametrize("backend", ["fsl", "builtin"])
def test_registration_feeds_all_its_steps(subject: RawSubject, backend: str) -> None:
    workflow = init_registration_wf(subject.scans[1], subject.scans[0], backend)
    steps = set(workflow.list_node_names())
    assert steps == {"inputnode", "outputnode"} | (
        {"flirt", "to_world", "assess"} if backend == "fsl" else {"register"}
    )


def test_masks_are_agreed_on_before_fields_are_made(subject: RawSubject, tmp_path: Path) -> None:
    workflow = init_subject_wf(subject, RunConfig(), "builtin", tmp_path)
    for number in (1, 2, 3):
        fed = _inputs(workflow, f"registration_acq_ori{number:02d}_wf.inputnode", ("mask", "reference_mask"))
        own = f"mask_acq_ori{number:02d}_wf.outputnode.mask_file"
        assert fed == {"mask": own, "reference_mask": "mask_acq_ori01_wf.outputnode.mask_file"}
        assert _inputs(workflow, f"scan_acq_ori{number:02d}_wf.inputnode", ("brain_mask",)) == {
            "brain_mask": f"mask_acq_ori{number:02d}.out"
        }
        assert workflow.get_node(f"mask_acq_ori{number:02d}").inputs.index == [number - 1]
    assert _inputs(workflow, "mask_acq_ori02", ("inlist",)) == {"inlist": "mask_consensus.mask_files"}
    assert _inputs(workflow, "export_acq_ori02_brain_mask", ("sidecar_file",)) == {
        "sidecar_file": "mask_record_acq_ori02.out"
    }


@pytest.mark.parametrize("count", [2, 3])
def test_few_scans_or_a_setting_leave_masks_as_they_are(subject: RawSubject, tmp_path: Path, count: int) -> None:
    some = dataclasses.replace(subject, scans=subject.scans[:count])
    workflow = init_subject_wf(some, RunConfig(mask_consensus=count == 2), "builtin", tmp_path)
    assert "mask_consensus" not in workflow.list_node_names()
    assert _inputs(workflow, "scan_acq_ori02_wf.inputnode", ("brain_mask",)) == {
        "brain_mask": "mask_acq_ori02_wf.outputnode.mask_file"
    }


def test_the_mean_of_all_scans_may_be_the_reference(subject: RawSubject, tmp_path: Path) -> None:
    workflow = init_subject_wf(subject, RunConfig(reference="mean"), "builtin", tmp_path)
    assert _inputs(workflow, "fit_wf.inputnode", ("reference_file",)) == {"reference_file": "mean_reference.brain_file"}
    assert _inputs(workflow, "all_transforms", ("in2",)) == {"in2": "transform_acq_ori02.out"}
    assert _inputs(workflow, "transform_acq_ori02", ("inlist",)) == {"inlist": "mean_reference.transform_files"}
    assert _inputs(workflow, "labels_acq_ori03_wf.inputnode", ("transform_file",)) == {
        "transform_file": "transform_acq_ori03.out"
    }
    assert _inputs(workflow, "mean_reference", ("mask_files",)) == {"mask_files": "mask_consensus.mask_files"}
    assert "sub-01_space-subject_desc-mean_MEGRE.nii.gz" in _exported(workflow)
    tensor = next(node for name, node in _steps(workflow).items() if name == "export_tensor_file")
    assert tensor.inputs.sidecar["ReferenceScan"] == "mean"
    echoes = workflow.get_node("mean_reference").inputs
    assert [len(files) for files in echoes.magnitude_files] == [2, 2, 2]
    assert echoes.echo_times == [[0.005, 0.012]] * 3


def test_masks_of_the_user_replace_bet(subject: RawSubject, tmp_path: Path) -> None:
    folder = tmp_path / "masks"
    for scan, place in (("ori01", "deep/er"), ("ori02", ""), ("ori03", "sub-01/anat")):
        (folder / place).mkdir(parents=True, exist_ok=True)
        (folder / place / f"sub-01_acq-{scan}_desc-brain_mask.nii.gz").write_bytes(b"")
    workflow = init_subject_wf(subject, RunConfig(masks=str(folder)), "builtin", tmp_path)
    names = workflow.list_node_names()
    assert not [name for name in names if name.endswith(".bet") or name == "mask_consensus"]
    given = workflow.get_node("mask_acq_ori01_wf.given_mask").inputs.given_file
    assert given == str(folder / "deep/er/sub-01_acq-ori01_desc-brain_mask.nii.gz")
    for path in folder.rglob("*ori02*"):
        path.unlink()
    (folder / "sub-01_acq-ori03_desc-brain_mask.nii.gz").write_bytes(b"")
    with pytest.raises(InputError, match=r"2 problems:\n- .*holds 0 files named sub-01_acq-ori02.*\n- .*holds 2 files"):
        init_subject_wf(subject, RunConfig(masks=str(folder)), "builtin", tmp_path)
    with pytest.raises(InputError, match=r"masks: .* is no folder: give the folder of the brain masks"):
        init_subject_wf(subject, RunConfig(masks=str(tmp_path / "none")), "builtin", tmp_path)


def test_maps_of_tissue_reach_the_fit_and_are_refused_before_it(subject: RawSubject, tmp_path: Path) -> None:
    affine = np.diag([3.0, 3, 3, 1])
    white, fibre = tmp_path / "wm.nii.gz", tmp_path / "v1.nii.gz"
    nib.save(nib.Nifti1Image(np.full((4, 4, 4), 0.5, np.float32), affine), white)
    nib.save(nib.Nifti1Image(np.broadcast_to(np.float32([0, 0, 1]), (4, 4, 4, 3)), affine), fibre)
    config = RunConfig(white_matter=str(white), fibre=str(fibre), prior_correlation=0.0)
    fit = init_subject_wf(subject, config, "builtin", Path("out")).get_node("fit_wf.fit").inputs
    assert (fit.white_matter_file, fit.fibre_file, fit.prior_correlation) == (str(white), str(fibre), 0.0)
    none = RunConfig(white_matter="none")
    assert init_subject_wf(subject, none, "builtin", Path("out")).get_node("fit_wf.fit").inputs.white_matter == "none"
    nib.save(nib.Nifti1Image(np.full((4, 4, 4), 50, np.float32), affine), white)
    with pytest.raises(InputError, match="holds 50 to 50: give probabilities from 0 to 1"):
        init_subject_wf(subject, config, "builtin", Path("out"))
    with pytest.raises(InputError, match="--fibre goes with --fit masked or single-step, got --fit closed"):
        init_subject_wf(subject, RunConfig(fibre=str(fibre), fit="closed"), "builtin", Path("out"))
