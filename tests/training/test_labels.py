"""A store is trained on the label it has: chi33 with delta B', chi33 alone, or COSMOS; what was learnt is said."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
import torch
from chi33.datasets.loading.loaders import LoaderConfig, patches_of
from chi33.datasets.store.schema import open_store
from chi33.files.errors import InputError
from chi33.training.config import NetworkConfig, TrainConfig, load_config
from chi33.training.evaluation.evaluate import evaluate
from chi33.training.inference.predict import predict
from chi33.training.inference.weights import load_network
from chi33.training.labels import choose_label, label_note, normalisation_of, targets_of
from chi33.training.loading import train_loader
from chi33.training.module import UnrolledModule
from chi33.training.train import train
from tiny_store import tiny_head, write_tiny_store

BRIEF = TrainConfig(
    epochs=1, samples_per_epoch=4, val_samples=2, device="cpu", threads=1, network=NetworkConfig(depth=4, iterations=1)
)


@pytest.fixture(scope="module")
def cosmos_store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store of COSMOS alone."""
    return write_tiny_store(tmp_path_factory.mktemp("cosmos") / "cosmos.h5", patches=8, labels=("cosmos",))


def test_a_store_of_cosmos_alone_is_learnt_and_said(cosmos_store: Path, tmp_path: Path) -> None:
    config = replace(
        BRIEF, epochs=10, samples_per_epoch=8, batch_size=4, learning_rate=3e-3,
        network=NetworkConfig(depth=6, dropout=0.0),
    )  # fmt: skip
    result = train(cosmos_store, tmp_path / "run", config)
    assert result.best_loss < 0.97 * min(result.zero_map_loss, result.untrained_loss)
    assert load_config(tmp_path / "run" / "config.toml").label == "cosmos"
    assert json.loads((tmp_path / "run" / "metrics.json").read_text())["targets"] == ["cosmos"]
    assert load_network(tmp_path / "run" / "checkpoints" / "last.ckpt").predicts == ("cosmos",)

    head, made = tiny_head(7), tmp_path / "made"
    for name, values in (("field", head.field), ("mask", head.mask), ("truth", head.chi33)):
        made.mkdir(exist_ok=True)
        nib.save(nib.Nifti1Image(values, head.affine), made / f"{name}.nii.gz")
    out = tmp_path / "pred" / "sub-01_acq-ori01"
    written = predict(
        tmp_path / "run", made / "field.nii.gz", made / "mask.nii.gz", out, b0_direction=head.b0_direction
    )
    assert written == [Path(f"{out}_chi.nii.gz")]
    said = json.loads(Path(f"{out}_chi.json").read_text())
    assert said["Label"] == "cosmos"
    assert "COSMOS" in said["Description"]
    inside = head.mask > 0
    chi = np.asarray(nib.load(written[0]).dataobj)[inside]
    assert np.corrcoef(chi, head.chi33[inside])[0, 1] > 0.2
    anat = tmp_path / "truth" / "sub-01" / "anat"
    anat.mkdir(parents=True)
    (made / "truth.nii.gz").rename(anat / "sub-01_acq-ori01_desc-cosmos_Chimap.nii.gz")
    (line,) = evaluate(out.parent, tmp_path / "truth", tmp_path / "table.csv")
    assert line.quantity == "cosmos"


def test_the_loss_is_that_of_the_labels_there_are(cosmos_store: Path, tiny_store: Path) -> None:
    store = open_store(cosmos_store)
    module = UnrolledModule(BRIEF, normalisation_of(store, ("cosmos",)), ("cosmos",))
    batch = next(iter(train_loader(store, BRIEF, lambda: 0, targets=("cosmos",))))
    expected = (batch["cosmos"] * batch["mask"]).abs().mean() / store.statistics["cosmos"].std
    torch.testing.assert_close(module.zero_map_loss(batch), expected.float(), rtol=1e-4, atol=1e-6)
    # the second channel is free: no gradient asks anything of the last convolution's share in it
    module.loss(batch).backward()
    gradient = module.network.cnn.last.weight.grad
    assert gradient is not None
    assert gradient[0].any()
    assert not gradient[1].any()
    both = UnrolledModule(BRIEF, normalisation_of(open_store(tiny_store), ("chi33", "deltab")))
    assert both.target(next(iter(train_loader(open_store(tiny_store), BRIEF, lambda: 0)))).shape[1] == 2


