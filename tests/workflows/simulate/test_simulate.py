from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import nibabel as nib
import numpy as np
import pytest
from chi33.files.derivatives import Derivatives, read_image, read_json, read_transform, sidecar_path
from chi33.files.errors import InputError
from chi33.pipeline.frames import b0_direction_from_affine, rotation_and_scale, rotation_angle
from chi33.pipeline.phantom.acquisition import Protocol
from chi33.pipeline.phantom.living.effects import IDEAL
from chi33.pipeline.phantom.subjects import HeadParameters
from chi33.pipeline.physics.tensor_field import tensor_field
from chi33.pipeline.physics.tensors import rotate_components
from chi33.workflows.raw.dataset import check_raw, find_subjects, load_phase
from chi33.workflows.simulate.dataset import Simulation, _renamed_at_the_end, simulate_dataset
from chi33.workflows.simulate.options import (
    default_echo_times,
    parse_echo_times,
    parse_matrix,
    parse_orientations,
    parse_voxels,
    simulation_from_text,
)

SIMULATION = Simulation(
    orientations=2,
    voxels=((3.0, 3.0, 3.0), (3.0, 3.0, 4.0)),
    oblique=12.0,
    axcodes="LAS",
    max_angle=30.0,
    protocol=Protocol(echo_times=(0.006, 0.014), phase_sign=-1),
    seed=8,
)


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("simulated") / "raw"
    return simulate_dataset(out, SIMULATION, report=lambda line: None)


def test_raw_data_are_read_as_bids(dataset: Path) -> None:
    subjects = find_subjects(dataset)
    check_raw(subjects)
    assert [subject.label for subject in subjects] == ["01"]
    scans = subjects[0].scans
    assert [scan.label for scan in scans] == ["acq-ori01", "acq-ori02"]
    for scan, voxel in zip(scans, SIMULATION.voxels, strict=True):
        assert scan.echo_times == pytest.approx((0.006, 0.014))
        assert scan.field_strength == 3.0
        assert scan.phase_sign == -1
        image = nib.load(scan.phase[0])
        assert image.header.get_zooms() == pytest.approx(voxel)
        assert nib.aff2axcodes(image.affine) == ("L", "A", "S")
        h = b0_direction_from_affine(image.affine)
        assert np.degrees(np.arccos(h[2])) == pytest.approx(12, abs=0.01)
        phase = np.asarray(image.dataobj)
        assert np.abs(phase).max() <= np.pi
        assert np.abs(phase).max() > 3.1
        assert load_phase(scan, 0).shape == image.shape


def test_sidecars_and_descriptions_state_the_scan(dataset: Path) -> None:
    raw = Derivatives(dataset, "01")
    for part, units in (("mag", "arbitrary"), ("phase", "rad")):
        sidecar = read_json(raw.path(f"acq-ori02_echo-2_part-{part}", suffix="MEGRE", ext=".json"))
        assert sidecar["Units"] == units
        assert sidecar["EchoTime"] == 0.014
        assert sidecar["MagneticFieldStrength"] == 3.0
        assert sidecar["RepetitionTime"] > 0.014
        assert sidecar["Manufacturer"] == "chi33 simulator"
    assert read_json(dataset / "dataset_description.json")["DatasetType"] == "raw"
    truth = read_json(dataset / "derivatives" / "truth" / "dataset_description.json")
    assert truth["DatasetType"] == "derivative"
    assert truth["GeneratedBy"][0]["Name"] == "chi33"
    assert (dataset / "participants.tsv").read_text().split() == ["participant_id", "sub-01"]


def test_truth_on_disk_is_consistent_across_scans(dataset: Path) -> None:
    truth = Derivatives(dataset / "derivatives" / "truth", "01")
    tensor, affine = read_image(truth.path(suffix="Chimap", desc="tensor", space="subject"))
    field, field_affine = read_image(truth.path("acq-ori01", suffix="fieldmap", desc="local"))
    np.testing.assert_allclose(affine, field_affine)
    assert tensor.shape == (6, *field.shape)
    frame = np.linalg.qr(affine[:3, :3])[0]
    frame *= np.sign((frame * affine[:3, :3]).sum(axis=0))
    voxel = np.linalg.norm(affine[:3, :3], axis=0)
    predicted = tensor_field(rotate_components(tensor, frame.T), voxel, frame[2])
    mask, _ = read_image(truth.path("acq-ori01", suffix="mask", desc="brain"))
    np.testing.assert_allclose(predicted * mask, field, atol=2e-6)
    sidecar = read_json(sidecar_path(truth.path("acq-ori02", suffix="Chimap", desc="chi33")))
    second = nib.load(truth.path("acq-ori02", suffix="Chimap", desc="chi33"))
    np.testing.assert_allclose(sidecar["B0_dir"], b0_direction_from_affine(second.affine), atol=1e-6)
    assert sidecar["Units"] == "ppm"


