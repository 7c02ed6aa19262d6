"""Trained weights: the file a training leaves for prediction, and how it is read back."""

from __future__ import annotations

import io
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ... import __version__
from ...files.atomic import atomic_path
from ...files.errors import InputError
from ...files.toml_reader import from_table, to_table
from ..config import NetworkConfig
from ..networks.modl_qsm import ModlQsm, Normalisation
from ..networks.registry import find_model

FORMAT = "chi33-weights"
CHI33_AND_DELTAB = ("chi33", "deltab")
WEIGHTS = "weights.pt"
LAST = "checkpoints/last.ckpt"
BEST = "checkpoints/best.ckpt"


@dataclass(frozen=True)
class TrainedNetwork:
    """A network in evaluation mode, the name of its model and the file it came from.

    predicts: which of chi33, deltab and cosmos its first channels are; config: how it is made.
    """

    network: ModlQsm
    model: str
    source: Path
    predicts: tuple[str, ...] = CHI33_AND_DELTAB
    config: NetworkConfig = field(default_factory=NetworkConfig)


def weights_entry(
    model: str, config: NetworkConfig, network: nn.Module, predicts: tuple[str, ...] = CHI33_AND_DELTAB
) -> dict[str, Any]:
    """Return what makes a network again: plain values and tensors, safe to read with torch's weights_only."""
    normalisation = {name: network.get_buffer(name).flatten().tolist() for name in ("mean", "std")}
    return {
        "format": FORMAT,
        "chi33_version": __version__,
        "model": model,
        "predicts": list(predicts),
        "network": to_table(config),
        "normalisation": normalisation,
        "state": {name: tensor.detach().cpu().contiguous() for name, tensor in network.state_dict().items()},
    }


def save_atomically(content: Any, path: Path) -> None:
    """torch.save to a temporary name in the same folder, then rename: the file is the old one or the new one."""
    buffer = io.BytesIO()
    torch.save(content, buffer)
    with atomic_path(path) as partial:
        partial.write_bytes(buffer.getbuffer())


def find_weights(path: str | Path) -> Path:
    """Return the weights file of a run folder (the best epoch's, else the last checkpoint), or the file itself."""
    path = Path(path)
    if path.is_file():
        return path
    for name in (WEIGHTS, LAST):
        if (path / name).is_file():
            return path / name
    what = "holds no weights yet" if path.is_dir() else "does not exist"
    raise InputError(f"{path} {what}: give a run folder of `chi33 train`, or a weights file.")


def load_network(path: str | Path, *, model: str | None = None) -> TrainedNetwork:
    """Load a trained network.

    Parameters
    ----------
    path
        Run folder, weights file or checkpoint.
    model
        Name that it must have.

    Returns
    -------
        A `TrainedNetwork`.

    Raises
    ------
    InputError
        Where the file is no such file, is damaged, or holds another model.
    """
    source = find_weights(path)
    entry = _read(source)
    if model is not None and model != entry["model"]:
        raise InputError(f"{source} holds {entry['model']}, not {model}: leave --model out, or give other weights.")
    config = from_table(NetworkConfig, entry["network"], str(source))
    normalisation = Normalisation(*(tuple(entry["normalisation"][name]) for name in ("mean", "std")))
    network = find_model(entry["model"]).build(config, normalisation)
    state: dict[str, Tensor] = entry["state"]
    try:
        network.load_state_dict(state)
    except RuntimeError as error:
        raise InputError(f"{source} does not fit its network ({str(error).splitlines()[-1].strip()}).") from error
    predicts = tuple(entry.get("predicts", CHI33_AND_DELTAB))
    return TrainedNetwork(network.eval(), entry["model"], source, predicts, config)


def _read(source: Path) -> dict[str, Any]:
    try:
        content = torch.load(source, map_location="cpu", weights_only=True)
    except Exception as error:  # torch.load raises many kinds for a file that is not its own
        raise InputError(
            f"{source} is no weights file, or it is damaged: give one that `chi33 train` wrote."
        ) from error
    entry = content.get("chi33", content) if isinstance(content, dict) else None
    if not isinstance(entry, dict) or entry.get("format") != FORMAT:
        raise InputError(f"{source} holds no chi33 weights: give a run folder or weights.pt of `chi33 train`.")
    return entry
