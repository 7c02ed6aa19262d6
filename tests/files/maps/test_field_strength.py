from __future__ import annotations

import pytest
from chi33.files.maps.field_strength import field_strength_of


def test_the_frequency_that_the_scanner_ran_at_tells_the_field() -> None:
    found = field_strength_of({"MagneticFieldStrength": 3, "ImagingFrequency": 123.255})
    assert found is not None
    assert found.tesla == pytest.approx(123.255 / 42.577478518, abs=1e-6)
    assert found.facts["NominalMagneticFieldStrength"] == 3
    assert found.facts["MagneticFieldStrengthSource"] == "ImagingFrequency"
    assert field_strength_of(found.facts) == found  # a derivative's own record is not computed again


@pytest.mark.parametrize("frequency", [51.7, 300.0, 0, -123.2, "123.2", True, float("nan"), None])
def test_a_frequency_far_from_the_nominal_field_is_not_used(frequency: object) -> None:
    found = field_strength_of({"MagneticFieldStrength": 3, "ImagingFrequency": frequency})
    assert found is not None
    assert (found.tesla, found.source) == (3.0, "MagneticFieldStrength")


@pytest.mark.parametrize("nominal", [None, 0, -3, "3", True, 3000])
def test_no_possible_field_strength_is_none(nominal: object) -> None:
    assert field_strength_of({"MagneticFieldStrength": nominal, "ImagingFrequency": 123.2}) is None
