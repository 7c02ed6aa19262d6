"""The options of a simulation as they are typed: sizes, matrices and echo times in text."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from ...files.errors import InputError
from ...files.toml_reader import read_config
from ...pipeline.phantom.acquisition import Protocol
from ...pipeline.phantom.living.effects import Effects, Preset, effects_from_table, preset_effects, switched
from ...pipeline.phantom.living.tilts import MANAGED_ANGLE
from .dataset import Format, Simulation
from .vendors import Vendor, phase_sign_of

_LARGEST_TILT = 35.0  # degrees
_ECHO_SPACING = 0.005
_FIRST_ECHO, _FIRST_ECHO_HIGH_FIELD, _HIGH_FIELD = 0.0077, 0.004, 5.0  # s, s, T
_REPETITION_TIME, _AFTER_LAST_ECHO = 0.045, 0.008


def simulation_from_text(
    *,
    voxel: Sequence[str],
    matrix: str | None,
    echoes: int,
    echo_times: str | None,
    field_strength: float,
    snr: float,
    phase_sign: int | None,
    subjects: int,
    orientations: str,
    max_angle: float | None,
    oblique: float,
    axcodes: str,
    isotropic: bool,
    seed: int,
    format: Format = "nifti",
    vendor: Vendor | None = None,
    preset: Preset | None = None,
    on: Sequence[str] = (),
    off: Sequence[str] = (),
    config: Path | None = None,
) -> Simulation:
    """Return the simulation of options as `chi33 simulate` takes them (mm, degrees, ms, T); InputError on bad ones.

    phase_sign: None for the vendor's own; vendor: None for Siemens; max_angle: None for 35, or 25 with uneven tilts;
    preset, on, off: of the effects, before those of the file `config`.
    """
    chosen, effects = chosen_effects(preset, on, off, config)
    if max_angle is None:
        max_angle = MANAGED_ANGLE if effects.tilts else _LARGEST_TILT
    if phase_sign is None:
        phase_sign = 1 if vendor is None else phase_sign_of(vendor)
    times = default_echo_times(echoes, field_strength) if echo_times is None else parse_echo_times(echo_times)
    protocol = Protocol(
        b0=field_strength,
        echo_times=times,
        repetition_time=max(_REPETITION_TIME, times[-1] + _AFTER_LAST_ECHO),
        snr=snr,
        phase_sign=phase_sign,
    )
    return Simulation(
        subjects=subjects,
        orientations=parse_orientations(orientations),
        voxels=parse_voxels(voxel),
        max_angle=max_angle,
        oblique=oblique,
        matrix=None if matrix is None else parse_matrix(matrix),
        axcodes=axcodes,
        protocol=protocol,
        isotropic=isotropic,
        seed=seed,
        format=format,
        vendor=vendor or "siemens",
        preset=chosen,
        effects=effects,
    )


@dataclass(frozen=True)
class EffectsFile:
    """A file of effects: the preset they start from, and each effect as true, false or a strength."""

    preset: Preset = "ideal"
    effects: dict[str, Any] = field(default_factory=dict)


def chosen_effects(
    preset: Preset | None, on: Sequence[str], off: Sequence[str], config: Path | None
) -> tuple[Preset, Effects]:
    """Return the preset and the effects of the options and a TOML file; options win. Raises InputError on bad ones."""
    file = EffectsFile() if config is None else read_config(EffectsFile, config)
    chosen = file.preset if preset is None else preset
    effects = effects_from_table(preset_effects(chosen), file.effects, str(config))
    return chosen, switched(effects, on, off)


def default_echo_times(echoes: int, field_strength: float) -> tuple[float, ...]:
    """Return echo times in seconds, 5 ms apart; they start earlier above 5 T."""
    if not 1 <= echoes <= 32:
        raise InputError(f"echoes must lie between 1 and 32, got {echoes}.")
    first = _FIRST_ECHO_HIGH_FIELD if field_strength > _HIGH_FIELD else _FIRST_ECHO
    return tuple(round(first + _ECHO_SPACING * number, 6) for number in range(echoes))


def parse_echo_times(text: str) -> tuple[float, ...]:
    """Return the seconds of echo times in ms joined by commas."""
    return tuple(round(time / 1000, 9) for time in _numbers(text, "echo_times", "milliseconds such as 5,10,15"))


def parse_voxels(texts: Sequence[str]) -> tuple[tuple[float, float, float], ...]:
    """Return voxel sizes in mm of texts such as "1.5", "1,1,2" or "1.5;1x1x2"."""
    sizes = []
    for text in (part for joined in texts for part in joined.split(";") if part.strip()):
        edges = _numbers(text, "voxel", "millimetres such as 1.5 or 1,1,2")
        if len(edges) not in (1, 3):
            raise InputError(f"voxel must be one or three sizes in mm, such as 1.5 or 1,1,2, got {text!r}.")
        x, y, z = edges * 3 if len(edges) == 1 else edges
        sizes.append((x, y, z))
    return tuple(sizes)


def parse_orientations(text: str) -> int | tuple[int, ...]:
    """Return the number of scans of a text such as "6", or of each head such as "4,4,6"."""
    wanted = "a whole number such as 6, or one a head, such as 4,4,6"
    numbers = _numbers(text, "orientations", wanted)
    if any(number != int(number) for number in numbers):
        raise InputError(f"orientations must be {wanted}, got {text!r}.")
    counts = tuple(int(number) for number in numbers)
    return counts[0] if len(counts) == 1 else counts


def parse_matrix(text: str) -> tuple[int, int, int]:
    """Return the matrix of a text such as "210,224,160" or "210x224x160"."""
    counts = _numbers(text, "matrix", "voxel counts such as 210,224,160")
    if len(counts) != 3 or any(count != int(count) for count in counts):
        raise InputError(f"matrix must be three whole numbers such as 210,224,160, got {text!r}.")
    return int(counts[0]), int(counts[1]), int(counts[2])


def _numbers(text: str, name: str, example: str) -> list[float]:
    try:
        values = [float(part) for part in text.lower().replace("x", ",").split(",")]
    except ValueError as error:
        raise InputError(f"{name} must be {example}, got {text!r}.") from error
    if not np.isfinite(values).all():
        raise InputError(f"{name} must be {example}, got {text!r}.")
    return values
