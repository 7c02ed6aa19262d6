"""The field of sources outside the mask: what it explains, what it leaves, what it refuses."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from chi33.files.errors import InputError
from chi33.pipeline.background.exterior_sources import exterior_field
from chi33.pipeline.fits.single_step import single_step_problem
from chi33.pipeline.physics.harmonics import harmonic_part
from chi33.pipeline.physics.tensor_field import dipole_field
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter

Array = NDArray[np.float32]
Shape = tuple[int, int, int]
UPRIGHT, TILTED = np.array([0.0, 0.0, 1.0]), np.array([0.48, -0.36, 0.8])
GRIDS = [((26, 28, 24), (1.5, 1.5, 1.5)), ((31, 25, 19), (1.4, 1.6, 2.0))]


def positions(shape: Shape, size: tuple[float, ...]) -> NDArray[np.float64]:
    """Coordinates (3, x, y, z) in mm from the middle of the grid."""
    axes = [(np.arange(n) - (n - 1) / 2) * d for n, d in zip(shape, size, strict=True)]
    return np.stack(np.meshgrid(*axes, indexing="ij"))


def ellipsoid(shape: Shape, size: tuple[float, ...], part: float = 0.36) -> NDArray[np.bool_]:
    scaled = positions(shape, size) / (part * np.array(shape) * size)[:, None, None, None]
    return (scaled**2).sum(axis=0) < 1


def background(shape: Shape, size: tuple[float, ...], h: NDArray, seed: int = 1) -> Array:
    """The exact field in ppm of 40 point sources 9 to 24 mm outside the ellipsoid, and a shim of order 2."""
    rng = np.random.default_rng(seed)
    towards = rng.standard_normal((40, 3))
    towards /= np.linalg.norm(towards, axis=1)[:, None]
    surface = 1 / np.linalg.norm(towards / (0.36 * np.array(shape) * size), axis=1)
    moments = 9.0 * 12.0**3 * rng.standard_normal(40)  # air in 12 mm cubes
    at, field = positions(shape, size), np.zeros(shape)
    for centre, moment in zip(towards * (surface + 9 + rng.uniform(0, 15, 40))[:, None], moments, strict=True):
        apart = at - centre[:, None, None, None]
        distance = np.linalg.norm(apart, axis=0)
        along = np.tensordot(h, apart, axes=1) / distance
        field += moment / (4 * np.pi) * (3 * along**2 - 1) / distance**3
    return (field + solid_harmonics(at / 50, 0.1 * rng.uniform(-1, 1, 9))).astype(np.float32)


def solid_harmonics(at: NDArray, weights: NDArray) -> NDArray[np.float64]:
    x, y, z = at
    terms = [np.ones_like(x), x, y, z, x * y, x * z, y * z, x**2 - y**2, 2 * z**2 - x**2 - y**2]
    return sum(w * term for w, term in zip(weights, terms, strict=True))


def filtered(field: Array, mask: NDArray[np.bool_], size: tuple[float, ...]) -> Array:
    """What of a field, known on the whole grid, passes the filter of the single-step fit: the voxels that have one."""
    problem = single_step_problem([field, field], [mask, mask], size, [UPRIGHT, TILTED])
    seen, grid = problem.observations[0], problem.grid
    assert seen.radius_index is not None
    return seen.forward(grid.forward(grid.crop(field)), grid, problem.filters)[seen.radius_index > 0]


@pytest.mark.parametrize(("shape", "size"), GRIDS)
@pytest.mark.parametrize("h", [UPRIGHT, TILTED], ids=["upright", "tilted"])
def test_most_of_a_background_is_explained(shape: Shape, size: tuple[float, ...], h: NDArray) -> None:
    mask, field = ellipsoid(shape, size), background(shape, size, h)
    assert field[mask].std() > 0.1
    found = exterior_field(field, mask, size, h)
    assert found.shape == shape
    assert found.dtype == np.float32
    assert np.isfinite(found).all()
    assert (field - found)[mask].std() < field[mask].std() / 5
    # Beyond the first steps, more of them explain more.
    fewer = exterior_field(field, mask, size, h, iterations=4)
    assert (field - fewer)[mask].std() > 1.3 * (field - found)[mask].std()


def test_values_outside_the_mask_do_not_count() -> None:
    shape, size = GRIDS[0]
    mask, field = ellipsoid(shape, size), background(shape, size, UPRIGHT)
    found = exterior_field(field, mask, size, UPRIGHT, iterations=5)
    np.testing.assert_array_equal(exterior_field(field * mask, mask, size, UPRIGHT, iterations=5), found)


@pytest.mark.parametrize(("shape", "size"), GRIDS)
def test_what_is_taken_out_hardly_passes_the_single_step_filter(shape: Shape, size: tuple[float, ...]) -> None:
    mask = ellipsoid(shape, size)
    rng = np.random.default_rng(3)
    chi = 0.5 * gaussian_filter(rng.standard_normal(shape), 1.0) * mask
    local = dipole_field(chi, size, TILTED)
    total = background(shape, size, TILTED) + local
    found = exterior_field(total, mask, size, TILTED)
    assert filtered(found, mask, size).std() < 0.015 * found[mask].std()
    # So what is left gives the fit the data of the local field.
    kept = filtered(total - found, mask, size)
    wanted = filtered(local, mask, size)
    assert np.linalg.norm(kept - wanted) < 0.4 * np.linalg.norm(wanted)
    assert np.corrcoef(kept, wanted)[0, 1] > 0.95


@pytest.mark.parametrize(("shape", "size"), GRIDS)
def test_a_shim_is_explained_whole_and_on_the_whole_grid(shape: Shape, size: tuple[float, ...]) -> None:
    weights = np.array([0.3, -0.2, 0.1, 0.4, -0.5, 0.2, 0.3, 0.25, -0.15])
    field = solid_harmonics(positions(shape, size) / 20, weights).astype(np.float32)
    mask = ellipsoid(shape, size)
    np.testing.assert_allclose(harmonic_part(field, mask, np.array(size)), field, atol=1e-4 * np.abs(field).max())
    found = exterior_field(field, mask, size, TILTED)
    np.testing.assert_allclose(found[mask], field[mask], atol=1e-3 * float(np.abs(field[mask]).max()))


def test_harmonics_hold_nothing_that_is_not_harmonic() -> None:
    shape, size = GRIDS[0]
    mask = ellipsoid(shape, size)
    x, y, z = positions(shape, size) / 20
    for field in (x**2 + y**2 + z**2, x**3 * y):
        part = harmonic_part(field.astype(np.float32), mask, np.array(size))
        laplacian = sum(np.gradient(np.gradient(part, d, axis=i), d, axis=i) for i, d in enumerate(size))
        assert np.abs(laplacian[4:-4, 4:-4, 4:-4]).max() < 1e-4
        assert np.linalg.norm((part - field)[mask]) <= np.linalg.norm((field - field[mask].mean())[mask])


def test_a_zero_field_and_a_mask_without_room_are_no_fault() -> None:
    shape, size = (12, 14, 10), (2.0, 2.0, 3.0)
    np.testing.assert_array_equal(exterior_field(np.zeros(shape), ellipsoid(shape, size), size, UPRIGHT), 0)
    whole = exterior_field(background(shape, size, UPRIGHT), np.ones(shape, bool), size, UPRIGHT)
    assert np.isfinite(whole).all()


FIELD, MASK = np.zeros((8, 9, 7), np.float32), np.ones((8, 9, 7), bool)


@pytest.mark.parametrize(("call", "message"), [
    (lambda: exterior_field(FIELD, MASK[:4], (1, 1, 1), UPRIGHT),
     r"mask has shape \(4, 9, 7\) and 252 voxels, but the field has \(8, 9, 7\)"),
    (lambda: exterior_field(FIELD, ~MASK, (1, 1, 1), UPRIGHT), r"mask has shape \(8, 9, 7\) and 0 voxels"),
    (lambda: exterior_field(FIELD + np.nan, MASK, (1, 1, 1), UPRIGHT), "the total field holds 504 NaN or infinite"),
    (lambda: exterior_field(FIELD, MASK, (1, 1, 0), UPRIGHT), "voxel_size must be three positive lengths in mm"),
    (lambda: exterior_field(FIELD, MASK, (1, 1, 1), (0, 1, 1)), "b0_direction must be a unit vector"),
])  # fmt: skip
def test_what_cannot_be_explained_is_refused(call: Callable[[], object], message: str) -> None:
    with pytest.raises(InputError, match=message):
        call()
