"""`chi33 build-dataset`: label maps to an HDF5 store for training."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from cyclopts import Parameter

if TYPE_CHECKING:
    from ..datasets.build import BuildSummary

_Labels = Annotated[list[str] | None, Parameter(consume_multiple=True, negative=())]


def build_dataset(
    out_dir: Path,
    store: Path,
    /,
    *,
    patch_size: int = 48,
    min_brain: float = 0.8,
    patches_per_scan: int = 300,
    augment: int = 0,
    max_angle: float = 30.0,
    val_subjects: _Labels = None,
    test_subjects: _Labels = None,
    materialise: Annotated[bool, Parameter(negative="")] = False,
    seed: int = 0,
    overwrite: Annotated[bool, Parameter(negative="")] = False,
) -> None:
    """Pack label maps into one HDF5 store: volumes, tensors, a table of random patches, statistics.

    Subjects, never patches, are split. Without --val-subjects the last fifth of the subjects validates (at least
    one: of two the second); a single subject only trains.

    Parameters
    ----------
    out_dir
        Output folder of `chi33 run`, or derivatives/truth of `chi33 simulate`.
    store
        The store to write, such as store.h5.
    patch_size
        Edge of the cubic patches, in voxels.
    min_brain
        Least fraction of a patch inside the mask, 0 to 1.
    patches_per_scan
        Random patches per scan; fewer where fewer positions hold enough brain.
    augment
        Turned copies per training subject, their fields recomputed from the turned tensor.
    max_angle
        Largest turn of a copy, in degrees.
    val_subjects
        Labels of the subjects to validate on: `02 03` or `02,03`; `none` for nobody.
    test_subjects
        Labels of the subjects to keep for testing.
    materialise
        Also store the cropped patches, one chunk each: faster to read, larger.
    seed
        Seed of the patches and the turns, 0 or more.
    overwrite
        Replace an existing store.
    """
    from ..datasets.build import BuildConfig, build_store

    config = BuildConfig(
        patch_size=patch_size,
        min_brain=min_brain,
        patches_per_scan=patches_per_scan,
        augment=augment,
        max_angle=max_angle,
        val_subjects=_labels(val_subjects),
        test_subjects=_labels(test_subjects),
        materialise=materialise,
        seed=seed,
    )
    with _progress() as progress:
        summary = build_store(out_dir, store, config, overwrite=overwrite, progress=progress)
    _print_summary(summary, store)


@contextmanager
def _progress() -> Iterator[Callable[[int, int, str], None]]:
    """A bar on a terminal, a plain line per volume elsewhere."""
    from rich.console import Console
    from rich.progress import Progress

    console = Console(stderr=True)
    if not console.is_terminal:
        yield lambda done, total, what: print(f"{done}/{total} {what}", file=sys.stderr, flush=True)
        return
    with Progress(console=console, transient=True) as bar:
        task = bar.add_task("build-dataset")
        yield lambda done, total, what: bar.update(task, completed=done, total=total, description=what)


def _labels(named: list[str] | None) -> tuple[str, ...] | None:
    """`02 03` and `02,03` alike; `none` is nobody."""
    if named is None:
        return None
    labels = tuple(label.strip() for word in named for label in word.split(",") if label.strip())
    return () if labels == ("none",) else labels


def _print_summary(summary: BuildSummary, store: Path) -> None:
    for split, subjects in summary.subjects.items():
        names = " ".join(f"sub-{label}" for label in subjects)
        print(f"{split}: {names}; {summary.volumes[split]} volumes, {summary.patches[split]} patches")
    print(
        f"{store}: {sum(summary.volumes.values())} volumes ({summary.augmented} augmented), {summary.size / 1e6:.1f} MB"
    )
