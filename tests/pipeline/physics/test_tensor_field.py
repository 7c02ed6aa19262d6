from __future__ import annotations

from collections.abc import Callable
from itertools import permutations, product

import numpy as np
import pytest
from chi33.files.errors import InputError
from chi33.pipeline.physics.dipole import DipoleOperator, projection_on_k
from chi33.pipeline.physics.tensor_field import (
    TensorFieldOperator,
    delta_b_prime,
    dipole_field,
    tensor_field,
    tensor_kernel,
)
from chi33.pipeline.physics.tensors import chi33, from_matrix, isotropic, rotate_components, to_matrix
from numpy.typing import NDArray

GRIDS = [
    ((12, 14, 10), (1.0, 1.0, 1.0)),
    ((9, 11, 7), (0.7, 1.1, 2.0)),
    ((8, 11, 6), (2.0, 0.5, 1.3)),
]
DIRECTIONS = [(0.0, 0.0, 1.0), (0.0, 0.6, 0.8), (-2 / 3, 1 / 3, 2 / 3)]
Tensors = Callable[..., NDArray[np.float32]]


def spectral_rows(shape: tuple[int, ...], size: tuple[float, ...], h: tuple[float, ...]) -> NDArray[np.float64]:
    """h/3 - (k.h) k / |k|^2 on the whole complex spectrum (3, x, y, z), what chi^ h is multiplied with.

    A Nyquist frequency has both signs, so it is the mean over them; 0 at k = 0.
    """
    found = []
    for signs in product((-1, 1), repeat=3):
        axes = [np.fft.fftfreq(n, d) for n, d in zip(shape, size, strict=True)]
        for axis, n, sign in zip(axes, shape, signs, strict=True):
            if n % 2 == 0:
                axis[n // 2] *= sign
        k = np.stack(np.meshgrid(*axes, indexing="ij"))
        squared = (k**2).sum(axis=0)
        squared[0, 0, 0] = np.inf
        found.append(np.array(h)[:, None, None, None] / 3 - np.tensordot(np.array(h), k, axes=1) * k / squared)
    mean = np.mean(found, axis=0)
    mean[:, 0, 0, 0] = 0
    return mean


@pytest.mark.parametrize("padding", [0.0, 5.0])
@pytest.mark.parametrize("h", DIRECTIONS)
@pytest.mark.parametrize(("shape", "size"), GRIDS)
def test_the_tensor_operator_is_linear_and_its_adjoint_is_its_adjoint(
    check_operator: Callable[..., None], shape: tuple, size: tuple, h: tuple, padding: float
) -> None:
    check_operator(TensorFieldOperator(shape, size, h, padding=padding), (6, *shape), shape)


@pytest.mark.parametrize(("shape", "size"), GRIDS)
def test_with_b0_along_z_the_field_is_equation_3_of_modl_qsm(random_tensor: Tensors, shape: tuple, size: tuple) -> None:
    # dB^ = (1/3 - kz^2/|k|^2) chi33^ - kz/|k|^2 (kx chi13^ + ky chi23^), and the second term is eq. 4.
    tensor = random_tensor(1, shape).astype(np.float64)
    across_x, across_y, dipole = spectral_rows(shape, size, (0, 0, 1))
    hat = {name: np.fft.fftn(tensor[index]) for index, name in ((2, "13"), (4, "23"), (5, "33"))}
    prime = np.fft.ifftn(across_x * hat["13"] + across_y * hat["23"])
    whole = prime + np.fft.ifftn(dipole * hat["33"])
    np.testing.assert_allclose(whole.imag, 0, atol=1e-12)
    np.testing.assert_allclose(delta_b_prime(tensor, size, (0, 0, 1), padding=0), prime.real, atol=5e-6)
    np.testing.assert_allclose(TensorFieldOperator(shape, size, (0, 0, 1)).forward(tensor), whole.real, atol=5e-6)


@pytest.mark.parametrize("h", DIRECTIONS)
@pytest.mark.parametrize(("shape", "size"), GRIDS)
def test_with_b0_anywhere_the_field_is_equation_1(random_tensor: Tensors, shape: tuple, size: tuple, h: tuple) -> None:
    # dB^ = h.chi^h / 3 - (k.h) (k.chi^h) / |k|^2
    tensor = random_tensor(2, shape)
    magnetisation = np.fft.fftn(np.moveaxis(to_matrix(tensor) @ np.array(h), -1, 0), axes=(1, 2, 3))
    expected = np.fft.ifftn((spectral_rows(shape, size, h) * magnetisation).sum(axis=0)).real
    np.testing.assert_allclose(TensorFieldOperator(shape, size, h).forward(tensor), expected, atol=5e-6)


@pytest.mark.parametrize("h", DIRECTIONS)
def test_the_rows_of_the_model_are_those_of_the_quadratic_form(h: tuple) -> None:
    # A symmetric unit tensor e_j e_l^T + e_l e_j^T put into h.chi h / 3 - (k.h)(k.chi h)/|k|^2, at random k.
    rng = np.random.default_rng(3)
    k = rng.standard_normal((3, 50))
    field_axis = np.array(h)
    u = (field_axis @ k) * k / (k**2).sum(axis=0)
    rows = tensor_kernel(u.astype(np.float32), h)
    for index in range(6):
        unit = to_matrix(np.eye(6)[index])
        expected = field_axis @ unit @ field_axis / 3 - np.einsum("in,ij,j->n", u, unit, field_axis)
        np.testing.assert_allclose(rows[index], expected, atol=1e-6)
    for index, (j, m) in enumerate(((0, 0), (0, 1), (0, 2), (1, 1), (1, 2), (2, 2))):
        kh, square = field_axis @ k, (k**2).sum(axis=0)
        if j == m:
            stated = h[j] ** 2 / 3 - kh * k[j] * h[j] / square
        else:
            stated = 2 * h[j] * h[m] / 3 - kh * (k[j] * h[m] + k[m] * h[j]) / square
        np.testing.assert_allclose(rows[index], stated, atol=1e-6)


@pytest.mark.parametrize("padding", [0.0, 20.0])
@pytest.mark.parametrize("seed", range(6))
def test_the_field_is_that_of_chi33_plus_delta_b_prime(
    random_tensor: Tensors, random_rotation: Callable[[int], NDArray], seed: int, padding: float
) -> None:
    shape, size = ((11, 12, 13), (9, 16, 10))[seed % 2], (1.0, 0.8, 1.9)
    tensor, h = random_tensor(seed, shape), random_rotation(seed)[:, 2]
    whole = tensor_field(tensor, size, h, padding=padding)
    parts = dipole_field(chi33(tensor, h), size, h, padding=padding) + delta_b_prime(tensor, size, h, padding=padding)
    np.testing.assert_allclose(parts, whole, atol=2e-6 * float(np.abs(whole).max()) + 2e-6)


@pytest.mark.parametrize("h", DIRECTIONS)
def test_an_isotropic_tensor_makes_the_dipole_field_and_no_delta_b_prime(h: tuple) -> None:
    chi = np.random.default_rng(5).standard_normal((10, 9, 8)).astype(np.float32)
    np.testing.assert_allclose(
        TensorFieldOperator(chi.shape, (1, 2, 1), h).forward(isotropic(chi)),
        DipoleOperator(chi.shape, (1, 2, 1), h).forward(chi), atol=3e-6,
    )  # fmt: skip
    np.testing.assert_allclose(delta_b_prime(isotropic(chi), (1, 2, 1), h), 0, atol=3e-6)


SIGNED_PERMUTATIONS = [(p, s) for p in permutations(range(3)) for s in product((1, -1), repeat=3)]


@pytest.mark.parametrize("padding", [0.0, 6.0])
@pytest.mark.parametrize(("order", "signs"), SIGNED_PERMUTATIONS)
def test_turning_array_components_and_b0_together_turns_the_field(
    random_tensor: Tensors, order: tuple[int, ...], signs: tuple[int, ...], padding: float
) -> None:
    # All 24 right-angle turns of the array, and the 24 mirrored ones.
    shape, size, h = (8, 9, 6), (1.0, 1.5, 0.6), np.array([0.48, -0.6, 0.64])
    matrix = np.zeros((3, 3))
    matrix[range(3), order] = signs

    def move(volume: NDArray) -> NDArray:
        flipped = tuple(axis for axis in range(3) if signs[axis] < 0)
        return np.flip(volume.transpose(order), flipped)

    tensor = random_tensor(7, shape)
    turned = rotate_components(np.stack([move(one) for one in tensor]), matrix)
    field = tensor_field(tensor, size, h, padding=padding)
    field_of_turned = tensor_field(turned, np.array(size)[list(order)], matrix @ h, padding=padding)
    np.testing.assert_allclose(field_of_turned, move(field), atol=5e-6)


def test_a_sphere_of_transverse_susceptibility_makes_a_tesseral_dipole() -> None:
    # chi = chi_xz only, B0 along z: the sphere is magnetised along x, and its field along z outside is
    # chi (a/r)^3 x z / r^2, the z component of a dipole along x; zero inside.
    n, radius, value = 64, 8.0, 0.3
    x, y, z = np.meshgrid(*[np.arange(n) - n // 2] * 3, indexing="ij")
    r = np.sqrt(x**2 + y**2 + z**2)
    tensor = np.zeros((6, n, n, n), np.float32)
    tensor[2] = value * np.clip(0.5 + radius - r, 0, 1)
    field = tensor_field(tensor, (1, 1, 1), (0, 0, 1))
    outside = (r > radius + 2) & (r < 20)
    expected = value * (radius / r[outside]) ** 3 * x[outside] * z[outside] / r[outside] ** 2
    np.testing.assert_allclose(field[outside], expected, atol=0.02 * value)
    assert np.abs(field[r < radius - 2]).max() < 0.04 * value


def test_slabs_of_the_projection_are_slices_of_the_whole() -> None:
    whole = projection_on_k((8, 6, 5), (1, 2, 1), DIRECTIONS[2])
    for planes in (slice(0, 1), slice(3, 6), slice(7, 8)):
        np.testing.assert_array_equal(projection_on_k((8, 6, 5), (1, 2, 1), DIRECTIONS[2], planes), whole[:, planes])


def test_a_uniform_tensor_makes_no_field() -> None:
    tensor = np.broadcast_to(from_matrix(np.diag([0.1, -0.2, 0.3]))[:, None, None, None], (6, 6, 7, 8))
    np.testing.assert_allclose(TensorFieldOperator((6, 7, 8), (1, 1, 1), DIRECTIONS[1]).forward(tensor), 0, atol=1e-6)


def test_a_map_that_is_no_tensor_image_is_refused() -> None:
    with pytest.raises(InputError, match=r"tensor has shape \(5, 4, 4, 4\), but the operator was made for"):
        tensor_field(np.zeros((5, 4, 4, 4)), (1, 1, 1), (0, 0, 1))
    with pytest.raises(InputError, match="shape must be three positive"):
        tensor_field(np.zeros((6, 4, 4)), (1, 1, 1), (0, 0, 1))
    with pytest.raises(InputError, match="six components"):
        delta_b_prime(np.zeros((5, 4, 4, 4)), (1, 1, 1), (0, 0, 1))
