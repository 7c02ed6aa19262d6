from __future__ import annotations

import numpy as np
import pytest
from chi33.files.errors import InputError
from chi33.pipeline.phantom.living.effects import (
    EFFECTS,
    IDEAL,
    VIVO,
    Effects,
    effects_from_table,
    preset_effects,
    switched,
)


def test_ideal_has_no_effect_and_vivo_every_one_at_its_usual_strength() -> None:
    assert IDEAL.names == ()
    assert not IDEAL.of_the_scan
    assert VIVO.names == tuple(EFFECTS)
    assert all(getattr(VIVO, name) == effect.usual for name, effect in EFFECTS.items())
    assert (preset_effects("ideal"), preset_effects("vivo")) == (IDEAL, VIVO)


def test_effects_are_switched_by_name_with_or_without_a_strength() -> None:
    effects = switched(IDEAL, ["breathing=2,flow", "fat-shift"], [])
    assert effects == Effects(breathing=2.0, flow=15.0, fat_shift=3.4)
    assert switched(VIVO, [], ["bipolar,poles"]).names == tuple(n for n in EFFECTS if n not in ("bipolar", "poles"))
    assert switched(Effects(drift=3.0), ["drift"], []).drift == 3.0  # on already, at another strength
    table = {"drift": True, "noise-map": 2.5, "poles": False}
    assert effects_from_table(VIVO, table, "f.toml") == switched(VIVO, ["drift", "noise_map=2.5"], ["poles"])


@pytest.mark.parametrize(("on", "off", "message"), [
    (["breathing"], ["breathing"], "breathing is both in --with and in --without"),
    (["drift=1", "drift=2"], [], "--with gives drift two strengths, 1 and 2"),
    ([], ["flow=3"], "--without flow=3 gives a strength to an effect that is off: give --with flow=3"),
    (["breething"], [], "--with names an unknown effect, 'breething': did you mean breathing"),
    ([], ["xyz"], "--without names an unknown effect, 'xyz': the effects are subvoxel, tilts"),
    (["flow=fast"], [], "the strength of flow must be a number, got 'fast'"),
    (["flow=0"], [], "gives flow a strength of 0: give one above 0, or switch it off"),
    (["flow=nan"], [], "gives flow a strength of nan"),
    (["flow=500"], [], "strength of flow must lie between 0.5 and 100 cm/s, or 0 for off, got 500"),
    (["poles=1.5"], [], "poles must be a whole number of pairs, got 1.5"),
    (["gibbs"], [], "gibbs is on but subvoxel is off"),
])  # fmt: skip
def test_contradictions_are_refused_in_a_sentence(on: list[str], off: list[str], message: str) -> None:
    with pytest.raises(InputError, match=message):
        switched(IDEAL, on, off)


def test_bad_files_and_presets_are_refused() -> None:
    with pytest.raises(InputError, match=r"drift in f\.toml must be true, false or a strength, got 'much'"):
        effects_from_table(IDEAL, {"drift": "much"}, "f.toml")
    with pytest.raises(InputError, match=r"f\.toml names an unknown effect, 'drif': did you mean drift"):
        effects_from_table(IDEAL, {"drif": 1}, "f.toml")
    with pytest.raises(InputError, match="preset must be one of ideal, vivo, got 'live'"):
        preset_effects("live")


def test_strengths_differ_by_subject_only_with_variety() -> None:
    still = Effects(drift=1.0)
    assert still.of_subject(np.random.default_rng(0)) == still
    several = [Effects(drift=1.0, variety=0.2).of_subject(np.random.default_rng(s)).drift for s in range(40)]
    assert np.std(np.log(several)) == pytest.approx(0.2, rel=0.3)
    assert VIVO.of_subject(np.random.default_rng(0)).subvoxel == VIVO.subvoxel
