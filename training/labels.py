"""Which susceptibility a network learns: chi33 with delta B', or COSMOS, and in which units of its own."""

from __future__ import annotations

from collections.abc import Sequence

from ..datasets.store.schema import Store
from ..files.errors import InputError
from .config import Label
from .networks.modl_qsm import MODL_QSM_PUBLISHED, Normalisation

LABELS: tuple[Label, ...] = ("chi33", "cosmos")
# delta B' against chi33: the scale of a channel that holds a field without a target of its own
_FREE_SCALE = MODL_QSM_PUBLISHED.std[1] / MODL_QSM_PUBLISHED.std[0]


def choose_label(store: Store, wanted: Label | None) -> Label:
    """Return the label that a store is trained on: the one asked for, else chi33 where it has it, else COSMOS.

    Raises InputError where a training volume lacks the label, or where no label is in all of them.
    """
    held = [label for label in LABELS if all(label in volume.channels for volume in store.of_split("train"))]
    if wanted is None and held:
        return held[0]
    if wanted in held:
        return wanted
    names = (wanted,) if wanted else LABELS
    lacking = {name: next(v for v in store.of_split("train") if name not in v.channels) for name in names}
    told = " and ".join(
        f"no {name} label in {volume.id} (it has {', '.join(volume.channels)})" for name, volume in lacking.items()
    )
    remedy = f"train with --label {held[0]}, or " if held else ""
    raise InputError(f"{store.path} has {told}: {remedy}build it from label maps that have one for every scan.")


def targets_of(store: Store, label: Label) -> tuple[str, ...]:
    """Return the channels that a network learns with a label: chi33 with delta B' where there is one, or COSMOS."""
    with_deltab = all("deltab" in volume.channels for volume in store.of_split("train"))
    return ("chi33", "deltab") if label == "chi33" and with_deltab else (label,)


def normalisation_of(store: Store, targets: Sequence[str]) -> Normalisation:
    """Return mean and standard deviation of a network's two channels over the training masks, in ppm.

    They are those of the targets. Where there is one target, the second channel is free to hold what the field has
    beyond D * chi: its mean is 0 and its standard deviation in the published proportion to the first's.
    """
    missing = [name for name in targets if name not in store.statistics]
    if missing:
        raise InputError(f"{store.path} has no statistics of {' and '.join(missing)}: build the store again.")
    first = store.statistics[targets[0]]
    if len(targets) == 1:
        return Normalisation((first.mean, 0.0), (first.std, first.std * _FREE_SCALE))
    second = store.statistics[targets[1]]
    return Normalisation((first.mean, second.mean), (first.std, second.std))


def label_note(store: Store, label: Label, wanted: Label | None) -> str:
    """Return what a user should be told of the label, in one line; empty where there is nothing to tell."""
    if label == "cosmos" and wanted is None:
        return f"{store.path} has no χ33: the network learns COSMOS, and predicts susceptibility as COSMOS has it"
    if targets_of(store, label) == ("chi33",):
        return f"{store.path} has no δB′: the network learns χ33 alone"
    return ""
