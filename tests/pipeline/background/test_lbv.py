"""The Laplacian boundary value method and its multigrid solver."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from background_scene import positions, relative_error, scene
from chi33.files.errors import InputError
from chi33.pipeline.background import lbv
from chi33.pipeline.background.lbv import harmonic_extension
from chi33.pipeline.background.multigrid import MaskedLaplacian, v_cycle
from chi33.pipeline.images.morphology import depth_inside
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

SIZES = [(1.0, 1.0, 1.0), (0.8, 1.1, 2.5), (1.0, 3.0, 1.0)]


def ellipsoid(shape: tuple[int, int, int]) -> NDArray[np.bool_]:
    half = np.array(shape)[:, None, None, None] * 0.46
    return ((positions(shape, (1, 1, 1)) / half) ** 2).sum(axis=0) < 1


@pytest.mark.parametrize("size", SIZES)
def test_the_laplacian_and_its_adjoint_agree(check_operator: Callable[..., None], size: tuple) -> None:
    shape = (11, 9, 8)
    check_operator(MaskedLaplacian(ellipsoid(shape), size), shape, shape)


def test_the_laplacian_of_a_parabola_is_its_curvature() -> None:
    size = (0.8, 1.1, 2.5)
    at = positions((12, 11, 10), size)
    free = np.zeros((12, 11, 10), bool)
    free[2:-2, 2:-2, 2:-2] = True
    found = MaskedLaplacian(free, size, np.float64).of_supported(at[0] ** 2 - 3 * at[1] ** 2 + 0.5 * at[2] ** 2)
    np.testing.assert_allclose(found[free], -(2 - 6 + 1), atol=1e-9)
    np.testing.assert_array_equal(found[~free], 0)


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 1000), size=st.sampled_from(SIZES), shape=st.tuples(*[st.integers(5, 17)] * 3))
def test_the_v_cycle_is_symmetric_and_positive(seed: int, size: tuple, shape: tuple[int, int, int]) -> None:
    rng = np.random.default_rng(seed)
    free = ellipsoid(shape) & (rng.uniform(size=shape) > 0.1)
    cycle = v_cycle(free, size, np.float64)
    a, b = rng.standard_normal((2, *shape)) * free
    ca, cb = cycle(a), cycle(b)
    assert np.vdot(ca, b) == pytest.approx(np.vdot(a, cb), rel=1e-9, abs=1e-9 * float(np.linalg.norm(ca)))
    assert np.vdot(ca, a) >= 0


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("shape", [(30, 26, 22), (65, 60, 50)])
def test_few_iterations_suffice_on_every_grid(size: tuple, shape: tuple[int, int, int]) -> None:
    free = ellipsoid(shape)
    boundary = np.random.default_rng(0).standard_normal(shape)
    found = harmonic_extension(boundary, free, size, tolerance=1e-6)
    assert found.residual < 1e-6
    assert found.iterations <= 14


@pytest.mark.parametrize("size", SIZES)
def test_a_harmonic_polynomial_is_its_own_extension(size: tuple) -> None:
    at = positions((26, 28, 24), size) / 10
    # The seven-point Laplacian of each of these is 0 too.
    field = 1 + at[0] - 2 * at[1] + at[0] * at[2] + at[0] ** 2 + at[1] ** 2 - 2 * at[2] ** 2
    free = ellipsoid((26, 28, 24))
    found = harmonic_extension(field, free, size, tolerance=1e-8)
    np.testing.assert_allclose(found.field, field, atol=1e-5 * float(np.abs(field).max()))


def test_the_extension_stays_between_its_boundary_values() -> None:
    free = ellipsoid((24, 22, 20))
    boundary = np.random.default_rng(2).uniform(-1, 1, free.shape)
    found = harmonic_extension(boundary, free, (1, 1.3, 2), tolerance=1e-8).field[free]
    assert found.min() > -1
    assert found.max() < 1


def test_a_field_that_vanishes_at_the_edge_is_kept() -> None:
    head = scene()
    depth = depth_inside(head.mask, head.size)
    local = (np.sin(depth) * (depth > 7)).astype(np.float32)
    found = lbv(head.background + local, head.mask, head.size)
    assert relative_error(found.field, local, found.mask) < 0.05


def test_the_peel_is_in_millimetres() -> None:
    size = (1.5, 2.0, 3.0)
    head = scene(size)
    for peel in (0.0, 3.5, 8.0):
        known = depth_inside(head.mask, size) > peel
        valid = lbv(head.total, head.mask, size, peel=peel).mask
        assert not valid[~known].any()
        left = depth_inside(known, size)
        assert valid[left > max(size)].all()
        assert not valid[left <= min(size)].any()


HEAD = scene()
ARGS = (HEAD.total, HEAD.mask, HEAD.size)


@pytest.mark.parametrize(("call", "message"), [
    (lambda: lbv(*ARGS, peel=-1), "peel must be at least 0 mm, got -1"),
    (lambda: lbv(*ARGS, peel=60), r"nothing of the mask .* after peeling 60 mm: use a smaller peel or a larger mask"),
    (lambda: lbv(*ARGS, tolerance=0), "tolerance must be a positive number, got 0"),
    (lambda: lbv(*ARGS, iterations=0), "iterations must be at least 1, got 0"),
    (lambda: MaskedLaplacian(HEAD.mask, HEAD.size).forward(np.zeros(3)), "the operator was made for"),
])  # fmt: skip
def test_bad_settings_are_refused(call: Callable[[], object], message: str) -> None:
    with pytest.raises(InputError, match=message):
        call()
