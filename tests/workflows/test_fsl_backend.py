"""The FSL backend: the command lines of BET and FLIRT, and what becomes of the matrices FLIRT writes."""

from __future__ import annotations

import shlex
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from chi33.files.derivatives import Derivatives, read_image, read_json, read_transform
from chi33.files.errors import InputError
from chi33.pipeline.frames import rotation_and_scale, rotation_angle
from chi33.workflows.config import RunConfig
from chi33.workflows.raw.dataset import find_subjects
from chi33.workflows.run import choose_backend, run_participants
from chi33.workflows.subject import init_subject_wf


def _options(command: str) -> tuple[list[str], dict[str, list[str]]]:
    """Return the words before the first option, and each option with its words."""
    words = shlex.split(command)
    options: dict[str, list[str]] = {}
    plain: list[str] = []
    current = plain
    for word in words:
        if word.startswith("-") and not word.lstrip("-").replace(".", "").isdigit():
            current = options.setdefault(word, [])
        else:
            current.append(word)
    return plain, options


def test_command_lines_of_bet_and_flirt(turning_head: Any, use_fsl: Callable, tmp_path: Path) -> None:
    use_fsl(turning_head)
    (subject,) = find_subjects(turning_head.folder)
    workflow = init_subject_wf(subject, RunConfig(bet_threshold=0.35, reference="acq-ori02"), "fsl", tmp_path)
    bet = workflow.get_node("mask_acq_ori03_wf.bet").interface
    bet.inputs.in_file = str(turning_head.raw(3, part="mag"))
    plain, options = _options(bet.cmdline)
    assert plain[0] == "bet"
    assert plain[1].endswith("sub-01_acq-ori03_echo-1_part-mag_MEGRE.nii.gz")
    assert len(plain) == 3
    assert options == {"-f": ["0.35"], "-m": [], "-R": []}
    plain, options = _options(workflow.get_node("registration_acq_ori03_wf.flirt").interface.cmdline)
    assert plain == ["flirt"]
    assert options.pop("-in") == [str(turning_head.raw(3, part="mag"))]
    assert options.pop("-ref") == [str(turning_head.raw(2, part="mag"))]
    assert options.pop("-omat")[0].endswith(".mat")
    assert options.pop("-out")[0].endswith(".nii.gz")
    search = {f"-searchr{axis}": ["-60", "60"] for axis in "xyz"}
    assert options == {"-dof": ["7"], "-cost": ["corratio"], **search}
    to_world = workflow.get_node("registration_acq_ori03_wf.to_world").inputs
    assert to_world.in_file == str(turning_head.raw(3, part="mag"))
    assert to_world.reference == str(turning_head.raw(2, part="mag"))


@pytest.mark.parametrize("mirrored", [0, None, 2])
def test_a_run_turns_flirt_matrices_into_the_true_transforms(
    make_head: Callable, use_fsl: Callable, tmp_path: Path, mirrored: int | None
) -> None:
    """Both handednesses, oblique and anisotropic grids; the masks are BET's."""
    head = make_head(tmp_path / "raw", turns=((12, 5), (30, -10)), mirrored=mirrored)
    stand_ins = use_fsl(head)
    lines: list[str] = []
    run_participants(head.folder, tmp_path / "out", config=RunConfig(backend="fsl"), n_procs=1, announce=lines.append)
    places = Derivatives(tmp_path / "out", "01")
    for number, truth in enumerate(head.transforms, start=1):
        found = read_transform(places.transform(f"acq-ori{number:02d}"))
        np.testing.assert_allclose(found, truth, atol=1e-4)
        mask, affine = read_image(places.path(f"acq-ori{number:02d}", suffix="mask", desc="brain"))
        np.testing.assert_allclose(affine, head.affines[number - 1], atol=1e-5)
        assert (mask > 0).sum() > 0.95 * head.mask.sum()
        assert not (mask > 0)[~head.mask].any()
    rotation, _ = rotation_and_scale(found)
    sidecar = read_json(places.path("acq-ori02_from-orig_to-subject_mode-image", suffix="xfm", ext=".json"))
    assert sidecar["RotationDegrees"] == pytest.approx(rotation_angle(rotation), abs=1e-3)
    assert len(stand_ins.calls("bet")) == 2
    assert len(stand_ins.calls("flirt")) == 1
    provenance = read_json(tmp_path / "out" / "logs" / "sub-01_provenance.json")
    assert provenance["backend"] == "fsl"
    assert "FSL" in provenance["tools"]


def test_fsl_is_refused_where_it_is_not_installed(
    turning_head: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(
        InputError, match="--backend fsl needs bet and flirt on PATH: install FSL, or use --backend bui"
    ):
        run_participants(turning_head.folder, tmp_path / "out", config=RunConfig(backend="fsl"))
    assert not (tmp_path / "out").exists()
    (tmp_path / "bet").write_text("#!/bin/sh\n")
    (tmp_path / "bet").chmod(0o755)
    with pytest.raises(InputError, match="--backend fsl needs flirt on PATH"):
        choose_backend(RunConfig(backend="fsl"))
    assert choose_backend(RunConfig()) == "builtin"


def test_auto_takes_fsl_where_it_is_installed(turning_head: Any, use_fsl: Callable) -> None:
    use_fsl(turning_head)
    assert choose_backend(RunConfig()) == "fsl"
    assert choose_backend(RunConfig(backend="builtin")) == "builtin"
