"""Prediction: whole volume and tiles, frames and units, and files that are whole or absent."""

from __future__ import annotations

import itertools
import json
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch
from chi33.files.errors import Chi33Warning, InputError
from chi33.files.maps.units import Given
from chi33.training.config import NetworkConfig
from chi33.training.inference import predict as module
from chi33.training.inference.predict import predict, predict_maps
from chi33.training.inference.weights import TrainedNetwork, save_atomically, weights_entry
from chi33.training.networks.modl_qsm import ModlQsm, Normalisation
from chi33.training.physics.patches import DipolePhysicsFactory, FullGrid
from tiny_store import TinyHead, tiny_head
from torch import nn

NORMALISATION = Normalisation((0.001, 0.0002), (0.05, 0.004))


@pytest.fixture(scope="module")
def head() -> TinyHead:
    return tiny_head(5)


def trained(**options) -> TrainedNetwork:
    torch.manual_seed(0)
    network = ModlQsm(NORMALISATION, depth=4, iterations=2, start_at_mean=False, **options).eval()
    return TrainedNetwork(network, "modl-qsm", Path("weights.pt"))


def save(path: Path, volume: np.ndarray, affine: np.ndarray) -> Path:
    nib.save(nib.Nifti1Image(volume, affine), path)
    return path


@pytest.fixture
def files(head: TinyHead, tmp_path: Path) -> dict[str, Path]:
    weights = tmp_path / "weights.pt"
    save_atomically(weights_entry("modl-qsm", NetworkConfig(depth=4, iterations=2), trained().network), weights)
    return {
        "weights": weights,
        "field": save(tmp_path / "field.nii.gz", head.field, head.affine),
        "mask": save(tmp_path / "mask.nii.gz", head.mask, head.affine),
    }


def test_whole_volume_is_the_network_on_the_volume_s_own_grid(head: TinyHead) -> None:
    network = trained()
    result = predict_maps(network, head.field, head.mask, (2, 2, 2), head.b0_direction, tiles=False, device="cpu")
    grid = FullGrid.of(head.field.shape, (2, 2, 2), head.b0_direction)
    dipole = DipolePhysicsFactory("circular")([grid], head.field.shape, torch.device("cpu"))
    inputs = [torch.from_numpy(np.float32(v))[None, None] for v in (head.field * head.mask, head.mask)]
    with torch.no_grad():
        expected = network.network.denormalise(network.network(*inputs, dipole))[0].numpy() * head.mask
    np.testing.assert_allclose(result.maps["chi33"], expected[0], atol=1e-6)
    np.testing.assert_allclose(result.maps["deltab"], expected[1], atol=1e-6)
    assert result.maps["chi33"][head.mask == 0].max() == 0
    assert np.abs(result.maps["chi33"]).max() > 0


def test_field_outside_the_mask_does_not_matter(head: TinyHead) -> None:
    wild = np.where(head.mask, head.field, np.nan)
    arguments = ((2, 2, 2), head.b0_direction)
    a = predict_maps(trained(), head.field, head.mask, *arguments, tiles=False, device="cpu")
    b = predict_maps(trained(), wild, head.mask, *arguments, tiles=False, device="cpu")
    assert np.array_equal(a.maps["chi33"], b.maps["chi33"])


def test_one_tile_around_everything_equals_the_whole_volume(head: TinyHead) -> None:
    # Where a tile holds the volume, padding to the full grid pads nothing.
    arguments = (head.field, head.mask, (2, 2, 2), head.b0_direction)
    whole = predict_maps(trained(), *arguments, tiles=False, device="cpu")
    tiles = predict_maps(trained(), *arguments, tiles=True, device="cpu")
    assert tiles.tiles
    np.testing.assert_allclose(tiles.maps["chi33"], whole.maps["chi33"], atol=1e-5)


