from __future__ import annotations

from collections.abc import Callable
from itertools import product

import numpy as np
import pytest
from chi33.files.errors import InputError
from chi33.pipeline.physics.dipole import DipoleOperator, check_grid, dipole_kernel, frequency_grid, padded_shape
from chi33.pipeline.physics.tensor_field import dipole_field
from numpy.typing import NDArray
from scipy.special import erfc

GRIDS = [
    ((12, 14, 10), (1.0, 1.0, 1.0)),
    ((9, 11, 7), (0.7, 1.1, 2.0)),
    ((8, 11, 6), (2.0, 0.5, 1.3)),
    ((1, 6, 5), (1.0, 2.0, 1.0)),
]
DIRECTIONS = [(0.0, 0.0, 1.0), (0.0, 0.6, 0.8), (-2 / 3, 1 / 3, 2 / 3)]


def full_kernel(shape: tuple[int, ...], size: tuple[float, ...], h: tuple[float, ...]) -> NDArray[np.float64]:
    """D on the whole complex spectrum, from its definition; a Nyquist frequency has both signs, so their mean."""
    kernels = []
    for signs in product((-1, 1), repeat=3):
        axes = [np.fft.fftfreq(n, d) for n, d in zip(shape, size, strict=True)]
        for axis, n, sign in zip(axes, shape, signs, strict=True):
            if n % 2 == 0:
                axis[n // 2] *= sign
        k = np.stack(np.meshgrid(*axes, indexing="ij"))
        squared = (k**2).sum(axis=0)
        along = np.tensordot(np.array(h), k, axes=1)
        kernels.append(np.where(squared > 0, 1 / 3 - along**2 / np.where(squared > 0, squared, 1), 0))
    return np.mean(kernels, axis=0)


@pytest.mark.parametrize("padding", [0.0, 5.0])
@pytest.mark.parametrize("h", DIRECTIONS)
@pytest.mark.parametrize(("shape", "size"), GRIDS)
def test_the_dipole_operator_is_linear_and_its_adjoint_is_its_adjoint(
    check_operator: Callable[..., None], shape: tuple, size: tuple, h: tuple, padding: float
) -> None:
    check_operator(DipoleOperator(shape, size, h, padding=padding), shape, shape)


@pytest.mark.parametrize("h", DIRECTIONS)
@pytest.mark.parametrize(("shape", "size"), GRIDS)
def test_the_field_equals_the_convolution_done_with_complex_transforms(shape: tuple, size: tuple, h: tuple) -> None:
    chi = np.random.default_rng(1).standard_normal(shape)
    expected = np.fft.ifftn(full_kernel(shape, size, h) * np.fft.fftn(chi)).real
    np.testing.assert_allclose(DipoleOperator(shape, size, h).forward(chi), expected, atol=2e-6)


@pytest.mark.parametrize("h", DIRECTIONS)
@pytest.mark.parametrize(("shape", "size"), GRIDS)
def test_the_kernel_is_even_so_that_its_image_is_real(shape: tuple, size: tuple, h: tuple) -> None:
    kernel = dipole_kernel(shape, size, h)
    last = kernel.shape[2] - 1
    for plane in {0, last if shape[2] % 2 == 0 else 0}:
        mirrored = np.roll(kernel[::-1, ::-1, plane], (1, 1), axis=(0, 1))
        np.testing.assert_array_equal(kernel[..., plane], mirrored)


@pytest.mark.parametrize("h", DIRECTIONS)
def test_the_kernel_lies_between_minus_two_thirds_and_one_third(h: tuple) -> None:
    kernel = dipole_kernel((32, 30, 28), (1, 1, 2), h)
    assert kernel.min() == pytest.approx(-2 / 3, abs=0.02)
    assert kernel.min() >= -2 / 3 - 1e-6
    assert kernel.max() == pytest.approx(1 / 3, abs=0.01)


def test_frequencies_are_cycles_per_millimetre() -> None:
    kx, ky, kz = frequency_grid((10, 8, 7), (2.0, 1.0, 0.5))
    assert (kx.shape, ky.shape, kz.shape) == ((10, 1, 1), (1, 8, 1), (1, 1, 4))
    assert kx[1, 0, 0] == pytest.approx(1 / (10 * 2.0))
    assert ky[0, 1, 0] == pytest.approx(1 / 8)
    assert kz[0, 0, 3] == pytest.approx(3 / (7 * 0.5))


@pytest.mark.parametrize("k0", [0.0, 1 / 3, -0.1])
def test_a_uniform_susceptibility_gives_the_field_stated_for_k_0(k0: float) -> None:
    chi = np.full((7, 8, 9), 0.6, np.float32)
    np.testing.assert_allclose(DipoleOperator(chi.shape, (1, 1, 2), k0=k0).forward(chi), 0.6 * k0, atol=1e-6)
    ripple = np.zeros_like(chi)
    ripple[3, 4, 5], ripple[0, 0, 0] = 1, -1
    with_k0, without = (DipoleOperator(chi.shape, (1, 1, 2), k0=value).forward(ripple) for value in (k0, 0.0))
    np.testing.assert_allclose(with_k0, without, atol=1e-7)


def soft_ball(distance: NDArray, radius: float, width: float = 1.0) -> NDArray[np.float64]:
    """A ball or disc with an edge that falls off over `width` mm, so that a grid can hold it."""
    return erfc((distance - radius) / width) / 2


@pytest.mark.parametrize(("shape", "size"), [((72, 72, 72), (1.0, 1.0, 1.0)), ((63, 80, 44), (1.2, 0.9, 1.7))])
@pytest.mark.parametrize("h", DIRECTIONS)
def test_a_spheres_field_is_dipolar_outside_and_zero_inside(shape: tuple, size: tuple, h: tuple) -> None:
    radius, chi = 9.0, 0.5
    axes = [(np.arange(n) - n // 2) * d for n, d in zip(shape, size, strict=True)]
    x = np.stack(np.meshgrid(*axes, indexing="ij"))
    r = np.sqrt((x**2).sum(axis=0))
    ball = chi * soft_ball(r, radius, 1.5)
    field = dipole_field(ball, size, h, padding=64)
    moment = ball.sum() * np.prod(size)  # ppm mm^3
    assert moment == pytest.approx(chi * 4 / 3 * np.pi * radius**3, rel=0.05)
    outside, inside = (r > radius + 4) & (r < 22), r < radius - 4
    cosine = np.tensordot(np.array(h), x, axes=1) / np.where(r > 0, r, 1)
    dipolar = moment / (4 * np.pi * r[outside] ** 3) * (3 * cosine[outside] ** 2 - 1)
    peak = 2 * chi / 3
    np.testing.assert_allclose(field[outside], dipolar, atol=0.005 * peak)
    np.testing.assert_allclose(field[inside], 0, atol=0.005 * peak)  # Lorentz-corrected
    assert field[outside][np.argmax(cosine[outside])] > 0  # paramagnetic: stronger beyond the pole along B0


@pytest.mark.parametrize("theta", [0.0, 30.0, 54.7356, 75.0, 90.0])
def test_the_field_inside_an_infinite_cylinder_depends_on_its_angle_to_b0(theta: float) -> None:
    # The spectrum lies in the plane across the axis, where (k.h)^2/|k|^2 = sin^2(theta) cos^2(phi): its mean over phi
    # leaves 1/3 - sin^2(theta)/2 = (3 cos^2(theta) - 1)/6 inside; outside is sin^2(theta)/2 cos(2 phi) (a/r)^2.
    n, radius, chi = 160, 10.0, 0.4
    angle = np.radians(theta)
    x, y = np.meshgrid(np.arange(n) - n // 2, np.arange(n) - n // 2, indexing="ij")
    r = np.hypot(x, y)
    cylinder = np.repeat((chi * soft_ball(r, radius))[..., None], 2, axis=2)
    field = DipoleOperator(cylinder.shape, (1, 1, 1), (np.sin(angle), 0, np.cos(angle))).forward(cylinder)[..., 0]
    assert field[r < radius - 3] == pytest.approx(chi * (3 * np.cos(angle) ** 2 - 1) / 6, abs=0.02 * chi)
    ring = (r > radius + 2) & (r < 24)
    outside = chi / 2 * np.sin(angle) ** 2 * (radius / r[ring]) ** 2 * (x[ring] ** 2 - y[ring] ** 2) / r[ring] ** 2
    np.testing.assert_allclose(field[ring], outside, atol=0.02 * chi)


def test_padding_keeps_the_periodic_images_away() -> None:
    x, y, z = np.meshgrid(*[np.arange(24.0)] * 3, indexing="ij")
    chi = np.exp(-((x - 4) ** 2 + (y - 12) ** 2 + (z - 12) ** 2) / 2)
    near, far = (DipoleOperator(chi.shape, (1, 1, 1), padding=p).forward(chi)[20, 12, 12] for p in (0.0, 64.0))
    # In the equator a moment m gives -m / (4 pi r^3): 16 mm away here, while its periodic image is at 8 mm.
    assert far == pytest.approx(-chi.sum() / (4 * np.pi * 16**3), rel=0.03)
    assert near < 5 * far


@pytest.mark.parametrize("padding", [0.0, 0.5, 7.0, 64.0])
def test_the_padded_grid_holds_the_padding_in_millimetres(padding: float) -> None:
    grid = padded_shape((13, 17, 19), (0.5, 1.0, 2.0), padding)
    for n, wide, size in zip((13, 17, 19), grid, (0.5, 1.0, 2.0), strict=True):
        assert (wide - n) * size >= padding
        assert wide >= n


@pytest.mark.parametrize(("call", "message"), [
    (lambda: check_grid((3, 4), (1, 1, 1)), r"shape must be three positive numbers of voxels, got \(3, 4\)"),
    (lambda: check_grid((3, 4, 0), (1, 1, 1)), "shape must be three positive"),
    (lambda: check_grid((3, 4, 5), (1, 0, 1)), r"voxel_size must be three positive lengths in mm, got \[1, 0, 1\]"),
    (lambda: check_grid((3, 4, 5), (1, np.nan, 1)), "voxel_size must be three positive"),
    (lambda: check_grid((3, 4, 5), (1, 1)), "voxel_size must be three positive"),
    (lambda: padded_shape((3, 4, 5), (1, 1, 1), -2.0), "padding must be at least 0 mm, got -2.0"),
    (lambda: padded_shape((3, 4, 5), (1, 1, 1), float("nan")), "padding must be at least 0 mm, got nan"),
    (lambda: dipole_kernel((3, 4, 5), (1, 1, 1), (0, 0, 2)), r"b0_direction must be a unit vector, got \|h\| = 2"),
])  # fmt: skip
def test_impossible_grids_are_refused(call: Callable[[], object], message: str) -> None:
    with pytest.raises(InputError, match=message):
        call()
