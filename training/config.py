"""How a network is trained: frozen dataclasses, read from TOML by the strict loader of files.toml_reader."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from ..datasets.loading.loaders import Draw, Keep, Turn
from ..files.errors import InputError
from ..files.toml_reader import read_config
from .networks.backbone import DropoutKind
from .physics.patches import PatchRule

Label = Literal["chi33", "cosmos"]
Device = Literal["auto", "cpu", "cuda"]
Precision = Literal["auto", "32-true", "bf16-mixed"]


@dataclass(frozen=True)
class NetworkConfig:
    """The network; the defaults are MoDL-QSM's.

    iterations: unrolled iterations;
    step: start of the learnable step t;
    step_per_iteration: one step per iteration, as the paper writes, instead of one for all, as its code does;
    depth: convolutions of the shared CNN;
    dropout: probability inside the residual blocks;
    dropout_kind: whether single elements or whole channels are dropped;
    bn_eps: added to the variance by batch normalisation;
    start_at_mean: the last convolution starts at 0, so that the untrained network predicts the channel means.
    """

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

    model: name of the network;
    label: what it learns, "chi33" with delta B' or "cosmos", chi33 where the store has it when not given;
    epochs: passes over the training samples;
    batch_size: patches a step;
    learning_rate: of Adam at the start;
    plateau_factor: the rate is multiplied by it when the validation loss has stopped falling;
    plateau_patience: epochs without a fall before that;
    l2: times the sum of squares of the convolution kernels is added to the loss (5e-4 in the published code);
    samples_per_epoch: training patches an epoch, all when not given;
    val_samples: validation patches, a quarter of the training samples when not given;
    patch_rule: the physics on a patch;
    seed: of the weights at the start, the order of the patches and the dropout;
    device: what trains, "auto" takes a CUDA GPU where there is one;
    precision: of the arithmetic, "auto" is bf16-mixed on a GPU and 32-true on a CPU;
    num_workers: loader processes beside the training;
    threads: of the CPU, the library's choice when not given;
    checkpoint_minutes: between two checkpoints within an epoch;
    val_store: a store whose val subjects validate instead of those of the training store;
    draw: "index" for the store's patches, "random" for new ones every epoch, "turned" for those of heads that are
    rotated while training;
    patch_size: voxels along the edge of patches that are not of the index;
    keep: what stays in memory, decoded "chunks" (at most cache_mb), the split in host "memory" or on the "device";
    cache_mb: megabytes of decoded chunks;
    turn: what is rotated, "tensor" or "cosmos", "auto" for tensors where the store has them;
    max_angle: largest rotation, degrees;
    patches_per_turn: patches of one rotated head;
    snr: lowest and highest signal-to-noise ratio of rotated heads, no noise when not given;
    scale: lowest and highest factor on the susceptibility of rotated heads, 1 when not given.
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
    """Return the values by which two trainings differ, those of the network by their keys in a config file."""
    plain = {f.name: getattr(config, f.name) for f in dataclasses.fields(config) if f.name not in RESUMABLE}
    network = plain.pop("network")
    plain["label"] = plain["label"] or "chi33"  # as runs that do not say
    return {**plain, **{f"network.{f.name}": getattr(network, f.name) for f in dataclasses.fields(network)}}
