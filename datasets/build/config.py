"""The options of a build, checked and written down."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from ...files.errors import InputError
from ..augmentation.rotation import Bounds
from ..loading.patches import DEFAULT_RULE, Grid, PatchRule, patch_rule

AUGMENTATIONS = ("tensor", "cosmos")


@dataclass(frozen=True)
class Copies:
    """How a head is turned into copies.

    augmentation: "tensor", "cosmos", or None for the tensor where there is one; max_angle in degrees; snr and scale:
    bounds each copy draws from, the first inclusive, None for no noise and no scaling.
    """

    augmentation: str | None = None
    max_angle: float = 30.0
    snr: Bounds | None = None
    scale: Bounds | None = None
    seed: int = 0


@dataclass(frozen=True)
class BuildConfig:
    """How a store is built.

    patch_rule: one of patches.RULES; patch_size, min_brain, patches_per_scan, patch_stride, patch_grid: as in
    patches.patch_rule, None for the rule's own; augment: turned copies per training subject; augmentation, max_angle
    (degrees), augment_snr, augment_scale: as in Copies; val_subjects and test_subjects: labels, None for the rule of
    split_subjects; materialise: also store the cropped patches. Raises InputError for values out of range.
    """

    patch_rule: str = DEFAULT_RULE
    patch_size: int | None = None
    min_brain: float | None = None
    patches_per_scan: int | None = None
    patch_stride: int | None = None
    patch_grid: Grid | None = None
    augment: int = 0
    augmentation: str | None = None
    max_angle: float = 30.0
    augment_snr: Bounds | None = None
    augment_scale: Bounds | None = None
    val_subjects: tuple[str, ...] | None = None
    test_subjects: tuple[str, ...] | None = None
    materialise: bool = False
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("augment", "seed"):
            if getattr(self, name) < 0:
                raise InputError(f"--{name} must be at least 0, got {getattr(self, name)}.")
        if not 0 < self.max_angle <= 90:
            raise InputError(f"--max-angle must be above 0 and at most 90 degrees, got {self.max_angle:g}.")
        if self.augmentation is not None and self.augmentation not in AUGMENTATIONS:
            raise InputError(f"--augmentation must be tensor or cosmos, got {self.augmentation!r}.")
        _check_bounds("--augment-snr", self.augment_snr)
        _check_bounds("--augment-scale", self.augment_scale)
        if self.augment == 0:
            self._check_no_copies()
        _ = self.rule

    def _check_no_copies(self) -> None:
        for name in ("augmentation", "augment_snr", "augment_scale"):
            if getattr(self, name) is not None:
                raise InputError(
                    f"--{name.replace('_', '-')} needs turned copies: give their number per subject with --augment, "
                    "or leave it out."
                )

    @property
    def rule(self) -> PatchRule:
        """The patch rule these options come to."""
        return patch_rule(
            self.patch_rule,
            size=self.patch_size,
            min_brain=self.min_brain,
            number=self.patches_per_scan,
            stride=self.patch_stride,
            grid=self.patch_grid,
            seed=self.seed,
        )

    @property
    def copies(self) -> Copies:
        """How copies are made."""
        return Copies(self.augmentation, self.max_angle, self.augment_snr, self.augment_scale, self.seed)

    def record(self) -> dict[str, Any]:
        """Return the options as the store keeps them, the rule's own values filled in."""
        rule = self.rule
        chosen = {
            "patch_size": rule.size,
            "min_brain": rule.min_brain,
            "patches_per_scan": rule.number,
            "patch_stride": rule.stride,
            "patch_grid": rule.grid,
        }
        return {**asdict(self), **chosen}


def _check_bounds(option: str, bounds: Bounds | None) -> None:
    if bounds is None:
        return
    if len(bounds) != 2 or not 0 < bounds[0] <= bounds[1] < float("inf"):
        got = ",".join(f"{value:g}" for value in bounds)
        raise InputError(f"{option} must be two positive numbers, the lower first, such as 0.5,2, got {got}.")
