"""`chi33 train`: fits a network to a store."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from cyclopts import Parameter

if TYPE_CHECKING:
    from ..training.train import Progress


def train(
    store: Path | None = None,
    run_dir: Path | None = None,
    /,
    *,
    model: str | None = None,
    label: Literal["chi33", "cosmos"] | None = None,
    config: Path | None = None,
    print_config: Annotated[bool, Parameter(negative="")] = False,
    val_store: Path | None = None,
    epochs: int | None = None,
    batch_size: int | None = None,
    learning_rate: float | None = None,
    samples_per_epoch: int | None = None,
    val_samples: int | None = None,
    draw: Literal["index", "random", "turned"] | None = None,
    dropout: float | None = None,
    device: Literal["auto", "cpu", "cuda"] | None = None,
    precision: Literal["auto", "32-true", "bf16-mixed"] | None = None,
    threads: int | None = None,
    num_workers: int | None = None,
    seed: int | None = None,
    max_minutes: float | None = None,
    resume: Annotated[bool, Parameter(negative="")] = False,
    overwrite: Annotated[bool, Parameter(negative="")] = False,
) -> None:
    """Train a network on a store; RUN_DIR gets its weights, checkpoints, log.csv, config.toml and metrics.json.

    The defaults are the paper's. Options given here win over the config file. A run that died, or was stopped with
    Ctrl-C, goes on with --resume where it was. Nothing is written before the first step has ended, so that a start
    that fails leaves no run behind, and with --overwrite the old one. Losses are mean absolute errors of the labels
    over their standard deviation in the training masks (no unit); the zero map's is that of 0 ppm everywhere.

    Parameters
    ----------
    store
        HDF5 store of `chi33 build-dataset`.
    run_dir
        Folder of the run.
    model
        The network: modl-qsm.
    label
        What it learns, in ppm: chi33 (with δB′ where the store has it) or cosmos; by default chi33 where all training
        scans have it, else cosmos. The sidecar of a prediction says which.
    config
        TOML file of the training's settings; the config.toml of a run is one.
    print_config
        Print all settings as such a file, with what they mean, and end; with --config and options, as they set them.
    val_store
        Another HDF5 store, whose val subjects validate instead of those of STORE; none of them may train.
    epochs
        Passes over the training samples (40).
    batch_size
        Patches a step (2).
    learning_rate
        Of Adam at the start (0.001).
    samples_per_epoch
        Random patches in an epoch; all by default.
    val_samples
        Validation patches; by default a quarter of the training samples of an epoch.
    draw
        Which patches: those of the store's index, random ones anew every epoch, or turned: of heads that are rotated
        while training, on the device that trains (up to 30 degrees; more settings in the config file).
    dropout
        Probability inside the residual blocks (0.5); a run of a few minutes learns faster with 0.
    device
        auto takes a CUDA GPU where there is one.
    precision
        auto is bf16-mixed on a GPU and 32-true on a CPU; bf16-mixed is also faster on CPUs that know bfloat16.
    threads
        Threads of the CPU; by default as many as there are processors for this process, or OMP_NUM_THREADS.
    num_workers
        Loader processes beside the training (0). The result does not depend on them.
    seed
        Of the weights at the start, the order of the patches and the dropout (0).
    max_minutes
        Stop cleanly after so many minutes, with a checkpoint.
    resume
        Continue the run in RUN_DIR; start it where the folder is empty. Its store and its settings must be the same.
    overwrite
        Replace the run in RUN_DIR, once the new one has made its first step.

    Examples
    --------
    Train as the paper does, and go on where the run was stopped:

        chi33 train store.h5 run
        chi33 train store.h5 run --resume

    Its settings in a file, to change and to keep:

        chi33 train --print-config > train.toml
        chi33 train store.h5 run --config train.toml

    A quick run on a CPU, and one that rotates heads while it trains:

        chi33 train store.h5 quick --epochs 3 --samples-per-epoch 200 --dropout 0 --device cpu
        chi33 train store.h5 rotated --draw turned --num-workers 4
    """
    from ..datasets.store.schema import open_store
    from ..files.toml_reader import override
    from ..training.config import TrainConfig, load_config
    from ..training.labels import choose_label, label_note
    from ..training.run_folder import saved_config
    from ..training.train import train as run
    from .print_config import needed, print_settings

    # A resumed run keeps its own settings where nothing else is said.
    saved = saved_config(run_dir) if resume and run_dir else None
    base = load_config(config) if config else saved or TrainConfig()
    options = {
        "model": model, "label": label, "epochs": epochs, "batch_size": batch_size, "learning_rate": learning_rate,
        "seed": seed, "samples_per_epoch": samples_per_epoch, "val_samples": val_samples, "network.dropout": dropout,
        "device": device, "precision": precision, "threads": threads, "num_workers": num_workers,
        "draw": draw, "val_store": str(val_store.absolute()) if val_store else None,
    }  # fmt: skip
    settings = override(base, options)
    if print_config:
        print_settings(settings, "train")
        return
    store, run_dir = needed("train", store=store, run_dir=run_dir)
    opened = open_store(store)
    if note := label_note(opened, choose_label(opened, settings.label), settings.label):
        print(note)
    with _progress() as progress:
        result = run(
            store, run_dir, settings, resume=resume, overwrite=overwrite, max_minutes=max_minutes,
            progress=progress,
        )  # fmt: skip
    if result.stopped:
        print(f"stopped at step {result.step} of {result.total_steps}, because {result.stopped}: --resume continues.")
    print(
        f"best loss {result.best_loss:.4f} (zero map {result.zero_map_loss:.4f}, untrained "
        f"{result.untrained_loss:.4f}) "
        f"after {result.step} steps in {result.seconds / 60:.1f} minutes"
    )
    print(result.weights if result.weights.is_file() else result.run_dir)
    if result.stopped.startswith("SIG"):
        sys.exit(130)


@contextmanager
def _progress() -> Iterator[Callable[[Progress], None]]:
    """Return a bar on a terminal; everywhere one line an epoch."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
    from rich.progress import Progress as Bar

    from .progress import is_interactive

    console = Console(stderr=True)

    def line(progress: Progress) -> str:
        row = progress.row
        assert row is not None
        if row.step == 0:
            return f"epoch 0 untrained {row.val_loss:.4f} (zero map {row.zero_map_loss:.4f})"
        return (
            f"epoch {row.epoch:g} step {row.step}/{progress.total_steps} train {row.train_loss:.4f} "
            f"val {row.val_loss:.4f} (zero map {row.zero_map_loss:.4f}) rate {row.learning_rate:g} {row.seconds:.0f} s"
        )

    if not is_interactive(console):
        yield lambda progress: print(line(progress), file=sys.stderr, flush=True) if progress.row else None
        return
    columns = (TextColumn("loss {task.fields[loss]:.3f}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Bar(*columns, console=console, transient=True) as bar:
        task = bar.add_task("train", loss=float("nan"))

        def update(progress: Progress) -> None:
            bar.update(task, completed=progress.step, total=progress.total_steps, loss=progress.loss)
            if progress.row is not None:
                bar.console.print(line(progress), highlight=False)

        yield update
