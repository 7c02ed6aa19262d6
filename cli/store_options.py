"""Options and words that several commands share."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ..datasets.build.build import BuildSummary


def subject_labels(named: list[str] | None) -> tuple[str, ...] | None:
    """`02 03` and `02,03` alike; `none` is nobody."""
    if named is None:
        return None
    labels = tuple(label.strip() for word in named for label in word.split(",") if label.strip())
    return () if labels == ("none",) else labels


def parse_grid(text: str | None) -> tuple[int, int, int] | None:
    """`6,8,7`; raises InputError for anything else."""
    if text is None:
        return None
    from ..files.errors import InputError

    words = [word.strip() for word in text.split(",")]
    if len(words) != 3 or not all(word.isdigit() for word in words):
        raise InputError(f"--patch-grid must be three counts joined by commas, such as 6,8,7, got {text!r}.")
    return int(words[0]), int(words[1]), int(words[2])


_BOUNDS = ("--phase-range", "--augment-snr", "--augment-scale")


def joined_bounds(words: Sequence[str]) -> list[str]:
    """Return a command line with `--phase-range LOW HIGH`, and its like, as `--phase-range LOW,HIGH`."""
    joined: list[str] = []
    for word in words:
        if joined[-2:-1] and joined[-2] in _BOUNDS and _is_number(joined[-1]) and _is_number(word):
            joined[-1] += f",{word}"
        else:
            joined.append(word)
    return joined


def _is_number(word: str) -> bool:
    try:
        float(word)
    except ValueError:
        return False
    return True


def bounds(option: str, text: str | None) -> tuple[float, float] | None:
    """`0.5,2`; raises InputError for anything else."""
    if text is None:
        return None
    from ..files.errors import InputError

    try:
        low, high = (float(word) for word in text.split(","))
    except ValueError:
        raise InputError(f"{option} must be two numbers joined by a comma, such as 0.5,2, got {text!r}.") from None
    return low, high


def print_summary(summary: BuildSummary, store: Path) -> None:
    """Print what a store came to hold, a line a split."""
    for split, subjects in summary.subjects.items():
        names = " ".join(f"sub-{label}" for label in subjects)
        print(f"{split}: {names}; {summary.volumes[split]} volumes, {summary.patches[split]} patches")
    print(
        f"{store}: {sum(summary.volumes.values())} volumes ({summary.augmented} augmented), {summary.size / 1e6:.1f} MB"
    )


@contextmanager
def tell_what_is_kept(store: Path) -> Iterator[None]:
    """Where a build ends early, say that repeating it goes on from there."""
    from ..datasets.build.lock import parts_folder

    folder = parts_folder(store)
    before = set(folder.glob("*.h5"))
    try:
        yield
    except BaseException:
        made = set(folder.glob("*.h5")) - before
        if made:
            print(f"{len(made)} finished parts are kept in {folder}: repeat the command to go on.", file=sys.stderr)
        raise
