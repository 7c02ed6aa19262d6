"""Writes a store in the layouts that published codes read, into a folder that appears whole or not at all."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from ... import __version__
from ...files.errors import InputError, StepError
from ..loading.patches import PatchRule
from ..store.hdf5_reading import hdf5_reading
from ..store.schema import Store
from ..store.volume import SPLITS
from .bids import write_bids
from .lpcnn import write_lpcnn
from .modl_qsm import write_modl_qsm
from .qsmnet import write_qsmnet
from .source import ExportSource, Progress

MARKER = "chi33-export.json"
_ONE_LABEL = ("cosmos", "chi33")


@dataclass(frozen=True)
class Layout:
    """A published layout: who writes it, which splits have a place in it, and which channels it needs.

    label: whether it takes one label, COSMOS or chi33, by choice. patches: whether it holds patches.
    """

    write: Callable[[ExportSource, Path], Sequence[str]]
    splits: tuple[str, ...]
    channels: tuple[str, ...] = ()
    label: bool = False
    patches: bool = True


LAYOUTS: Mapping[str, Layout] = {
    "qsmnet": Layout(write_qsmnet, SPLITS, label=True),
    "lpcnn": Layout(write_lpcnn, SPLITS, label=True),
    "modl-qsm": Layout(write_modl_qsm, ("train", "test"), channels=("chi33", "deltab")),
    "bids": Layout(write_bids, SPLITS, patches=False),
}


@dataclass(frozen=True)
class ExportSummary:
    """What was written: volumes per split, files, their bytes, and notes on how the published code reads them."""

    out_dir: Path
    volumes: Mapping[str, int]
    files: int
    size: int
    notes: tuple[str, ...]


def export_store(
    store: Store,
    out_dir: Path,
    layout: str,
    *,
    splits: Sequence[str] = (),
    label: str | None = None,
    rule: PatchRule | None = None,
    overwrite: bool = False,
    progress: Progress | None = None,
) -> ExportSummary:
    """Write a store as the folder out_dir in a layout: qsmnet, lpcnn, modl-qsm or bids.

    splits: which to write, all that have a place in the layout where none is named; label: cosmos or chi33 for the
    layouts with one label (COSMOS where every volume has it); rule: draw other patches than the store's. One volume
    is in memory at a time. Raises InputError where the folder exists (and not overwrite, or not written by this
    function), where a split, label or channel is missing; StepError where the disk is full. Then nothing is left.
    """
    kind = _layout(layout)
    chosen = _splits(store, layout, kind, tuple(splits))
    volumes = tuple(volume for split in chosen for volume in store.of_split(split))
    named = _label(store, volumes, label) if kind.label else ""
    _check_options(layout, kind, label, rule)
    for volume in volumes:
        missing = [name for name in kind.channels if name not in volume.channels]
        if missing:
            raise InputError(
                f"{volume.id} has no {' and no '.join(missing)}, which the layout {layout} needs: choose another "
                "layout, or build the store from maps of `chi33 run`."
            )
    if kind.patches and rule is None and "train" in chosen and not len(store.patches.get("train", ())):
        raise InputError(f"{store.path} has no train patches: draw some with --patch-rule.")
    _check_folder(out_dir, overwrite=overwrite)
    with _whole_folder(out_dir) as partial, hdf5_reading(store.path) as handle:
        source = ExportSource(store, handle, chosen, named, rule, progress or (lambda *_: None))
        notes = tuple(kind.write(source, partial))
        _describe(partial, store, layout, chosen, notes)
        counts = {split: len(store.of_split(split)) for split in chosen}
    files = [path for path in out_dir.rglob("*") if path.is_file()]
    return ExportSummary(out_dir, counts, len(files), sum(path.stat().st_size for path in files), notes)


def _layout(name: str) -> Layout:
    if name not in LAYOUTS:
        raise InputError(f"--layout must be one of {', '.join(LAYOUTS)}, got {name!r}.")
    return LAYOUTS[name]


def _splits(store: Store, layout: str, kind: Layout, named: tuple[str, ...]) -> tuple[str, ...]:
    held = tuple(split for split in SPLITS if store.of_split(split))
    for split in named:
        if split not in kind.splits:
            raise InputError(
                f"the layout {layout} has no place for the split {split!r}: choose from {', '.join(kind.splits)}."
            )
        if split not in held:
            raise InputError(f"{store.path} has no {split} volumes: it has {', '.join(held)}.")
    return tuple(split for split in held if split in (named or kind.splits))


def _label(store: Store, volumes: Sequence[object], label: str | None) -> str:
    """Return the label of layouts with one: what is asked for, else COSMOS where all volumes have it, else chi33."""
    wanted = _ONE_LABEL if label is None else (label,)
    if label is not None and label not in _ONE_LABEL:
        raise InputError(f"--label must be one of {', '.join(_ONE_LABEL)}, got {label!r}.")
    for name in wanted:
        if all(name in volume.channels for volume in volumes):  # type: ignore[attr-defined]
            return name
    raise InputError(f"not every volume of {store.path} has {' or '.join(wanted)}: choose another --label.")


def _check_options(layout: str, kind: Layout, label: str | None, rule: PatchRule | None) -> None:
    if label is not None and not kind.label:
        raise InputError(f"--label does not apply to the layout {layout}, which has a place for every label.")
    if rule is not None and not kind.patches:
        raise InputError(f"the layout {layout} holds whole volumes: leave out the options of patches.")


def _check_folder(out_dir: Path, *, overwrite: bool) -> None:
    if out_dir.is_file():
        raise InputError(f"{out_dir} is a file: give a folder to write to.")
    if not out_dir.is_dir() or not any(out_dir.iterdir()):
        return
    if not overwrite:
        raise InputError(f"{out_dir} is not empty: give another folder, or pass --overwrite to replace an export.")
    if not (out_dir / MARKER).is_file():
        raise InputError(
            f"{out_dir} was not written by `chi33 export` (it has no {MARKER}), so it is not replaced: give another "
            "folder."
        )


@contextmanager
def _whole_folder(out_dir: Path) -> Iterator[Path]:
    """Yield a new folder beside out_dir; at the end it takes out_dir's place, and on an error nothing is left of it."""
    partial = out_dir.with_name(f".{out_dir.name}.partial")
    old = out_dir.with_name(f".{out_dir.name}.replaced")
    try:
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir(parents=True)
        yield partial
        if out_dir.is_dir():
            shutil.rmtree(old, ignore_errors=True)
            out_dir.replace(old)
        partial.replace(out_dir)
    except OSError as error:
        raise StepError(
            f"{out_dir} cannot be written ({error.strerror or error}), and nothing was left: free some space, or "
            "choose another folder."
        ) from error
    finally:
        shutil.rmtree(partial, ignore_errors=True)
        if out_dir.is_dir():
            shutil.rmtree(old, ignore_errors=True)


def _describe(folder: Path, store: Store, layout: str, splits: Sequence[str], notes: Sequence[str]) -> None:
    content = {
        "Layout": layout,
        "Store": store.path.name,
        "ContentHash": store.content_hash,
        "Splits": {split: list(store.subjects(split)) for split in splits},
        "GeneratedBy": {"Name": "chi33", "Version": __version__},
        "Notes": list(notes),
    }
    (folder / MARKER).write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
