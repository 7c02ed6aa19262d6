"""What `chi33 run` can be told: ranges, strict keys, and options over the file."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest
from chi33.files.errors import InputError
from chi33.files.toml_reader import override, read_config
from chi33.pipeline.masks import deepbet as learned_mask
from chi33.workflows import run as module
from chi33.workflows.config import RunConfig
from chi33.workflows.run import choose_masks


def test_a_file_and_then_options_decide(tmp_path: Path) -> None:
    path = tmp_path / "run.toml"
    path.write_text('backend = "builtin"\nprior_iso = 1\nnoise = 0.002\nreference = "acq-ori02"\nphase_sign = -1\n')
    config = read_config(RunConfig, path)
    assert (config.backend, config.prior_iso, config.noise, config.phase_sign) == ("builtin", 1.0, 0.002, -1)
    assert config.prior == RunConfig(prior_iso=1.0).prior
    assert config.prior.aniso == 0.004
    changed = override(config, {"backend": "fsl", "prior_iso": None, "noise": 0.001})
    assert changed == dataclasses.replace(config, backend="fsl", noise=0.001)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("prior_izo = 0.03", "unknown key prior_izo: did you mean prior_iso"),
        ("wholly_other = 1", "unknown key wholly_other: the keys are backend, "),
        ("[fit]\nprior_iso = 1", "fit in .* must be one of 'single-step', 'masked', 'closed', 'none'"),
        ('fit = "tikhonov"', "fit in .* must be one of 'single-step', 'masked', 'closed', 'none', got 'tikhonov'"),
        ('weights = "ones"', "weights in .* must be one of 'magnitude', 'mask', got 'ones'"),
        ("draws = 2.5", "draws in .* must be a whole number, got 2.5"),
        ('backend = "afni"', "backend in .* must be one of 'auto', 'fsl', 'builtin', got 'afni'"),
        ("prior_iso = true", "prior_iso in .* must be a number, got True"),
        ('noise = "low"', "noise in .* must be a number, got 'low'"),
        ("prior_iso = ", "is no valid TOML"),
    ],
)
def test_a_file_is_read_strictly(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "run.toml"
    path.write_text(text)
    with pytest.raises(InputError, match=message) as error:
        read_config(RunConfig, path)
    assert "run.toml" in str(error.value)


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("prior_iso", 0.0, r"prior.iso must be a positive standard deviation in ppm \(inf: no prior\), got 0.0"),
        ("prior_aniso", -0.004, "prior.aniso must be a positive"),
        ("bet_threshold", 1.0, "bet_threshold must lie between 0 and 1, got 1.0"),
        ("bet_threshold", 0.0, "bet_threshold must lie between 0 and 1, got 0.0"),
        ("mask_method", "otsu", "mask_method must be one of auto, bet, deepbet, got 'otsu'"),
        ("vsharp_threshold", 1.5, "vsharp_threshold must lie between 0 and 1, got 1.5"),
        ("offset_smoothing", 0.0, "offset_smoothing must be positive, got 0.0"),
        ("vsharp_largest_radius", -3.0, "vsharp_largest_radius must be positive, got -3.0"),
        ("vsharp_smallest_radius", float("nan"), "vsharp_smallest_radius must be positive, got nan"),
        ("residual_limit", 0.0, "residual_limit must be positive"),
        ("noise", -1e-3, "noise must be positive, got -0.001"),
        ("vsharp_smallest_radius", 30.0, r"30.0 mm\) is larger than vsharp_largest_radius"),
        ("phase_sign", 2, "phase_sign must be 1 or -1, got 2"),
        ("fit", "tikhonov", "fit must be one of closed, masked, single-step, got 'tikhonov'"),
        ("iterations", 0, "iterations must be at least 1, got 0"),
        ("draws", 1, "one draw gives no standard deviation: ask for at least 2, or 0 for none"),
        ("draws", -2, "draws and jackknife groups must not be negative, got -2 and 0"),
        ("jackknife", -1, "draws and jackknife groups must not be negative, got 0 and -1"),
        ("fit_memory", 0.0, "fit_memory must be positive, got 0.0"),
        ("echo_times", (0.01, 0.005), "echo_times must be positive, rising and below 0.5 s, got"),
        ("echo_times", (4.0, 9.0), "echo_times must be positive, rising and below 0.5 s, got"),
        ("echo_times", (), "echo_times must be positive, rising"),
        ("field_strength", 0.0, "field_strength must lie between 0 and 30 T, got 0.0"),
        ("dask", "somewhere", "dask must be 'threads', 'local' or the address of a scheduler .*, got 'somewhere'"),
        ("device", "gpu", "device must be 'cpu', 'cuda' or 'cuda:N', got 'gpu'"),
        ("device", "cuda:", "device must be 'cpu', 'cuda' or 'cuda:N', got 'cuda:'"),
    ],
)
def test_values_out_of_range_name_their_key(key: str, value: Any, message: str) -> None:
    with pytest.raises(InputError, match=message):
        RunConfig(**{key: value})


def test_settings_of_masks_that_contradict_are_refused() -> None:
    with pytest.raises(InputError, match=r"bet_threshold 0.3 is a setting of BET, but mask_method is deepbet"):
        RunConfig(mask_method="deepbet", bet_threshold=0.3)
    for method in ("bet", "deepbet"):
        with pytest.raises(InputError, match=f"masks gives the brain masks, but mask_method {method} asks to make"):
            RunConfig(mask_method=method, masks="/masks")
    assert RunConfig(masks="/masks", bet_threshold=0.3).mask_method == "auto"


@pytest.mark.parametrize(
    ("settings", "installed", "chosen"),
    [
        ({}, True, "deepbet"),
        ({}, False, "bet"),
        ({"backend": "builtin"}, True, "deepbet"),
        ({"backend": "fsl"}, True, "bet"),
        ({"bet_threshold": 0.4}, True, "bet"),
        ({"backend": "fsl", "mask_method": "deepbet"}, True, "deepbet"),
        ({"mask_method": "bet"}, True, "bet"),
        ({"masks": "/masks"}, True, "auto"),
    ],
)
def test_masks_are_learned_where_the_networks_are_installed_and_bet_is_not_asked_for(
    monkeypatch: pytest.MonkeyPatch, settings: dict[str, Any], installed: bool, chosen: str
) -> None:
    monkeypatch.setattr(module, "deepbet_version", lambda: "1.0.2" if installed else None)
    monkeypatch.setattr(module, "network_files", lambda: None)
    assert choose_masks(RunConfig(**settings)).mask_method == chosen


def test_learned_masks_without_their_networks_are_refused_with_the_command_that_installs_them(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(learned_mask, "PACKAGE", "deepbet-that-nobody-has")
    with pytest.raises(InputError, match=r"needs the package deepbet: install it with pip install 'chi33\[deepbet\]'"):
        choose_masks(RunConfig(mask_method="deepbet"))


def test_where_and_how_a_run_fits_is_read_from_its_file(tmp_path: Path) -> None:
    (tmp_path / "run.toml").write_text(
        'fit = "masked"\niterations = 7\nweights = "mask"\ndraws = 4\njackknife = 3\n'
        'dask = "tcp://10.0.0.1:8786"\nfit_memory = 12\ndevice = "cuda:1"\n'
    )
    assert read_config(RunConfig, tmp_path / "run.toml") == RunConfig(
        fit="masked", iterations=7, weights="mask", draws=4, jackknife=3, dask="tcp://10.0.0.1:8786", fit_memory=12.0,
        device="cuda:1",
    )  # fmt: skip


def test_by_default_total_fields_are_fitted_with_weights_on_threads() -> None:
    config = RunConfig()
    assert (config.fit, config.weights, config.dask, config.device) == ("single-step", "magnitude", "threads", "cpu")
    assert (config.draws, config.jackknife, config.iterations, config.fit_memory) == (0, 0, None, None)