def test_every_promised_truth_is_there_on_the_scans_grid(dataset: Path) -> None:
    truth = Derivatives(dataset / "derivatives" / "truth", "01")
    names = [("mask", "brain"), ("mask", "local"), ("fieldmap", "total"), ("fieldmap", "local"), ("fieldmap", "deltab"),
             ("Chimap", "chi33"), ("Chimap", "cosmos"), ("dseg", "rois")]  # fmt: skip
    for scan in ("acq-ori01", "acq-ori02"):
        raw = nib.load(Derivatives(dataset, "01").path(f"{scan}_echo-1_part-mag", suffix="MEGRE"))
        for suffix, desc in names:
            volume, affine = read_image(truth.path(scan, suffix=suffix, desc=desc))
            assert volume.shape == raw.shape
            np.testing.assert_allclose(affine, raw.affine, atol=1e-5)
            assert volume.any()
        table = truth.path(scan, suffix="dseg", desc="rois", ext=".tsv").read_text()
        assert "3\tpallidum" in table
    for desc in ("tensor", "mms", "cosmos", "msa", "pev"):
        assert truth.path(suffix="Chimap", desc=desc, space="subject").is_file()


def test_transforms_lead_to_the_reference(dataset: Path) -> None:
    truth = Derivatives(dataset / "derivatives" / "truth", "01")
    np.testing.assert_allclose(read_transform(truth.transform("acq-ori01")), np.eye(4), atol=1e-12)
    transform = read_transform(truth.transform("acq-ori02"))
    rotation, scale = rotation_and_scale(transform)
    assert scale == pytest.approx(1)
    assert rotation_angle(rotation) == pytest.approx(30, abs=1e-6)
    centres = []
    for scan in ("acq-ori01", "acq-ori02"):
        mask, affine = read_image(truth.path(scan, suffix="mask", desc="brain"))
        centres.append(affine @ [*np.argwhere(mask > 0).mean(axis=0), 1])
    np.testing.assert_allclose(transform @ centres[1], centres[0], atol=0.5)


def test_same_seed_gives_the_same_data_and_an_earlier_one_is_replaced_only_on_demand(dataset: Path) -> None:
    before = {path.name: np.asarray(nib.load(path).dataobj) for path in dataset.rglob("*.nii.gz")}
    with pytest.raises(InputError, match="holds a simulated data set already: pass --overwrite"):
        simulate_dataset(dataset, SIMULATION)
    lines: list[str] = []
    simulate_dataset(dataset, SIMULATION, overwrite=True, report=lines.append)
    assert len(lines) == 3
    after = {path.name: np.asarray(nib.load(path).dataobj) for path in dataset.rglob("*.nii.gz")}
    assert before.keys() == after.keys()
    for name, values in before.items():
        np.testing.assert_array_equal(values, after[name], err_msg=name)
    assert [path.name for path in dataset.parent.iterdir()] == [dataset.name]


