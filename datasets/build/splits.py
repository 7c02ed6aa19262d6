"""Who trains, validates and tests: by subject, never by patch."""

from __future__ import annotations

import hashlib
import json
import warnings
from collections.abc import Iterable, Mapping, Sequence

from ...files.errors import Chi33Warning, InputError


def split_subjects(
    subjects: Iterable[str], val_subjects: Sequence[str] | None = None, test_subjects: Sequence[str] | None = None
) -> dict[str, str]:
    """Return the split ("train", "val" or "test") of every subject label.

    Named subjects go where they are named and the rest trains. Without val_subjects the last fifth of the
    remaining subjects in alphabetical order validates, at least one (so of two the second, of ten the last two); a
    single remaining subject only trains, with a warning. Without test_subjects nobody tests. An empty list means
    "none". Raises InputError where a name is unknown, named twice, or nobody is left to train.
    """
    labels = sorted({subject.removeprefix("sub-") for subject in subjects})
    test = _known(test_subjects or (), labels, "test")
    rest = [label for label in labels if label not in test]
    if val_subjects is None:
        val = rest[len(rest) - max(1, len(rest) // 5) :] if len(rest) > 1 else []
        if len(rest) == 1:
            warnings.warn(
                f"Only sub-{rest[0]} is left to train and validate, so the store has no validation split: add "
                "subjects, or watch the training loss alone.",
                Chi33Warning,
                stacklevel=2,
            )
    else:
        val = _known(val_subjects, labels, "validation")
    both = sorted(set(val) & set(test))
    if both:
        raise InputError(f"{_names(both)} cannot both validate and test: name each subject in one split only.")
    train = [label for label in rest if label not in val]
    if not train:
        raise InputError(
            f"no subject is left to train: {_names(labels)} are all named for validation or test; name fewer."
        )
    return {
        **dict.fromkeys(train, "train"),
        **dict.fromkeys(val, "val"),
        **dict.fromkeys(test, "test"),
    }


def split_hash(splits: Mapping[str, str]) -> str:
    """Return the SHA-256 of who is in which split; splits maps subject labels to "train", "val" or "test"."""
    members = {split: sorted(s for s, of in splits.items() if of == split) for split in set(splits.values())}
    return hashlib.sha256(json.dumps(members, sort_keys=True).encode()).hexdigest()


def _known(names: Sequence[str], labels: Sequence[str], purpose: str) -> list[str]:
    wanted = [name.strip().removeprefix("sub-") for name in names]
    unknown = sorted(set(wanted) - set(labels))
    if unknown:
        raise InputError(f"{_names(unknown)} named for {purpose} cannot be found: there are {_names(labels)}.")
    return sorted(set(wanted))


def _names(labels: Sequence[str]) -> str:
    return ", ".join(f"sub-{label}" for label in labels)
