"""What Units beside a map mean, and what its values are in ppm."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from chi33.files.errors import InputError
from chi33.files.maps.units import Given, Scaling, conversions, scaling_of, unit_named

FIELD = Path("f.nii.gz")
AT_3_T = {"MagneticFieldStrength": 3.0}


@pytest.mark.parametrize(("text", "name"), [
    ("ppm", "ppm"), ("PPM of B0", "ppm"), ("ppm (SI)", "ppm"), ("parts per million", "ppm"), (" ppb ", "ppb"),
    ("Hz", "Hz"), ("hertz", "Hz"), ("kHz", "kHz"), ("rad/s", "rad/s"), ("rad s^-1", "rad/s"), ("rad·s⁻¹", "rad/s"),
    ("radians per second", "rad/s"), ("Radian/sec", "rad/s"), ("rad", "rad"), ("radians", "rad"), ("deg", "deg"),
    ("T", "T"), ("tesla", "T"), ("µT", "uT"), ("uT", "uT"), ("nT", "nT"),
    ("arbitrary", None), ("a.u.", None), ("1", None), ("ppm (cgs)", None), ("Hz/T", None), ("1/s", None),
])  # fmt: skip
def test_spellings_of_units(text: str, name: str | None) -> None:
    unit = unit_named(text)
    assert (unit.name if unit else None) == name


@pytest.mark.parametrize(("sidecar", "stored"), [
    ({}, 0.05),
    ({"Units": "ppm"}, 0.05),
    ({"Units": "ppb"}, 50.0),
    ({"Units": "Hz", **AT_3_T}, 0.05 * 42.577478518 * 3),
    ({"Units": "Hz", **AT_3_T, "ImagingFrequency": 123.255}, 0.05 * 123.255),
    ({"Units": "rad/s", "MagneticFieldStrength": 7}, 2 * np.pi * 0.05 * 42.577478518 * 7),
    ({"Units": "rad", **AT_3_T, "EchoTime": 0.02}, 2 * np.pi * 0.05 * 42.577478518 * 3 * 0.02),
    ({"Units": "rad", **AT_3_T, "EchoTime1": 0.00492, "EchoTime2": 0.00738},
     2 * np.pi * 0.05 * 42.577478518 * 3 * 0.00246),
    ({"Units": "T", "MagneticFieldStrength": 1.5}, 0.05e-6 * 1.5),
    ({"Units": "µT", "MagneticFieldStrength": 1.5}, 0.05 * 1.5),
])  # fmt: skip
def test_a_field_of_50_ppb_in_every_unit(sidecar: dict[str, Any], stored: float) -> None:
    found = scaling_of(FIELD, sidecar)
    assert found.apply(np.array([stored], np.float32))[0] == pytest.approx(0.05, rel=1e-5)
    assert found.stated is bool(sidecar)


@pytest.mark.parametrize(("sidecar", "quantity", "sentence"), [
    ({"Units": "Hz"}, "field", "f.nii.gz is in Hz, but its field strength is not known: state MagneticFieldStrength"),
    ({"Units": "Hz", "MagneticFieldStrength": "3"}, "field", "its field strength is not known"),
    ({"Units": "rad", **AT_3_T}, "field", "f.nii.gz is in rad, but its echo time is not known: state EchoTime"),
    ({"Units": "rad", **AT_3_T, "EchoTime": 20}, "field", "states EchoTime 20: give one number of seconds"),
    ({"Units": "rad", **AT_3_T, "EchoTime": [0.01, 0.02]}, "field", "states EchoTime .*: give one number of seconds"),
    ({"Units": "arbitrary"}, "field", "f.nii.gz is in 'arbitrary' by its sidecar, from which ppm cannot be told"),
    ({"Units": ["Hz"]}, "field", r"f.json states Units \['Hz'\]: give ppm, ppb, Hz"),
    ({"Units": "Hz", **AT_3_T}, "susceptibility", "in 'Hz' by its sidecar, .*: give the susceptibility in ppm or ppb"),
])  # fmt: skip
def test_what_cannot_be_converted_is_refused(sidecar: dict[str, Any], quantity: Any, sentence: str) -> None:
    with pytest.raises(InputError, match=sentence) as error:
        scaling_of(FIELD, sidecar, quantity)
    assert "\n" not in str(error.value)


def test_what_is_given_by_hand_wins_and_is_said_where_the_sidecar_disagrees() -> None:
    quiet = scaling_of(FIELD, {}, given=Given("Hz", 3.0))
    assert (quiet.unit.name, quiet.contradictions, quiet.strength.source) == ("Hz", (), "--b0")  # type: ignore[union-attr]
    sidecar = {"Units": "ppm", "MagneticFieldStrength": 3.0, "EchoTime": 0.02}
    found = scaling_of(FIELD, sidecar, given=Given("rad", 7.0, 0.01))
    assert found.factor == pytest.approx(1 / (2 * np.pi * 42.577478518 * 7 * 0.01))
    assert found.contradictions == (
        "f.nii.gz is in ppm by its sidecar: --units rad is used.",
        "f.nii.gz was made at 3 T by its sidecar (MagneticFieldStrength): --b0 7 is used.",
        "f.nii.gz has a TE of 20 ms by its sidecar: --te 10 is used.",
    )


def test_a_nominal_field_strength_by_hand_does_not_undo_the_frequency() -> None:
    sidecar = {"Units": "Hz", "MagneticFieldStrength": 3.0, "ImagingFrequency": 123.255}
    found = scaling_of(FIELD, sidecar, given=Given(b0=3.0))
    assert found.factor == pytest.approx(1 / 123.255)
    assert found.contradictions == ()


@pytest.mark.parametrize(("given", "sentence"), [
    (Given(units="furlong"), "--units must be ppm, ppb, Hz, rad/s, rad or T, got 'furlong'"),
    (Given(b0=0), "--b0 must be in tesla, above 0 and at most 30, got 0"),
    (Given(b0=123), "--b0 must be in tesla"),
    (Given(echo_time=2.0), "--te must be in ms, above 0 and at most 500, got 2000"),
])  # fmt: skip
def test_options_that_cannot_be(given: Given, sentence: str) -> None:
    with pytest.raises(InputError, match=sentence):
        given.check()


def test_conversions_are_told_once_a_kind() -> None:
    hertz = scaling_of(FIELD, {"Units": "Hz", **AT_3_T})
    pairs = [(Path(name), hertz) for name in ("a.nii", "b.nii", "c.nii")] + [(Path("d.nii"), Scaling())]
    assert conversions(pairs) == [
        "a.nii and 2 more are in Hz at 3 T (MagneticFieldStrength): multiplied by 0.007829 to ppm."
    ]
    assert hertz.facts.items() >= {"SourceUnits": "Hz", "MagneticFieldStrength": 3.0}.items()
    assert Scaling().facts == {"SourceUnits": "not stated, taken as ppm"}
