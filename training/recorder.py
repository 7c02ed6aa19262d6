"""What a training leaves behind: validation, learning rate, checkpoints and the log, after every step."""

from __future__ import annotations

import csv
import io
import shutil
import signal
import threading
import time
from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import Checkpoint
from lightning.pytorch.plugins.io import TorchCheckpointIO

from ..files.atomic import atomic_path, write_text
from ..files.errors import StepError
from .inference.weights import BEST, LAST, WEIGHTS, save_atomically
from .module import Batch, UnrolledModule

LOG = "log.csv"


@dataclass(frozen=True)
class Baselines:
    """The validation loss of 0 ppm everywhere and of the untrained network."""

    zero_map: float
    untrained: float


@dataclass(frozen=True)
class EpochRow:
    """One line of log.csv; epoch is a fraction where the training was stopped within one.

    The first line, of step 0, is the untrained network (where there is validation).
    """

    epoch: float
    step: int
    train_loss: float
    val_loss: float
    zero_map_loss: float
    untrained_loss: float
    learning_rate: float
    gradient_step: float
    seconds: float


class StopTraining(Exception):
    """The training ended early, with its checkpoint written; reason says why."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


class AtomicCheckpointIO(TorchCheckpointIO):
    """Writes checkpoints in their own folder under a temporary name, then renames."""

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any | None = None) -> None:
        """Save a checkpoint so that `path` is always whole."""
        save_atomically(checkpoint, Path(path))


@dataclass(frozen=True)
class RecorderOptions:
    """run_dir; steps of an epoch and in all; seconds between checkpoints; seconds until it stops (None: never).

    begin: entered when the first step of this process has ended, and left when its checkpoint is written.
    """

    run_dir: Path
    begin: Callable[[], AbstractContextManager[None]]
    steps_per_epoch: int
    total_steps: int
    checkpoint_seconds: float
    max_seconds: float | None = None


class Recorder(Checkpoint):
    """Runs at the end of every step; all it knows travels in the checkpoint, so a resumed run continues its log.

    Nothing is written before the first step has ended.
    validation: batches, or None to follow the training loss; report: called with a step's loss and, at the end of an
    epoch, with its row.
    """

    def __init__(
        self,
        options: RecorderOptions,
        validation: Iterable[Batch] | None,
        report: Callable[[int, float, EpochRow | None], None],
    ) -> None:
        self.options = options
        self.validation = validation
        self.report = report
        self.rows: list[EpochRow] = []
        self.baselines: Baselines | None = None
        self.best = float("inf")
        self.step = 0
        self.begun = False
        self._loss_sum, self._loss_steps = 0.0, 0
        self._seconds_before = 0.0
        self._restored: dict[str, Any] = {}
        self._signal: int | None = None
        self._old_handlers: dict[signal.Signals, Any] = {}

    # -- state in the checkpoint -------------------------------------------------------------------------------------

    def state_dict(self) -> dict[str, Any]:
        """Return the log so far, the best loss, the running epoch and the random states."""
        return {
            "rows": [asdict(row) for row in self.rows],
            "baselines": asdict(self.baselines) if self.baselines else None,
            "best": self.best,
            "step": self.step,
            "loss": [self._loss_sum, self._loss_steps],
            "seconds": self._seconds(),
            "plateau": self._plateau_state,
            "random": torch.get_rng_state(),
            "random_cuda": torch.cuda.get_rng_state_all() if torch.cuda.is_available() else [],
        }

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take up the state of a checkpoint; random and learning-rate state follow when the training starts."""
        self.rows = [EpochRow(**row) for row in state_dict["rows"]]
        self.baselines = Baselines(**state_dict["baselines"])
        self.best = state_dict["best"]
        self.step = state_dict["step"]
        self._loss_sum, self._loss_steps = state_dict["loss"]
        self._seconds_before = state_dict["seconds"]
        self._restored = state_dict

    def on_save_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        """Put into the checkpoint what `predict` needs to read it."""
        assert isinstance(pl_module, UnrolledModule)
        checkpoint["chi33"] = pl_module.weights()

    def on_load_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        """Let a training that was complete go on where more epochs are asked for now."""
        if checkpoint["global_step"] < self.options.total_steps:
            checkpoint["loops"]["fit_loop"]["epoch_loop.batch_progress"]["is_last_batch"] = False

    # -- the training ------------------------------------------------------------------------------------------------

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Measure the baselines (first start), or restore the random states (resumed)."""
        assert isinstance(pl_module, UnrolledModule)
        assert pl_module.plateau is not None
        self._started = self._saved = time.monotonic()
        self._plateau_state: dict[str, Any] = pl_module.plateau.state_dict()
        if self._restored:
            pl_module.plateau.load_state_dict(self._restored["plateau"])
            self._plateau_state = self._restored["plateau"]
            torch.set_rng_state(self._restored["random"].cpu())
            if torch.cuda.is_available() and self._restored["random_cuda"]:
                torch.cuda.set_rng_state_all([state.cpu() for state in self._restored["random_cuda"]])
        if self.baselines is None:
            self.baselines = Baselines(
                zero_map=self._mean_loss(trainer, pl_module, pl_module.zero_map_loss),
                untrained=self._mean_loss(trainer, pl_module, pl_module.loss),
            )
            if self.validation is not None:
                self.rows.append(self._row(trainer, pl_module, float("nan"), self.baselines.untrained))
                self.report(0, float("nan"), self.rows[0])
        if threading.current_thread() is threading.main_thread():
            self._old_handlers = {s: signal.signal(s, self._on_signal) for s in (signal.SIGINT, signal.SIGTERM)}

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Count the loss; close the epoch, write a checkpoint or stop where it is time."""
        assert isinstance(pl_module, UnrolledModule)
        loss = float(outputs["loss"])
        step = self.step = trainer.global_step
        if loss != loss or abs(loss) == float("inf"):
            raise StepError(
                f"the training loss became {loss} at step {step}: start again with a learning_rate below "
                f"{pl_module.config.learning_rate}."
            )
        self._loss_sum += loss
        self._loss_steps += 1
        reason = self._stop_reason()
        row = None
        if step % self.options.steps_per_epoch == 0 or (reason and self._signal is None):
            row = self._close_epoch(trainer, pl_module)
        if not self.begun:
            with self.options.begin():
                self._save(trainer, pl_module, row)
                self._write_log()
            self.begun = True
        elif row or reason or time.monotonic() - self._saved > self.options.checkpoint_seconds:
            self._save(trainer, pl_module, row)
        self.report(step, loss, row)
        if reason and step < self.options.total_steps:
            raise StopTraining(reason)

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Give the signals back."""
        for number, handler in self._old_handlers.items():
            signal.signal(number, handler)

    def _row(self, trainer: Trainer, pl_module: UnrolledModule, train_loss: float, val_loss: float) -> EpochRow:
        assert self.baselines is not None
        return EpochRow(
            epoch=round(trainer.global_step / self.options.steps_per_epoch, 4),
            step=trainer.global_step,
            train_loss=train_loss,
            val_loss=val_loss,
            zero_map_loss=self.baselines.zero_map,
            untrained_loss=self.baselines.untrained,
            learning_rate=trainer.optimizers[0].param_groups[0]["lr"],
            gradient_step=float(pl_module.network.step.detach().mean()),
            seconds=round(self._seconds(), 1),
        )

    def _close_epoch(self, trainer: Trainer, pl_module: UnrolledModule) -> EpochRow:
        assert pl_module.plateau is not None
        train_loss = self._loss_sum / self._loss_steps
        val_loss = train_loss if self.validation is None else self._mean_loss(trainer, pl_module, pl_module.loss)
        row = self._row(trainer, pl_module, train_loss, val_loss)
        self.rows.append(row)
        if row.step % self.options.steps_per_epoch == 0:
            pl_module.plateau.step(val_loss)
            self._plateau_state = pl_module.plateau.state_dict()
            self._loss_sum, self._loss_steps = 0.0, 0
        return row

    def _save(self, trainer: Trainer, pl_module: UnrolledModule, row: EpochRow | None) -> None:
        run_dir = self.options.run_dir
        improved = row is not None and row.val_loss < self.best
        if improved and row is not None:
            self.best = row.val_loss
            save_atomically(pl_module.weights(), run_dir / WEIGHTS)
        trainer.save_checkpoint(run_dir / LAST)
        if improved:
            with atomic_path(run_dir / BEST) as partial:
                shutil.copyfile(run_dir / LAST, partial)
        if row is not None:
            self._write_log()
        self._saved = time.monotonic()

    def _mean_loss(self, trainer: Trainer, pl_module: UnrolledModule, loss: Callable[[Batch], torch.Tensor]) -> float:
        """Return the mean of a loss over the validation patches, in evaluation mode; NaN without a validation split."""
        if self.validation is None:
            return float("nan")
        total, count = 0.0, 0
        pl_module.eval()
        with torch.no_grad(), trainer.precision_plugin.forward_context():
            for batch in self.validation:
                batch = trainer.strategy.batch_to_device(batch)
                size = len(batch["field"])
                total, count = total + float(loss(batch)) * size, count + size
        pl_module.train()
        return total / count

    def _write_log(self) -> None:
        text = io.StringIO(newline="")
        writer = csv.DictWriter(text, [f.name for f in fields(EpochRow)], lineterminator="\n")
        writer.writeheader()
        writer.writerows(asdict(row) for row in self.rows)
        write_text(self.options.run_dir / LOG, text.getvalue())

    def _seconds(self) -> float:
        return self._seconds_before + time.monotonic() - self._started

    def _stop_reason(self) -> str:
        if self._signal is not None:
            return f"{signal.Signals(self._signal).name} came"
        limit = self.options.max_seconds
        if limit is not None and time.monotonic() - self._started > limit:
            return f"{limit / 60:.3g} minutes are over"
        return ""

    def _on_signal(self, number: int, frame: Any) -> None:
        if self._signal is not None:  # a second one ends at once
            raise KeyboardInterrupt
        self._signal = number
