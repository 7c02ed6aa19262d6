"""How sure a fit is, voxel by voxel: perturb-and-solve draws of the posterior, and the jackknife over scans.

A draw takes a tensor, makes the fields of every scan from it with the fit's own model, adds noise, and solves them as
the data were solved; what the solution misses of the tensor is a sample of the fit's error (Papandreou 2010): noise,
masks, filters, stopping and the prior's pull are in it. The traceless part of the tensor is drawn from the prior. Its
isotropic part has the power spectrum of the solution, falling with |k|, and its contrast from place to place: tissue is
smooth, and a fit misses more of what is smooth than of what the prior holds possible. The noise is as large as the
scans disagree around each voxel. The jackknife leaves groups of scans out and
sees what scans disagree about. Neither sees what all scans share: residues of background removal in two-step fits,
smooth fields that the single-step fit's spheres cannot see, and registration errors of all scans alike.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import fft, ndimage

from ...files.errors import InputError
from ..physics.dipole import Float32Array
from ..physics.prior import Prior
from ..physics.tensor_field import delta_b_prime
from ..physics.tensors import DIAGONAL, chi33
from .closed_form import check_determined
from .execution import Execution
from .model.field_model import TENSOR, FieldModel, model_spectrum
from .model.grid import FitGrid
from .noise import LEAST_FREEDOM, effective_parameters

DRAWS, JACKKNIFE_GROUPS = 4, 4
_SMOOTHING = 1.0  # voxels, of the variances
_CONTRAST, _AROUND = 3.0, 2.0  # voxels, over which the map's strength and the scans' disagreement are told
_LARGEST_EXCESS = 10.0  # times the noise, of the scans' disagreement
_PADDING = 32.0  # mm
# What neither draws nor jackknife see (below), told on heads of two simulators: smooth errors of over 80 mm, which the
# fields of all scans share. Without these factors 51-61 % of COSMOS and 57-63 % of chi33 lay within one deviation of a
# single-step fit, with them 58-70 and 62-70 %.
UNSEEN_CHI33, UNSEEN_COSMOS = 1.15, 1.2
LEFT_OUT = {
    "closed": "residues of background removal and registration; the truncation of fields at the masks is in it",
    "masked": "residues of background removal and errors of registration that all scans share",
    "single-step": "smooth fields that the spheres cannot tell from background, and errors of registration that all "
    "scans share",
}
# a solver takes the scans' fields (box each) and which scans count; it returns the tensor (6, box) and COSMOS (1, box),
# each with one map more where a frequency is fitted
Solver = Callable[[list[Float32Array], list[int]], tuple[Float32Array, Float32Array]]


@dataclass(frozen=True)
class Uncertainty:
    """Standard deviations in ppm: chi33 and delta_b, a volume (x, y, z) a scan, and cosmos (x, y, z).

    draws, groups, seed: how they were made.
    """

    chi33: list[Float32Array]
    delta_b: list[Float32Array]
    cosmos: Float32Array
    draws: int
    groups: int
    seed: int


class _Spread:
    """Sums of squares and sums of label errors of each scan, and of COSMOS."""

    def __init__(self, grid: FitGrid) -> None:
        self.grid = grid
        count, shape = len(grid.directions), grid.box_shape
        self.squares = np.zeros((2 * count + 1, *shape), np.float32)
        self.sums = np.zeros((2 * count + 1, *shape), np.float32)

    def add(self, tensor: Float32Array, cosmos: Float32Array) -> None:
        """Add the labels of maps (6 or 7, box) and of COSMOS (box) that are errors or differences."""
        for number, values in enumerate(self._labels(tensor[:TENSOR], cosmos)):
            self.squares[number] += values * values
            self.sums[number] += values

    def _labels(self, tensor: Float32Array, cosmos: Float32Array) -> list[Float32Array]:
        found = []
        for direction in self.grid.directions.astype(np.float64):
            h = direction / np.linalg.norm(direction)
            found.append(chi33(tensor, h))
            found.append(delta_b_prime(tensor, self.grid.voxel_size, h, padding=_PADDING))
        return [*found, cosmos]


def check_counts(draws: int, groups: int, scans: int) -> int:
    """Return the jackknife groups for so many scans (0: none); raises InputError on impossible counts."""
    if draws < 0 or groups < 0:
        raise InputError(f"draws and jackknife groups must not be negative, got {draws} and {groups}.")
    usable = min(groups, scans)
    return usable if usable >= 2 and scans - int(np.ceil(scans / usable)) >= 2 else 0


def left_out(scans: int, groups: int, group: int) -> list[int]:
    """Return the scans that a jackknife group leaves out."""
    return list(range(group, scans, groups))


def check_without(
    b0_directions: Sequence[ArrayLike], prior: Prior, out: Sequence[int], cannot: str, remedy: str
) -> None:
    """Raise InputError where a fit needs the scans that are left out; cannot, remedy: the ends of its sentence."""
    try:
        check_determined([h for scan, h in enumerate(b0_directions) if scan not in out], prior)
    except InputError as error:
        those = ", ".join(str(scan + 1) for scan in out)
        raise InputError(
            f"{cannot} scan {those} of {len(b0_directions)}, for the others do not determine a fit "
            f"({str(error).split(': ')[0]}): {remedy}."
        ) from error


def check_jackknife(b0_directions: Sequence[ArrayLike], prior: Prior, draws: int, groups: int) -> None:
    """Raise InputError where a jackknife cannot be made: too few scans, or a group without which no fit exists."""
    scans = len(b0_directions)
    used = check_counts(draws, groups, scans)
    if groups and not used and not draws:
        raise InputError(
            f"a jackknife of {groups} groups cannot be made of {scans} scans: ask for 2 groups or more that each "
            "leave two scans, or for draws."
        )
    for group in range(used):
        out = left_out(scans, used, group)
        check_without(
            b0_directions, prior, out, "the jackknife cannot leave out", "ask for other groups, or for draws instead"
        )


def label_uncertainty(
    model: FieldModel,
    fields: Sequence[Float32Array],
    solution: tuple[Float32Array, Float32Array],
    solver: Solver,
    *,
    prior: Prior,
    noise: float,
    execution: Execution,
    unseen: tuple[float, float] = (1.0, 1.0),
    draws: int = DRAWS,
    groups: int = JACKKNIFE_GROUPS,
    seed: int = 0,
    progress: Callable[[str], None] | None = None,
) -> Uncertainty:
    """Return the standard deviations of the labels of every scan in the fit's frame.

    model: the fit's linear problem (6 components); fields: of the scans, box each; solution: maps (6 or 7, box) and
    COSMOS (box); solver: solves other fields the same way; prior, noise (ppm): what it assumed; unseen:
    factors on the deviations of chi33 and of COSMOS; draws of the
    posterior and groups of scans left out in turn (0: none; see check_jackknife); seed: of the draws. The larger of the
    two variances counts. Raises InputError on negative counts.
    """
    grid, everything = model.grid, list(range(len(fields)))
    used = check_counts(draws, groups, len(fields))
    variance = np.zeros((2 * len(fields) + 1, *grid.box_shape), np.float32)
    if draws:
        excess = disagreement(model, fields, solution[0], prior, noise)
        spread = _Spread(grid)
        for number in range(draws):
            rng = np.random.default_rng([seed, number])
            truth = prior_sample(prior, model.support, rng)
            if model.metric is not None:
                truth = model.metric.sample(truth, grid, rng)
            own = truth[list(DIAGONAL)].mean(axis=0)
            mean = solution[0][list(DIAGONAL)].mean(axis=0)
            # what the solution has not of the prior's variance stays white
            missing = 1 - np.vdot(mean, mean) / max(float(np.vdot(own, own)), 1e-30)
            truth[list(DIAGONAL)] += map_like(mean, model.support, rng) + (max(missing, 0.0) ** 0.5 - 1) * own
            if model.frequency is not None:
                truth = np.concatenate([truth, model.frequency.sample(grid, rng)[None]])
            found, cosmos = solver(_simulated(model, truth, noise * excess, rng, execution), everything)
            spread.add(found - truth, cosmos[0] - truth[list(DIAGONAL)].mean(axis=0))
            if progress is not None:
                progress(f"draw {number + 1} of {draws}")
        variance = spread.squares / np.float32(draws)
    if used:
        spread = _Spread(grid)
        for group in range(used):
            out = left_out(len(fields), used, group)
            kept = [scan for scan in everything if scan not in out]
            found, cosmos = solver(list(fields), kept)
            spread.add(found - solution[0], cosmos[0] - solution[1])
            if progress is not None:
                progress(f"jackknife group {group + 1} of {used}")
        about = np.maximum(spread.squares - spread.sums**2 / np.float32(used), 0)
        np.maximum(variance, np.float32((used - 1) / used) * about, out=variance)
    deviations = [grid.embed(_smooth_deviation(one, model.support)) for one in variance]
    factor, scalar_factor = (np.float32(one) for one in unseen)
    return Uncertainty(
        [one * factor for one in deviations[0:-1:2]], deviations[1:-1:2], deviations[-1] * scalar_factor, draws, used,
        seed,
    )  # fmt: skip


def prior_sample(prior: Prior, support: NDArray[np.bool_], rng: np.random.Generator) -> Float32Array:
    """Return a tensor (6, x, y, z) in ppm drawn from the prior within a support."""
    iso = prior.iso if np.isfinite(prior.iso) else Prior().iso
    aniso = prior.aniso if np.isfinite(prior.aniso) else Prior().aniso
    root = np.linalg.cholesky(np.linalg.inv(Prior(iso, aniso).precision())).astype(np.float32)
    sample = np.zeros((6, *support.shape), np.float32)
    sample[:, support] = root @ rng.standard_normal((6, int(support.sum())), dtype=np.float32)
    return sample


def map_like(values: Float32Array, support: NDArray[np.bool_], rng: np.random.Generator) -> Float32Array:
    """Return a random map (x, y, z) as smooth and as strong as one that is 0 outside a support, from place to place.

    Its power spectrum is the mean of that of the map over directions, made to fall with |k| (in cycles/voxel): a fit
    loses what is smoother than its spheres.
    """
    spectrum = np.abs(fft.rfftn(np.asarray(values, np.float32), workers=1)) ** 2
    axes = [np.fft.fftfreq(n) for n in values.shape[:2]]
    length = np.sqrt(axes[0][:, None, None] ** 2 + axes[1][:, None] ** 2 + np.fft.rfftfreq(values.shape[2]) ** 2)
    radius_index = np.minimum((length * max(values.shape)).astype(np.int64), max(values.shape))
    counts = np.maximum(np.bincount(radius_index.ravel()), 1)
    falling = np.maximum.accumulate((np.bincount(radius_index.ravel(), spectrum.ravel()) / counts)[::-1])[::-1]
    white = fft.rfftn(rng.standard_normal(values.shape, dtype=np.float32), workers=1)
    drawn = fft.irfftn(white * np.sqrt(falling[radius_index]).astype(np.float32), s=values.shape, workers=1)
    drawn *= _smooth_deviation(np.asarray(values, np.float32) ** 2, support, _CONTRAST)
    size = float(np.sqrt(np.square(drawn[support], dtype=np.float64).mean())) if support.any() else 0.0
    wanted = float(np.sqrt(np.square(values[support], dtype=np.float64).mean())) if support.any() else 0.0
    return np.asarray(drawn * (wanted / max(size, 1e-30)) * support, np.float32)


def disagreement(
    model: FieldModel, fields: Sequence[Float32Array], tensor: Float32Array, prior: Prior, noise: float
) -> Float32Array:
    """Return by how much the residuals around each voxel (box) exceed what the noise in ppm leaves; 1 at least."""
    freedom = max(1 - effective_parameters(model.grid.directions, prior, noise) / len(fields), LEAST_FREEDOM)
    squares, count = np.zeros((2, *model.grid.box_shape), np.float32)
    for scan, left in enumerate(model.residuals(tensor, fields)):
        known = model.known(scan)
        squares[known] += np.minimum(left**2 / np.float32(noise**2 * freedom), _LARGEST_EXCESS**2)
        count += known
    mean = ndimage.gaussian_filter(squares, _AROUND) / np.maximum(ndimage.gaussian_filter(count, _AROUND), 0.05)
    return np.sqrt(np.clip(mean, 1, _LARGEST_EXCESS**2))


def _simulated(
    model: FieldModel, truth: Float32Array, noise: Float32Array, rng: np.random.Generator, execution: Execution
) -> list[Float32Array]:
    """Return the fields (box each) of a tensor with noise, whose standard deviation at weight 1 is given (box)."""
    spectra, grid = model.spectra(truth), model.grid
    clean = execution.map_here(
        lambda scan: grid.inverse(model_spectrum(spectra, grid, scan)), range(len(grid.directions))
    )
    noisy = []
    for one, weight in zip(clean, model.weights, strict=True):
        level = noise / np.clip(weight, 0.05, None)
        noise_here = level * rng.standard_normal(grid.box_shape, dtype=np.float32)
        noisy.append(np.asarray(one + noise_here, np.float32))
    return noisy


def _smooth_deviation(variance: Float32Array, support: NDArray[np.bool_], width: float = _SMOOTHING) -> Float32Array:
    """Return the square root of a variance (x, y, z) that was averaged over neighbours within the support."""
    inside = support.astype(np.float32)
    share = np.maximum(ndimage.gaussian_filter(inside, width), 0.05)
    mean = ndimage.gaussian_filter(variance * inside, width) / share
    return np.sqrt(np.maximum(mean, 0)) * inside
