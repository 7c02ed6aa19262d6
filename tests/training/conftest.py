"""Fixtures of the training tests: a tiny store, and the settings that train on it in a second."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))  # tiny_store

from chi33.training.config import NetworkConfig, TrainConfig
from tiny_store import write_tiny_store


@pytest.fixture(scope="session")
def tiny_store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store of two subjects to train on and one to validate on, with patches of 8 voxels."""
    path = tmp_path_factory.mktemp("store") / "tiny.h5"
    return write_tiny_store(path, {"01": "train", "02": "val", "03": "train"})


@pytest.fixture
def quick() -> TrainConfig:
    """Three steps an epoch with a network of two blocks."""
    return TrainConfig(
        epochs=4, samples_per_epoch=6, device="cpu", threads=1, checkpoint_minutes=0, network=NetworkConfig(depth=6)
    )
