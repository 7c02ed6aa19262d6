"""The one check that every linear operator of the project passes: shapes at both ends, linearity, adjointness."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import numpy as np
import pytest
from chi33.files.errors import InputError
from numpy.typing import ArrayLike, NDArray


class LinearOperator(Protocol):
    def forward(self, x: ArrayLike, /) -> NDArray[np.float32]: ...

    def adjoint(self, y: ArrayLike, /) -> NDArray[np.float32]: ...


def inner(a: NDArray, b: NDArray) -> float:
    return float(np.vdot(a.astype(np.float64), b.astype(np.float64)))


def check_linear_operator(
    operator: LinearOperator, domain: Sequence[int], codomain: Sequence[int], *, tolerance: float = 1e-5
) -> None:
    """Assert <Ax, y> = <x, A^H y> on random real arrays, float32 results of the stated shapes, and linearity."""
    rng = np.random.default_rng(sum(domain))
    x, other = (rng.standard_normal(domain).astype(np.float32) for _ in range(2))
    y = rng.standard_normal(codomain).astype(np.float32)
    ax, ahy = operator.forward(x), operator.adjoint(y)
    assert ax.shape == tuple(codomain)
    assert ahy.shape == tuple(domain)
    assert ax.dtype == ahy.dtype == np.float32
    scale = float(np.linalg.norm(ax) * np.linalg.norm(y))
    assert scale > 0
    assert abs(inner(ax, y) - inner(x, ahy)) < tolerance * scale
    combined = operator.forward(2 * x - 3 * other)
    np.testing.assert_allclose(combined, 2 * ax - 3 * operator.forward(other), atol=1e-5 * float(np.abs(ax).max()) * 5)
    for apply, shape in ((operator.forward, domain), (operator.adjoint, codomain)):
        with pytest.raises(InputError, match="was made for"):
            apply(np.zeros((*shape[:-1], shape[-1] + 1), np.float32))
