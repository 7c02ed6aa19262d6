"""Which effects of a living head and a real scanner a simulation has, each with its strength; docs/simulator.md cites.

A strength of 0 is off. The preset `ideal` has none of them, `vivo` has all at their usual strength.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields, replace
from typing import Literal, get_args

import numpy as np

from ....files.errors import InputError

Preset = Literal["ideal", "vivo"]


@dataclass(frozen=True)
class Effect:
    """An effect: its usual strength, the range (above 0) that is allowed, the unit, and what it does."""

    usual: float
    least: float
    most: float
    unit: str
    what: str


EFFECTS: dict[str, Effect] = {
    "subvoxel": Effect(0.5, 0.3, 1.0, "mm", "the signal is the sum over parts of a voxel of at most this edge"),
    "tilts": Effect(8.0, 0.5, 20.0, "degrees", "uneven tilts, with a twist about the head's axis of this spread"),
    "myelin": Effect(1.0, 0.1, 3.0, "times the literature's value", "frequency of myelinated axons by fibre angle"),
    "tracts": Effect(0.35, 0.01, 0.8, "relative spread", "anisotropy that differs from tract to tract"),
    "variety": Effect(0.2, 0.01, 0.5, "relative spread", "susceptibilities, layers and effects that differ by subject"),
    "calcification": Effect(1.0, 0.1, 5.0, "ppm", "diamagnetic spots, the strongest this far below tissue"),
    "bleeds": Effect(1.0, 0.1, 5.0, "ppm", "paramagnetic spots, the strongest this far above tissue"),
    "skull": Effect(0.06, 0.005, 0.5, "share of the brain's signal", "bone of faint signal"),
    "dura": Effect(0.8, 0.1, 3.0, "mm", "dura and falx of this thickness, short T2*"),
    "fat_shift": Effect(3.4, 0.1, 5.0, "ppm", "fat below the frequency of water"),
    "flow": Effect(15.0, 0.5, 100.0, "cm/s", "phase of moving blood, at this speed in the largest sinus"),
    "breathing": Effect(0.4, 0.01, 10.0, "Hz at 3 T", "field that breathes, amplitude"),
    "drift": Effect(0.8, 0.01, 10.0, "Hz per minute at 3 T", "field that drifts while a scan lasts"),
    "distortion": Effect(300.0, 20.0, 5000.0, "Hz per pixel", "shift along the readout; the readout's bandwidth"),
    "gradients": Effect(0.8, 0.05, 5.0, "mm at 100 mm", "gradient non-linearity left by the vendor's correction"),
    "movement": Effect(0.5, 0.01, 5.0, "mm and degrees", "movement within a scan, in one scan of three"),
    "bipolar": Effect(0.6, 0.01, 6.0, "rad across the view", "phase that alternates from echo to echo"),
    "poles": Effect(1.0, 1.0, 8.0, "pairs", "singularities of the combined coil's phase"),
    "gibbs": Effect(0.5, 0.1, 1.0, "share", "k-space cut off without a filter (1) or with a part of one"),
    "noise_map": Effect(1.8, 1.01, 5.0, "times", "noise in the middle of the head over that at its rim"),
}  # fmt: skip
_SCAN = (
    "subvoxel", "myelin", "fat_shift", "flow", "breathing", "drift", "distortion", "gradients", "movement", "bipolar",
    "poles", "gibbs", "noise_map", "skull", "dura",
)  # fmt: skip
_FIXED = ("subvoxel", "tracts", "variety", "poles", "gibbs", "fat_shift", "tilts")  # the same in every subject


@dataclass(frozen=True)
class Effects:
    """The strength of each effect of EFFECTS, in its unit; 0 is off. Raises InputError on impossible strengths."""

    subvoxel: float = 0.0
    tilts: float = 0.0
    myelin: float = 0.0
    tracts: float = 0.0
    variety: float = 0.0
    calcification: float = 0.0
    bleeds: float = 0.0
    skull: float = 0.0
    dura: float = 0.0
    fat_shift: float = 0.0
    flow: float = 0.0
    breathing: float = 0.0
    drift: float = 0.0
    distortion: float = 0.0
    gradients: float = 0.0
    movement: float = 0.0
    bipolar: float = 0.0
    poles: float = 0.0
    gibbs: float = 0.0
    noise_map: float = 0.0

    def __post_init__(self) -> None:
        for name, value in asdict(self).items():
            effect = EFFECTS[name]
            if value != 0 and not effect.least <= value <= effect.most:
                raise InputError(
                    f"the strength of {hyphened(name)} must lie between {effect.least:g} and {effect.most:g} "
                    f"{effect.unit}, or 0 for off, got {value:g}."
                )
        if self.poles != int(self.poles):
            raise InputError(f"the strength of poles must be a whole number of pairs, got {self.poles:g}.")
        if self.gibbs and not self.subvoxel:
            raise InputError(
                "gibbs is on but subvoxel is off: ringing needs a signal finer than the voxels, so switch subvoxel on "
                "or gibbs off."
            )

    @property
    def names(self) -> tuple[str, ...]:
        """The effects that are on."""
        return tuple(field.name for field in fields(self) if getattr(self, field.name))

    @property
    def of_the_scan(self) -> bool:
        """Whether an effect is on that the ideal scan of a head cannot show."""
        return any(getattr(self, name) for name in _SCAN)

    def of_subject(self, rng: np.random.Generator) -> Effects:
        """Return the strengths that one subject's scans have: spread by `variety`, within what is allowed."""
        if not self.variety:
            return self
        values = {}
        for name in self.names:
            factor = float(np.exp(rng.normal(0, self.variety)))
            if name not in _FIXED:
                effect = EFFECTS[name]
                values[name] = float(np.clip(getattr(self, name) * factor, effect.least, effect.most))
        return replace(self, **values)


