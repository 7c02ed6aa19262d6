"""Conjugate gradients for a symmetric positive-definite linear map."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

_BLOCK = 1 << 16  # values in float64 at a time


@dataclass(frozen=True)
class Solution:
    """What conjugate gradients found, in how many iterations, and its residual relative to the right-hand side."""

    volume: NDArray[Any]
    iterations: int
    residual: float


def conjugate_gradients(
    apply: Callable[[NDArray[Any]], NDArray[Any]],
    right: NDArray[Any],
    *,
    iterations: int,
    tolerance: float,
    start: NDArray[Any] | None = None,
    precondition: Callable[[NDArray[Any]], NDArray[Any]] | None = None,
    progress: Callable[[int, float], None] | None = None,
) -> Solution:
    """Solve A x = right; stop where |A x - right| < tolerance |right|, or after so many iterations.

    apply: x -> A x, symmetric and positive definite; right: any shape; start: first guess, 0 by default;
    precondition: symmetric and positive definite, near A^-1; progress: called with iteration and relative residual.
    """
    target = float(np.sqrt(inner_product(right, right)))
    x = np.zeros_like(right) if start is None else start.copy()
    left = right.copy() if start is None else right - apply(x)
    residual = float(np.sqrt(inner_product(left, left))) / target if target > 0 else 0.0
    step, size, done = np.zeros_like(right), np.inf, 0
    while done < iterations and residual > tolerance:
        guess = left if precondition is None else precondition(left)
        size, last = inner_product(left, guess), size
        step = guess + right.dtype.type(size / last) * step
        image = apply(step)
        length = right.dtype.type(size / inner_product(step, image))
        x += length * step
        left -= length * image
        done += 1
        residual = float(np.sqrt(inner_product(left, left))) / target
        if progress is not None:
            progress(done, residual)
    return Solution(x, done, residual)


def inner_product(a: NDArray[Any], b: NDArray[Any]) -> float:
    """Return the inner product, summed in float64 in an order that no number of threads changes."""
    one, other = a.reshape(-1), b.reshape(-1)
    parts = (slice(start, start + _BLOCK) for start in range(0, one.size, _BLOCK))
    return float(sum(np.multiply(one[part], other[part], dtype=np.float64).sum() for part in parts))


def inner_products(rows: NDArray[Any]) -> NDArray[np.float64]:
    """Return the inner products (n, n) of rows (n, ...), summed as inner_product sums them."""
    flat = rows.reshape(len(rows), -1)
    gram = np.zeros((len(flat), len(flat)))
    for start in range(0, flat.shape[1], _BLOCK):
        block = flat[:, start : start + _BLOCK].astype(np.float64)
        gram += np.einsum("an,bn->ab", block, block, optimize=False)
    return gram
