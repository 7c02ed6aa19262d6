"""The patch index: every corner counted exactly, drawn from uniformly, the same whatever the company."""

from __future__ import annotations

from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from chi33.datasets.build.build import BuildConfig, build_store
from chi33.datasets.loading.patches import brain_counts, draw_patches, join_tables
from chi33.datasets.store.schema import open_store
from chi33.files.errors import Chi33Warning, InputError
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import chisquare


@settings(max_examples=25, deadline=None)
@given(
    shape=st.tuples(*[st.integers(3, 9)] * 3), size=st.integers(1, 3), seed=st.integers(0, 1000), share=st.floats(0, 1)
)
def test_counts_are_the_sums_of_every_patch(shape, size, seed, share) -> None:
    mask = np.random.default_rng(seed).random(shape) < share
    windows = np.lib.stride_tricks.sliding_window_view(mask, (size,) * 3)
    np.testing.assert_array_equal(brain_counts(mask, size), windows.sum(axis=(3, 4, 5)))


def ball(n: int = 20, radius: float = 8) -> np.ndarray:
    x = np.arange(n) - (n - 1) / 2
    return (x[:, None, None] ** 2 + x[None, :, None] ** 2 + x[None, None] ** 2) < radius**2


def draw(mask: np.ndarray, number: int = 10**6, name: str = "sub-01/acq-a", seed: int = 0, min_brain: float = 0.8):
    return draw_patches(mask, name, patch_size=6, min_brain=min_brain, number=number, seed=seed)[0]


def test_drawing_everything_gives_each_admissible_corner_once() -> None:
    mask = ball()
    rows = draw(mask)
    expected = np.argwhere(brain_counts(mask, 6) >= 0.8 * 216)
    np.testing.assert_array_equal(np.stack([rows[a] for a in "ijk"], axis=1), expected)
    assert 0 < len(expected) < 15**3


def test_brain_fraction_is_that_of_the_patch_and_obeys_the_rule() -> None:
    mask = ball()
    for row in draw(mask, 50):
        i, j, k = (int(row[a]) for a in "ijk")
        fraction = mask[i : i + 6, j : j + 6, k : k + 6].mean()
        assert row["brain_fraction"] == pytest.approx(fraction)
        assert fraction >= 0.8


def test_a_patch_with_exactly_the_fraction_is_admissible() -> None:
    mask = np.zeros((10, 10, 10))
    mask[:8] = 1  # exactly 80 %
    rows, best = draw_patches(mask, "v", patch_size=10, min_brain=0.8, number=5, seed=0)
    assert len(rows) == 1
    assert best == pytest.approx(0.8)


def test_draws_are_uniform_over_the_admissible_corners() -> None:
    mask = ball(14, 6)
    corners = draw(mask)
    hits = np.zeros((9, 9, 9))
    for seed in range(400):
        rows = draw(mask, 20, seed=seed)
        np.add.at(hits, (rows["i"], rows["j"], rows["k"]), 1)
    counts = hits[corners["i"], corners["j"], corners["k"]]
    assert counts.sum() == hits.sum() == 400 * 20
    assert len(corners) > 40
    assert chisquare(counts).pvalue > 1e-3


def test_draws_depend_on_seed_and_volume_alone() -> None:
    mask = ball()
    np.testing.assert_array_equal(draw(mask, 30), draw(mask, 30))
    assert not np.array_equal(draw(mask, 30), draw(mask, 30, seed=1))
    other = draw(mask, 30, name="sub-01/acq-b")
    assert not np.array_equal(draw(mask, 30)["i"], other["i"])


def test_the_index_of_a_subject_does_not_depend_on_the_others(derivatives: Path, make_derivatives, tmp_path) -> None:
    config = BuildConfig(patch_size=10, patches_per_scan=15, val_subjects=(), seed=3)
    alone = make_derivatives(1)
    build_store(derivatives, tmp_path / "three.h5", config)
    build_store(alone, tmp_path / "one.h5", config)
    three = open_store(tmp_path / "three.h5").patches["train"].rows
    one = open_store(tmp_path / "one.h5").patches["train"].rows
    assert len(one) == 30
    np.testing.assert_array_equal(three[np.isin(three["volume"], one["volume"])], one)


def test_joined_tables_keep_long_names() -> None:
    mask = ball()
    names = ["sub-1/acq-a", "sub-longer/acq-longest"]
    rows = join_tables([draw(mask, 2, name=name) for name in names])
    assert [name.decode() for name in rows["volume"]] == [names[0]] * 2 + [names[1]] * 2
    assert len(join_tables([])) == 0


def test_a_patch_larger_than_the_volume_is_refused(derivatives: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"patch of 48 voxels does not fit .*\(26, 30, 24\).* between 1 and 24"):
        build_store(derivatives, tmp_path / "s.h5", BuildConfig())
    assert list(tmp_path.iterdir()) == []


def test_no_admissible_patch_says_which_fraction_would_do(derivatives: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no patch of 22 voxels in sub-01/acq-ori01 holds 80% brain") as error:
        build_store(derivatives, tmp_path / "s.h5", BuildConfig(patch_size=22))
    assert not (tmp_path / "s.h5").exists()
    allowed = float(str(error.value).split("--min-brain ")[1].split(" ")[0])
    build_store(derivatives, tmp_path / "s.h5", BuildConfig(patch_size=22, min_brain=allowed))
    assert len(open_store(tmp_path / "s.h5").patches["train"]) > 0


def test_one_volume_without_patches_is_left_out_with_a_warning(make_derivatives, tmp_path: Path) -> None:
    folder = make_derivatives(2, 2)
    file = folder / "sub-01/anat/sub-01_acq-ori02_desc-local_mask.nii.gz"
    mask = np.asarray(nib.load(file).dataobj).copy()
    mask[:, :, 8:] = 0
    nib.save(nib.Nifti1Image(mask, nib.load(file).affine), file)
    with pytest.warns(Chi33Warning, match="Left out, no patch of 10 voxels in sub-01/acq-ori02 holds 80% brain"):
        build_store(folder, tmp_path / "s.h5", BuildConfig(patch_size=10, patches_per_scan=5))
    store = open_store(tmp_path / "s.h5")
    assert set(store.patches["train"].rows["volume"]) == {b"sub-01/acq-ori01"}
    assert len(store.of_split("train")) == 2
