"""Weights: read back as they were written, whole or not at all."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from chi33.files.errors import InputError
from chi33.training.config import NetworkConfig
from chi33.training.inference.weights import load_network, save_atomically, weights_entry
from chi33.training.networks.modl_qsm import MODL_QSM_PUBLISHED, ModlQsm

CONFIG = NetworkConfig(depth=4, iterations=2)


def network() -> ModlQsm:
    torch.manual_seed(3)
    return ModlQsm(MODL_QSM_PUBLISHED, depth=4, iterations=2, start_at_mean=False)


def test_round_trip_keeps_every_tensor_and_the_normalisation(tmp_path: Path) -> None:
    made = network()
    save_atomically(weights_entry("modl-qsm", CONFIG, made), tmp_path / "weights.pt")
    trained = load_network(tmp_path, model="modl-qsm")
    assert trained.model == "modl-qsm"
    assert trained.source == tmp_path / "weights.pt"
    assert not trained.network.training
    loaded = trained.network.state_dict()
    assert all(torch.equal(tensor, loaded[name]) for name, tensor in made.state_dict().items())
    assert trained.network.mean.flatten().tolist() == pytest.approx(MODL_QSM_PUBLISHED.mean)


def test_a_failed_write_leaves_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "weights.pt"
    save_atomically({"a": 1}, path)
    with pytest.raises(Exception, match="pickle"):
        save_atomically({"a": lambda: 1}, path)
    assert torch.load(path, weights_only=True) == {"a": 1}
    assert [p.name for p in tmp_path.iterdir()] == ["weights.pt"]


def test_what_is_no_weights_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="none does not exist: give a run folder"):
        load_network(tmp_path / "none")
    with pytest.raises(InputError, match="holds no weights yet"):
        load_network(tmp_path)
    (tmp_path / "text.pt").write_text("hello")
    with pytest.raises(InputError, match=r"text.pt is no weights file, or it is damaged"):
        load_network(tmp_path / "text.pt")
    torch.save({"state": {}}, tmp_path / "other.pt")
    with pytest.raises(InputError, match=r"other.pt holds no chi33 weights"):
        load_network(tmp_path / "other.pt")


def test_truncated_weights_are_named(tmp_path: Path) -> None:
    path = tmp_path / "weights.pt"
    save_atomically(weights_entry("modl-qsm", CONFIG, network()), path)
    path.write_bytes(path.read_bytes()[:-2000])
    with pytest.raises(InputError, match="or it is damaged"):
        load_network(path)


def test_weights_of_another_model_or_size_are_named(tmp_path: Path) -> None:
    path = tmp_path / "weights.pt"
    save_atomically(weights_entry("modl-qsm", CONFIG, network()), path)
    with pytest.raises(InputError, match="holds modl-qsm, not lpcnn: leave --model out"):
        load_network(path, model="lpcnn")
    save_atomically(weights_entry("modl-qsm", NetworkConfig(depth=6), network()), path)
    with pytest.raises(InputError, match="does not fit its network"):
        load_network(path)