def test_tiles_of_a_local_network_are_seamless(head: TinyHead, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "TILE", 12)
    network = trained()
    network.network.cnn = nn.Identity()  # type: ignore[assignment]
    with torch.no_grad():
        network.network.step.fill_(0.0)  # nothing is exchanged over a tile's edge any more
    arguments = (head.field, head.mask, (2, 2, 2), head.b0_direction)
    whole = predict_maps(network, *arguments, tiles=False, device="cpu")
    seen: list[tuple[int, int]] = []
    tiles = predict_maps(network, *arguments, tiles=True, device="cpu", progress=lambda *p: seen.append(p))
    np.testing.assert_allclose(tiles.maps["deltab"], whole.maps["deltab"], atol=1e-6)
    assert [done for done, _ in seen] == list(range(1, len(seen) + 1))
    assert seen[-1][0] == seen[-1][1] > 8


def test_tiles_come_close_to_the_whole_volume(head: TinyHead, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "TILE", 18)
    arguments = (head.field, head.mask, (2, 2, 2), head.b0_direction)
    whole = predict_maps(trained(), *arguments, tiles=False, device="cpu").maps["chi33"]
    tiles = predict_maps(trained(), *arguments, tiles=True, device="cpu").maps["chi33"]
    inside = head.mask > 0
    assert np.corrcoef(whole[inside], tiles[inside])[0, 1] > 0.8


