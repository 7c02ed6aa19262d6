"""The networks chi33 trains, by the name the commands take."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass

from ...files.errors import InputError
from ..config import NetworkConfig
from .modl_qsm import ModlQsm, Normalisation


@dataclass(frozen=True)
class Model:
    """A network: its name, its paper, what it predicts (file suffixes, by channel), how it is made."""

    name: str
    paper: str
    predicts: tuple[str, ...]
    build: Callable[[NetworkConfig, Normalisation], ModlQsm]


def _build_modl_qsm(config: NetworkConfig, normalisation: Normalisation) -> ModlQsm:
    return ModlQsm(normalisation, **dataclasses.asdict(config))


MODELS = {
    model.name: model
    for model in (Model("modl-qsm", "Feng et al., NeuroImage 2021", ("chi33", "deltab"), _build_modl_qsm),)
}


def find_model(name: str) -> Model:
    """Return the model of a name; raises InputError listing the names there are."""
    if name not in MODELS:
        raise InputError(f"there is no model {name!r}: choose one of {', '.join(MODELS)}.")
    return MODELS[name]
