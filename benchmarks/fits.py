"""Times and memory of the fits as ratios: python benchmarks/fits.py [--scans 12] [--shape 210 224 160] [--parts …].

Beside each other on the same simulated problem, on the same threads: the closed form and its Fourier transforms
alone; an iteration of the masked and of the single-step fit and its Fourier transforms alone; masked errors after 10
and 40 iterations; scipy's lsqr with stored kernels, which is how published codes do it. Memory is the peak of a
process of its own above what it held with the data loaded, in float32 volumes of the fields' shape.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
from chi33.pipeline.fits.closed_form import fit_susceptibility
from chi33.pipeline.fits.execution import Execution
from chi33.pipeline.fits.masked import Problem, Stopping, fit_masked, masked_problem
from chi33.pipeline.fits.model.field_model import model_spectrum
from chi33.pipeline.fits.model.grid import FitGrid
from chi33.pipeline.fits.single_step import fit_single_step, single_step_problem
from chi33.pipeline.physics.prior import Prior
from chi33.pipeline.physics.tensors import chi33
from numpy.typing import NDArray
from scipy import fft, ndimage
from scipy.sparse.linalg import LinearOperator, lsqr

NOISE = 1e-3
PARTS = ("closed", "masked", "single-step", "lsqr")
SIZE = (1.0, 1.0, 1.0)


def directions(scans: int, largest: float = 35.0) -> list[NDArray[np.float64]]:
    """Return the neutral position and a spiral of tilts."""
    tilts = np.radians(largest) * np.sqrt(np.arange(scans) / max(scans - 1, 1))
    azimuth = np.pi * (1 + np.sqrt(5)) * np.arange(scans)
    return list(np.stack([np.sin(tilts) * np.cos(azimuth), np.sin(tilts) * np.sin(azimuth), np.cos(tilts)], axis=1))


def head(shape: tuple[int, ...], scans: int) -> tuple[NDArray, list[NDArray], list[NDArray], list[NDArray]]:
    """Return a tensor (6, x, y, z) in an ellipsoid of a brain's share of the grid, masks, fields and directions."""
    rng = np.random.default_rng(3)
    axes = [(np.arange(n) - n / 2) / (0.36 * n) for n in shape]
    radius = axes[0][:, None, None] ** 2 + axes[1][None, :, None] ** 2 + axes[2][None, None, :] ** 2
    brain = radius < 1
    tensor = np.zeros((6, *shape), np.float32)
    smooth = ndimage.gaussian_filter(rng.standard_normal(shape, dtype=np.float32), 2)
    for c in (0, 3, 5):
        tensor[c] = 0.025 * smooth / smooth[brain].std() * brain
    for c in range(6):
        part = ndimage.gaussian_filter(rng.standard_normal(shape, dtype=np.float32), 3)
        tensor[c] += 0.002 * part / part[brain].std() * brain
    h = directions(scans)
    masks = [radius < (1 - rng.uniform(0.0, 0.05)) ** 2 for _ in range(scans)]
    whole = masked_problem([brain.astype(np.float32)] * scans, [brain.astype(np.float32)] * scans, SIZE, h)
    with Execution() as execution:
        model, grid = whole.compiled_model(execution), whole.grid
        spectra = model.spectra(np.ascontiguousarray(grid.crop(tensor)))
        fields = []
        for scan, mask in enumerate(masks):
            clean = grid.embed(grid.inverse(model_spectrum(spectra, grid, scan)))
            fields.append((clean + NOISE * rng.standard_normal(shape, dtype=np.float32)) * mask)
    return tensor, masks, fields, h


def fft_time(grid: FitGrid, forward: int, inverse: int) -> float:
    """Return the seconds of so many plain transforms of the padded grid on the threads that the fits use."""
    volume = np.random.default_rng(0).standard_normal(grid.padded, dtype=np.float32)
    spectrum = fft.rfftn(volume, workers=1)

    def there(_: int) -> None:
        fft.rfftn(volume, workers=1)

    def back(_: int) -> None:
        fft.irfftn(spectrum, s=grid.padded, workers=1)

    def all_of_them() -> None:
        execution.map_here(there, range(forward))
        execution.map_here(back, range(inverse))

    with Execution() as execution:
        return min(timed(all_of_them)[0] for _ in range(3))