@pytest.mark.parametrize(("size", "tile"), [(48, 48), (49, 48), (100, 48), (30, 48), (210, 48), (25, 12)])
def test_tiles_cover_an_axis_and_overlap_by_a_third(size: int, tile: int) -> None:
    starts = module._starts(size, tile)
    covered = np.zeros(size, int)
    for start in starts:
        covered[start : start + tile] += 1
    assert covered.min() >= 1
    assert starts[-1] + tile >= size
    assert all(b - a <= tile - tile // 3 for a, b in itertools.pairwise(starts))


def test_memory_decides_between_tiles_and_whole(head: TinyHead, monkeypatch: pytest.MonkeyPatch) -> None:
    arguments = (head.field, head.mask, (2, 2, 2), head.b0_direction)
    for free, tiles in ((10**12, False), (10**5, True)):
        monkeypatch.setattr(module, "_free_memory", lambda device, free=free: free)
        assert predict_maps(trained(), *arguments, device="cpu").tiles is tiles


def test_files_carry_units_sources_and_direction(files: dict[str, Path], head: TinyHead, tmp_path: Path) -> None:
    paths = predict(**files, out=tmp_path / "out" / "sub-01", device="cpu")
    assert [p.name for p in paths] == ["sub-01_chi.nii.gz", "sub-01_deltab.nii.gz"]
    image = nib.load(paths[0])
    np.testing.assert_allclose(image.affine, head.affine)
    assert image.get_data_dtype() == np.float32
    sidecar = json.loads((tmp_path / "out" / "sub-01_chi.json").read_text())
    assert sidecar["Units"] == "ppm"
    assert sidecar["Sources"] == ["field.nii.gz", "mask.nii.gz"]
    assert sidecar["B0_dir"] == [0, 0, 1]  # the affine is not oblique
    assert sidecar["Model"] == "modl-qsm"
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == [
        "sub-01_chi.json", "sub-01_chi.nii.gz", "sub-01_deltab.json", "sub-01_deltab.nii.gz",
    ]  # fmt: skip


def test_direction_comes_from_argument_sidecar_affine_in_that_order(files: dict[str, Path], tmp_path: Path) -> None:
    def direction(name: str, **options) -> list[float]:
        predict(**files, out=tmp_path / name, device="cpu", **options)
        return json.loads((tmp_path / f"{name}_chi.json").read_text())["B0_dir"]

    assert direction("a") == [0, 0, 1]
    (tmp_path / "field.json").write_text(json.dumps({"B0_dir": [0, 0.6, 0.8], "Units": "ppm"}))
    assert direction("b") == [0, 0.6, 0.8]
    with pytest.warns(Chi33Warning, match=r"--b0-dir is 50.2 degrees from the B0_dir .*field.nii.gz states: --b0-dir"):
        assert direction("c", b0_direction=(0.6, 0, 0.8)) == [0.6, 0, 0.8]
    a, b = (nib.load(tmp_path / f"{name}_chi.nii.gz").get_fdata() for name in "ab")
    assert np.abs(a - b).max() > 1e-4


@pytest.mark.parametrize(("factor", "sidecar", "given"), [
    (42.577478518 * 3, {"Units": "Hz", "MagneticFieldStrength": 3.0}, Given()),
    (42.577478518 * 3, None, Given("Hz", 3.0)),
    (2 * np.pi * 42.577478518 * 3 * 0.025, {"Units": "rad", "MagneticFieldStrength": 3.0, "EchoTime": 0.025}, Given()),
    (1000, {"Units": "ppb"}, Given()),
])  # fmt: skip
def test_fields_in_other_units_give_the_maps_of_ppm(
    files: dict[str, Path],
    head: TinyHead,
    tmp_path: Path,
    factor: float,
    sidecar: dict[str, object] | None,
    given: Given,
) -> None:
    expected = nib.load(predict(**files, out=tmp_path / "ppm", device="cpu")[0]).get_fdata()
    save(tmp_path / "field.nii.gz", (factor * head.field).astype(np.float32), head.affine)
    if sidecar is not None:
        (tmp_path / "field.json").write_text(json.dumps(sidecar))
    with pytest.warns(Chi33Warning, match=r"field.nii.gz is in .*: multiplied by .* to ppm"):
        found = predict(**files, out=tmp_path / "other", device="cpu", given=given)
    np.testing.assert_allclose(nib.load(found[0]).get_fdata(), expected, atol=2e-5)
    stated = json.loads((tmp_path / "other_chi.json").read_text())
    assert stated["SourceUnits"] in ("Hz", "rad", "ppb")
    assert stated["SourceUnitsToPpm"] == pytest.approx(1 / factor)


def test_masks_of_other_values_and_axes_give_the_same_map(
    files: dict[str, Path], head: TinyHead, tmp_path: Path
) -> None:
    expected = nib.load(predict(**files, out=tmp_path / "a", device="cpu")[0]).get_fdata()
    ornt = np.array([[1, -1], [2, 1], [0, -1]], float)
    affine = head.affine @ nib.orientations.inv_ornt_aff(ornt, head.mask.shape)
    stored = nib.apply_orientation(np.where(head.mask, np.float32(0.9), np.float32(0.1)), ornt)[..., None]
    with pytest.warns(Chi33Warning) as said:
        found = predict(
            **{**files, "mask": save(tmp_path / "p.nii.gz", stored, affine)}, out=tmp_path / "b", device="cpu"
        )
    np.testing.assert_allclose(nib.load(found[0]).get_fdata(), expected, atol=1e-6)
    sentences = " ".join(str(one.message) for one in said)
    assert "its voxels were reordered" in sentences
    assert "holds values from 0.1 to 0.9: taken from 0.5 on" in sentences


class TestBadInput:
    """Each in one sentence, with nothing written."""

    def check(self, files: dict[str, Path], tmp_path: Path, message: str, **options) -> None:
        with pytest.raises(InputError, match=message):
            predict(**{**files, "out": tmp_path / "out" / "x", "device": "cpu", **options})
        assert not (tmp_path / "out").exists()

    def test_shapes(self, files: dict[str, Path], head: TinyHead, tmp_path: Path) -> None:
        mask = save(tmp_path / "small.nii.gz", head.mask[:-1], head.affine)
        self.check(files, tmp_path, r"has shape \(23, 26, 22\), but field.nii.gz has \(24, 26, 22\)", mask=mask)

    def test_affines(self, files: dict[str, Path], head: TinyHead, tmp_path: Path) -> None:
        moved = head.affine.copy()
        moved[0, 3] += 5
        mask = save(tmp_path / "moved.nii.gz", head.mask, moved)
        self.check(files, tmp_path, "lies elsewhere than field.nii.gz .*: resample it", mask=mask)

    def test_empty_mask(self, files: dict[str, Path], head: TinyHead, tmp_path: Path) -> None:
        mask = save(tmp_path / "empty.nii.gz", head.mask * 0, head.affine)
        self.check(files, tmp_path, "empty.nii.gz is empty: give a mask", mask=mask)

    def test_nan(self, files: dict[str, Path], head: TinyHead, tmp_path: Path) -> None:
        broken = head.field.copy()
        broken[12, 13, 11] = np.nan
        field = save(tmp_path / "nan.nii.gz", broken, head.affine)
        self.check(files, tmp_path, "nan.nii.gz holds NaN or infinity in 1 voxels inside its mask", field=field)
        mask = save(tmp_path / "nanmask.nii.gz", np.where(head.mask, np.nan, 0).astype(np.float32), head.affine)
        self.check(files, tmp_path, r"nanmask.nii.gz holds \d+ values that are not finite", mask=mask)

    def test_singular_affine(self, files: dict[str, Path], head: TinyHead, tmp_path: Path) -> None:
        sheared = head.affine.copy()
        sheared[0, 1] = 1.5
        field = save(tmp_path / "shear.nii.gz", head.field, sheared)
        mask = save(tmp_path / "shearmask.nii.gz", head.mask, sheared)
        self.check(files, tmp_path, "shears", field=field, mask=mask)

    def test_missing_and_damaged_files(self, files: dict[str, Path], tmp_path: Path) -> None:
        self.check(files, tmp_path, r"none.nii.gz does not exist", field=tmp_path / "none.nii.gz")
        (tmp_path / "text.nii.gz").write_text("hello")
        self.check(files, tmp_path, r"text.nii.gz is damaged or no NIfTI", mask=tmp_path / "text.nii.gz")
        whole = files["field"].read_bytes()
        (tmp_path / "cut.nii.gz").write_bytes(whole[: len(whole) // 2])
        self.check(
            files, tmp_path, r"cut.nii.gz is damaged: its data cannot be read to the end", field=tmp_path / "cut.nii.gz"
        )

    def test_fields_that_cannot_be_ppm(self, files: dict[str, Path], head: TinyHead, tmp_path: Path) -> None:
        for factor, words in ((127.7, "reaches .*, too large for ppm"), (1e-6, "stays below .*, too small for ppm")):
            field = save(tmp_path / "other.nii.gz", (factor * head.field).astype(np.float32), head.affine)
            self.check(files, tmp_path, f"other.nii.gz states no Units and {words}: give the field in ppm", field=field)
        whole = save(tmp_path / "whole.nii.gz", np.round(40 * head.field), head.affine)
        self.check(files, tmp_path, "whole.nii.gz states no Units and holds whole numbers only", field=whole)
        inverted = save(tmp_path / "inverted.nii.gz", (1 - head.mask).astype(np.uint8), head.affine)
        self.check(files, tmp_path, "inverted.nii.gz covers the border of its grid", mask=inverted)

    def test_direction_units_and_sidecar(self, files: dict[str, Path], tmp_path: Path) -> None:
        self.check(files, tmp_path, "--b0-dir must be a unit vector", b0_direction=(0, 0, 2))
        (tmp_path / "field.json").write_text(json.dumps({"Units": "Hz"}))
        self.check(files, tmp_path, "field.nii.gz is in Hz, but its field strength is not known: state Magnetic")
        (tmp_path / "field.json").write_text("{")
        self.check(files, tmp_path, "field.json cannot be read as JSON")

    def test_existing_output(self, files: dict[str, Path], tmp_path: Path) -> None:
        predict(**files, out=tmp_path / "x", device="cpu")
        with pytest.raises(InputError, match=r"x_chi.nii.gz exists: choose another --out, or pass --overwrite"):
            predict(**files, out=tmp_path / "x", device="cpu")
        assert len(predict(**files, out=tmp_path / "x", device="cpu", overwrite=True)) == 2

    def test_device(self, files: dict[str, Path], tmp_path: Path) -> None:
        self.check(files, tmp_path, 'device must be "auto", "cpu" or "cuda", got \'tpu\'', device="tpu")
