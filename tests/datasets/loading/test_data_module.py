"""The DataModule end to end, alone and on several processes that Lightning starts."""

from __future__ import annotations

import itertools
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from chi33.datasets.build.build import BuildConfig, build_store
from chi33.datasets.loading.data_module import StoreDataModule
from chi33.datasets.loading.device_patches import DeviceLoader
from chi33.datasets.loading.loaders import LoaderConfig, loader_of, patches_of, sampler_of
from chi33.datasets.store.schema import open_store
from chi33.files.errors import InputError
from chi33.pipeline.physics.tensor_field import dipole_field
from lightning.pytorch import LightningModule, Trainer


class Recording(LightningModule):
    """Fits one number and notes the patches it was given."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = torch.nn.Parameter(torch.zeros(()))
        self.seen: dict[str, list[list[str]]] = {"train": [], "val": [], "test": []}

    def note(self, batch: dict, stage: str) -> torch.Tensor:
        corners = batch["corner"].tolist() if "corner" in batch else [0] * len(batch["volume"])
        self.seen[stage].append([f"{v} {c}" for v, c in zip(batch["volume"], corners, strict=True)])
        return ((batch["field"] - self.scale * batch["chi33"]) * batch["mask"]).square().mean()

    def training_step(self, batch: dict, batch_idx: int) -> torch.Tensor:
        return self.note(batch, "train")

    def validation_step(self, batch: dict, batch_idx: int) -> None:
        self.note(batch, "val")

    def test_step(self, batch: dict, batch_idx: int) -> None:
        self.note(batch, "test")

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.1)


def flat(batches: list[list[str]]) -> list[str]:
    return list(itertools.chain.from_iterable(batches))


def trainer(folder: Path, **options) -> Trainer:
    return Trainer(
        accelerator="cpu", devices=1, max_epochs=2, logger=False, enable_checkpointing=False, default_root_dir=folder,
        enable_progress_bar=False, enable_model_summary=False, num_sanity_val_steps=0, **options,
    )  # fmt: skip


def fitted(store: Path, folder: Path, config: LoaderConfig, **options) -> dict[str, list[list[str]]]:
    module = Recording()
    trainer(folder).fit(module, datamodule=StoreDataModule(store, config, **options))
    return module.seen


@pytest.mark.filterwarnings("ignore:.*num_workers.*", "ignore:.*log_every_n_steps.*", "ignore:.*worker processes.*")
@pytest.mark.parametrize(
    "options",
    [{}, {"draw": "random"}, {"draw": "random", "patch_size": 8, "min_brain": 0.5}],
    ids=["index", "random", "smaller"],
)
def test_every_way_of_reading_trains_on_the_same_patches(store_path: Path, tmp_path: Path, options: dict) -> None:
    common = {"batch_size": 4, "samples_per_epoch": 10, "val_samples": 5, "seed": 2, **options}
    expected = fitted(store_path, tmp_path, LoaderConfig(**common))
    ways = ({"num_workers": 2}, {"keep": "memory"}, {"keep": "device"})
    for way in ways:
        assert fitted(store_path, tmp_path, LoaderConfig(**common, **way)) == expected, way
    train, val = expected["train"], expected["val"]
    assert [len(batch) for batch in train] == [4, 4, 2] * 2
    assert flat(train[:3]) != flat(train[3:])
    assert [len(batch) for batch in val] == [4, 1] * 2
    assert val[:2] == val[2:]
    assert all(patch.startswith("sub-02/") for batch in val for patch in batch)
    assert fitted(store_path, tmp_path, LoaderConfig(**{**common, "seed": 3}))["train"] != train


@pytest.mark.filterwarnings("ignore:.*num_workers.*", "ignore:.*log_every_n_steps.*", "ignore:.*worker processes.*")
@pytest.mark.parametrize("turn", ["auto", "cosmos"])
def test_heads_are_turned_while_training_and_validated_as_scanned(store_path: Path, tmp_path: Path, turn: str) -> None:
    common = {"batch_size": 4, "samples_per_epoch": 10, "val_samples": 5, "seed": 2, "draw": "turned", "turn": turn}
    seen = fitted(store_path, tmp_path, LoaderConfig(**common))
    assert fitted(store_path, tmp_path, LoaderConfig(**common, num_workers=2)) == seen
    train = flat(seen["train"])
    assert len(train) == len(set(train)) == 20
    turns = [patch.split()[0] for patch in train]
    assert all("/turned-0-" in turn for turn in turns[:10])
    assert all("/turned-1-" in turn for turn in turns[10:])
    assert len(set(turns)) == 2 * 3  # four patches a turn
    assert seen["val"] == fitted(store_path, tmp_path, LoaderConfig(batch_size=4, val_samples=5))["val"]


def test_turned_patches_are_exact_pairs_on_the_device_that_trains(store_path: Path) -> None:
    config = LoaderConfig(draw="turned", samples_per_epoch=4, patches_per_turn=1, patch_size=12, min_brain=0.3)
    patches = patches_of(open_store(store_path), "train", config)
    loader = loader_of(patches, sampler_of(patches, None, config), config)
    assert isinstance(loader, DeviceLoader)
    batch = next(iter(loader))
    whole = patches.turned((0, 0))
    box = tuple(slice(int(c), int(c) + 12) for c in batch["corner"][0])
    field = whole.maps["field"][box] * batch["mask"][0, 0]
    torch.testing.assert_close(batch["field"][0, 0], field)
    size = whole.geometry.voxel_size
    predicted = dipole_field(whole.maps["chi33"].numpy(), size, [0, 0, 1]) + whole.maps["deltab"].numpy()
    assert np.abs(predicted - whole.maps["field"].numpy()).max() < 1e-4 * np.ptp(predicted)


@pytest.mark.filterwarnings("ignore:.*num_workers.*")
def test_whole_volumes_validate_and_test(store_path: Path, tmp_path: Path) -> None:
    data = StoreDataModule(store_path, validate_on="volumes")
    module = Recording()
    runner = trainer(tmp_path)
    runner.validate(module, datamodule=data, verbose=False)
    runner.test(module, datamodule=data, verbose=False)
    assert module.seen["val"] == [["sub-02/acq-ori01 0"], ["sub-02/acq-ori02 0"]]
    assert module.seen["test"] == [["sub-03/acq-ori01 0"], ["sub-03/acq-ori02 0"]]
    shapes = [tuple(batch["field"].shape) for batch in data.test_dataloader()]
    assert shapes == [(1, 1, 26, 30, 24)] * 2


@pytest.mark.filterwarnings("ignore:.*num_workers.*", "ignore:.*log_every_n_steps.*")
def test_without_validation_subjects_it_only_trains(derivatives: Path, tmp_path: Path) -> None:
    build_store(derivatives, tmp_path / "s.h5", BuildConfig(patch_size=10, patches_per_scan=2, val_subjects=()))
    seen = fitted(tmp_path / "s.h5", tmp_path, LoaderConfig())
    assert len(seen["train"]) == 12
    assert seen["val"] == []


def test_another_store_validates_unless_it_shares_a_subject(
    store_path: Path, derivatives: Path, tmp_path: Path
) -> None:
    config = BuildConfig(patch_size=10, patches_per_scan=2)
    build_store(derivatives, tmp_path / "fine.h5", BuildConfig(**{**config.__dict__, "val_subjects": ("03",)}))
    data = StoreDataModule(store_path, val_store=tmp_path / "fine.h5")
    assert {volume for batch in data.val_dataloader() for volume in batch["volume"]} == {
        "sub-03/acq-ori01", "sub-03/acq-ori02"
    }  # fmt: skip
    build_store(derivatives, tmp_path / "leak.h5", BuildConfig(**{**config.__dict__, "val_subjects": ("01",)}))
    with pytest.raises(InputError, match="sub-01 is in train"):
        StoreDataModule(store_path, val_store=tmp_path / "leak.h5")


SCRIPT = """
import importlib.util, json, sys
from pathlib import Path
import torch
from lightning.pytorch import Trainer
from chi33.datasets.loading.data_module import StoreDataModule
from chi33.datasets.loading.loaders import LoaderConfig