def error(found: NDArray, truth: NDArray, h: list[NDArray], inside: NDArray[np.bool_]) -> float:
    """Return the mean normalised error of chi33 over the scans."""
    values = []
    for one in h:
        a, b = chi33(found, one)[inside], chi33(truth, one)[inside]
        values.append(np.linalg.norm((a - a.mean()) - (b - b.mean())) / np.linalg.norm(b - b.mean()))
    return float(np.mean(values))


def timed(work: Callable[[], object]) -> tuple[float, object]:
    """Return seconds and result."""
    start = time.perf_counter()
    result = work()
    return time.perf_counter() - start, result


def stored_lsqr(problem: Problem, prior: Prior, iterations: int) -> NDArray[np.float32]:
    """Solve the masked problem with lsqr and kernels kept in memory for every scan and component."""
    grid, count = problem.grid, len(problem.fields)
    units = np.zeros((6, *grid.half), np.complex64)
    rows = np.empty((count, 6, *grid.half), np.float32)
    for component in range(6):
        units[:] = 0
        units[component] = 1
        for scan in range(count):
            rows[scan, component] = model_spectrum(units, grid, scan).real
    root = np.linalg.cholesky(prior.precision()).T.astype(np.float32) * np.float32(NOISE)
    inside, weights = problem.support, [one.weight for one in problem.observations]
    n, m = 6 * int(inside.sum()), inside.size

    def maps(x: NDArray) -> NDArray:
        out = np.zeros((6, *grid.box_shape), np.float32)
        out[:, inside] = x.reshape(6, -1)
        return out

    def forward(x: NDArray) -> NDArray:
        volumes = maps(x)
        spectra = np.stack([grid.forward(v) for v in volumes])
        seen = [weights[s] * grid.inverse((rows[s] * spectra).sum(axis=0)) for s in range(count)]
        return np.concatenate([*(one.ravel() for one in seen), (root @ volumes[:, inside]).ravel()])

    def adjoint(y: NDArray) -> NDArray:
        total = np.zeros((6, *grid.half), np.complex64)
        for s in range(count):
            field = y[s * m : (s + 1) * m].reshape(grid.box_shape).astype(np.float32)
            total += rows[s] * grid.forward(weights[s] * field)
        data = np.stack([grid.inverse(one) for one in total])[:, inside]
        return (data + root.T @ y[count * m :].reshape(6, -1).astype(np.float32)).ravel()

    operator = LinearOperator((count * m + n, n), matvec=forward, rmatvec=adjoint, dtype=np.float32)
    data = np.concatenate([*((w * f).ravel() for w, f in zip(weights, problem.fields, strict=True)), np.zeros(n)])
    solution = lsqr(operator, data.astype(np.float32), iter_lim=iterations, atol=0, btol=0)[0]
    return grid.embed(maps(solution.astype(np.float32)))


