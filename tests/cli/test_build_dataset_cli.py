"""`chi33 build-dataset` from the command line: arguments, summary, and what it refuses."""

from __future__ import annotations

from pathlib import Path

import cyclopts
import nibabel as nib
import numpy as np
import pytest
from chi33.cli.build_dataset import build_dataset
from chi33.datasets.store.schema import open_store
from chi33.files.errors import InputError

AFFINE = np.diag([2.0, 2.0, 2.0, 1.0])


@pytest.fixture
def maps(tmp_path: Path) -> Path:
    """Four subjects with one scan each, labels of noise, and a COSMOS map in the subject's space."""
    rng = np.random.default_rng(0)
    for subject in ("01", "02", "03", "04"):
        anat = tmp_path / "maps" / f"sub-{subject}" / "anat"
        anat.mkdir(parents=True)
        mask = np.zeros((16, 18, 14), np.uint8)
        mask[2:-2, 2:-2, 2:-2] = 1
        for ending in ("local_fieldmap", "chi33_Chimap", "deltab_fieldmap", "cosmos_Chimap"):
            values = (0.05 * rng.standard_normal(mask.shape) * mask).astype(np.float32)
            nib.save(nib.Nifti1Image(values, AFFINE), anat / f"sub-{subject}_acq-ori01_desc-{ending}.nii.gz")
        nib.save(nib.Nifti1Image(mask, AFFINE), anat / f"sub-{subject}_acq-ori01_desc-local_mask.nii.gz")
    return tmp_path / "maps"


def command(*words: str | Path) -> None:
    app = cyclopts.App(name="chi33", result_action="return_value")
    app.command(build_dataset)
    app(["build-dataset", *map(str, words)], exit_on_error=False, print_error=False)


def test_labels_come_with_spaces_or_commas(maps: Path, tmp_path: Path) -> None:
    for number, words in enumerate((["02", "03"], ["02,03"], ["sub-02,", "03"])):
        store = tmp_path / f"{number}.h5"
        command(maps, store, "--patch-size", "6", "--val-subjects", *words, "--test-subjects", "04")
        opened = open_store(store)
        assert (opened.subjects("train"), opened.subjects("val"), opened.subjects("test")) == (
            ("01",),
            ("02", "03"),
            ("04",),
        )


def test_nobody_validates_when_told_so(maps: Path, tmp_path: Path) -> None:
    command(maps, tmp_path / "s.h5", "--patch-size", "6", "--val-subjects", "none")
    assert open_store(tmp_path / "s.h5").subjects("val") == ()


def test_options_reach_the_store_and_the_summary_tells(maps: Path, tmp_path: Path, capsys) -> None:
    store = tmp_path / "s.h5"
    command(
        maps, store, "--patch-size", "6", "--min-brain", "0.9", "--patches-per-scan", "7", "--augment", "2",
        "--max-angle", "10", "--materialise", "--seed", "4",
    )  # fmt: skip
    out, err = capsys.readouterr()
    assert "train: sub-01 sub-02 sub-03; 9 volumes, 63 patches" in out
    assert "val: sub-04; 1 volumes, 7 patches" in out
    assert f"{store}: 10 volumes (6 augmented)" in out
    assert "0/24 sub-01/acq-ori01" in err
    opened = open_store(store, verify=True)
    table = opened.patches["train"]
    assert (table.patch_size, table.min_brain, table.seed, len(table)) == (6, 0.9, 4, 63)
    assert "field" in table.data_channels
    assert opened.config["max_angle"] == 10
    assert sum(volume.source == "augmented" for volume in opened.volumes) == 6


def test_an_existing_store_needs_overwrite(maps: Path, tmp_path: Path) -> None:
    store = tmp_path / "s.h5"
    command(maps, store, "--patch-size", "6")
    with pytest.raises(InputError, match="pass --overwrite"):
        command(maps, store, "--patch-size", "6")
    command(maps, store, "--patch-size", "7", "--overwrite")
    assert open_store(store).patches["train"].patch_size == 7


def test_unusable_input_is_one_sentence(maps: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="holds no label map"):
        command(tmp_path / "maps" / "sub-01", tmp_path / "s.h5")
    with pytest.raises(InputError, match="sub-09 named for validation cannot be found"):
        command(maps, tmp_path / "s.h5", "--val-subjects", "09")
    with pytest.raises(InputError, match="does not fit a volume of shape"):
        command(maps, tmp_path / "s.h5")
    assert not (tmp_path / "s.h5").exists()


def test_rules_and_augmentation_come_from_the_command_line(maps: Path, tmp_path: Path) -> None:
    store = tmp_path / "s.h5"
    command(
        maps, store, "--patch-rule", "isdu", "--patch-size", "6", "--patch-grid", "3, 2,1", "--augment", "1",
        "--augmentation", "cosmos", "--augment-snr", "5,10", "--augment-scale", "2,2", "--n-procs", "1",
    )  # fmt: skip
    opened = open_store(store, verify=True)
    table = opened.patches["val"]
    assert (table.rule, table.grid, len(table)) == ("isdu", (3, 2, 1), 6)
    copies = [volume for volume in opened.volumes if volume.source == "augmented"]
    assert len(copies) == 3
    assert all(5 <= copy.snr <= 10 and copy.susceptibility_scale == 2 for copy in copies)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (
            ["--patch-rule", "isdu", "--patch-grid", "6,8"],
            "--patch-grid must be three counts .* such as 6,8,7, got '6,8'",
        ),
        (["--augment", "1", "--augment-snr", "high"], "--augment-snr must be two numbers .* such as 0.5,2, got 'high'"),
        (["--augment", "1", "--augment-scale", "1,2,3"], "--augment-scale must be two numbers .* got '1,2,3'"),
        (["--patch-size", "6", "--n-procs", "0"], "--n-procs must be at least 1, got 0"),
        (["--patch-size", "6", "--dask", "here"], "--dask must be the address of a scheduler .* got 'here'"),
    ],
)
def test_options_that_make_no_sense_are_refused(maps: Path, tmp_path: Path, words: list[str], message: str) -> None:
    with pytest.raises(InputError, match=message):
        command(maps, tmp_path / "s.h5", *words)
    assert not (tmp_path / "s.h5").exists()


def test_a_failed_build_says_what_is_kept(maps: Path, tmp_path: Path, capsys) -> None:
    label = maps / "sub-03" / "anat" / "sub-03_acq-ori01_desc-chi33_Chimap.nii.gz"
    whole = label.read_bytes()
    label.write_bytes(whole[:100])
    with pytest.raises(InputError, match="is damaged"):
        command(maps, tmp_path / "s.h5", "--patch-size", "6")
    folder = tmp_path / ".s.h5.parts"
    assert f"2 finished parts are kept in {folder}: repeat the command to go on." in capsys.readouterr().err
    label.write_bytes(whole)
    command(maps, tmp_path / "s.h5", "--patch-size", "6")
    assert not folder.exists()
    assert open_store(tmp_path / "s.h5", verify=True).subjects("val") == ("04",)
