"""Brain masks by deepbet's networks: how an image reaches them, and what comes back onto its grid."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from chi33.files.errors import InputError, StepError
from chi33.pipeline.images.morphology import dice
from chi33.pipeline.masks import deepbet as module
from chi33.pipeline.masks import deepbet_networks
from chi33.pipeline.masks.deepbet import deepbet_version, learned_brain_mask, network_files
from chi33.pipeline.masks.deepbet_networks import brain_probability
from chi33.pipeline.masks.deepbet_networks import main as run_networks
from synthetic_head import brain, grid_affine, head_points, magnitude, rigid

SHAPE, SIZE = (46, 40, 52), (4.0, 4.5, 3.5)
# Axes that point to the left, down and back, oblique: LIP.
AFFINE = grid_affine(SHAPE, SIZE, (9, -6, 4), mirrored=True)[:, [0, 2, 1, 3]] @ np.diag([1, -1, -1, 1])
GRID = (SHAPE[0], SHAPE[2], SHAPE[1])
AFFINE[:3, 3] = -AFFINE[:3, :3] @ ((np.array(GRID) - 1) / 2)


class _Bright(torch.nn.Module):
    """Stands in for a network: brain is what is brighter than a level on the scale that the networks are fed."""

    def __init__(self, level: float) -> None:
        super().__init__()
        self.level = level

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        inside = torch.sigmoid(40 * (image - self.level))
        return torch.cat([1 - inside, inside], dim=1)


def _ball(shape: tuple[int, ...], centre: tuple[float, ...], radius: float) -> np.ndarray:
    apart = np.indices(shape) - np.array(centre).reshape(3, 1, 1, 1)
    return ((apart**2).sum(axis=0) < radius**2).astype(np.float32)


def test_networks_see_grey_values_of_one_scale_and_the_box_comes_back_in_its_place(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(deepbet_networks, "_CUT", 64)
    ball = _ball((40, 50, 30), (15, 30, 14), 9)
    seen: list[torch.Tensor] = []

    class Outliner(_Bright):
        def forward(self, image: torch.Tensor) -> torch.Tensor:
            seen.append(image)
            return super().forward(image)

    for image in (ball, 1000 * ball + 300):
        found = brain_probability(image.astype(np.float32), _Bright(0.6), Outliner(0.6)).numpy()
        assert dice(found > 0.5, ball > 0) > 0.97
    assert seen[0].shape == (1, 1, 64, 64, 64)
    torch.testing.assert_close(seen[0], seen[1], atol=1e-4, rtol=0)
    assert float(seen[0].mean()) == pytest.approx(0.449, abs=1e-3)
    assert float(seen[0].std()) == pytest.approx(0.226, abs=1e-3)


def test_where_no_brain_is_found_nothing_is_outlined() -> None:
    found = brain_probability(_ball((20, 20, 20), (10, 10, 10), 5), _Bright(9.0), _Bright(-9.0))
    assert not found.any()


@pytest.fixture
def stand_ins(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two small networks in the place of deepbet's."""
    paths = tmp_path / "finder.pt", tmp_path / "outliner.pt"
    for path in paths:
        torch.jit.script(_Bright(0.6)).save(str(path))
    monkeypatch.setattr(module, "network_files", lambda: paths)


@pytest.mark.usefixtures("stand_ins")
def test_the_mask_lies_on_the_scans_own_grid_whatever_its_axes() -> None:
    x = head_points(AFFINE, GRID, rigid((5, -8, 5), (9, -6, 4)))
    inside = brain(x)
    inside &= x[0] < 25  # no symmetry: a mask with exchanged or reversed axes would not fit
    mask = learned_brain_mask(700 * inside, AFFINE)
    assert mask.dtype == bool
    assert dice(mask, inside) > 0.97


@pytest.mark.usefixtures("stand_ins")
def test_an_image_without_a_brain_is_refused_or_fails_in_one_sentence() -> None:
    with pytest.raises(InputError, match="has no contrast, so no brain can be found"):
        learned_brain_mask(np.ones((8, 8, 8)), np.eye(4))
    with pytest.raises(StepError, match=r"brain extraction found \d+ ml, less than any brain"):
        learned_brain_mask(_ball((24, 24, 24), (12, 12, 12), 5), np.eye(4))
    with pytest.raises(StepError, match="deepbet did not end within 0 s: give masks yourself"):
        learned_brain_mask(_ball((24, 24, 24), (12, 12, 12), 5), np.eye(4), timeout=0.01)


def test_networks_that_cannot_be_read_are_a_failed_step_that_says_why(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    broken = tmp_path / "network.pt"
    broken.write_bytes(b"no network")
    monkeypatch.setattr(module, "network_files", lambda: (broken, broken))
    with pytest.raises(StepError, match=r"deepbet failed \(exit code 1: .+\): check the magnitude, use mask_method"):
        learned_brain_mask(_ball((24, 24, 24), (12, 12, 12), 5), np.eye(4))


def test_without_the_package_one_sentence_says_how_to_install_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "PACKAGE", "deepbet-that-nobody-has")
    assert deepbet_version() is None
    with pytest.raises(InputError, match=r"needs the package deepbet: install it with pip install 'chi33\[deepbet\]'"):
        network_files()
    held = tmp_path / "halfbet-1.0.dist-info"
    held.mkdir()
    (held / "METADATA").write_text("Metadata-Version: 2.1\nName: halfbet\nVersion: 1.0\n")
    monkeypatch.setattr(sys, "path", [str(tmp_path), *sys.path])
    monkeypatch.setattr(module, "PACKAGE", "halfbet")
    assert deepbet_version() == "1.0"
    with pytest.raises(InputError, match=r"deepbet 1.0 has no network .*bbox_model.pt: install it anew"):
        network_files()


@pytest.mark.skipif(deepbet_version() is None, reason=f"deepbet is not installed: {module.INSTALL}")
def test_deepbet_finds_the_brain_of_a_head_with_skull_and_scalp() -> None:
    x = head_points(AFFINE, GRID, rigid((5, -8, 5), (4, -6, 4)))
    image = magnitude(x) + 0.02 * np.random.default_rng(0).standard_normal(GRID)
    mask, truth = learned_brain_mask(300 * image, AFFINE), brain(x)
    assert dice(mask, truth) > 0.93
    assert (mask & ~brain(x / 1.1)).sum() < 0.01 * truth.sum()  # no scalp


def test_the_program_leaves_no_half_written_file(tmp_path: Path) -> None:
    network = tmp_path / "network.pt"
    torch.jit.script(_Bright(0.6)).save(str(network))
    np.save(tmp_path / "image.npy", _ball((20, 20, 20), (10, 10, 10), 6))
    target = tmp_path / "probability.npy"
    run_networks(str(tmp_path / "image.npy"), str(target), str(network), str(network), "1")
    assert np.load(target).shape == (20, 20, 20)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["image.npy", "network.pt", "probability.npy"]