def resident(entry: str = "VmRSS") -> float:
    """Return the resident memory of this process in bytes ("VmHWM": its peak, which no parent's lingers in)."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(entry + ":"):
            return 1024.0 * float(line.split()[1])
    raise RuntimeError(f"/proc/self/status has no {entry}: the memory is measured on Linux only.")


def run_part(part: str, loaded: tuple[NDArray, NDArray, NDArray, NDArray], iterations: int) -> None:
    """Measure one part and print it; loaded: tensor, masks, fields and directions."""
    shape, scans = loaded[2].shape[1:], len(loaded[2])
    tensor, masks, fields, h = loaded
    masks, fields, h = list(masks), list(fields), list(h)
    inside, weights = np.logical_and.reduce(masks), [mask.astype(np.float32) for mask in masks]
    volume = 4.0 * np.prod(shape)
    small = tuple(slice(0, 24) for _ in shape)  # compile before timing
    fit_masked([f[small] + NOISE for f in fields], [np.ones(24 * np.ones(3, int), np.float32)] * scans, SIZE, h,
               noise=NOISE, stopping=Stopping(1, 0))  # fmt: skip
    fit_susceptibility([f[small] + NOISE for f in fields], SIZE, h, noise=NOISE)
    before = resident()
    if part == "closed":
        taken, found = timed(lambda: fit_susceptibility(fields, SIZE, h, noise=NOISE))
        taken = min(taken, *(timed(lambda: fit_susceptibility(fields, SIZE, h, noise=NOISE))[0] for _ in range(2)))
        memory = (resident("VmHWM") - before) / volume
        alone = fft_time(masked_problem(fields, weights, SIZE, h).grid, scans, 7)
        print(f"closed form: {taken:.1f} s, {taken / alone:.2f} x its FFTs (limit 3), peak {memory:.0f} volumes "
              f"(limit {2 * scans + 16}), chi33 error {error(found.tensor, tensor, h, inside):.4f}")  # fmt: skip
    elif part == "masked":
        taken, found = timed(
            lambda: fit_masked(fields, weights, SIZE, h, noise=NOISE, stopping=Stopping(iterations, 0))
        )
        memory = (resident("VmHWM") - before) / volume
        rounds = found.record["Iterations"]
        grid = masked_problem(fields, weights, SIZE, h).grid
        one, ffts = iteration_time(masked_problem(fields, weights, SIZE, h)), fft_time(grid, scans + 6, scans + 6)
        print(f"masked: {taken:.0f} s for {rounds} tensor and COSMOS iterations; an iteration {one:.2f} s, "
              f"{one / ffts:.2f} x its FFTs (limit 3), peak {memory:.0f} volumes (limit {2 * scans + 48}), "
              f"error {error(found.tensor, tensor, h, inside):.4f}")  # fmt: skip
        longer = fit_masked(fields, weights, SIZE, h, noise=NOISE, stopping=Stopping(4 * iterations, 0))
        print(f"masked error after {4 * iterations} iterations: {error(longer.tensor, tensor, h, inside):.4f}")
    elif part == "single-step":
        taken, found = timed(
            lambda: fit_single_step(fields, weights, SIZE, h, noise=NOISE, stopping=Stopping(iterations, 0))
        )
        memory = (resident("VmHWM") - before) / volume
        problem = single_step_problem(fields, weights, SIZE, h)
        radii = problem.record["RadiiMm"]
        one, ffts = iteration_time(problem), fft_time(problem.grid, scans * len(radii) + 6, scans * len(radii) + 6)
        print(f"single-step: {taken:.0f} s, {iterations} iterations each; an iteration {one:.2f} s, {one / ffts:.2f} "
              f"x its FFTs ({len(radii)} radii), peak {memory:.0f} volumes, "
              f"error {error(found.tensor, tensor, h, inside):.4f}")  # fmt: skip
    else:
        problem = masked_problem(fields, weights, SIZE, h)
        taken, found = timed(lambda: stored_lsqr(problem, Prior(), iterations))
        memory = (resident("VmHWM") - before) / volume
        print(f"lsqr, stored kernels: {taken:.0f} s for {iterations} iterations, {taken / iterations:.2f} s each, peak "
              f"{memory:.0f} volumes, error {error(found, tensor, h, inside):.4f}")  # fmt: skip


def iteration_time(problem: Problem) -> float:
    """Return the seconds of one iteration: an application of the normal operator and of the preconditioner."""
    with Execution() as execution:
        model = problem.compiled_model(execution)
        maps = np.ones((6, *problem.grid.box_shape), np.float32) * problem.support
        model.normal(maps)
        start = time.perf_counter()
        image = model.normal(maps)
        image += model.penalise(maps, NOISE, Prior()) * problem.support
        model.label_size(image)
        model.precondition(image, NOISE, Prior())
        return time.perf_counter() - start


def main() -> None:
    """Run each part in a process of its own."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])  # type: ignore[union-attr]
    parser.add_argument("--scans", type=int, default=12)
    parser.add_argument("--shape", type=int, nargs=3, default=(210, 224, 160))
    parser.add_argument("--iterations", type=int, default=10)
    parser.add_argument("--parts", nargs="+", default=PARTS, choices=PARTS)
    parser.add_argument("--here", type=Path, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.here:
        names = ("tensor", "masks", "fields", "directions")
        run_part(given.parts[0], tuple(np.load(given.here / f"{one}.npy") for one in names), given.iterations)
        return
    print(f"{given.scans} scans of {'x'.join(str(n) for n in given.shape)}", flush=True)
    with tempfile.TemporaryDirectory() as folder:  # each part in a process of its own that has only loaded the data
        for name, values in zip(
            ("tensor", "masks", "fields", "directions"), head(tuple(given.shape), given.scans), strict=True
        ):
            np.save(Path(folder) / f"{name}.npy", values)
        for part in given.parts:
            options = ["--parts", part, "--iterations", str(given.iterations), "--here", folder]
            subprocess.run([sys.executable, __file__, *options], check=True)


if __name__ == "__main__":
    main()
