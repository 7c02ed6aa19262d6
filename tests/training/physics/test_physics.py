"""The physics step: adjointness and gradients of the three rules, and the exactness of the doubled patch grid."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from chi33.files.errors import InputError
from chi33.pipeline.physics.dipole import dipole_kernel
from chi33.training.physics.patches import Chi33DeltaBPhysics, DipolePhysics, DipolePhysicsFactory, FullGrid
from torch import Tensor

OBLIQUE = (0.2, -0.3, float(np.sqrt(1 - 0.13)))
PATCH = (6, 7, 5)
CPU = torch.device("cpu")
RULES = ("pad-crop", "pad-gram", "circular")
# Larger than twice the patch, odd, and so small that offsets wrap around.
FULL_SHAPES = ((20, 18, 16), (13, 15, 11), (8, 7, 9))


def make(
    rule: str, full_shape: tuple[int, int, int] = (20, 18, 16), patch: tuple[int, int, int] = PATCH
) -> DipolePhysics:
    grid = FullGrid.of(full_shape, (1.0, 0.8, 2.0), OBLIQUE)
    return DipolePhysicsFactory(rule)([grid], patch, CPU)  # type: ignore[arg-type]


def naive(patch: np.ndarray, kernel: np.ndarray, full_shape: tuple[int, ...], *, central: bool) -> np.ndarray:
    """Zero-pad to the full grid, multiply in k-space, crop, in double precision."""
    starts = [(n - p) // 2 if central else 0 for n, p in zip(full_shape, patch.shape, strict=True)]
    box = tuple(slice(s, s + p) for s, p in zip(starts, patch.shape, strict=True))
    full = np.zeros(full_shape)
    full[box] = patch
    return np.fft.irfftn(np.fft.rfftn(full) * kernel, s=full_shape, axes=(0, 1, 2))[box]


@pytest.mark.parametrize("full_shape", FULL_SHAPES)
@pytest.mark.parametrize("rule", ["pad-crop", "pad-gram"])
def test_doubled_grid_equals_padding_to_the_full_grid(rule: str, full_shape: tuple[int, int, int]) -> None:
    rng = np.random.default_rng(0)
    x = rng.standard_normal(PATCH)
    kernel = dipole_kernel(full_shape, (1.0, 0.8, 2.0), OBLIQUE).astype(np.float64)
    physics = make(rule, full_shape)
    tensor = torch.from_numpy(x.astype(np.float32))[None, None]
    once = naive(x, kernel, full_shape, central=True)
    np.testing.assert_allclose(physics.forward(tensor)[0, 0].numpy(), once, atol=1e-5)
    if rule == "pad-crop":
        twice = naive(once, kernel, full_shape, central=True)
    else:
        twice = naive(x, kernel**2, full_shape, central=False)
    np.testing.assert_allclose(physics.gram(tensor)[0, 0].numpy(), twice, atol=1e-5)


def test_circular_is_the_patch_grid() -> None:
    x = np.random.default_rng(1).standard_normal(PATCH)
    kernel = dipole_kernel(PATCH, (1.0, 0.8, 2.0), OBLIQUE)
    expected = np.fft.irfftn(np.fft.rfftn(x) * kernel, s=PATCH, axes=(0, 1, 2))
    got = make("circular").forward(torch.from_numpy(x.astype(np.float32))[None, None])
    np.testing.assert_allclose(got[0, 0].numpy(), expected, atol=1e-5)


def test_pad_crop_of_the_whole_grid_is_circular() -> None:
    x = torch.randn(1, 1, *PATCH)
    torch.testing.assert_close(make("pad-crop", PATCH).forward(x), make("circular").forward(x), atol=1e-5, rtol=0)


@pytest.mark.parametrize("full_shape", FULL_SHAPES)
@pytest.mark.parametrize("rule", RULES)
def test_adjointness(rule: str, full_shape: tuple[int, int, int]) -> None:
    torch.manual_seed(0)
    physics = Chi33DeltaBPhysics(make(rule, full_shape))
    x, y = torch.randn(3, 2, *PATCH), torch.randn(3, 1, *PATCH)
    left, right = (physics.forward(x) * y).sum(), (x * physics.adjoint(y)).sum()
    torch.testing.assert_close(left, right, rtol=1e-4, atol=1e-4)
    dipole = physics.dipole
    torch.testing.assert_close(
        (dipole.forward(y) * y.flip(0)).sum(), (y * dipole.adjoint(y.flip(0))).sum(), rtol=1e-4, atol=1e-4
    )
    torch.testing.assert_close(
        (dipole.gram(y) * y.flip(0)).sum(), (y * dipole.gram(y.flip(0))).sum(), rtol=1e-4, atol=1e-4
    )


@pytest.mark.parametrize("rule", RULES)
def test_gradient_is_that_of_half_the_squared_residual(rule: str) -> None:
    torch.manual_seed(0)
    physics = Chi33DeltaBPhysics(make(rule, patch=(3, 3, 3), full_shape=(9, 8, 7)))
    x, field = torch.randn(1, 2, 3, 3, 3, requires_grad=True), torch.randn(1, 1, 3, 3, 3)
    step = physics.gradient(x, field)
    if rule == "pad-gram":  # D^2 is applied before cropping, so it is not the square of the cropped D
        quadratic = 0.5 * (x[:, :1] * physics.dipole.gram(x[:, :1])).sum()
        cross = (x[:, 1:] - field) * physics.dipole.forward(x[:, :1])
        loss = quadratic + cross.sum() + 0.5 * ((x[:, 1:] - field) ** 2).sum()
    else:
        loss = 0.5 * ((physics.forward(x) - field) ** 2).sum()
    torch.testing.assert_close(step, torch.autograd.grad(loss, x)[0], atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("rule", RULES)
def test_derivatives_agree_with_finite_differences(rule: str) -> None:
    physics = Chi33DeltaBPhysics(make(rule, patch=(3, 2, 3), full_shape=(9, 8, 7)))
    field = torch.randn(1, 1, 3, 2, 3)

    def step(x: Tensor) -> Tensor:
        return physics.gradient(x.float(), field).double()

    x = torch.randn(1, 2, 3, 2, 3, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(
        step, x, eps=1e-1, atol=1e-3, rtol=1e-3, nondet_tol=0
    )  # linear: a large step is exact


def test_samples_of_a_batch_have_their_own_grids() -> None:
    torch.manual_seed(0)
    grids = [FullGrid.of((20, 18, 16), (1, 1, 1), (0, 0, 1)), FullGrid.of((15, 18, 12), (1, 1, 2), OBLIQUE)]
    factory = DipolePhysicsFactory("pad-crop")
    x = torch.randn(2, 1, *PATCH)
    together = factory(grids, PATCH, CPU).forward(x)
    for i, grid in enumerate(grids):
        torch.testing.assert_close(together[i : i + 1], factory([grid], PATCH, CPU).forward(x[i : i + 1]))
    assert not torch.allclose(together[0], factory([grids[1]], PATCH, CPU).forward(x[:1])[0], atol=1e-3)


def test_kernels_are_computed_once(monkeypatch: pytest.MonkeyPatch) -> None:
    import chi33.training.physics.patches as physics

    calls = []
    original = physics.dipole_kernel
    monkeypatch.setattr(physics, "dipole_kernel", lambda *a, **k: calls.append(1) or original(*a, **k))
    factory = DipolePhysicsFactory("pad-crop")
    grid = FullGrid.of((20, 18, 16), (1, 1, 1), (0, 0, 1))
    for _ in range(3):
        factory([grid, grid], PATCH, CPU)
    assert len(calls) == 1


def test_the_cache_does_not_grow_without_bound(monkeypatch: pytest.MonkeyPatch) -> None:
    import chi33.training.physics.patches as physics

    monkeypatch.setattr(physics, "_CACHE_BYTES", 20_000)
    factory = DipolePhysicsFactory("pad-crop")
    for angle in np.linspace(0, 0.5, 12):
        factory([FullGrid.of((20, 18, 16), (1, 1, 1), (0, np.sin(angle), np.cos(angle)))], PATCH, CPU)
    assert factory._bytes <= 20_000


def test_mean_of_the_dipole_at_k0() -> None:
    grid = FullGrid.of(PATCH, (1, 1, 1), (0, 0, 1))
    ones = torch.ones(1, 1, *PATCH)
    for k0 in (0.0, 1 / 3):
        field = DipolePhysicsFactory("circular", k0=k0)([grid], PATCH, CPU).forward(ones)
        torch.testing.assert_close(field, ones * k0, atol=1e-6, rtol=0)


def test_fft_runs_in_float32_under_autocast() -> None:
    physics = make("pad-crop")
    x = torch.randn(1, 1, *PATCH)
    with torch.autocast("cpu", torch.bfloat16):
        result = physics.forward(x)
    assert result.dtype == torch.float32
    assert torch.equal(result, physics.forward(x))


def test_wrong_input_is_named() -> None:
    with pytest.raises(InputError, match=r"patch rule must be one of pad-crop, pad-gram, circular, got 'wrap'"):
        DipolePhysicsFactory("wrap")  # type: ignore[arg-type]
    with pytest.raises(InputError, match=r"a patch of \(6, 7, 5\) voxels does not fit the full grid \(6, 6, 6\)"):
        make("pad-crop", (6, 6, 6))
    with pytest.raises(InputError, match=r"was made for patches of \(6, 7, 5\), got \(5, 5, 5\)"):
        make("pad-crop").forward(torch.zeros(1, 1, 5, 5, 5))
    with pytest.raises(InputError, match="unit vector"):
        FullGrid.of((8, 8, 8), (1, 1, 1), (0, 0, 2))
