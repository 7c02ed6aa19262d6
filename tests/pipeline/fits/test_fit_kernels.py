"""The compiled kernels of the fits against the operators of the physics and against explicit normal equations."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from chi33.pipeline.fits.model import kernels
from chi33.pipeline.fits.model.grid import FitGrid, make_grid
from chi33.pipeline.physics.dipole import Shape, dipole_kernel
from chi33.pipeline.physics.prior import Prior
from chi33.pipeline.physics.tensor_field import TensorFieldOperator
from numpy.typing import NDArray

GRIDS = [  # even, odd, mixed and anisotropic, more than one run of k points along z, runs that end at their length
    ((12, 10, 14), (1.0, 1.0, 1.0)),
    ((11, 9, 13), (1.0, 1.0, 1.0)),
    ((10, 11, 12), (0.8, 1.3, 2.5)),
    ((6, 7, 76), (1.5, 1.0, 0.7)),
    ((5, 6, 62), (1.0, 2.0, 1.0)),
]
PRECISION = 0.02 * Prior(iso=0.5, aniso=0.2).precision()
ISO_PRECISION, ANISO_PRECISION = (0.02 * part for part in Prior(iso=0.5, aniso=0.2).precisions())
SCALAR_PRECISION = 0.07
Random = np.random.Generator


@pytest.fixture(params=GRIDS, ids=lambda case: "x".join(map(str, case[0])))
def grid(request: pytest.FixtureRequest) -> FitGrid:
    """A circular grid with four random B0 directions, not all of the upper half sphere."""
    shape, size = request.param
    h = np.random.default_rng(3).standard_normal((4, 3))
    return make_grid(np.ones(shape, bool), size, list(h / np.linalg.norm(h, axis=1)[:, None]), 0.0)


@pytest.fixture
def rng() -> Random:
    return np.random.default_rng(11)


def rows(grid: FitGrid) -> NDArray[np.float64]:
    """The model rows (scans, 6, half) of the operator of the physics, of unit vectors in float64."""
    operators = [TensorFieldOperator(grid.shape, grid.voxel_size, h / np.linalg.norm(h)) for h in directions(grid)]
    return np.stack([one.row for one in operators]).astype(np.float64)


def directions(grid: FitGrid) -> NDArray[np.float64]:
    return grid.directions.astype(np.float64)


def spectra(rng: Random, *shape: int) -> NDArray[np.complex64]:
    """Random numbers everywhere, at k = 0 too."""
    return (rng.standard_normal(shape) + 1j * rng.standard_normal(shape)).astype(np.complex64)


def assert_close(found: NDArray, expected: NDArray, tolerance: float) -> None:
    np.testing.assert_allclose(found, expected, rtol=0, atol=tolerance * float(np.abs(expected).max()))


def test_the_model_is_that_of_the_tensor_field_operator(grid: FitGrid, rng: Random) -> None:
    tensor = rng.standard_normal((6, *grid.shape)).astype(np.float32)
    components = np.stack([grid.forward(one) for one in tensor])
    for index, h in enumerate(directions(grid)):
        out = spectra(rng, *grid.half)
        kernels.model_forward(out, components, grid.directions[index], *grid.frequencies())
        expected = TensorFieldOperator(grid.shape, grid.voxel_size, h / np.linalg.norm(h)).forward(tensor)
        assert_close(grid.inverse(out), expected, 2e-6)


def test_the_adjoint_model_sums_the_operators_adjoints_and_adds_to_what_is_there(grid: FitGrid, rng: Random) -> None:
    fields = rng.standard_normal((len(grid.directions), *grid.shape)).astype(np.float32)
    before = spectra(rng, 6, *grid.half)
    total = before.copy()
    transformed = np.stack([grid.forward(one) for one in fields])
    kernels.model_adjoint(total, transformed, grid.directions, *grid.frequencies())
    expected = sum(
        TensorFieldOperator(grid.shape, grid.voxel_size, h / np.linalg.norm(h)).adjoint(field)
        for h, field in zip(directions(grid), fields, strict=True)
    )
    for component in range(6):
        assert_close(grid.inverse(total[component] - before[component]), expected[component], 5e-6)


def test_forward_and_adjoint_kernels_are_adjoint(grid: FitGrid, rng: Random) -> None:
    one = grid.directions[:1]
    x, y = spectra(rng, 6, *grid.half), spectra(rng, *grid.half)
    ax, aty = np.empty_like(y), np.zeros_like(x)
    kernels.model_forward(ax, x, one[0], *grid.frequencies())
    kernels.model_adjoint(aty, y[None], one, *grid.frequencies())
    assert abs(inner(ax, y) - inner(x, aty)) < 1e-5 * np.linalg.norm(ax) * np.linalg.norm(y)
    dx, dty = np.empty_like(y), np.zeros_like(y)
    kernels.scalar_forward(dx, x[0], one[0], *grid.frequencies())
    kernels.scalar_adjoint(dty, y[None], one, *grid.frequencies())
    assert abs(inner(dx, y) - inner(x[0], dty)) < 1e-5 * np.linalg.norm(dx) * np.linalg.norm(y)


def inner(a: NDArray, b: NDArray) -> complex:
    return complex(np.vdot(a.astype(np.complex128), b.astype(np.complex128)))


def test_the_scalar_kernels_are_the_dipole_kernel(grid: FitGrid, rng: Random) -> None:
    dipoles = [dipole_kernel(grid.shape, grid.voxel_size, h / np.linalg.norm(h)) for h in directions(grid)]
    ones, out = np.ones(grid.half, np.complex64), np.empty(grid.half, np.complex64)
    for h, dipole in zip(grid.directions, dipoles, strict=True):
        kernels.scalar_forward(out, ones, h, *grid.frequencies())
        np.testing.assert_allclose(out, dipole, atol=1e-6)
    fields, before = spectra(rng, len(dipoles), *grid.half), spectra(rng, *grid.half)
    total = before.copy()
    kernels.scalar_adjoint(total, fields, grid.directions, *grid.frequencies())
    assert_close(total - before, sum(d * f for d, f in zip(dipoles, fields, strict=True)), 2e-6)


def test_an_isotropic_tensor_has_the_scalar_models_field(grid: FitGrid, rng: Random) -> None:
    scalar = spectra(rng, *grid.half)
    components = np.zeros((6, *grid.half), np.complex64)
    components[[0, 3, 5]] = scalar
    out, expected = np.empty_like(scalar), np.empty_like(scalar)
    kernels.model_forward(out, components, grid.directions[2], *grid.frequencies())
    kernels.scalar_forward(expected, scalar, grid.directions[2], *grid.frequencies())
    assert_close(out, expected, 1e-6)


def solve_explicitly(normal: NDArray, right: NDArray) -> NDArray[np.complex128]:
    """Solve (6, 6, half) x = (6, half) at each k in float64, and set k = 0 to 0."""
    x = np.linalg.solve(np.moveaxis(normal, (0, 1), (-2, -1)), np.moveaxis(right, 0, -1)[..., None])[..., 0]
    x[0, 0, 0] = 0
    return np.moveaxis(x, -1, 0)


def test_the_closed_form_solves_the_explicit_normal_equations(grid: FitGrid, rng: Random) -> None:
    a, fields = rows(grid), spectra(rng, len(grid.directions), *grid.half)
    tensor, scalar = spectra(rng, 6, *grid.half), spectra(rng, *grid.half)
    kernels.solve_scans(tensor, scalar, fields, grid.directions, PRECISION, SCALAR_PRECISION, *grid.frequencies())
    normal = np.einsum("niabc,njabc->ijabc", a, a) + PRECISION[:, :, None, None, None]
    assert_close(tensor, solve_explicitly(normal, np.einsum("niabc,nabc->iabc", a, fields)), 3e-6)
    d = a[:, [0, 3, 5]].sum(axis=1)
    expected = (d * fields).sum(axis=0) / ((d**2).sum(axis=0) + SCALAR_PRECISION)
    expected[0, 0, 0] = 0
    assert_close(scalar, expected, 3e-6)


@pytest.mark.parametrize("filtered", [False, True])
def test_the_preconditioner_solves_the_weighted_filtered_normal_equations(
    grid: FitGrid, rng: Random, filtered: bool
) -> None:
    a = rows(grid)
    weights = rng.uniform(0.2, 2, len(a)).astype(np.float32)
    power = rng.uniform(0.1, 1, grid.half if filtered else (1, 1, 1)).astype(np.float32)
    right = spectra(rng, 6, *grid.half)
    found, single = right.copy(), right[0].copy()
    frequencies = grid.frequencies()
    iso, aniso = ISO_PRECISION[:, :, None, None, None], ANISO_PRECISION[:, :, None, None, None]
    coherence = rng.uniform(0.1, 2, grid.half if filtered else (1, 1, 1)).astype(np.float32)
    kernels.solve_normal(
        found, grid.directions, weights, power, ISO_PRECISION, ANISO_PRECISION, coherence, *frequencies
    )
    normal = power * np.einsum("n,niabc,njabc->ijabc", weights, a, a) + iso + coherence * aniso
    assert_close(found, solve_explicitly(normal, right), 2e-5)
    kernels.scalar_solve(single, grid.directions, weights, power, np.float32(SCALAR_PRECISION), *frequencies)
    d = a[:, [0, 3, 5]].sum(axis=1)
    expected = right[0] / (power * np.einsum("n,nabc->abc", weights, d**2) + SCALAR_PRECISION)
    expected[0, 0, 0] = 0
    assert_close(single, expected, 5e-6)


def apply_all(grid: FitGrid, planes: list[slice], seed: int = 5) -> dict[str, NDArray[np.complex64]]:
    """The result of every kernel on random spectra, slab by slab."""
    rng = np.random.default_rng(seed)
    count = len(grid.directions)
    tensor, scalar = spectra(rng, 6, *grid.half), spectra(rng, *grid.half)
    fields, power = spectra(rng, count, *grid.half), rng.uniform(0.1, 1, grid.half).astype(np.float32)
    weights, h = rng.uniform(0.2, 2, count).astype(np.float32), grid.directions
    field, dipole_field = np.empty(grid.half, np.complex64), np.empty(grid.half, np.complex64)
    adjoint, scalar_adjoint = np.zeros((6, *grid.half), np.complex64), np.zeros(grid.half, np.complex64)
    sti, cosmos = np.empty((6, *grid.half), np.complex64), np.empty(grid.half, np.complex64)
    solved, scalar_solved = tensor.copy(), scalar.copy()
    single = np.float32(SCALAR_PRECISION)
    for p in planes:
        k = grid.frequencies(p)
        kernels.model_forward(field[p], np.ascontiguousarray(tensor[:, p]), h[0], *k)
        kernels.scalar_forward(dipole_field[p], scalar[p], h[0], *k)
        kernels.model_adjoint(adjoint[:, p], fields[:, p], h, *k)
        kernels.scalar_adjoint(scalar_adjoint[p], fields[:, p], h, *k)
        slab, part = np.ascontiguousarray(fields[:, p]), np.empty((7, *fields[0, p].shape), np.complex64)
        kernels.solve_scans(part[:6], part[6], slab, h, PRECISION, SCALAR_PRECISION, *k)
        sti[:, p], cosmos[p] = part[:6], part[6]
        kernels.solve_normal(solved[:, p], h, weights, power[p], ISO_PRECISION, ANISO_PRECISION, power[p], *k)
        kernels.scalar_solve(scalar_solved[p], h, weights, power[p], single, *k)
    return {
        "field": field, "dipole field": dipole_field, "adjoint": adjoint, "scalar adjoint": scalar_adjoint,
        "sti": sti, "cosmos": cosmos, "solved": solved, "scalar solved": scalar_solved,
    }  # fmt: skip


def test_slabs_cut_anyhow_give_the_same_bits(grid: FitGrid) -> None:
    n = grid.half[0]
    whole = apply_all(grid, [slice(0, n)])
    single = [slice(i, i + 1) for i in range(n)]
    for planes in (single, [slice(0, 3), slice(3, 4), slice(4, n)], [slice(1, n), slice(1)]):
        for name, found in apply_all(grid, planes).items():
            np.testing.assert_array_equal(found, whole[name], err_msg=name)


def test_at_the_origin_of_k_everything_is_zero(grid: FitGrid) -> None:
    results = apply_all(grid, [slice(0, grid.half[0])])
    for name, found in results.items():
        np.testing.assert_array_equal(found[..., 0, 0, 0], 0, err_msg=name)
        assert np.isfinite(found).all(), name
        assert np.count_nonzero(found) > 0.98 * found.size, name  # 0 too where all k are Nyquist frequencies


def test_scans_in_another_order_give_the_same_solution_but_for_rounding(grid: FitGrid, rng: Random) -> None:
    fields = spectra(rng, len(grid.directions), *grid.half)

    def solve(order: Callable[[NDArray], NDArray]) -> NDArray[np.complex64]:
        tensor, scalar = np.empty((6, *grid.half), np.complex64), np.empty(grid.half, np.complex64)
        ordered, h = np.ascontiguousarray(order(fields)), np.ascontiguousarray(order(grid.directions))
        kernels.solve_scans(tensor, scalar, ordered, h, PRECISION, SCALAR_PRECISION, *grid.frequencies())
        return np.concatenate([tensor, scalar[None]])

    assert_close(solve(lambda x: x[::-1]), solve(lambda x: x), 1e-6)


@pytest.mark.parametrize("shape", [(8, 6, 10), (7, 9, 5), (8, 9, 6)])
def test_spectra_of_real_maps_stay_those_of_real_fields(shape: Shape) -> None:
    # The products of a Nyquist frequency with another axis vanish: the half spectrum's planes stay self-conjugate.
    h = np.array([0.36, -0.48, 0.8])
    grid = make_grid(np.ones(shape, bool), (1.0, 1.4, 0.8), [h], 0.0)
    tensor = np.random.default_rng(2).standard_normal((6, *shape)).astype(np.float32)
    out = np.empty(grid.half, np.complex64)
    kernels.model_forward(out, np.stack([grid.forward(x) for x in tensor]), grid.directions[0], *grid.frequencies())
    again = grid.forward(grid.inverse(out.copy()))
    assert_close(again, out, 1e-6)