def test_chi33_without_deltab_is_learnt_alone(tmp_path: Path) -> None:
    store = write_tiny_store(tmp_path / "chi33.h5", labels=("chi33",))
    assert "has no δB′: the network learns χ33 alone" in label_note(open_store(store), "chi33", None)
    train(store, tmp_path / "run", BRIEF)
    assert load_network(tmp_path / "run").predicts == ("chi33",)


def test_chi33_is_learnt_where_it_is_there_and_cosmos_where_it_is_asked_for(tmp_path: Path) -> None:
    store = open_store(write_tiny_store(tmp_path / "s.h5", labels=("chi33", "deltab", "cosmos")))
    assert (choose_label(store, None), choose_label(store, "cosmos")) == ("chi33", "cosmos")
    assert targets_of(store, "chi33") == ("chi33", "deltab")
    assert label_note(store, "chi33", None) == label_note(store, "cosmos", "cosmos") == ""
    config = replace(BRIEF, label="cosmos")
    train(store.path, tmp_path / "run", config)
    assert load_network(tmp_path / "run").predicts == ("cosmos",)
    with pytest.raises(InputError, match=r"cannot change label \(cosmos before, chi33 now\)"):
        train(store.path, tmp_path / "run", replace(BRIEF, label="chi33"), resume=True)


def test_a_label_that_some_training_scans_lack_is_not_chosen(tmp_path: Path) -> None:
    everywhere, here = ("chi33", "deltab", "cosmos"), ("cosmos",)
    splits = {"01": "train", "02": "val", "03": "train"}
    mixed = write_tiny_store(tmp_path / "mixed.h5", splits, labels={"01": everywhere, "02": everywhere, "03": here})
    store = open_store(mixed)
    assert choose_label(store, None) == "cosmos"
    with pytest.raises(
        InputError,
        match=r"has no chi33 label in sub-03/acq-ori01 \(it has cosmos, field, mask\): train with --label cosmos, or",
    ):
        choose_label(store, "chi33")
    unlike = {"01": ("chi33", "deltab"), "02": everywhere, "03": here}
    store = open_store(write_tiny_store(tmp_path / "unlike.h5", splits, labels=unlike))
    with pytest.raises(InputError, match=r"no chi33 label in sub-03.* and no cosmos label in sub-01.*: build it from"):
        choose_label(store, None)


def test_validation_needs_the_label_too(cosmos_store: Path, tmp_path: Path) -> None:
    other = write_tiny_store(tmp_path / "other.h5", {"04": "train", "05": "val"})
    with pytest.raises(InputError, match=r"sub-05/acq-ori01 in .*other.h5 has no cosmos \(it has chi33, deltab, field"):
        train(cosmos_store, tmp_path / "run", replace(BRIEF, val_store=str(other)))
    assert not (tmp_path / "run").exists()


def test_cosmos_maps_are_rotated_to_learn_cosmos(cosmos_store: Path, tiny_store: Path) -> None:
    reading = LoaderConfig(draw="turned", samples_per_epoch=2, patches_per_turn=2)
    channels = ("field", "cosmos", "mask")
    patches = patches_of(open_store(cosmos_store), "train", reading, channels)
    assert patches[0, 0]["volume"] == "sub-01/acq-ori01/turned-0-0"
    assert patches[0, 0]["cosmos"].any()
    with pytest.raises(InputError, match='turn = "tensor" makes no COSMOS to learn: choose turn = "cosmos", or the'):
        patches_of(open_store(cosmos_store), "train", replace(reading, turn="tensor"), channels)


def test_the_command_takes_a_label_and_says_which_it_took(
    cosmos_store: Path, tmp_path: Path, command: Callable[..., Any]
) -> None:
    (tmp_path / "c.toml").write_text("[network]\ndepth = 4\niterations = 1\n")
    words = ["train", str(cosmos_store), str(tmp_path / "run"), "--config", str(tmp_path / "c.toml"), "--epochs", "1"]
    words += ["--samples-per-epoch", "2", "--device", "cpu", "--threads", "1"]
    refused = command(*words, "--label", "chi33")
    assert refused.code == 2
    assert "cosmos.h5 has no chi33 label in sub-01/acq-ori01" in refused.err
    ended = command(*words)
    assert ended.code == 0
    assert "cosmos.h5 has no χ33: the network learns COSMOS, and predicts susceptibility as" in ended.out
