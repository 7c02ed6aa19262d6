"""The folder of a training: whether it may be written to, and how one run takes the place of another.

Nothing is written before the first step of a new run has ended. Until then a run that is to be replaced stays as it is,
and a start that fails (for want of memory, say) leaves nothing that looks like a run.
"""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..files.atomic import write_text
from ..files.errors import InputError, StepError
from ..files.toml_writer import to_toml
from .config import TrainConfig, check_resumable, load_config
from .inference.weights import LAST, WEIGHTS, load_network
from .recorder import LOG

CONFIG = "config.toml"
METRICS = "metrics.json"
_OWN = (CONFIG, METRICS, LOG, WEIGHTS, Path(LAST).parent.name)
_LEAVING, _ASIDE = ".replacing", ".replaced"  # where an old run is moved to, and is once all of it has been moved


@dataclass(frozen=True)
class RunFolder:
    """A folder to train in; provenance: what is recorded of the stores, which lie at store and val_store."""

    path: Path
    config: TrainConfig
    provenance: Mapping[str, Any]
    store: Path
    val_store: Path

    def checkpoint(self, *, resume: bool, overwrite: bool) -> Path | None:
        """Return the checkpoint to resume from, None for a run that starts; nothing is written.

        Raises InputError where the folder is a file, cannot be written, holds something else than a run, or a run that
        is neither to be resumed nor replaced, or that cannot be resumed with this config and these stores.
        """
        recover(self.path)
        recorded = read_records(self.path)
        last = self.path / LAST
        if recorded is not None and resume and last.is_file():
            self._check_resumable(recorded)
        elif recorded is not None and not overwrite:
            if not resume:
                raise InputError(
                    f"{self.path} holds a run already: pass --resume to continue it, or --overwrite to start again."
                )
            if (self.path / WEIGHTS).is_file():
                raise InputError(
                    f"{self.path} has weights, but no {LAST} to resume from: pass --overwrite to start again, or "
                    "choose another folder."
                )
        _check_writable(self.path)
        return last if resume and recorded is not None and last.is_file() else None

    @contextmanager
    def begin(self, *, fresh: bool) -> Iterator[None]:
        """Write the config and the records, in the place of an earlier run where fresh; within, the first checkpoint.

        Where it fails, everything is as it was.
        """
        if not fresh:
            self.write_records()
            yield
            return
        made = _missing(self.path)
        try:
            leaving = self.path / _LEAVING
            leaving.mkdir(parents=True)
            for name in _OWN:
                if (self.path / name).exists():
                    (self.path / name).replace(leaving / name)
            leaving.replace(self.path / _ASIDE)
            self.write_records()
            yield
        except BaseException as error:
            _undo(self.path)
            _remove_empty(made)
            if isinstance(error, OSError):
                raise StepError(f"{self.path} cannot be written ({error.strerror}): choose another folder.") from error
            raise
        shutil.rmtree(self.path / _ASIDE, ignore_errors=True)

    def write_records(self, figures: Mapping[str, Any] | None = None) -> None:
        """Write config.toml, and metrics.json with the provenance and what the training reached."""
        write_text(self.path / METRICS, json.dumps({**self.provenance, **(figures or {})}, indent=2) + "\n")
        write_text(self.path / CONFIG, to_toml(self.config))

    def _check_resumable(self, recorded: Mapping[str, Any]) -> None:
        check_resumable(load_config(self.path / CONFIG), self.config)
        held = load_network(self.path / LAST)  # a damaged checkpoint is refused here, in one sentence
        if (held.model, held.config) != (self.config.model, self.config.network):
            raise InputError(
                f"{self.path / LAST} is of another network than {self.path / CONFIG} says: give each run a folder "
                "of its own."
            )
        own = self.provenance
        if recorded["content_hash"] != own["content_hash"]:
            raise InputError(
                f"{self.path} was trained on another store than {self.store}: {_which(recorded, '')} there, "
                f"{_which(own, '')} here; give that store, or a new folder."
            )
        if recorded.get("val_content_hash", recorded["content_hash"]) != own["val_content_hash"]:
            raise InputError(
                f"{self.path} was validated on another store than {self.val_store}: {_which(recorded, 'val_')} "
                f"there, {_which(own, 'val_')} here; give that store with --val-store, or a new folder."
            )


def saved_config(path: Path) -> TrainConfig | None:
    """Return the config of the run in a folder, None where there is none; InputError where it is no run's folder."""
    recover(path)
    if read_records(path) is None or not (path / CONFIG).is_file():
        return None
    return load_config(path / CONFIG)


def read_records(path: Path) -> dict[str, Any] | None:
    """Return what metrics.json of a run says, None where the folder is empty or not there.

    Raises InputError where it is a file or holds anything else than a run of `chi33 train`.
    """
    if path.exists() and not path.is_dir():
        raise InputError(f"{path} is a file: give a folder for the run.")
    if not path.is_dir() or all(entry.name.startswith(".") for entry in path.iterdir()):
        return None
    try:
        recorded = json.loads((path / METRICS).read_text(encoding="utf-8"))
        if {"chi33_version", "content_hash"} <= recorded.keys():
            return dict(recorded)
    except (OSError, ValueError, AttributeError):
        pass
    raise InputError(
        f"{path} is not empty and holds no run of `chi33 train` (no {METRICS} of one): choose another folder."
    )


def recover(path: Path) -> None:
    """Undo a replacement that was killed half way: the new run stays where it has a checkpoint, else the old one."""
    if (path / _ASIDE).is_dir() and (path / LAST).is_file():
        shutil.rmtree(path / _ASIDE, ignore_errors=True)
    else:
        _undo(path)


def _undo(path: Path) -> None:
    """Put back what was moved aside; it may be killed at any moment and repeated."""
    aside, leaving = path / _ASIDE, path / _LEAVING
    with suppress(OSError):
        if aside.is_dir():
            for name in _OWN:
                if (path / name).is_dir():
                    shutil.rmtree(path / name)
                else:
                    (path / name).unlink(missing_ok=True)
            aside.replace(leaving)
        if leaving.is_dir():
            for entry in leaving.iterdir():
                entry.replace(path / entry.name)
            leaving.rmdir()


def _check_writable(path: Path) -> None:
    """Raise InputError where no file can be made in a folder, before an hour has gone into what belongs there."""
    made = _missing(path)
    try:
        path.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=path, prefix=".chi33-"):
            pass
    except OSError as error:
        raise InputError(f"{path} cannot be written ({error.strerror}): choose another folder.") from error
    finally:
        _remove_empty(made)


def _missing(path: Path) -> list[Path]:
    return [folder for folder in (path, *path.parents) if not folder.exists()]


def _remove_empty(folders: list[Path]) -> None:
    for folder in folders:
        with suppress(OSError):
            folder.rmdir()


def _which(recorded: Mapping[str, Any], prefix: str) -> str:
    name = recorded.get(f"{prefix}store", recorded.get("store", "a store"))
    found = recorded.get(f"{prefix}content_hash", recorded["content_hash"])
    return f"{name} (content {str(found)[:12]})"
