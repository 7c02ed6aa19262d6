"""Data sets of living heads: presets and switches on the command line, truth and record on disk."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from chi33.files.derivatives import Derivatives, read_image, read_json, sidecar_path
from chi33.files.errors import InputError
from chi33.pipeline.phantom.acquisition import Protocol
from chi33.pipeline.phantom.living.effects import EFFECTS, IDEAL, VIVO, Effects
from chi33.workflows.simulate import scans as simulate_scans
from chi33.workflows.simulate.dataset import Simulation, simulate_dataset
from chi33.workflows.simulate.options import chosen_effects, simulation_from_text

sys.path.insert(0, str(Path(__file__).parents[2] / "pipeline" / "phantom" / "living"))

from living_scene import plain_head

OPTIONS = {
    "voxel": ("2",), "matrix": "24,24,24", "echoes": 2, "echo_times": None, "field_strength": 3.0, "snr": 50.0,
    "phase_sign": None, "subjects": 1, "orientations": "2", "max_angle": None, "oblique": 0.0, "axcodes": "RAS",
    "isotropic": False, "seed": 0,
}  # fmt: skip


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data set with every effect, of the plain head in place of a person's."""
    simulation = Simulation(
        orientations=2,
        voxels=((2.0, 2.0, 2.0),),
        matrix=(24, 24, 24),
        max_angle=20.0,
        protocol=Protocol(echo_times=(0.006, 0.014), phase_sign=-1),
        preset="vivo",
        effects=VIVO,
    )
    out = tmp_path_factory.mktemp("living") / "raw"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(simulate_scans, "living_head", lambda parameters, effects: plain_head())
        return simulate_dataset(out, simulation, report=lambda line: None)


def test_truth_has_the_usual_names_and_the_myelin_frequency(dataset: Path) -> None:
    files = Derivatives(dataset / "derivatives" / "truth", "01")
    for scan in ("acq-ori01", "acq-ori02"):
        fields = {}
        for desc in ("total", "local", "deltab", "myelin"):
            path = files.path(scan, suffix="fieldmap", desc=desc)
            fields[desc], _ = read_image(path)
            assert read_json(sidecar_path(path))["Units"] == "ppm"
        assert fields["local"].std() > 0
        assert -0.03 < fields["myelin"].min() < -0.003
        brain, _ = read_image(files.path(scan, suffix="mask", desc="brain"))
        assert not fields["myelin"][brain == 0].any()
    assert "no susceptibility" in read_json(sidecar_path(path))["Description"]
    chi, _ = read_image(files.path("acq-ori02", suffix="Chimap", desc="chi33"))
    assert np.abs(chi).max() > 0.05


def test_record_names_the_preset_and_every_effect(dataset: Path) -> None:
    record = read_json(dataset / "derivatives" / "truth" / "simulation.json")
    assert record["Preset"] == "vivo"
    assert {name.replace("-", "_") for name in record["Effects"]} == set(EFFECTS)
    assert record["Effects"]["breathing"]["Strength"] == VIVO.breathing
    (subject,) = record["Subjects"]
    assert subject["Effects"]["breathing"] != VIVO.breathing  # this subject's own
    assert [scan["Scan"] for scan in subject["Scans"]] == ["acq-ori01", "acq-ori02"]
    assert "MovedAtShareOfScan" in subject["Scans"][1]
    assert "noise-map" in (dataset / "README").read_text(encoding="utf-8")


def test_presets_and_switches_are_read_from_options_and_files(tmp_path: Path) -> None:
    assert simulation_from_text(**OPTIONS).effects == IDEAL
    assert simulation_from_text(**OPTIONS).max_angle == 35
    vivo = simulation_from_text(**OPTIONS, preset="vivo")
    assert (vivo.preset, vivo.effects, vivo.max_angle) == ("vivo", VIVO, 25.0)
    assert simulation_from_text(**{**OPTIONS, "max_angle": 12.0}, preset="vivo").max_angle == 12.0
    file = tmp_path / "effects.toml"
    file.write_text('preset = "vivo"\n[effects]\nbipolar = false\nbreathing = 1.6\n')
    expected = replace(VIVO, bipolar=0.0, breathing=1.6)
    assert chosen_effects(None, (), (), file) == ("vivo", expected)
    assert chosen_effects(None, ("bipolar",), ("flow",), file)[1] == replace(expected, bipolar=0.6, flow=0.0)
    assert chosen_effects("ideal", (), (), file)[1] == Effects(breathing=1.6)


def test_contradictions_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"isotropic leaves out the fibres that myelin and tracts need.*--without"):
        simulation_from_text(**{**OPTIONS, "isotropic": True}, preset="vivo")
    assert simulation_from_text(**{**OPTIONS, "isotropic": True}, preset="vivo", off=("myelin,tracts",)).isotropic
    file = tmp_path / "effects.toml"
    file.write_text("[effects]\nbreething = true\n")
    with pytest.raises(InputError, match="unknown effect, 'breething': did you mean breathing"):
        chosen_effects(None, (), (), file)
    file.write_text('preset = "live"\n')
    with pytest.raises(InputError, match=r"preset in .* must be one of 'ideal', 'vivo', got 'live'"):
        chosen_effects(None, (), (), file)


def test_the_command_takes_with_and_without(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    import chi33.workflows.simulate.dataset as workflow
    from chi33.cli.main import main

    asked: list[Simulation] = []
    monkeypatch.setattr(workflow, "simulate_dataset", lambda out, simulation, **options: asked.append(simulation))
    words = ["simulate", str(tmp_path / "out"), "--preset", "vivo", "--with", "breathing=2,drift", "--without", "flow"]
    main(words)
    assert asked[0].effects == replace(VIVO, breathing=2.0, flow=0.0)
    with pytest.raises(SystemExit) as stop:
        main([*words, "--with", "flow=3"])
    assert stop.value.code == 2
    assert "flow is both in --with and in --without" in capsys.readouterr().err
