"""The grid of a fit: its box, its padding, its frequencies and its transforms."""

from __future__ import annotations

import numpy as np
import pytest
from chi33.files.errors import InputError
from chi33.pipeline.fits.model import grid as grid_module
from chi33.pipeline.fits.model.grid import FitGrid, bounding_box, make_grid
from chi33.pipeline.physics.dipole import frequency_grid
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

SHAPE, SIZE = (14, 17, 12), (1.0, 1.5, 2.0)
DIRECTIONS = [(0.0, 0.0, 1.0), (0.6, 0.0, 0.8)]


def block(shape: tuple[int, int, int] = SHAPE) -> NDArray[np.bool_]:
    """A mask of two blocks with the box 2:9, 4:16, 1:7."""
    mask = np.zeros(shape, bool)
    mask[2:5, 4:8, 1:3] = True
    mask[7:9, 12:16, 5:7] = True
    return mask


def made(padding: float, mask: NDArray[np.bool_] | None = None) -> FitGrid:
    return make_grid(block() if mask is None else mask, SIZE, DIRECTIONS, padding)


def test_without_padding_the_grid_is_whole_and_circular() -> None:
    found = made(0.0)
    assert found.shape == found.padded == found.box_shape == SHAPE
    assert found.half == (14, 17, 7)
    np.testing.assert_array_equal(found.directions, np.array(DIRECTIONS, np.float32))
    assert found.directions.dtype == np.float32


@pytest.mark.parametrize("padding", [1.0, 5.0, 32.0])
def test_with_padding_the_box_of_the_mask_is_padded_to_odd_lengths(padding: float) -> None:
    found = made(padding)
    assert found.box == (slice(2, 9), slice(4, 16), slice(1, 7))
    assert found.box_shape == (7, 12, 6)
    for n, box, size in zip(found.padded, found.box_shape, SIZE, strict=True):
        assert n % 2 == 1
        assert (n - box) * size >= padding
        assert n < 1.3 * (box + padding / size) + 5


@given(lengths=st.tuples(*[st.integers(1, 90)] * 3), padding=st.floats(0.1, 80))
def test_padded_lengths_are_odd_products_of_small_primes(lengths: tuple[int, int, int], padding: float) -> None:
    found = make_grid(np.ones(lengths, bool), SIZE, DIRECTIONS, padding)
    for n, box, size in zip(found.padded, lengths, SIZE, strict=True):
        assert (n - box) * size >= padding * (1 - 1e-9)
        for prime in (3, 5, 7, 11, 13):
            while n % prime == 0:
                n //= prime
        assert n == 1


def test_crop_and_embed_are_inverse_on_the_box() -> None:
    found = made(5.0)
    volume = np.random.default_rng(0).standard_normal((3, *SHAPE)).astype(np.float32)
    cropped = found.crop(volume)
    assert cropped.shape == (3, 7, 12, 6)
    whole = found.embed(cropped)
    assert whole.shape == volume.shape
    assert whole.dtype == np.float32
    np.testing.assert_array_equal(found.crop(whole), cropped)
    assert np.count_nonzero(whole) == cropped.size
    np.testing.assert_array_equal(made(0.0).embed(volume), volume)


@pytest.mark.parametrize("padding", [0.0, 5.0])
def test_the_transforms_are_inverse_and_those_of_the_zero_padded_box(padding: float) -> None:
    found = made(padding)
    volume = np.random.default_rng(1).standard_normal(found.box_shape).astype(np.float32)
    spectrum = found.forward(volume)
    assert spectrum.shape == found.half
    assert spectrum.dtype == np.complex64
    padded = np.zeros(found.padded)
    padded[tuple(slice(0, n) for n in found.box_shape)] = volume
    np.testing.assert_allclose(spectrum, np.fft.rfftn(padded), atol=1e-3)
    back = found.inverse(spectrum)
    assert back.dtype == np.float32
    np.testing.assert_allclose(back, volume, atol=1e-5)


@pytest.mark.parametrize("padding", [0.0, 5.0])
def test_frequencies_are_those_of_the_padded_grid_and_odd_ones_have_no_nyquist(padding: float) -> None:
    found = made(padding)
    kx, ox, ky, oy, kz, oz = found.frequencies()
    for k, o, whole, n in zip(
        (kx, ky, kz), (ox, oy, oz), frequency_grid(found.padded, SIZE), found.padded, strict=True
    ):
        np.testing.assert_allclose(k, whole.ravel(), rtol=1e-6)
        assert k.dtype == o.dtype == np.float32
        assert np.count_nonzero(k != o) == (n % 2 == 0)
        assert (o[k != o] == 0).all()


@pytest.mark.parametrize("points", [1, 300, 1000, 10**6])
def test_slabs_cover_every_plane_once(monkeypatch: pytest.MonkeyPatch, points: int) -> None:
    monkeypatch.setattr(grid_module, "_SLAB_POINTS", points)
    found = made(5.0)
    slabs = found.slabs()
    planes = [i for slab in slabs for i in range(slab.start, slab.stop)]
    assert planes == list(range(found.half[0]))
    per_plane = found.half[1] * found.half[2]
    assert all((slab.stop - slab.start) * per_plane <= max(points, per_plane) for slab in slabs)
    kx, ox, ky, _, kz, _ = found.frequencies()
    np.testing.assert_array_equal(np.concatenate([found.frequencies(slab)[0] for slab in slabs]), kx)
    np.testing.assert_array_equal(np.concatenate([found.frequencies(slab)[1] for slab in slabs]), ox)
    for slab in slabs:
        np.testing.assert_array_equal(found.frequencies(slab)[2], ky)
        np.testing.assert_array_equal(found.frequencies(slab)[4], kz)


def test_the_box_of_nothing_is_everything() -> None:
    assert bounding_box(np.zeros(SHAPE, bool)) == tuple(slice(0, n) for n in SHAPE)
    assert made(5.0, np.zeros(SHAPE, bool)).box_shape == SHAPE
    single = np.zeros(SHAPE, bool)
    single[3, 0, 11] = True
    assert bounding_box(single) == (slice(3, 4), slice(0, 1), slice(11, 12))


@pytest.mark.parametrize(("padding", "size", "directions", "message"), [
    (-1.0, SIZE, DIRECTIONS, "padding must be at least 0 mm, got -1"),
    (float("inf"), SIZE, DIRECTIONS, "padding must be at least 0 mm, got inf"),
    (float("nan"), SIZE, DIRECTIONS, "padding must be at least 0 mm, got nan"),
    (0.0, (1.0, 0.0, 1.0), DIRECTIONS, "voxel_size must be three positive lengths in mm"),
    (0.0, (1.0, 1.0), DIRECTIONS, "voxel_size must be three positive lengths in mm"),
    (0.0, SIZE, [(0, 0, 1), (0, 1, 1)], r"b0_directions\[1\] must be a unit vector, got \|h\| = 1.414"),
    (0.0, SIZE, [(0, 0, np.nan)], r"b0_directions\[0\] must be three finite numbers"),
    (0.0, SIZE, [(0, 1)], r"b0_directions\[0\] must be three finite numbers"),
])  # fmt: skip
def test_values_that_give_no_grid_are_refused(
    padding: float, size: tuple[float, ...], directions: list[tuple[float, ...]], message: str
) -> None:
    with pytest.raises(InputError, match=message):
        make_grid(block(), size, directions, padding)


def test_flat_volumes_are_refused() -> None:
    with pytest.raises(InputError, match=r"shape must be three positive numbers of voxels, got \(14, 17\)"):
        make_grid(np.ones(SHAPE[:2], bool), SIZE, DIRECTIONS, 1.0)