def test_foreign_folders_are_left_alone(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("keep")
    with pytest.raises(InputError, match="holds files that no simulation wrote"):
        simulate_dataset(tmp_path, SIMULATION, overwrite=True)
    with pytest.raises(InputError, match="is a file: give a folder"):
        simulate_dataset(tmp_path / "notes.txt", SIMULATION)
    assert (tmp_path / "notes.txt").read_text() == "keep"


def test_each_head_may_have_its_own_number_of_scans(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import chi33.workflows.simulate.dataset as workflow

    made: list[tuple[str, int]] = []
    subject = SimpleNamespace(
        head=SimpleNamespace(parameters=HeadParameters.from_seed(0)),
        effects=IDEAL,
        scan=lambda *arguments: SimpleNamespace(events={}),
    )
    monkeypatch.setattr(workflow, "prepared_subject", lambda *arguments, **options: subject)
    monkeypatch.setattr(workflow, "brain_centred_grid_centre", lambda *arguments: np.zeros(3))
    monkeypatch.setattr(workflow, "_write_scan", lambda *arguments: made.append(arguments[2]))
    lines: list[str] = []
    simulate_dataset(tmp_path / "raw", Simulation(subjects=2, orientations=(1, 2)), report=lines.append)
    assert made == [("01", 0), ("02", 0), ("02", 1)]
    assert [line for line in lines if "building" not in line] == [
        "[1/3] sub-01: scan 1 of 1", "[2/3] sub-02: scan 1 of 2", "[3/3] sub-02: scan 2 of 2",
    ]  # fmt: skip


def test_an_earlier_data_set_survives_an_interrupt_while_it_is_replaced(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import os

    (tmp_path / "raw").mkdir()
    (tmp_path / "raw" / "earlier").write_text("keep")
    rename = os.replace

    def interrupt(source: Path, target: Path) -> None:
        if target == tmp_path / "raw" and not str(source).endswith(".old"):
            raise KeyboardInterrupt
        rename(source, target)

    monkeypatch.setattr(os, "replace", interrupt)
    with pytest.raises(KeyboardInterrupt), _renamed_at_the_end(tmp_path / "raw"):
        pass
    assert [path.name for path in tmp_path.rglob("*")] == ["raw", "earlier"]


def test_nothing_is_left_after_a_failure(tmp_path: Path) -> None:
    def fail(line: str) -> None:
        raise KeyboardInterrupt(line)

    with pytest.raises(KeyboardInterrupt):
        simulate_dataset(tmp_path / "out", SIMULATION, report=fail)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(("change", "message"), [
    ({"subjects": 0}, "number of subjects must be at least 1, got 0"),
    ({"orientations": 0}, "number of orientations must be at least 1, got 0"),
    ({"subjects": 2, "orientations": (3, 0)}, "number of orientations must be at least 1, got 0"),
    ({"subjects": 3, "orientations": (3, 4)}, "orientations has 2 numbers for 3 subject.*give one for all, or one for"),
    ({"max_angle": 65.0}, "at most 60 degrees.*got 65"),
    ({"oblique": 70.0}, "oblique must lie within 45 degrees, got 70"),
    ({"seed": -1}, "seed must be at least 0, got -1"),
    ({"voxels": ()}, "at least one voxel size"),
    ({"matrix": (4, 4, 4)}, "at least 8 voxels"),
])  # fmt: skip
def test_impossible_simulations_are_refused(change: dict, message: str) -> None:
    with pytest.raises(InputError, match=message):
        Simulation(**change)


def test_options_are_read_from_text() -> None:
    assert parse_voxels(("1.5",)) == ((1.5, 1.5, 1.5),)
    assert parse_voxels(("1.5;1,1,2", "1x1x3")) == ((1.5, 1.5, 1.5), (1.0, 1.0, 2.0), (1.0, 1.0, 3.0))
    assert parse_orientations("6") == 6
    assert parse_orientations("4,4,6") == (4, 4, 6)
    assert parse_matrix("210x224x160") == parse_matrix("210,224,160") == (210, 224, 160)
    assert parse_echo_times("5, 10.5") == (0.005, 0.0105)
    assert default_echo_times(6, 3.0) == (0.0077, 0.0127, 0.0177, 0.0227, 0.0277, 0.0327)
    assert default_echo_times(2, 7.0) == (0.004, 0.009)


@pytest.mark.parametrize(("change", "message"), [
    ({"voxel": ("1,2",)}, "voxel must be one or three sizes in mm.*'1,2'"),
    ({"voxel": ("big",)}, "voxel must be millimetres.*'big'"),
    ({"voxel": ("nan",)}, "voxel must be millimetres.*'nan'"),
    ({"orientations": "4.5"}, "orientations must be a whole number such as 6, or one a head.*'4.5'"),
    ({"orientations": "many"}, "orientations must be a whole number.*'many'"),
    ({"matrix": "10,10"}, "matrix must be three whole numbers.*'10,10'"),
    ({"matrix": "10,10,9.5"}, "matrix must be three whole numbers"),
    ({"echo_times": "5,x"}, "echo_times must be milliseconds"),
    ({"echo_times": "10,5"}, "echo times must rise"),
    ({"echoes": 0}, "echoes must lie between 1 and 32, got 0"),
    ({"field_strength": 0.0}, "field strength must lie between"),
])  # fmt: skip
def test_bad_text_is_refused(change: dict, message: str) -> None:
    options = {
        "voxel": ("2",), "matrix": None, "echoes": 4, "echo_times": None, "field_strength": 3.0, "snr": 50.0,
        "phase_sign": 1, "subjects": 1, "orientations": "6", "max_angle": 30.0, "oblique": 0.0, "axcodes": "RAS",
        "isotropic": False, "seed": 0,
    }  # fmt: skip
    assert simulation_from_text(**options).voxels == ((2.0, 2.0, 2.0),)
    with pytest.raises(InputError, match=message):
        simulation_from_text(**{**options, **change})


def test_full_disk_is_told_before_anything_is_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import shutil

    monkeypatch.setattr(shutil, "disk_usage", lambda path: shutil._ntuple_diskusage(10, 9, 1))
    with pytest.raises(InputError, match="free some space"):
        simulate_dataset(tmp_path / "out", SIMULATION)
    assert not (tmp_path / "out").exists()


def test_the_command_hands_its_options_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    import chi33.workflows.simulate.dataset as workflow
    from chi33.cli.simulate import simulate

    asked: list[Simulation] = []

    def record(out: Path, simulation: Simulation, **options: object) -> Path:
        asked.append(simulation)
        return out

    monkeypatch.setattr(workflow, "simulate_dataset", record)
    simulate(tmp_path / "out", voxel=("1.5;1,1,2",), field_strength=7.0, echoes=2, snr=80.0, oblique=12.0, seed=4)
    (simulation,) = asked
    assert simulation.voxels == ((1.5, 1.5, 1.5), (1.0, 1.0, 2.0))
    assert simulation.protocol.echo_times == (0.004, 0.009)
    assert (simulation.protocol.b0, simulation.protocol.snr, simulation.oblique, simulation.seed) == (
        7.0,
        80.0,
        12.0,
        4,
    )
    assert "6 scans of 1 simulated head written" in capsys.readouterr().out
    with pytest.raises(InputError, match="got 0"):
        simulate(tmp_path / "out", orientations="0")
