"""Nobody validates a network who trained it: neither by name, nor under another one."""

from __future__ import annotations

from pathlib import Path

from ...files.errors import InputError
from ..store.schema import Store, open_store


def check_disjoint(
    train_store: Store | str | Path, train_split: str, val_store: Store | str | Path, val_split: str
) -> None:
    """Raise InputError where a subject is in both splits (of one store or of two).

    A subject is told by its label, and by the fingerprints of its scans where the stores have them: the same scan
    under two labels is one head. Rotated copies have no fingerprint, but are in their subject's split.
    """
    first = train_store if isinstance(train_store, Store) else open_store(train_store)
    second = val_store if isinstance(val_store, Store) else open_store(val_store)
    both = sorted(set(first.subjects(train_split)) & set(second.subjects(val_split)))
    if both:
        names = ", ".join(f"sub-{label}" for label in both)
        raise InputError(
            f"{names} is in {train_split} of {first.path} and in {val_split} of {second.path}: a subject may be in "
            "one of the two only; build the store with --val-subjects and --test-subjects."
        )
    scans = _fingerprints(first, train_split)
    for fingerprint, name in _fingerprints(second, val_split).items():
        if fingerprint in scans:
            raise InputError(
                f"{scans[fingerprint]} in {train_split} of {first.path} and {name} in {val_split} of {second.path} "
                "are the same scan under two labels: give a subject one label and build the store again."
            )


def _fingerprints(store: Store, split: str) -> dict[str, str]:
    """Return the volumes of a split by fingerprint; stores written before there were any have none."""
    found = {volume.fingerprint: volume.id for volume in store.of_split(split)}
    return {fingerprint: name for fingerprint, name in found.items() if fingerprint}
