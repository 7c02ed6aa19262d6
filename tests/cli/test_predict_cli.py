"""`chi33 predict` from the command line."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import cyclopts
import nibabel as nib
import numpy as np
import pytest
from chi33.cli.predict import predict
from chi33.files.errors import Chi33Warning, InputError
from chi33.training.config import NetworkConfig
from chi33.training.inference.weights import save_atomically, weights_entry
from chi33.training.networks.modl_qsm import MODL_QSM_PUBLISHED, ModlQsm

sys.path.insert(0, str(Path(__file__).parents[1] / "training"))
from tiny_store import tiny_head


def command(*words: str | Path) -> None:
    app = cyclopts.App(name="chi33", result_action="return_value")
    app.command(predict)
    app(["predict", *map(str, words)], exit_on_error=False, print_error=False)


@pytest.fixture
def inputs(tmp_path: Path) -> list[str | Path]:
    head = tiny_head(2)
    network = ModlQsm(MODL_QSM_PUBLISHED, depth=4, iterations=1, start_at_mean=False)
    config = NetworkConfig(depth=4, iterations=1)
    save_atomically(weights_entry("modl-qsm", config, network), tmp_path / "run" / "weights.pt")
    for name, volume in (("field", head.field), ("mask", head.mask)):
        nib.save(nib.Nifti1Image(volume, head.affine), tmp_path / f"{name}.nii.gz")
    return [
        tmp_path / "run",
        "--field",
        tmp_path / "field.nii.gz",
        "--mask",
        tmp_path / "mask.nii.gz",
        "--device",
        "cpu",
    ]


def test_a_run_folder_a_field_and_a_mask_give_two_maps(
    inputs: list[str | Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command(*inputs, "--out", tmp_path / "p")
    paths = [tmp_path / "p_chi.nii.gz", tmp_path / "p_deltab.nii.gz"]
    assert capsys.readouterr().out.split() == [str(path) for path in paths]
    assert all(np.isfinite(nib.load(path).get_fdata()).all() for path in paths)


def test_tiles_direction_and_model_reach_the_network(
    inputs: list[str | Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    options = ("--tiles", "--b0-dir", "0", "-0.6", "0.8", "--model", "modl-qsm")
    command(*inputs, "--out", tmp_path / "p", *options)
    sidecar = json.loads((tmp_path / "p_chi.json").read_text())
    assert sidecar["Tiles"] is True
    assert sidecar["B0_dir"] == [0, -0.6, 0.8]
    assert "1/1 tiles" in capsys.readouterr().err


def test_units_by_hand_reach_the_field(
    inputs: list[str | Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    image = nib.load(tmp_path / "field.nii.gz")
    radians = 2 * np.pi * 42.577478518 * 7 * 0.012 * image.get_fdata(dtype=np.float32)
    nib.save(nib.Nifti1Image(radians, image.affine), tmp_path / "field.nii.gz")
    with pytest.warns(Chi33Warning, match=r"is in rad at 7 T \(--b0\) and TE 12 ms: multiplied by"):
        command(*inputs, "--out", tmp_path / "p", "--units", "rad", "--b0", "7", "--te", "12")
    assert json.loads((tmp_path / "p_chi.json").read_text())["EchoTime"] == 0.012
    with pytest.raises(InputError, match="--units must be ppm, ppb, Hz"):
        command(*inputs, "--out", tmp_path / "q", "--units", "stones")


def test_errors(inputs: list[str | Path], tmp_path: Path) -> None:
    with pytest.raises(InputError, match="holds modl-qsm, not lpcnn"):
        command(*inputs, "--out", tmp_path / "p", "--model", "lpcnn")
    with pytest.raises(InputError, match="--b0-dir must be a unit vector"):
        command(*inputs, "--out", tmp_path / "p", "--b0-dir", "0", "0", "3")
    with pytest.raises(cyclopts.CycloptsError):
        command(*inputs)
    assert not list(tmp_path.glob("p_*"))
