"""The fused k-space kernels of the fits, compiled: model rows, 6 x 6 normal equations and their solution on the fly.

No model row is ever stored: a(k) of a scan is made from its B0 direction and k where it is used. All work on slabs of
kx planes of half spectra (nx, ny, nz // 2 + 1), release the interpreter's lock, and treat k points in short runs along
kz, so that the compiler can use vector instructions. A slab's result does not depend on how the planes were cut.
Frequencies come as pairs k, o for every axis (cycles/mm): o is k with the Nyquist frequency of an even axis set to 0,
which stands in products of two axes and keeps every image real (see pipeline.physics.dipole).
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import njit

_RUN = 32  # k points treated at a time
_SETTINGS: dict[str, Any] = {
    "nogil": True, "cache": True, "fastmath": {"contract", "reassoc", "nsz", "arcp"}, "error_model": "numpy",
}  # fmt: skip
_compiled = njit(**_SETTINGS)
# Of arrays that may be slabs, one code for any layout: another for contiguous ones would round differently.
_SPECTRA, _VOLUME, _ROWS, _LINE = "complex64[:,:,:,:]", "float32[:,:,:]", "float32[:,:]", "float32[:]"
_MATRIX, _AXES = "float64[:,:]", ", ".join(["float32[:]"] * 6)


@njit(inline="always")
def _inverse_squares(inverse, count, start, kx, ky, kz):
    """Fill 1 / |k|^2 of a run; 0 at k = 0."""
    across = kx * kx + ky * ky
    for i in range(count):
        squared = across + kz[start + i] * kz[start + i]
        inverse[i] = np.float32(0) if squared == 0 else np.float32(1) / squared


@njit(inline="always")
def _row(row, inverse, count, start, h, kx, ox, ky, oy, kz, oz):
    """Fill a(k) (6, run) of a scan: a_jj = q_j h_j and a_jl = q_j h_l + q_l h_j with q = h / 3 - (k.h) k / |k|^2."""
    h0, h1, h2 = h[0], h[1], h[2]
    third = np.float32(1) / np.float32(3)
    across = ox * h0 + oy * h1
    x, y = h0 * kx * kx - ox * ox * h0, h1 * ky * ky - oy * oy * h1
    for i in range(count):
        k, o = kz[start + i], oz[start + i]
        along = across + o * h2
        inside = np.float32(0) if inverse[i] == 0 else np.float32(1)
        q0 = inside * h0 * third - (x + ox * along) * inverse[i]
        q1 = inside * h1 * third - (y + oy * along) * inverse[i]
        q2 = inside * h2 * third - (h2 * k * k + o * (along - o * h2)) * inverse[i]
        row[0, i] = q0 * h0
        row[1, i] = q0 * h1 + q1 * h0
        row[2, i] = q0 * h2 + q2 * h0
        row[3, i] = q1 * h1
        row[4, i] = q1 * h2 + q2 * h1
        row[5, i] = q2 * h2


@njit(inline="always")
def _factor_and_solve(normal, right, count):
    """Solve (run) systems in place: normal (6, 6, run) lower triangle -> Cholesky factor, right (6, 2, run) -> x."""
    for i in range(6):
        for j in range(i + 1):
            for m in range(j):
                for p in range(count):
                    normal[i, j, p] -= normal[i, m, p] * normal[j, m, p]
            if i == j:
                for p in range(count):
                    normal[i, i, p] = 1 / np.sqrt(max(normal[i, i, p], 1e-30))
            else:
                for p in range(count):
                    normal[i, j, p] *= normal[j, j, p]
    for c in range(2):
        for i in range(6):
            for m in range(i):
                for p in range(count):
                    right[i, c, p] -= normal[i, m, p] * right[m, c, p]
            for p in range(count):
                right[i, c, p] *= normal[i, i, p]
        for back in range(6):
            i = 5 - back
            for m in range(i + 1, 6):
                for p in range(count):
                    right[i, c, p] -= normal[m, i, p] * right[m, c, p]
            for p in range(count):
                right[i, c, p] *= normal[i, i, p]


@_compiled
def model_forward(out, components, h, kx, ox, ky, oy, kz, oz):
    """Out (x, y, z) complex64 = sum over components of a(k) X(k), for spectra (6, x, y, z) of a tensor; 0 at k = 0."""
    row, inverse = np.empty((6, _RUN), np.float32), np.empty(_RUN, np.float32)
    for x in range(out.shape[0]):
        for y in range(out.shape[1]):
            for start in range(0, out.shape[2], _RUN):
                count = min(_RUN, out.shape[2] - start)
                _inverse_squares(inverse, count, start, kx[x], ky[y], kz)
                _row(row, inverse, count, start, h, kx[x], ox[x], ky[y], oy[y], kz, oz)
                for i in range(count):
                    out[x, y, start + i] = row[0, i] * components[0, x, y, start + i]
                for c in range(1, 6):
                    for i in range(count):
                        out[x, y, start + i] += row[c, i] * components[c, x, y, start + i]


@njit(f"void({_SPECTRA}, {_SPECTRA}, {_ROWS}, {_AXES})", **_SETTINGS)
def model_adjoint(components, fields, directions, kx, ox, ky, oy, kz, oz):
    """Components (6, x, y, z) += sum over scans of a_i(k) Y_i(k), for spectra (n, x, y, z) of fields, in order."""
    row, inverse = np.empty((6, _RUN), np.float32), np.empty(_RUN, np.float32)
    for x in range(fields.shape[1]):
        for y in range(fields.shape[2]):
            for start in range(0, fields.shape[3], _RUN):
                count = min(_RUN, fields.shape[3] - start)
                _inverse_squares(inverse, count, start, kx[x], ky[y], kz)
                for s in range(fields.shape[0]):
                    _row(row, inverse, count, start, directions[s], kx[x], ox[x], ky[y], oy[y], kz, oz)
                    for c in range(6):
                        for i in range(count):
                            components[c, x, y, start + i] += row[c, i] * fields[s, x, y, start + i]


@_compiled
def solve_scans(tensor, scalar, fields, directions, precision, scalar_precision, kx, ox, ky, oy, kz, oz):
    """Solve the closed form of the tensor (6, x, y, z) and of COSMOS (x, y, z) from spectra (n, x, y, z) of the scans.

    (sum a a^T + precision) X = sum a Y per k, and the same for the isotropic part alone. precision: (6, 6) float64.
    """
    row, inverse = np.empty((6, _RUN), np.float32), np.empty(_RUN, np.float32)
    normal, right = np.empty((6, 6, _RUN), np.float64), np.empty((6, 2, _RUN), np.float64)
    above, below = np.empty((2, _RUN), np.float64), np.empty(_RUN, np.float64)
    for x in range(fields.shape[1]):
        for y in range(fields.shape[2]):
            for start in range(0, fields.shape[3], _RUN):
                count = min(_RUN, fields.shape[3] - start)
                _inverse_squares(inverse, count, start, kx[x], ky[y], kz)
                for i in range(6):
                    for j in range(i + 1):
                        for p in range(count):
                            normal[i, j, p] = precision[i, j]
                right[:] = 0
                above[:] = 0
                below[:] = scalar_precision
                for s in range(fields.shape[0]):
                    _row(row, inverse, count, start, directions[s], kx[x], ox[x], ky[y], oy[y], kz, oz)
                    for i in range(6):
                        for j in range(i + 1):
                            for p in range(count):
                                normal[i, j, p] += row[i, p] * row[j, p]
                        for p in range(count):
                            right[i, 0, p] += row[i, p] * fields[s, x, y, start + p].real
                            right[i, 1, p] += row[i, p] * fields[s, x, y, start + p].imag
                    for p in range(count):
                        dipole = row[0, p] + row[3, p] + row[5, p]
                        below[p] += dipole * dipole
                        above[0, p] += dipole * fields[s, x, y, start + p].real
                        above[1, p] += dipole * fields[s, x, y, start + p].imag
                _factor_and_solve(normal, right, count)
                for p in range(count):
                    at_origin = inverse[p] == 0
                    for c in range(6):
                        value = np.complex64(complex(right[c, 0, p], right[c, 1, p]))
                        tensor[c, x, y, start + p] = np.complex64(0) if at_origin else value
                    ratio = np.complex64(complex(above[0, p] / below[p], above[1, p] / below[p]))
                    scalar[x, y, start + p] = np.complex64(0) if at_origin else ratio


@njit(
    f"void({_SPECTRA}, {_ROWS}, {_LINE}, {_VOLUME}, {_MATRIX}, {_MATRIX}, {_VOLUME}, {_AXES})", **_SETTINGS
)  # fmt: skip
def solve_normal(tensor, directions, weights, filter_power, iso, aniso, coherence, kx, ox, ky, oy, kz, oz):
    """Tensor (6, x, y, z) <- (f sum w_i a_i a_i^T + iso + q aniso)^-1 tensor per k, in place: the preconditioner.

    weights: (n,) float32; filter_power f, coherence q: (x, y, z) float32, or (1, 1, 1) for one value; iso, aniso:
    (6, 6) float64, precisions of the two parts.
    """
    row, inverse = np.empty((6, _RUN), np.float32), np.empty(_RUN, np.float32)
    normal, right = np.empty((6, 6, _RUN), np.float64), np.empty((6, 2, _RUN), np.float64)
    weight = np.empty(_RUN, np.float32)
    whole, same = filter_power.size == 1, coherence.size == 1
    for x in range(tensor.shape[1]):
        for y in range(tensor.shape[2]):
            for start in range(0, tensor.shape[3], _RUN):
                count = min(_RUN, tensor.shape[3] - start)
                _inverse_squares(inverse, count, start, kx[x], ky[y], kz)
                for i in range(6):
                    for j in range(i + 1):
                        for p in range(count):
                            tied = coherence[0, 0, 0] if same else coherence[x, y, start + p]
                            normal[i, j, p] = iso[i, j] + tied * aniso[i, j]
                    for p in range(count):
                        right[i, 0, p] = tensor[i, x, y, start + p].real
                        right[i, 1, p] = tensor[i, x, y, start + p].imag
                for s in range(directions.shape[0]):
                    _row(row, inverse, count, start, directions[s], kx[x], ox[x], ky[y], oy[y], kz, oz)
                    for p in range(count):
                        power = filter_power[0, 0, 0] if whole else filter_power[x, y, start + p]
                        weight[p] = weights[s] * power
                    for i in range(6):
                        for p in range(count):
                            inverse_row = weight[p] * row[i, p]
                            for j in range(i + 1):
                                normal[i, j, p] += inverse_row * row[j, p]
                _factor_and_solve(normal, right, count)
                for p in range(count):
                    for c in range(6):
                        value = np.complex64(complex(right[c, 0, p], right[c, 1, p]))
                        tensor[c, x, y, start + p] = np.complex64(0) if inverse[p] == 0 else value


@_compiled
def scalar_forward(out, scalar, h, kx, ox, ky, oy, kz, oz):
    """Out (x, y, z) complex64 = D(k) X(k) of the isotropic model."""
    row, inverse = np.empty((6, _RUN), np.float32), np.empty(_RUN, np.float32)
    for x in range(out.shape[0]):
        for y in range(out.shape[1]):
            for start in range(0, out.shape[2], _RUN):
                count = min(_RUN, out.shape[2] - start)
                _inverse_squares(inverse, count, start, kx[x], ky[y], kz)
                _row(row, inverse, count, start, h, kx[x], ox[x], ky[y], oy[y], kz, oz)
                for i in range(count):
                    out[x, y, start + i] = (row[0, i] + row[3, i] + row[5, i]) * scalar[x, y, start + i]


@_compiled
def scalar_adjoint(scalar, fields, directions, kx, ox, ky, oy, kz, oz):
    """Scalar (x, y, z) += sum over scans of D_i(k) Y_i(k), for spectra (n, x, y, z) of fields, in their order."""
    row, inverse = np.empty((6, _RUN), np.float32), np.empty(_RUN, np.float32)
    for x in range(fields.shape[1]):
        for y in range(fields.shape[2]):
            for start in range(0, fields.shape[3], _RUN):
                count = min(_RUN, fields.shape[3] - start)
                _inverse_squares(inverse, count, start, kx[x], ky[y], kz)
                for s in range(fields.shape[0]):
                    _row(row, inverse, count, start, directions[s], kx[x], ox[x], ky[y], oy[y], kz, oz)
                    for i in range(count):
                        dipole = row[0, i] + row[3, i] + row[5, i]
                        scalar[x, y, start + i] += dipole * fields[s, x, y, start + i]


@_compiled
def scalar_solve(scalar, directions, weights, filter_power, precision, kx, ox, ky, oy, kz, oz):
    """Scalar (x, y, z) <- scalar / (f sum w_i D_i^2 + precision) per k, in place; arguments as for solve_normal."""
    row, inverse = np.empty((6, _RUN), np.float32), np.empty(_RUN, np.float32)
    summed = np.empty(_RUN, np.float32)
    whole = filter_power.size == 1
    for x in range(scalar.shape[0]):
        for y in range(scalar.shape[1]):
            for start in range(0, scalar.shape[2], _RUN):
                count = min(_RUN, scalar.shape[2] - start)
                _inverse_squares(inverse, count, start, kx[x], ky[y], kz)
                summed[:] = 0
                for s in range(directions.shape[0]):
                    _row(row, inverse, count, start, directions[s], kx[x], ox[x], ky[y], oy[y], kz, oz)
                    for i in range(count):
                        dipole = row[0, i] + row[3, i] + row[5, i]
                        summed[i] += weights[s] * dipole * dipole
                for i in range(count):
                    power = filter_power[0, 0, 0] if whole else filter_power[x, y, start + i]
                    if inverse[i] == 0:
                        scalar[x, y, start + i] = 0
                    else:
                        scalar[x, y, start + i] /= power * summed[i] + precision
