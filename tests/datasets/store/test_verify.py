"""A sound store passes; every way of spoiling one is found and named."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np
import pytest
from chi33.datasets.build.build import BuildConfig, build_store
from chi33.datasets.store.verify import verify_store
from chi33.files.errors import InputError

SCAN = "volumes/sub-01/acq-ori01"
COPY = "volumes/sub-01/aug-001"
Spoil = Callable[[h5py.File], None]


@pytest.fixture(scope="session")
def noisy_path(derivatives: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store with two noisy and scaled copies, and materialised patches; read only."""
    path = tmp_path_factory.mktemp("noisy") / "noisy.h5"
    config = BuildConfig(
        patch_size=10, patches_per_scan=5, augment=2, augment_snr=(5.0, 20.0), augment_scale=(0.5, 2.0),
        val_subjects=("02",), materialise=True,
    )  # fmt: skip
    build_store(derivatives, path, config)
    return path


@pytest.fixture
def spoiled(noisy_path: Path, store_path: Path, tmp_path: Path) -> Callable[..., tuple[str, ...]]:
    """A function that spoils a copy of a store and returns the problems found beside the content hash."""

    def spoil(how: Spoil, *, noisy: bool = False) -> tuple[str, ...]:
        path = shutil.copy(noisy_path if noisy else store_path, tmp_path / "spoiled.h5")
        with h5py.File(path, "r+") as handle:
            how(handle)
        return tuple(p for p in verify_store(path).problems if "does not match its content hash" not in p)

    return spoil


def test_a_sound_store_has_no_problem(store_path: Path) -> None:
    said: list[tuple[int, int, str]] = []
    found = verify_store(store_path, progress=lambda *words: said.append(words))
    assert found.problems == ()
    assert (found.volumes, found.physics, found.unrecorded) == (7, 7, ())
    assert said[0] == (0, 8, "content hash")
    assert [what for _, _, what in said[1:8]] == sorted(what for _, _, what in said[1:8])
    assert said[-1] == (8, 8, "done")


def test_noise_and_scale_of_copies_are_what_they_say(noisy_path: Path) -> None:
    found = verify_store(noisy_path)
    assert found.problems == ()
    assert found.physics == found.volumes == 10


def test_turned_cosmos_maps_are_held_against_their_own_field(make_derivatives, tmp_path: Path) -> None:
    folder = make_derivatives(2, 1, tensor=False, labels=False)
    build_store(folder, tmp_path / "c.h5", BuildConfig(patch_size=10, patches_per_scan=3, augment=1))
    found = verify_store(tmp_path / "c.h5")
    assert (found.problems, found.physics, found.unrecorded) == ((), 1, ())


def test_a_store_without_residuals_is_not_compared(store_path: Path, tmp_path: Path) -> None:
    path = shutil.copy(store_path, tmp_path / "old.h5")
    with h5py.File(path, "r+") as handle:
        for scan in ("acq-ori01", "acq-ori02"):
            del handle[f"volumes/sub-02/{scan}"].attrs["residual_rms"]
    assert verify_store(path).unrecorded == ("sub-02/acq-ori01", "sub-02/acq-ori02")


def _set(name: str, index: object, value: object) -> Spoil:
    def spoil(handle: h5py.File) -> None:
        handle[name][index] = value

    return spoil


def _attr(name: str, key: str, value: object) -> Spoil:
    def spoil(handle: h5py.File) -> None:
        handle[name].attrs[key] = value

    return spoil


def _times(name: str, factor: float) -> Spoil:
    def spoil(handle: h5py.File) -> None:
        handle[name][()] = handle[name][()] * factor

    return spoil


def _row(column: str, value: float) -> Spoil:
    def spoil(handle: h5py.File) -> None:
        rows = handle["patches/train"][()]
        rows[column][0] = value
        handle["patches/train"][()] = rows

    return spoil


