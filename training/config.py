"""How a network is trained: frozen dataclasses, read from TOML by the strict loader of pipeline.config."""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from ..datasets.loaders import Draw, Keep, Turn
from ..pipeline.config import read_config, to_table
from ..pipeline.errors import InputError
from .backbone import DropoutKind
from .physics import PatchRule

Label = Literal["chi33", "cosmos"]
Device = Literal["auto", "cpu", "cuda"]
Precision = Literal["auto", "32-true", "bf16-mixed"]


@dataclass(frozen=True)
class NetworkConfig:
    """The network; the defaults are MoDL-QSM's. See ModlQsm for the meaning of each."""

    iterations: int = 3
    step: float = 4.0
    step_per_iteration: bool = False
    depth: int = 18
    dropout: float = 0.5
    dropout_kind: DropoutKind = "element"
    bn_eps: float = 1e-5
    start_at_mean: bool = True


@dataclass(frozen=True)
class TrainConfig:
    """Everything a training depends on.

    model, label (what it learns: "chi33" with delta B', or "cosmos"; chi33 where the store has it, when not given),
    epochs, batch_size (patches), learning_rate (Adam), plateau_factor and plateau_patience (the rate is multiplied by
    the factor when the validation loss has not fallen for so many epochs), l2 (added on convolution kernels: l2 times
    the
    sum of squares; 5e-4 in the published code), samples_per_epoch and val_samples (patches; all, and a quarter of the
    training samples, when not given), patch_rule (the physics on a patch), seed, precision ("auto": bf16-mixed on a
    GPU, 32-true on a CPU), num_workers (loader processes), threads (of the CPU; the library's choice when not given),
    checkpoint_minutes (between two checkpoints within an epoch), val_store (a store whose val split validates instead
    of the training store's), draw ("index" for the store's patches, "random" for new ones every epoch, "turned" for
    those of heads turned while training, of patch_size voxels), keep (decoded "chunks", at most cache_mb megabytes; the
    split in host "memory"; or on the "device"), turn, max_angle, patches_per_turn, snr and scale (of turned heads, as
    in LoaderConfig).
    """

    model: str = "modl-qsm"
    label: Label | None = None
    epochs: int = 40
    batch_size: int = 2
    learning_rate: float = 1e-3
    plateau_factor: float = 0.5
    plateau_patience: int = 3
    l2: float = 0.0
    samples_per_epoch: int | None = None
    val_samples: int | None = None
    patch_rule: PatchRule = "pad-crop"
    seed: int = 0
    device: Device = "auto"
    precision: Precision = "auto"
    num_workers: int = 0
    threads: int | None = None
    checkpoint_minutes: float = 2.0
    val_store: str | None = None
    draw: Draw = "index"
    patch_size: int | None = None
    keep: Keep = "chunks"
    cache_mb: int = 1024
    turn: Turn = "auto"
    max_angle: float = 30.0
    patches_per_turn: int = 4
    snr: tuple[float, float] | None = None
    scale: tuple[float, float] | None = None
    network: NetworkConfig = field(default_factory=NetworkConfig)

    def __post_init__(self) -> None:
        """Check the ranges; raises InputError naming the key."""
        for key in ("epochs", "batch_size", "samples_per_epoch", "val_samples", "threads", "patch_size"):
            value = getattr(self, key)
            if value is not None and value < 1:
                raise InputError(f"{key} must be at least 1, got {value}.")
        for key in ("num_workers", "seed", "plateau_patience", "l2", "checkpoint_minutes", "cache_mb"):
            if getattr(self, key) < 0:
                raise InputError(f"{key} must be at least 0, got {getattr(self, key)}.")
        if not 0 < self.learning_rate < 1:
            raise InputError(f"learning_rate must lie between 0 and 1, got {self.learning_rate}: MoDL-QSM uses 0.001.")
        if not 0 < self.plateau_factor < 1:
            raise InputError(f"plateau_factor must lie between 0 and 1, got {self.plateau_factor}: MoDL-QSM uses 0.5.")


# What may differ when a training is resumed: how long and on what it runs, not what it computes.
RESUMABLE = (
    "epochs", "device", "precision", "num_workers", "threads", "checkpoint_minutes", "keep", "cache_mb",
    "val_store",  # its content is compared instead, so it may have moved
)  # fmt: skip


def load_config(path: str | Path) -> TrainConfig:
    """Read a TrainConfig from a TOML file; raises InputError naming an unknown key, a wrong type or bad TOML."""
    return read_config(TrainConfig, path)


def check_resumable(saved: TrainConfig, wanted: TrainConfig) -> None:
    """Raise InputError naming what `wanted` would change of what a training under way computes."""
    before, now = _computed(saved), _computed(wanted)
    differing = [f"{key} ({before[key]} before, {now[key]} now)" for key in before if before[key] != now[key]]
    if differing:
        raise InputError(
            f"a resumed training cannot change {', '.join(differing)}: leave it as it was, or start a new run."
        )


def _computed(config: TrainConfig) -> dict[str, Any]:
    """The values by which two trainings differ, those of the network by their keys in a config file."""
    plain = {f.name: getattr(config, f.name) for f in dataclasses.fields(config) if f.name not in RESUMABLE}
    network = plain.pop("network")
    plain["label"] = plain["label"] or "chi33"  # as runs that do not say
    return {**plain, **{f"network.{f.name}": getattr(network, f.name) for f in dataclasses.fields(network)}}


def to_toml(config: TrainConfig) -> str:
    """Return a config as TOML that load_config reads back."""
    flat, sections = [], []
    for key, value in to_table(config).items():
        if isinstance(value, dict):
            sections += ["", f"[{key}]", *(f"{name} = {json.dumps(item)}" for name, item in value.items())]
        else:
            flat.append(f"{key} = {json.dumps(value)}")
    return "\n".join(flat + sections) + "\n"
