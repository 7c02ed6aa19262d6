"""Configurations written as TOML, bare and with comments."""

from __future__ import annotations

import dataclasses
import tomllib
from pathlib import Path
from typing import Any, get_type_hints

import pytest
from chi33.files.toml_reader import read_config
from chi33.files.toml_writer import key_descriptions, to_toml
from chi33.training.config import NetworkConfig, TrainConfig
from chi33.workflows.config import RunConfig

CONFIGS = [
    RunConfig(),
    RunConfig(
        masks='/data/süß "x"\\山\x7f', prior_aniso=float("inf"), noise=1e-7, draws=3, mask_consensus=False,
        echo_times=(0.004, 0.0095), phase_sign=-1, iterations=7, reference="mean",
    ),
    TrainConfig(),
    TrainConfig(snr=(10.0, 40.0), val_store="v.h5", draw="turned", network=NetworkConfig(dropout=0.25, depth=4)),
]  # fmt: skip


@pytest.mark.parametrize("title", ["", "A page to edit"])
@pytest.mark.parametrize("config", CONFIGS)
def test_what_is_written_is_read_back(tmp_path: Path, config: Any, title: str) -> None:
    path = tmp_path / "c.toml"
    path.write_text(to_toml(config, title=title), encoding="utf-8")
    assert read_config(type(config), path) == config


@pytest.mark.parametrize("kind", [RunConfig, TrainConfig, NetworkConfig])
def test_every_key_is_described_and_printed(kind: type) -> None:
    said = key_descriptions(kind)
    names = [field.name for field in dataclasses.fields(kind)]
    plain = [name for name in names if not dataclasses.is_dataclass(get_type_hints(kind)[name])]
    assert list(said) == plain
    assert all(len(text.split()) > 1 for text in said.values()), said
    page = to_toml(kind(), title="Settings")
    for name in plain:
        (line,) = [line for line in page.splitlines() if line.removeprefix("# ").startswith(f"{name} =")]
        above = page[: page.index(f"\n{line}")].splitlines()
        assert above[-1].startswith("# "), name
        assert not above[-1].endswith("="), name


def test_the_comments_name_choices_and_defaults() -> None:
    page = to_toml(RunConfig(fit="masked"), title="Settings")
    block = next(block for block in page.split("\n\n") if block.endswith('fit = "masked"'))
    said = " ".join(line.removeprefix("# ") for line in block.splitlines())
    assert 'One of "single-step", "masked", "closed", "none"; default "single-step".' in said
    assert "noise" not in tomllib.loads(page)
    assert "\n# noise =\n" in page