@pytest.mark.parametrize(("how", "sentence"), [
    (_set(f"{SCAN}/mask", (13, 15, 12), 3), "mask of sub-01/acq-ori01 holds [3], not only 0 and 1."),
    (_set(f"{SCAN}/mask", ..., 0), "mask of sub-01/acq-ori01 is empty."),
    (_set(f"{SCAN}/chi33", (0, 0, 0), np.nan), "chi33 of sub-01/acq-ori01 holds 1 values that are not finite."),
    (_times(f"{SCAN}/cosmos", 1e3), "too large for ppm."),
    (_times(f"{SCAN}/chi33", 1e-6), "too small for ppm."),
    (_times(f"{SCAN}/field", 1.02), "departs from D∗χ33 + δB′ by"),
    (_set(f"{COPY}/field", (13, 15, 12), 0.5), "a copy without noise, departs from D∗χ33 + δB′ by"),
    (_attr(SCAN, "b0_direction", [0.0, 0.0, 0.5]), "b0_direction of sub-01/acq-ori01 must be a unit vector"),
    (_attr(SCAN, "voxel_size", [1.0, 2.0, 2.0]),
     "voxel_size of sub-01/acq-ori01 is [1.0, 2.0, 2.0] mm, but its affine has [2.0, 2.0, 2.0] mm."),
    (_attr(SCAN, "units", "Hz"), "sub-01/acq-ori01 is in 'Hz', not in ppm."),
    (_attr(SCAN, "source", "found"), "source 'found', which is neither acquired nor augmented"),
    (_attr(SCAN, "subject", "07"), "sub-01/acq-ori01 says that it is of sub-07."),
    (_attr(SCAN, "split", "val"), "sub-01 is in more than one split: "),
    (_attr(COPY, "split", "test"), "sub-01 is in more than one split: "),
    (_attr("tensors/sub-01", "split", "val"), "(sub-01/acq-ori01) and val (the tensor of sub-01)"),
    (_attr(SCAN, "split", "val"), "the train patches name sub-01/acq-ori01, which is in val."),
    (_attr(SCAN, "split", "both"), "sub-01/acq-ori01 is in split 'both', which is none of train, val, test."),
    (_attr("/", "split_hash", "0" * 64), "the split hash of spoiled.h5 is not the one"),
    (_attr(SCAN, "fingerprint", "0" * 64), "the fingerprint of sub-01/acq-ori01 is not the one"),
    (_attr(COPY, "parent", "/tensors/sub-02"), "was turned from /tensors/sub-02, which is another subject."),
    (_attr(COPY, "parent", "somewhere"), "its parent 'somewhere' is no tensor and no volume."),
    (_attr(COPY, "rotation", 2 * np.eye(3)), "rotation of sub-01/aug-001 is no rotation"),
    (_attr(COPY, "rotation", np.zeros(3)), "sub-01/aug-001 is augmented, but has no rotation (3, 3)."),
    (_row("i", 20), "1 train patches of sub-01/acq-ori01 reach outside its shape (26, 30, 24)"),
    (_row("brain_fraction", 0.2), "brain_fraction of 1 train patches of sub-01/acq-ori01 is not the mask's"),
    (_row("i", 0), "1 train patches of sub-01/acq-ori01 hold less than 80% brain."),
    (_attr("statistics/chi33", "mean", 1.0), "the statistics of chi33 say 1 ± "),
    (lambda handle: handle.pop("statistics/deltab"), "the statistics lack deltab."),
    (lambda handle: handle.pop("tensors/sub-01"), "was turned from /tensors/sub-01, which the store does not hold."),
    (_set("tensors/sub-02/chi", (0, 1, 1, 1), np.nan), "the tensor of sub-02 holds 1 values that are not finite."),
    (_set("tensors/sub-02/mask", ..., 0), "the mask of the tensor of sub-02 is empty"),
    (_times("tensors/sub-02/chi", 1e3), "the mean susceptibility of the tensor of sub-02 reaches"),
    (lambda handle: handle.pop("tensors/sub-02/mask"), "the tensor of sub-02 cannot be read ("),
    (lambda handle: handle.pop(f"{SCAN}/field"), "sub-01/acq-ori01 has no field."),
    (lambda handle: handle[SCAN].attrs.pop("units"), "sub-01/acq-ori01 is in None, not in ppm."),
])  # fmt: skip
def test_what_is_wrong_is_named(spoiled: Callable[..., tuple[str, ...]], how: Spoil, sentence: str) -> None:
    assert any(sentence in problem for problem in spoiled(how))