IDEAL = Effects()
VIVO = Effects(**{name: effect.usual for name, effect in EFFECTS.items()})
_PRESETS: dict[str, Effects] = {"ideal": IDEAL, "vivo": VIVO}


def hyphened(name: str) -> str:
    """Return the name of an effect as it is typed."""
    return name.replace("_", "-")


def preset_effects(preset: str) -> Effects:
    """Return the effects of a preset; raises InputError for another name."""
    if preset not in _PRESETS:
        raise InputError(f"preset must be one of {', '.join(get_args(Preset))}, got {preset!r}.")
    return _PRESETS[preset]


def effects_from_table(base: Effects, table: Mapping[str, object], source: str) -> Effects:
    """Return `base` with the effects of a table switched: true for the usual strength, false for off, or a strength."""
    values = {}
    for key, value in table.items():
        name = known_effect(key, source)
        if isinstance(value, bool):
            values[name] = EFFECTS[name].usual if value else 0.0
        elif isinstance(value, int | float):
            values[name] = _positive(key, float(value), source)
        else:
            raise InputError(f"{key} in {source} must be true, false or a strength, got {value!r}.")
    return replace(base, **values)


def switched(base: Effects, on: Sequence[str], off: Sequence[str]) -> Effects:
    """Return `base` with effects switched on ("breathing", "breathing=2", joined by commas) and others off.

    Raises InputError for unknown effects, bad strengths, an effect that is given two strengths or is both on and off.
    """
    strengths: dict[str, float] = {}
    for word in _words(on):
        key, equals, text = word.partition("=")
        name = known_effect(key, "--with")
        value = _positive(key, _number(key, text), "--with") if equals else getattr(base, name) or EFFECTS[name].usual
        if strengths.setdefault(name, value) != value:
            raise InputError(
                f"--with gives {hyphened(name)} two strengths, {strengths[name]:g} and {value:g}: give one."
            )
    for word in _words(off):
        key, equals, _ = word.partition("=")
        name = known_effect(key, "--without")
        if equals:
            raise InputError(f"--without {word} gives a strength to an effect that is off: give --with {word} instead.")
        if name in strengths:
            raise InputError(f"{hyphened(name)} is both in --with and in --without: give one of them.")
        strengths[name] = 0.0
    return replace(base, **strengths)


def _words(texts: Iterable[str]) -> list[str]:
    return [word.strip() for text in texts for word in text.split(",") if word.strip()]


def known_effect(key: str, source: str) -> str:
    """Return the field of Effects that a typed name means; raises InputError with the nearest one."""
    name = key.strip().lower().replace("-", "_")
    if name in EFFECTS:
        return name
    close = difflib.get_close_matches(name, EFFECTS, n=1)
    remedy = f"did you mean {hyphened(close[0])}?" if close else f"the effects are {', '.join(map(hyphened, EFFECTS))}."
    raise InputError(f"{source} names an unknown effect, {key.strip()!r}: {remedy}")


def _number(key: str, text: str) -> float:
    try:
        return float(text)
    except ValueError as error:
        raise InputError(f"the strength of {key} must be a number, got {text!r}.") from error


def _positive(key: str, value: float, source: str) -> float:
    if not value > 0 or not np.isfinite(value):
        raise InputError(
            f"{source} gives {key} a strength of {value:g}: give one above 0, or switch it off (--without {key}, or "
            "false in a file)."
        )
    return value
