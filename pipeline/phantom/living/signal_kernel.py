"""The compiled sum of a scan's signal over the parts of its voxels, each laid down where the readout puts it."""

from __future__ import annotations

import numpy as np
from numba import njit


@njit(inline="always")
def _corners(q, shape, index, weight):
    """Fill the lowest corner (3,) and the weights (3,) of linear interpolation at voxel q; return whether inside."""
    for axis in range(3):
        if not (q[axis] >= 0 and q[axis] < shape[axis] - 1):
            return False
        index[axis] = int(q[axis])
        weight[axis] = q[axis] - index[axis]
    return True


@njit(inline="always")
def _at(volume, index, weight):
    """Return a volume (x, y, z) between its voxels."""
    total = np.float32(0)
    for i in range(2):
        wi = weight[0] if i else 1 - weight[0]
        for j in range(2):
            wj = wi * (weight[1] if j else 1 - weight[1])
            for k in range(2):
                wk = wj * (weight[2] if k else 1 - weight[2])
                total += np.float32(wk) * volume[index[0] + i, index[1] + j, index[2] + k]
    return total


@njit(inline="always")
def _lay_down(line, echo, position, width, real, imaginary):
    """Add a signal to the cells of a line that a part of `width` around `position` (0: centre of cell 0) covers."""
    low, high = position - width / 2 + 0.5, position + width / 2 + 0.5
    for cell in range(int(np.floor(low)), int(np.floor(high)) + 1):
        share = (min(high, cell + 1.0) - max(low, cell)) / width
        if share > 0 and 0 <= cell < line.shape[1]:
            line[echo, cell] += np.complex64(complex(share * real, share * imaginary))


@njit(nogil=True, cache=True, error_model="numpy")
def sum_parts(
    cells, rows, counts, origin, steps, to_head, warp, occupied, maps, field, field_start, field_scale, coarse, table,
    ppm_rate, times, first, shift, fat_ppm,
):  # fmt: skip
    """Add the signal of parts to cells, complex64 (echo, a, b, r) with the readout last, for a-rows in `rows`.

    counts (3,): parts a cell along a, b, r; origin, steps (3,), (3, 3): world
    mm of cell 0 and of a step along a, b, r; to_head (3, 4): world mm to the voxels of the head's maps; warp (3,): mm
    that the gradients displace at 100 mm, cubic; occupied (x, y, z): whether there is signal between a voxel of the
    maps and its upper neighbours; maps (x, y, z, 6): water, fat, R2* in 1/s, white matter, that times
    sin^2 of its fibre angle, phase of flow in rad; field: ppm, at (voxel - field_start) * field_scale of the maps, and
    coarse (x, y, z) on the maps outside of it; table (echo, steps): factor of white matter; ppm_rate: rad/s of a
    ppm; times (echo,): s; first: number of the first echo, from 1; shift (echo,): cells that 1 ppm shifts; fat_ppm.
    """
    echoes = len(times)
    parts = counts[0] * counts[1] * counts[2]
    width = 1.0 / counts[2]
    index, weight = np.zeros(3, np.int64), np.zeros(3)
    fine_index, fine_weight = np.zeros(3, np.int64), np.zeros(3)
    p, q, f = np.zeros(3), np.zeros(3), np.zeros(3)
    value = np.zeros(6, np.float32)
    last = table.shape[1] - 1
    for a in range(rows[0], rows[1]):
        for b in range(cells.shape[2]):
            line = cells[:, a, b, :]
            for r in range(cells.shape[3]):
                for part in range(parts):
                    i = part // (counts[1] * counts[2])
                    j = (part // counts[2]) % counts[1]
                    k = part % counts[2]
                    u = a + (i + 0.5) / counts[0] - 0.5
                    v = b + (j + 0.5) / counts[1] - 0.5
                    w = r + (k + 0.5) / counts[2] - 0.5
                    radius = 0.0
                    for axis in range(3):
                        p[axis] = origin[axis] + u * steps[0, axis] + v * steps[1, axis] + w * steps[2, axis]
                        radius += p[axis] * p[axis]
                    for axis in range(3):
                        p[axis] += warp[axis] * p[axis] * radius * 1e-6
                    for axis in range(3):
                        q[axis] = (
                            to_head[axis, 0] * p[0] + to_head[axis, 1] * p[1] + to_head[axis, 2] * p[2]
                            + to_head[axis, 3]
                        )  # fmt: skip
                    if not _corners(q, maps.shape, index, weight):
                        continue
                    if not occupied[index[0], index[1], index[2]]:
                        continue
                    value[:] = 0
                    for ci in range(2):
                        wi = weight[0] if ci else 1 - weight[0]
                        for cj in range(2):
                            wj = wi * (weight[1] if cj else 1 - weight[1])
                            for ck in range(2):
                                wk = np.float32(wj * (weight[2] if ck else 1 - weight[2]))
                                for m in range(6):
                                    value[m] += wk * maps[index[0] + ci, index[1] + cj, index[2] + ck, m]
                    if value[0] + value[1] < 1e-4:
                        continue
                    for axis in range(3):
                        f[axis] = (q[axis] - field_start[axis]) * field_scale
                    if _corners(f, field.shape, fine_index, fine_weight):
                        ppm = _at(field, fine_index, fine_weight)
                    else:
                        ppm = _at(coarse, index, weight)
                    white = min(value[3], np.float32(1))
                    at = min(max(value[4] / white, 0.0), 1.0) * last if white > 0.02 else 0.0
                    below = min(int(at), last - 1)
                    above = np.float32(at - below)
                    now, step = 0.0, 0.0
                    water, further = complex(value[0] / parts, 0.0), complex(0.0, 0.0)
                    chemical, chemical_step = complex(value[1] / parts, 0.0), complex(0.0, 0.0)
                    low = ppm - fat_ppm
                    for e in range(echoes):
                        if abs(times[e] - now - step) > 1e-9:  # echoes at even distances take one exponential
                            step = times[e] - now
                            turn = step * ppm_rate * ppm + (1 if e else first) * value[5]
                            decay = np.exp(-step * value[2])
                            further = complex(decay * np.cos(turn), decay * np.sin(turn))
                            if value[1] > 1e-4:
                                turn = step * ppm_rate * low
                                chemical_step = complex(decay * np.cos(turn), decay * np.sin(turn))
                        now = times[e]
                        water = water * further
                        signal = water
                        if white > 0.02:
                            t = (1 - above) * table[e, below] + above * table[e, below + 1]
                            signal = water * (1 - white + white * t)
                        _lay_down(line, e, w + shift[e] * ppm, width, signal.real, signal.imag)
                        if value[1] > 1e-4:
                            chemical = chemical * chemical_step
                            _lay_down(line, e, w + shift[e] * low, width, chemical.real, chemical.imag)