def test_maps_of_other_shapes_and_unknown_volumes_are_named(spoiled: Callable[..., tuple[str, ...]]) -> None:
    def shorten(handle: h5py.File) -> None:
        values = handle[f"{SCAN}/field"][:-1]
        del handle[f"{SCAN}/field"]
        handle[f"{SCAN}/field"] = values

    assert any("has a mask of shape (26, 30, 24), but field (25, 30, 24)." in p for p in spoiled(shorten))

    def cut(handle: h5py.File) -> None:
        values = handle["tensors/sub-02/chi"][:5]
        del handle["tensors/sub-02/chi"]
        handle["tensors/sub-02/chi"] = values

    assert spoiled(cut) == ("the tensor of sub-02 has shape (5, 26, 30, 24), but its mask has (26, 30, 24).",)
    moved = spoiled(lambda handle: handle.move("volumes/sub-03/acq-ori01", "volumes/sub-03/acq-x"))
    assert any("the test patches name sub-03/acq-ori01, which the store does not hold" in p for p in moved)


def test_one_head_under_two_labels_is_found(spoiled: Callable[..., tuple[str, ...]]) -> None:
    def copy(handle: h5py.File) -> None:
        handle.copy(handle[SCAN], handle["volumes/sub-02"], "acq-twin")
        handle["volumes/sub-02/acq-twin"].attrs.update(subject="02", split="val")

    assert spoiled(copy) == (
        "sub-01/acq-ori01 (train) and sub-02/acq-twin (val) hold the same field and mask, so a subject goes by two "
        "labels.",
    )


@pytest.mark.parametrize(("how", "sentence"), [
    (_attr(COPY, "snr", 100.0), "is what its SNR of 100 says."),
    (_attr(COPY, "snr", np.inf), "a copy without noise, departs from"),
    (_set("patches/train_data", (2, 0, 0, 0, 0), 0.5), "1 materialised patches of sub-01/acq-ori01 are not"),
])  # fmt: skip
def test_noise_and_materialised_patches_are_checked(
    spoiled: Callable[..., tuple[str, ...]], how: Spoil, sentence: str
) -> None:
    (problem,) = spoiled(how, noisy=True)
    assert sentence in problem


def test_all_problems_are_listed_at_once(store_path: Path, tmp_path: Path) -> None:
    path = shutil.copy(store_path, tmp_path / "s.h5")
    with h5py.File(path, "r+") as handle:
        handle[f"{SCAN}/mask"][13, 15, 12] = 2
        handle["volumes/sub-02/acq-ori02"].attrs["units"] = "rad"
        handle["volumes/sub-03/acq-ori01/chi33"][0, 0, 0] = np.inf
    problems = verify_store(path).problems
    assert "does not match its content hash" in problems[0]
    assert [problem.split()[-1] for problem in problems[1:]] == ["1.", "ppm.", "finite."]


def test_damage_is_a_problem_and_no_crash(store_path: Path, tmp_path: Path) -> None:
    path = Path(shutil.copy(store_path, tmp_path / "s.h5"))
    with h5py.File(path) as handle:
        place = handle[f"{SCAN}/field"].id.get_chunk_info(0)
    content = bytearray(path.read_bytes())
    content[place.byte_offset : place.byte_offset + place.size] = bytes(place.size)
    path.write_bytes(content)
    problems = verify_store(path).problems
    assert any(problem.startswith("sub-01/acq-ori01 cannot be read (") for problem in problems)
    with pytest.raises(InputError, match="is no file"):
        verify_store(tmp_path / "none.h5")