store, folder, tests, options = Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3], json.loads(sys.argv[4])
spec = importlib.util.spec_from_file_location("recording", tests)
recording = importlib.util.module_from_spec(spec)
spec.loader.exec_module(recording)
torch.set_num_threads(1)
module = recording.Recording()
trainer = Trainer(
    accelerator="cpu", devices=2, strategy="ddp", max_epochs=2, logger=False, enable_checkpointing=False,
    enable_progress_bar=False, enable_model_summary=False, num_sanity_val_steps=0, default_root_dir=folder,
)
config = LoaderConfig(batch_size=2, samples_per_epoch=9, val_samples=5, seed=2, **options)
trainer.fit(module, datamodule=StoreDataModule(store, config))
(folder / f"rank{trainer.global_rank}.json").write_text(json.dumps(module.seen))
"""


def test_processes_of_a_distributed_training_share_out_one_draw(store_path: Path, tmp_path: Path) -> None:
    script = tmp_path / "fit.py"
    script.write_text(SCRIPT)
    environment = {**os.environ, "PYTHONSAFEPATH": "1", "OMP_NUM_THREADS": "1"}
    command = [sys.executable, script, store_path, tmp_path, __file__, json.dumps({"draw": "random"})]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False, timeout=120)
    assert done.returncode == 0, done.stderr
    ranks = [json.loads((tmp_path / f"rank{rank}.json").read_text()) for rank in (0, 1)]
    alone = drawn_patches(store_path)
    for epoch in (0, 1):
        shares = [flat(rank["train"][2 * epoch : 2 * epoch + 2]) for rank in ranks]
        assert [len(share) for share in shares] == [4, 4]
        assert sorted(shares[0] + shares[1]) == sorted(alone[epoch][:8])
    assert all(rank["val"][0] == rank["val"][1] for rank in ranks)
    validated = ranks[0]["val"][0] + ranks[1]["val"][0]
    assert len(set(validated)) == len(validated) == 4


def drawn_patches(store: Path) -> list[list[str]]:
    """The patches of two epochs of one process, in order."""
    config = LoaderConfig(batch_size=9, samples_per_epoch=9, seed=2, draw="random")
    loader = StoreDataModule(store, config).train_dataloader()
    epochs = []
    for epoch in (0, 1):
        loader.sampler.set_epoch(epoch)
        (batch,) = loader
        epochs.append([f"{v} {c}" for v, c in zip(batch["volume"], batch["corner"].tolist(), strict=True)])
    assert len(np.unique(epochs[0])) == 9
    return epochs
