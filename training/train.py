"""Trains a network on a store: one folder a run, resumable at the step where it was interrupted."""

from __future__ import annotations

import logging
import math
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Trainer, seed_everything

from .. import __version__
from ..datasets.store.schema import Store, open_store
from ..files.errors import Chi33Warning, InputError
from .computer import choose_device, choose_precision, denormals_flushed, prepare_cpu
from .config import TrainConfig
from .failures import one_sentence
from .inference.weights import WEIGHTS
from .labels import choose_label, normalisation_of, targets_of
from .loading import samples_per_epoch, train_loader, validation_loader
from .module import UnrolledModule
from .networks.registry import find_model
from .recorder import AtomicCheckpointIO, EpochRow, Recorder, RecorderOptions, StopTraining
from .run_folder import RunFolder


@dataclass(frozen=True)
class Progress:
    """Where a training stands: step of total_steps, loss of the step, and the row of an epoch that just ended."""

    step: int
    total_steps: int
    loss: float
    row: EpochRow | None


@dataclass(frozen=True)
class TrainResult:
    """What a training reached; stopped is empty, or says why it ended early. Losses are NaN without validation."""

    run_dir: Path
    weights: Path
    step: int
    total_steps: int
    best_loss: float
    zero_map_loss: float
    untrained_loss: float
    seconds: float
    stopped: str = ""


@denormals_flushed()
def train(
    store: str | Path,
    run_dir: str | Path,
    config: TrainConfig | None = None,
    *,
    resume: bool = False,
    overwrite: bool = False,
    max_minutes: float | None = None,
    progress: Callable[[Progress], None] | None = None,
) -> TrainResult:
    """Train a network on the train split of a store, and validate on its val split.

    Without a validation split the training loss decides, with a warning. With config.val_store the val split of that
    store
    validates instead. Nothing is written before the first step has ended.

    Parameters
    ----------
    store
        HDF5 file of `chi33 build-dataset`.
    run_dir
        Folder that gets config.toml, log.csv (a line an epoch, the first for the untrained network), metrics.json,
        weights.pt
        (of the best epoch, for `predict`) and checkpoints/last.ckpt and best.ckpt.
    config
        What is trained and how; its label is by default chi33 where the store has it, else COSMOS.
    resume
        Continue at the last checkpoint, with the optimiser, the learning rate, the order of the patches and the random
        numbers
        as if it had never stopped; start where there is none.
    overwrite
        Replace a run; until the first step of the new one has ended the old one stays.
    max_minutes
        End the run cleanly after so long.
    progress
        Called after each step and epoch.

    Returns
    -------
        A `TrainResult`.

    Raises
    ------
    InputError
        For a store or config that does not fit, for a run_dir that exists without resume or overwrite or holds
        something else,
        and where a resumed run would compute something else.
    StepError
        Where the loss is no longer finite, or memory is short.
    """
    config = config or TrainConfig()
    if max_minutes is not None and max_minutes <= 0:
        raise InputError(f"max_minutes must be positive, got {max_minutes}.")
    find_model(config.model)
    device = choose_device(config.device)
    opened = open_store(store)
    val_store = open_store(config.val_store) if config.val_store else None
    total = config.epochs * math.ceil(samples_per_epoch(config, opened) / config.batch_size)
    config = replace(config, label=choose_label(opened, config.label))
    assert config.label is not None
    targets = targets_of(opened, config.label)
    normalisation = normalisation_of(opened, targets)
    provenance = _provenance(opened, val_store or opened, targets)
    folder = RunFolder(Path(run_dir), config, provenance, opened.path, (val_store or opened).path)
    last = folder.checkpoint(resume=resume, overwrite=overwrite)
    prepare_cpu(config.threads)
    with _quiet_lightning(), one_sentence(config, device):
        validation = validation_loader(opened, config, val_store, device, targets)
        if validation is None:
            warnings.warn(
                f"{opened.path} has no val patches, so the training loss alone tells how it goes: add subjects to the "
                "store.",
                Chi33Warning,
                stacklevel=2,
            )
        seed_everything(config.seed)
        module = UnrolledModule(config, normalisation, targets)
        options = RecorderOptions(
            run_dir=folder.path,
            begin=lambda: folder.begin(fresh=last is None),
            steps_per_epoch=total // config.epochs,
            total_steps=total,
            checkpoint_seconds=60 * config.checkpoint_minutes,
            max_seconds=None if max_minutes is None else 60 * max_minutes,
        )
        recorder = Recorder(options, validation, _reporter(progress, total))
        stopped = _fit(module, recorder, opened, config, device, last)
    return _finish(folder, recorder, total, stopped)


def _provenance(store: Store, val_store: Store, targets: Sequence[str]) -> dict[str, Any]:
    return {
        "chi33_version": __version__,
        "store": store.path.name,
        "content_hash": store.content_hash,
        "split_hash": store.split_hash,
        "train_subjects": list(store.subjects("train")),
        "val_store": val_store.path.name,
        "val_content_hash": val_store.content_hash,
        "val_split_hash": val_store.split_hash,
        "val_subjects": list(val_store.subjects("val")),
        "targets": list(targets),
    }


def _fit(
    module: UnrolledModule,
    recorder: Recorder,
    store: Store,
    config: TrainConfig,
    device: torch.device,
    checkpoint: Path | None,
) -> str:
    """Run Lightning's loop; one of its epochs is the whole training, ours are counted in steps by the recorder."""
    trainer = Trainer(
        accelerator="gpu" if device.type == "cuda" else "cpu",
        devices=1,
        precision=choose_precision(config.precision, device),
        max_epochs=1,
        callbacks=[recorder],
        plugins=[AtomicCheckpointIO()],
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        default_root_dir=recorder.options.run_dir,
    )
    loader = train_loader(store, config, lambda: trainer.global_step, device, module.targets)
    try:
        trainer.fit(module, loader, ckpt_path=checkpoint, weights_only=False)
    except StopTraining as stop:
        return stop.reason
    return ""


def _finish(folder: RunFolder, recorder: Recorder, total: int, stopped: str) -> TrainResult:
    run, baselines, rows = folder.path, recorder.baselines, recorder.rows
    assert baselines is not None
    result = TrainResult(
        run_dir=run,
        weights=run / WEIGHTS,
        step=recorder.step,
        total_steps=total,
        best_loss=recorder.best,
        zero_map_loss=baselines.zero_map,
        untrained_loss=baselines.untrained,
        seconds=rows[-1].seconds if rows else 0.0,
        stopped=stopped,
    )
    figures = {
        "steps": result.step,
        "best_loss": result.best_loss if math.isfinite(result.best_loss) else None,
        "monitored": "training loss" if recorder.validation is None else "validation loss",
        "zero_map_loss": None if math.isnan(baselines.zero_map) else baselines.zero_map,
        "untrained_loss": None if math.isnan(baselines.untrained) else baselines.untrained,
        "seconds": result.seconds,
    }
    folder.write_records(figures)
    return result


def _reporter(progress: Callable[[Progress], None] | None, total: int) -> Callable[[int, float, EpochRow | None], None]:
    def report(step: int, loss: float, row: EpochRow | None) -> None:
        if progress is not None:
            progress(Progress(step, total, loss, row))

    return report


@contextmanager
def _quiet_lightning() -> Iterator[None]:
    """Keep Lightning's notices about hardware and loaders out of the log; its errors still come."""
    loggers = [logging.getLogger(name) for name in ("lightning.pytorch", "lightning.fabric", "lightning")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", module=r"lightning\..*")
            warnings.filterwarnings("ignore", message=".*You're resuming from a checkpoint that ended before.*")
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
