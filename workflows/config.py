"""What a run depends on besides its scans: one frozen dataclass that every workflow is given."""

from __future__ import annotations

import re
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal

from ..pipeline.background import LARGEST_RADIUS, SMALLEST_RADIUS, THRESHOLD
from ..pipeline.echoes import RESIDUAL_LIMIT, Combination
from ..pipeline.errors import InputError
from ..pipeline.fits.methods import FitOptions
from ..pipeline.fits.prior import Prior

Backend = Literal["auto", "fsl", "builtin"]
Unwrapping = Literal["romeo", "laplacian"]
Fit = Literal["single-step", "masked", "closed", "none"]
Background = Literal["vsharp", "resharp", "pdf", "lbv"]


@dataclass(frozen=True)
class RunConfig:
    """Parameters of `chi33 run`; keys of its --config TOML.

    backend: estimates brain masks and transforms ("auto": FSL where installed); unwrap: phase unwrapping;
    combination: of the echoes, a weighted line ("fit") or the plain "average" of their fields;
    offset_smoothing: mm, of the coil phase; phase_sign: factor on all phases (-1 where paramagnetic tissue comes out
    dark), on top of a sidecar's PhaseSign; bet_threshold: fractional threshold of BET, 0-1, smaller keeps more brain;
    background: removal of the background from the local field (the single-step fit takes total fields);
    vsharp_largest_radius, vsharp_smallest_radius: mm; vsharp_threshold: of its deconvolution, 0-1;
    residual_limit: voxels whose echoes depart farther from a line (rad, rms) are left out of the field;
    fit: "single-step" (of total fields), "masked" or "closed" (of local fields), or "none": fields alone;
    prior_iso, prior_aniso: standard deviations of the tensor's parts in ppm; noise: standard deviation of the fields in
    ppm, estimated when not given; iterations: limit, the method's own when not given; weights: of the voxels, from the
    "magnitude" or the "mask" alone; draws, jackknife: of the uncertainty, 0 for none; dask: "threads", "local" or a
    scheduler's address; fit_memory: GB that scans may take in a fit before they go to temporary files; device: "cpu" or
    "cuda";
    reference: label of the reference scan (acq-ori01), the first when not given, or "mean": of all scans, in the mean
    of their frames; masks: folder of the user's brain masks, named as the run's own; mask_consensus: brain masks that
    disagree with those of the other scans are repaired (three scans or more); rois: label map in the subject frame, or
    folder with one a scan, whose regions the report lists; echo_times (s) and field_strength (T): of scans whose
    sidecars do not state them.
    """

    backend: Backend = "auto"
    unwrap: Unwrapping = "romeo"
    combination: Combination = "fit"
    offset_smoothing: float = 4.0
    phase_sign: Literal[-1, 1] = 1
    bet_threshold: float = 0.5
    background: Background = "vsharp"
    vsharp_largest_radius: float = LARGEST_RADIUS
    vsharp_smallest_radius: float = SMALLEST_RADIUS
    vsharp_threshold: float = THRESHOLD
    residual_limit: float = RESIDUAL_LIMIT
    fit: Fit = "single-step"
    prior_iso: float = 0.03
    prior_aniso: float = 0.004
    noise: float | None = None
    iterations: int | None = None
    weights: Literal["magnitude", "mask"] = "magnitude"
    draws: int = 0
    jackknife: int = 0
    dask: str = "threads"
    fit_memory: float | None = None
    device: str = "cpu"
    reference: str | None = None
    masks: str | None = None
    mask_consensus: bool = True
    rois: str | None = None
    echo_times: tuple[float, ...] | None = None
    field_strength: float | None = None

    def __post_init__(self) -> None:
        """Check the ranges; raises InputError naming the key."""
        FitOptions(
            method="closed" if self.fit == "none" else self.fit, prior=self.prior, noise=self.noise,
            iterations=self.iterations, draws=self.draws, jackknife=self.jackknife,
        )  # fmt: skip
        if not 0 < self.bet_threshold < 1:
            raise InputError(f"bet_threshold must lie between 0 and 1, got {self.bet_threshold}.")
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
        if self.phase_sign not in (-1, 1):
            raise InputError(f"phase_sign must be 1 or -1, got {self.phase_sign}.")

    @property
    def prior(self) -> Prior:
        """The prior of the tensor fit."""
        return Prior(self.prior_iso, self.prior_aniso)
