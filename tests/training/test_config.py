"""The strict loader of training settings."""

from __future__ import annotations

from pathlib import Path

import pytest
from chi33.files.errors import InputError
from chi33.files.toml_reader import override
from chi33.files.toml_writer import to_toml
from chi33.training.config import NetworkConfig, TrainConfig, check_resumable, load_config


def write(path: Path, text: str) -> Path:
    path.write_text(text, encoding="utf-8")
    return path


def test_defaults_are_the_paper_s() -> None:
    config = TrainConfig()
    assert (config.epochs, config.batch_size, config.learning_rate) == (40, 2, 1e-3)
    assert (config.plateau_factor, config.plateau_patience, config.patch_rule, config.l2) == (0.5, 3, "pad-crop", 0)
    network = config.network
    assert (network.iterations, network.step, network.depth, network.dropout) == (3, 4.0, 18, 0.5)
    assert network.dropout_kind == "element"


def test_what_is_written_is_read_back(tmp_path: Path) -> None:
    config = TrainConfig(epochs=3, samples_per_epoch=10, device="cpu", network=NetworkConfig(dropout=0.25, depth=4))
    assert load_config(write(tmp_path / "a.toml", to_toml(config))) == config
    assert load_config(write(tmp_path / "b.toml", "")) == TrainConfig()


def test_whole_numbers_serve_as_numbers(tmp_path: Path) -> None:
    assert load_config(write(tmp_path / "a.toml", "[network]\nstep = 2\n")).network.step == 2.0


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("epoch = 3", r"unknown key epoch: did you mean epochs\?"),
        ("[network]\ndropuot = 0.1", r"unknown key network.dropuot: did you mean network.dropout\?"),
        ("zzz = 3", r"unknown key zzz: the keys are model, label, epochs"),
        ("epochs = 3.5", r"epochs in .*a.toml must be a whole number, got 3.5"),
        ("epochs = true", r"epochs in .* must be a whole number, got True"),
        ('learning_rate = "fast"', r"learning_rate in .* must be a number, got 'fast'"),
        ("model = 3", r"model in .* must be a text, got 3"),
        ("network = 3", r"network in .* must be a table, got 3"),
        ("[network]\nstep_per_iteration = 1", r"network.step_per_iteration in .* must be true or false, got 1"),
        ('patch_rule = "wrap"', r"patch_rule in .* must be one of 'pad-crop', 'pad-gram', 'circular', got 'wrap'"),
        ("epochs = 0", r"epochs must be at least 1, got 0"),
        ("num_workers = -1", r"num_workers must be at least 0, got -1"),
        ("learning_rate = 2.0", r"learning_rate must lie between 0 and 1, got 2.0"),
        ("plateau_factor = 1.0", r"plateau_factor must lie between 0 and 1, got 1.0"),
        ("epochs = = 3", r"a.toml is no valid TOML"),
    ],
)
def test_errors_name_the_key(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        load_config(write(tmp_path / "a.toml", text))


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"none.toml cannot be read"):
        load_config(tmp_path / "none.toml")


def test_options_win_and_none_leaves_alone() -> None:
    config = override(TrainConfig(), {"epochs": 2, "batch_size": None, "network.dropout": 0.0})
    assert (config.epochs, config.batch_size, config.network.dropout) == (2, 2, 0.0)
    with pytest.raises(InputError, match="device in the options must be one of"):
        override(TrainConfig(), {"device": "tpu"})


def test_a_resumed_training_may_change_its_length_but_not_its_arithmetic() -> None:
    check_resumable(TrainConfig(epochs=2), TrainConfig(epochs=9, device="cpu", num_workers=2))
    with pytest.raises(InputError, match=r"cannot change batch_size \(2 before, 4 now\)"):
        check_resumable(TrainConfig(), TrainConfig(batch_size=4))
