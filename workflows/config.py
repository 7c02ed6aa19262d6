"""What a run depends on besides its scans: one frozen dataclass that every workflow is given."""

from __future__ import annotations

import re
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal, get_args

import numpy as np

from ..files.errors import InputError
from ..pipeline.background import LARGEST_RADIUS, SMALLEST_RADIUS, THRESHOLD
from ..pipeline.fits.methods import FitOptions
from ..pipeline.fits.tissue.prior import CORRELATION, TissueOptions
from ..pipeline.phase.echoes import RESIDUAL_LIMIT, Combination
from ..pipeline.physics.prior import Prior
from .tissue_files import TissueFiles

Backend = Literal["auto", "fsl", "builtin"]
Unwrapping = Literal["romeo", "laplacian"]
MaskMethod = Literal["auto", "bet", "deepbet"]
Fit = Literal["single-step", "masked", "closed", "none"]
Background = Literal["vsharp", "resharp", "ismv", "pdf", "lbv"]


BET_THRESHOLD = 0.5


@dataclass(frozen=True)
class RunConfig:
    """Parameters of `chi33 run`; keys of its --config TOML.

    backend: which tools estimate brain masks and transforms ("auto": FSL where installed);
    unwrap: phase unwrapping;
    combination: how the echoes make one field, by a weighted line ("fit") or the mean of their fields ("average");
    offset_smoothing: standard deviation of the Gaussian that smooths the phase of the coils, mm;
    phase_sign: factor on all phases (-1 where paramagnetic tissue comes out dark), instead of a sidecar's PhaseSign or,
    where there is none, the manufacturer's sign;
    mask_method: what makes the brain masks, deepbet's networks (an extra: pip install 'chi33[deepbet]') or BET, FSL's
    with its backend; "auto": deepbet where it is installed, unless --backend fsl or a bet_threshold asks for BET;
    bet_threshold: fractional threshold of BET, 0-1, smaller keeps more brain;
    background: removal of the background from the local field (the single-step fit takes total fields);
    vsharp_largest_radius: radius of V-SHARP's largest SMV kernel, mm;
    vsharp_smallest_radius: radius of V-SHARP's smallest SMV kernel, at the rim of the brain, mm;
    vsharp_threshold: components of V-SHARP's deconvolution, 1 - S(k), below this are dropped, 0-1;
    residual_limit: voxels whose echoes depart farther from a line than this (rad, rms) are left out of the field;
    fit: susceptibility fit, of total fields ("single-step") or of local ones ("masked", "closed"); "none" is no fit;
    prior_iso: prior standard deviation of the isotropic susceptibility, ppm;
    prior_aniso: prior standard deviation of the traceless part of the tensor (in white matter), ppm;
    prior_correlation: distance over which the traceless parts of neighbours are alike before the data, mm, 0 for none;
    isotropic_frequency: prior standard deviation (in white matter) of a frequency that all scans share and no
    susceptibility makes, ppm, fitted beside the tensor; "auto" (0.005 where the data show one), 0 for none;
    white_matter: where the traceless part is larger, "auto" (found in the data), "none" (the same prior everywhere) or
    a map of probabilities 0-1 in the subject frame;
    fibre: map of unit vectors along the fibres, on the reference scan's grid, about which the tensor is symmetric;
    noise: standard deviation of the fields, ppm, estimated when not given;
    iterations: most iterations of the fit, the method's own when not given;
    weights: how voxels count in the fit, from the "magnitude" or the "mask" alone;
    draws: perturb-and-solve draws of the uncertainty, 0 for none;
    jackknife: groups of scans left out in turn for the uncertainty, 0 for none;
    score: groups of scans held out in turn, whose fields a fit of the others predicts, 0 for no such score;
    dask: where the fit runs, "threads", "local" (processes) or the address of a scheduler, tcp://host:8786;
    fit_memory: GB that scans may take in a fit before they go to temporary files, unlimited when not given;
    device: what the fit runs on, "cpu" or "cuda" ("cuda:1" for the second GPU);
    reference: the reference scan, such as "ori01", the first when not given, or "mean": of all scans, in the mean
    of their frames;
    masks: folder of the user's brain masks, named as the run's own;
    mask_consensus: brain masks that disagree with those of the other scans are repaired (three scans or more);
    rois: label map in the subject frame, or folder with one a scan, whose regions the report lists;
    echo_times: echo times in s, rising, of scans whose sidecars do not state them;
    field_strength: B0 in T, of scans whose sidecars do not state it;
    phase_range: the stored values that mean -pi and +pi, of phase images whose sidecars do not state their units;
    b0_directions: text file of B0 along the array axes of each scan, of scans whose affines do not tell it.
    """

    backend: Backend = "auto"
    unwrap: Unwrapping = "romeo"
    combination: Combination = "fit"
    offset_smoothing: float = 4.0
    phase_sign: Literal[-1, 1] | None = None
    mask_method: MaskMethod = "auto"
    bet_threshold: float = BET_THRESHOLD
    background: Background = "vsharp"
    vsharp_largest_radius: float = LARGEST_RADIUS
    vsharp_smallest_radius: float = SMALLEST_RADIUS
    vsharp_threshold: float = THRESHOLD
    residual_limit: float = RESIDUAL_LIMIT
    fit: Fit = "single-step"
    prior_iso: float = 0.05
    prior_aniso: float = 0.004
    prior_correlation: float = CORRELATION
    isotropic_frequency: Literal["auto"] | float = "auto"
    white_matter: str = "auto"
    fibre: str | None = None
    noise: float | None = None
    iterations: int | None = None
    weights: Literal["magnitude", "mask"] = "magnitude"
    draws: int = 0
    jackknife: int = 0
    score: int = 0
    dask: str = "threads"
    fit_memory: float | None = None
    device: str = "cpu"
    reference: str | None = None
    masks: str | None = None
    mask_consensus: bool = True
    rois: str | None = None
    echo_times: tuple[float, ...] | None = None
    field_strength: float | None = None
    phase_range: tuple[float, float] | None = None
    b0_directions: str | None = None

    def __post_init__(self) -> None:
        """Check the ranges; raises InputError naming the key."""
        FitOptions(
            method="closed" if self.fit == "none" else self.fit, prior=self.prior, noise=self.noise,
            iterations=self.iterations, draws=self.draws, jackknife=self.jackknife,
            score=self.score,
            anatomy=TissueOptions(correlation=self.prior_correlation, frequency=self.isotropic_frequency),
        )  # fmt: skip
        if not 0 < self.bet_threshold < 1:
            raise InputError(f"bet_threshold must lie between 0 and 1, got {self.bet_threshold}.")
        if self.mask_method not in get_args(MaskMethod):
            raise InputError(f"mask_method must be one of {', '.join(get_args(MaskMethod))}, got {self.mask_method!r}.")
        if self.mask_method == "deepbet" and self.bet_threshold != BET_THRESHOLD:
            raise InputError(
                f"bet_threshold {self.bet_threshold} is a setting of BET, but mask_method is deepbet: leave out one of "
                "them."
            )
        if self.mask_method != "auto" and self.masks is not None:
            raise InputError(
                f"masks gives the brain masks, but mask_method {self.mask_method} asks to make them: leave out one of "
                "them."
            )
        if not 0 < self.vsharp_threshold < 1:
            raise InputError(f"vsharp_threshold must lie between 0 and 1, got {self.vsharp_threshold}.")
        for name in ("offset_smoothing", "vsharp_largest_radius", "residual_limit", "noise", "vsharp_smallest_radius",
                     "fit_memory"):  # fmt: skip
            value = getattr(self, name)
            if value is not None and not value > 0:
                raise InputError(f"{name} must be positive, got {value}.")
        if self.vsharp_smallest_radius > self.vsharp_largest_radius:
            raise InputError(
                f"vsharp_smallest_radius ({self.vsharp_smallest_radius} mm) is larger than vsharp_largest_radius "
                f"({self.vsharp_largest_radius} mm): exchange them."
            )
        if self.dask not in ("threads", "local") and "://" not in self.dask:
            raise InputError(
                "dask must be 'threads', 'local' or the address of a scheduler such as tcp://host:8786, got "
                f"{self.dask!r}."
            )
        if not re.fullmatch(r"cpu|cuda(:\d+)?", self.device):
            raise InputError(f"device must be 'cpu', 'cuda' or 'cuda:N', got {self.device!r}.")
        if self.echo_times is not None and not (
            self.echo_times and all(a < b for a, b in pairwise((0.0, *self.echo_times))) and self.echo_times[-1] < 0.5
        ):
            raise InputError(
                f"echo_times must be positive, rising and below 0.5 s, got {list(self.echo_times)} s: correct them."
            )
        if self.field_strength is not None and not 0 < self.field_strength <= 30:
            raise InputError(f"field_strength must lie between 0 and 30 T, got {self.field_strength}.")
        if self.phase_range is not None and not (
            len(self.phase_range) == 2 and np.isfinite(self.phase_range).all() and np.diff(self.phase_range)[0] > 0
        ):
            raise InputError(
                f"phase_range must be two values that rise, those of -pi and +pi, got {list(self.phase_range)}."
            )
        if self.phase_sign not in (None, -1, 1):
            raise InputError(f"phase_sign must be 1 or -1, got {self.phase_sign}.")

    @property
    def tissue(self) -> TissueFiles:
        """What the prior is told of tissue."""
        return TissueFiles(self.white_matter, self.fibre, self.prior_correlation, self.isotropic_frequency)

    @property
    def prior(self) -> Prior:
        """The prior of the tensor fit."""
        return Prior(self.prior_iso, self.prior_aniso)
