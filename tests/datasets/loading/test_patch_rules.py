"""The papers' patch rules, position by position."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from chi33.datasets.build.build import BuildConfig, build_store
from chi33.datasets.loading.patches import RULES, brain_counts, choose_patches, draw_patches, patch_rule
from chi33.datasets.store.schema import open_store
from chi33.files.errors import InputError


def corners(mask: np.ndarray, name: str, **options) -> np.ndarray:
    rows, _ = choose_patches(mask, "sub-01/acq-a", patch_rule(name, **options))
    return np.stack([rows[axis] for axis in "ijk"], axis=1)


def along(found: np.ndarray) -> list[list[int]]:
    """The positions along each axis of a full grid."""
    axes = [np.unique(found[:, axis]).tolist() for axis in range(3)]
    assert len(found) == np.prod([len(axis) for axis in axes])
    return axes


def test_the_grid_of_isdu_has_336_patches_that_cover_its_volume() -> None:
    mask = np.ones((176, 176, 160), bool)
    found = along(corners(mask, "isdu", grid=(6, 8, 7)))
    assert [len(axis) for axis in found] == [6, 8, 7]
    assert found == [
        [0, 22, 45, 67, 90, 112],
        [0, 16, 32, 48, 64, 80, 96, 112],
        [0, 16, 32, 48, 64, 80, 96],
    ]


def test_isdu_overlaps_by_66_percent_over_the_box_of_the_brain() -> None:
    mask = np.zeros((180, 200, 100), bool)
    mask[30:160, 20:190, 10:60] = True  # 130, 170 and, smaller than a patch, 50 voxels
    x, y, z = along(corners(mask, "isdu"))
    assert x == [30, 52, 74, 96]  # 66 / 22 steps
    assert (y[0], y[-1]) == (20, 190 - 64)
    assert 1 - np.diff(y).mean() / 64 == pytest.approx(0.66, abs=0.01)
    assert z == [(10 + 60 - 64) // 2]


def test_a_brain_smaller_than_the_patch_at_the_edge_stays_inside_the_volume() -> None:
    mask = np.zeros((20, 20, 20), bool)
    mask[:4, -4:, 8:12] = True
    assert corners(mask, "isdu", size=12, grid=(3, 3, 1)).tolist() == [[0, 8, 4]]


def test_lpcnn_starts_every_32_voxels_and_at_the_far_faces() -> None:
    found = along(corners(np.ones((224, 224, 126), bool), "lpcnn"))
    assert found == [[0, 32, 64, 96, 128, 160]] * 2 + [[0, 32, 62]]


@pytest.mark.parametrize(("extra", "kept"), [(0, 0), (1, 1)])
def test_lpcnn_wants_more_than_an_eighth_of_brain(extra: int, kept: int) -> None:
    mask = np.zeros((64, 64, 64), bool)
    mask[:32, :32, :32] = True  # exactly 32768 voxels
    mask[40, 40, :extra] = True
    assert len(corners(mask, "lpcnn")) == kept
    assert len(corners(mask, "grid")) == 1  # at least an eighth


def test_grid_takes_any_size_stride_and_fraction() -> None:
    mask = np.zeros((20, 20, 20), bool)
    mask[5:15, 5:15, 5:15] = True
    every = along(corners(mask, "grid", size=6, stride=5, min_brain=0.0))
    assert every == [[0, 5, 10, 14]] * 3
    counts = brain_counts(mask, 6)
    expected = [c for c in np.ndindex(15, 15, 15) if all(n in every[0] for n in c) and counts[c] >= 0.5 * 216]
    assert corners(mask, "grid", size=6, stride=5, min_brain=0.5).tolist() == [list(c) for c in expected]
    assert len(expected) == 8
    assert patch_rule("grid", size=10).stride == 5


def test_modl_qsm_and_random_draw_the_same() -> None:
    mask = np.zeros((20, 20, 20), bool)
    mask[3:17, 3:17, 3:17] = True
    drawn = draw_patches(mask, "sub-01/acq-a", patch_size=6, min_brain=0.8, number=9, seed=4)[0]
    for name in ("modl-qsm", "random"):
        rows, _ = choose_patches(mask, "sub-01/acq-a", patch_rule(name, size=6, number=9, seed=4))
        np.testing.assert_array_equal(rows, drawn)


def test_the_rules_are_the_papers() -> None:
    modl, isdu, lpcnn = RULES["modl-qsm"], RULES["isdu"], RULES["lpcnn"]
    assert (modl.size, modl.min_brain, modl.number) == (48, 0.8, 300)
    assert (isdu.size, isdu.min_brain, isdu.stride) == (64, 0.0, round(0.34 * 64))
    assert (lpcnn.size, lpcnn.min_brain, lpcnn.stride) == (64, 0.125, 32)


@pytest.mark.parametrize("name", ["isdu", "lpcnn", "grid"])
def test_an_empty_mask_has_no_patch(name: str) -> None:
    rows, best = choose_patches(np.zeros((16, 16, 16)), "v", patch_rule(name, size=8))
    assert len(rows) == best == 0


def test_a_rule_and_its_values_are_in_the_table(derivatives: Path, tmp_path: Path) -> None:
    build_store(derivatives, tmp_path / "g.h5", BuildConfig(patch_rule="isdu", patch_size=12, patch_grid=(2, 3, 2)))
    table = open_store(tmp_path / "g.h5", verify=True).patches["train"]
    assert (table.rule, table.patch_size, table.min_brain, table.grid, table.stride) == (
        "isdu",
        12,
        0.0,
        (2, 3, 2),
        None,
    )
    assert len(table) == 2 * 2 * 12
    build_store(derivatives, tmp_path / "l.h5", BuildConfig(patch_rule="lpcnn", patch_size=12, patch_stride=6))
    store = open_store(tmp_path / "l.h5")
    assert (store.patches["val"].rule, store.patches["val"].stride) == ("lpcnn", 6)
    assert store.config["min_brain"] == 0.125
    assert (store.patches["train"].rows["brain_fraction"] > 0.125).all()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"patch_rule": "cubes"}, "--patch-rule must be one of modl-qsm, isdu, lpcnn, grid, random, got 'cubes'"),
        ({"patch_stride": 4}, "--patch-stride does not apply to --patch-rule modl-qsm, only to isdu, lpcnn, grid"),
        ({"patch_rule": "lpcnn", "patch_grid": (1, 2, 3)}, "--patch-grid does not apply .* only to isdu"),
        ({"patch_rule": "grid", "patches_per_scan": 4}, "--patches-per-scan does not apply .*only to modl-qsm, random"),
        (
            {"patch_rule": "isdu", "patch_grid": (2, 2, 2), "patch_stride": 4},
            "give either --patch-stride or .*4 and 2,2",
        ),
        ({"patch_rule": "isdu", "patch_grid": (2, 0, 2)}, "--patch-grid must be three counts of at least 1.*got 2,0,2"),
        ({"patch_rule": "grid", "patch_stride": 0}, "--patch-stride must be at least 1, got 0"),
        ({"patch_rule": "grid", "min_brain": 1.5}, "--min-brain must be between 0 and 1, got 1.5"),
    ],
)
def test_values_that_make_no_sense_are_refused(options: dict, message: str) -> None:
    with pytest.raises(InputError, match=message):
        BuildConfig(**options)
