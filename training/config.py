"""How a network is trained: frozen dataclasses, and the strict loader of their TOML file."""

from __future__ import annotations

import dataclasses
import difflib
import json
import tomllib
import types
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from ..pipeline.errors import InputError
from .backbone import DropoutKind
from .physics import PatchRule

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

    epochs, batch_size (patches), learning_rate (Adam), plateau_factor and plateau_patience (the rate is multiplied by
    the
    factor when the validation loss has not fallen for so many epochs), l2 (added on convolution kernels: l2 times the
    sum of squares; 5e-4 in the published code), samples_per_epoch and val_samples (patches; all, and a quarter of the
    training samples, when not given), patch_rule (the physics on a patch), seed, precision ("auto": bf16-mixed on a
    GPU, 32-true on a CPU), num_workers (loader processes), threads (of the CPU; the library's choice when not given),
    checkpoint_minutes (between two checkpoints within an epoch).
    """

    model: str = "modl-qsm"
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
    network: NetworkConfig = field(default_factory=NetworkConfig)

    def __post_init__(self) -> None:
        """Check the ranges; raises InputError naming the key."""
        for key in ("epochs", "batch_size", "samples_per_epoch", "val_samples", "threads"):
            value = getattr(self, key)
            if value is not None and value < 1:
                raise InputError(f"{key} must be at least 1, got {value}.")
        for key in ("num_workers", "seed", "plateau_patience", "l2", "checkpoint_minutes"):
            if getattr(self, key) < 0:
                raise InputError(f"{key} must be at least 0, got {getattr(self, key)}.")
        if not 0 < self.learning_rate < 1:
            raise InputError(f"learning_rate must lie between 0 and 1, got {self.learning_rate}: MoDL-QSM uses 0.001.")
        if not 0 < self.plateau_factor < 1:
            raise InputError(f"plateau_factor must lie between 0 and 1, got {self.plateau_factor}: MoDL-QSM uses 0.5.")


# What may differ when a training is resumed: how long and on what it runs, not what it computes.
RESUMABLE = ("epochs", "device", "precision", "num_workers", "threads", "checkpoint_minutes")


def load_config(path: str | Path) -> TrainConfig:
    """Read a TrainConfig from a TOML file; raises InputError naming an unknown key, a wrong type or bad TOML."""
    path = Path(path)
    try:
        table = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path} cannot be read ({error}): give a TOML file.") from error
    except tomllib.TOMLDecodeError as error:
        raise InputError(f"{path} is no valid TOML: {error}.") from error
    return from_table(TrainConfig, table, str(path))


def override(config: TrainConfig, values: Mapping[str, Any]) -> TrainConfig:
    """Return the config with the values that are not None replaced; `network.dropout` names a key of the network."""
    table = to_table(config)
    for key, value in values.items():
        if value is not None:
            section, _, name = key.rpartition(".")
            (table.setdefault(section, {}) if section else table)[name] = value
    return from_table(TrainConfig, table, "the options")


def check_resumable(saved: TrainConfig, wanted: TrainConfig) -> None:
    """Raise InputError where `wanted` would change what a training under way computes."""
    differing = [
        f"{key} ({getattr(saved, key)} before, {getattr(wanted, key)} now)"
        for key in (f.name for f in dataclasses.fields(TrainConfig))
        if key not in RESUMABLE and getattr(saved, key) != getattr(wanted, key)
    ]
    if differing:
        raise InputError(
            f"a resumed training cannot change {', '.join(differing)}: leave it as it was, or start a new run."
        )


def from_table(kind: type[Any], table: Mapping[str, Any], source: str, prefix: str = "") -> Any:
    """Build a frozen dataclass from a TOML table, strictly: every key known, every value of its type."""
    hints = get_type_hints(kind)
    known = [f.name for f in dataclasses.fields(kind)]
    values: dict[str, Any] = {}
    for key, value in table.items():
        if key not in known:
            close = difflib.get_close_matches(key, known, n=1)
            remedy = f"did you mean {prefix}{close[0]}?" if close else f"the keys are {', '.join(known)}."
            raise InputError(f"{source} has an unknown key {prefix}{key}: {remedy}")
        if dataclasses.is_dataclass(hints[key]) and isinstance(value, Mapping):
            values[key] = from_table(hints[key], value, source, f"{prefix}{key}.")
        else:
            values[key] = _checked(hints[key], value, f"{prefix}{key}", source)
    return kind(**values)


def _checked(hint: Any, value: Any, name: str, source: str) -> Any:
    if get_origin(hint) in (Union, types.UnionType):
        inner = next(option for option in get_args(hint) if option is not type(None))
        return None if value is None else _checked(inner, value, name, source)
    if get_origin(hint) is Literal:
        if value in get_args(hint):
            return value
        raise InputError(f"{name} in {source} must be one of {', '.join(map(repr, get_args(hint)))}, got {value!r}.")
    if hint is float and isinstance(value, int | float) and not isinstance(value, bool):
        return float(value)
    if dataclasses.is_dataclass(hint) or not isinstance(value, hint) or (hint is int and isinstance(value, bool)):
        wanted = {int: "a whole number", float: "a number", bool: "true or false", str: "a text"}.get(hint, "a table")
        raise InputError(f"{name} in {source} must be {wanted}, got {value!r}.")
    return value


def to_table(config: Any) -> dict[str, Any]:
    """Return a config as nested plain values, without the keys that are None (TOML has no null)."""
    return {
        f.name: to_table(value) if dataclasses.is_dataclass(value) else value
        for f in dataclasses.fields(config)
        if (value := getattr(config, f.name)) is not None
    }


def to_toml(config: TrainConfig) -> str:
    """Return a config as TOML that load_config reads back."""
    flat, sections = [], []
    for key, value in to_table(config).items():
        if isinstance(value, dict):
            sections += ["", f"[{key}]", *(f"{name} = {json.dumps(item)}" for name, item in value.items())]
        else:
            flat.append(f"{key} = {json.dumps(value)}")
    return "\n".join(flat + sections) + "\n"
