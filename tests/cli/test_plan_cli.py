"""`chi33 plan`: how well head orientations determine COSMOS and the tensor, from angles and from a folder."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from chi33.cli.plan import directions_from_angles, directions_from_transforms
from chi33.files.manifest import Manifest, manifest_path
from chi33.pipeline.orientations.conditioning import assess_orientations
from chi33.pipeline.orientations.design import plan_orientations
from chi33.pipeline.orientations.words import plan_sentences
from chi33.pipeline.physics.prior import Prior
from PIL import Image

FULL = "0,0;25,0;-25,0;0,25;0,-25;18,18;-18,18"


def _numbers(text: str) -> dict[str, float]:
    patterns = {
        "spread": r"largest angle between two: ([\d.]+) degrees",
        "ratio": r"summed squared kernels ([\d.]+|not determined)",
        "rank": r"rank (\d) of 6",
        "condition": r"condition number ([\d.]+|not determined)",
    }
    found = {key: re.search(pattern, text)[1] for key, pattern in patterns.items()}  # type: ignore[index]
    return {key: float(value.replace("not determined", "inf")) for key, value in found.items()}


def _rows(text: str, title: str) -> list[list[str]]:
    """The rows of the table with a title, split at runs of two blanks."""
    lines = text[text.index(title) :].splitlines()[4:]
    rows = lines[: next(i for i, line in enumerate(lines) if not line.strip())]
    return [re.split(r"\s{2,}", row.strip()) for row in rows]


def test_a_full_set_determines_everything(command: Callable[..., Any]) -> None:
    ended = command("plan", "--angles", FULL)
    assert ended.code == 0
    numbers = _numbers(ended.out)
    assert numbers["rank"] == 6
    report = assess_orientations(directions_from_angles(FULL))
    assert numbers["condition"] == pytest.approx(report.sti_condition, abs=0.06)
    assert numbers["ratio"] == pytest.approx(report.cosmos_ratio, abs=0.06)
    assert numbers["spread"] == pytest.approx(report.spread, abs=0.06)
    assert f"COSMOS: good (max/min of summed squared kernels {report.cosmos_ratio:.1f}, noise gain " in ended.out
    assert f"noise gain {report.sti_noise_gain:.2f})" in ended.out
    found = plan_orientations(directions_from_angles(FULL))
    for sentence in plan_sentences(found):
        assert f"  {sentence}\n" in ended.out


def test_tables_of_scans_of_the_next_and_of_the_usual_positions(command: Callable[..., Any]) -> None:
    out = command("plan", "--angles", FULL).out
    found = plan_orientations(directions_from_angles(FULL))
    scans = _rows(out, "Scans: ")
    assert [row[:4] for row in scans][:3] == [
        ["scan 1", "+0.0°", "+0.0°", "0.0°"],
        ["scan 2", "+25.0°", "+0.0°", "25.0°"],
        ["scan 3", "-25.0°", "+0.0°", "25.0°"],
    ]
    assert [float(row[4]) for row in scans] == pytest.approx(found.chi33_sd, abs=6e-5)
    assert scans[0][5:7] == ["singular", "–"]
    for row, loss in list(zip(scans, found.losses, strict=True))[1:]:
        assert float(row[5]) == pytest.approx(loss.after.condition, abs=0.06)
        shares = [float(text.removesuffix(" %")) for text in row[6:]]
        names = ("tensor_noise", "cosmos_noise", "chi33")
        assert shares == pytest.approx([100 * (loss.factor(name) - 1) for name in names], abs=0.51)
    best = _rows(out, "Best next scans for the tensor")
    assert [row[:2] for row in best] == [[f"{one.pitch:+.0f}°", f"{one.roll:+.0f}°"] for one in found.best]
    usual = {tuple(row[:2]): row for row in _rows(out, "Usual positions")}
    assert len(usual) == 17
    assert usual["-20°", "+0°"][2] == "20° forward"
    assert usual["+20°", "-20°"][2] == "28° back and to the left"
    assert all("+" not in cell for row in usual.values() for cell in row[4:])


def test_options_reach_the_plan(command: Callable[..., Any]) -> None:
    options = ("--max-angle", "20", "--noise", "0.004", "--prior-iso", "0.05", "--prior-aniso", "0.01")
    ended = command("plan", "--angles", FULL, *options)
    found = plan_orientations(directions_from_angles(FULL), max_angle=20, noise=0.004, prior=Prior(0.05, 0.01))
    for sentence in plan_sentences(found):
        assert f"  {sentence}\n" in ended.out
    assert len(_rows(ended.out, "Usual positions")) == len(found.standard) == 9
    assert all(one.tilt <= 20 for one in found.best)


def test_one_and_two_scans_have_a_plan_too(command: Callable[..., Any]) -> None:
    one = command("plan", "--angles", "0,0")
    assert one.code == 0
    assert _rows(one.out, "Scans: ")[0][5:] == ["–"] * 4
    two = command("plan", "--angles", "0,0;25,0")
    assert _numbers(two.out)["ratio"] == np.inf
    assert "COSMOS: bad (max/min of summed squared kernels not determined, noise gain not determined" in two.out
    assert "COSMOS is not determined at some points of k-space" in two.out
    assert "Best next scans for χ33" in two.out


def test_what_is_poor_is_said_in_words(command: Callable[..., Any]) -> None:
    poor = command("plan", "--angles", "0,0;12,0;0,12")
    assert poor.code == 0
    assert "COSMOS: poor (max/min of summed squared kernels 112.5, noise gain 3.25, at the worst k 9.46)" in poor.out
    assert (
        "COSMOS is weakly determined: errors of the fields grow by up to 9.5 at the worst points of k-space" in poor.out
    )
    hopeless = command("plan", "--angles", "0,0;6,0")
    assert "All B0 directions lie within 6.0 degrees of one another: COSMOS and the tensor are not" in hopeless.out


def test_the_figure_is_written_once(command: Callable[..., Any], tmp_path: Path) -> None:
    path = tmp_path / "new folder" / "plan.png"
    ended = command("plan", "--angles", FULL, "--figure", path)
    assert ended.code == 0
    assert ended.out.splitlines()[-1] == str(path)
    assert min(Image.open(path).size) > 900
    assert [one.name for one in path.parent.iterdir()] == ["plan.png"]
    before = path.read_bytes()
    again = command("plan", "--angles", "0,0;25,0", "--figure", path)
    assert (again.code, again.out) == (2, "")
    assert again.err == f"chi33: {path} exists already: pass --overwrite to replace it.\n"
    assert path.read_bytes() == before
    assert command("plan", "--angles", "0,0;25,0", "--figure", path, "--overwrite").code == 0
    assert path.read_bytes() != before


def test_the_figure_is_of_one_subject(
    command: Callable[..., Any], turning_head: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "plan.png"
    assert command("plan", turning_head.folder, "--figure", path).code == 0
    assert path.exists()
    two = {"01": directions_from_angles(FULL), "02": directions_from_angles("0,0;25,0")}
    monkeypatch.setattr("chi33.cli.plan.directions_from_transforms", lambda folder: two)
    ended = command("plan", turning_head.folder, "--figure", tmp_path / "other.png")
    assert ended.code == 2
    assert "draws one subject, but the folder holds 2 (01, 02): give the folder of one of them" in ended.err
    both = command("plan", turning_head.folder)
    assert re.findall(r"^sub-\d+$", both.out, re.MULTILINE) == ["sub-01", "sub-02"]


def test_a_ring_and_one_axis_are_called_singular(command: Callable[..., Any]) -> None:
    ring = ";".join(f"{25 * np.cos(a):.6f},{25 * np.sin(a):.6f}" for a in np.arange(6) * np.pi / 3)
    axis = ";".join(f"{angle},0" for angle in (-30, -20, -10, 0, 10, 20, 30))
    for angles, rank in ((ring, 5), (axis, 3)):
        ended = command("plan", "--angles", angles)
        assert ended.code == 0
        assert _numbers(ended.out)["rank"] <= rank
        assert "the prior supplies the rest" in ended.out
    assert "turns about one axis only" in ended.out


def test_near_directions_determine_nothing(command: Callable[..., Any]) -> None:
    ended = command("plan", "--angles", "0,0;2,0;0,3;0,0,90")
    assert "All B0 directions lie within 3.6 degrees of one another" in ended.out
    assert _numbers(ended.out)["spread"] == 3.6


def test_angles_turn_about_x_then_y_then_z() -> None:
    """Pitch tips B0 in the head's y-z plane, roll in its x-z plane; yaw alone leaves it along z."""
    plain, pitched, rolled, yawed = directions_from_angles("0,0;90,0;0,30;0,0,40")
    np.testing.assert_allclose(plain, [0, 0, 1], atol=1e-12)
    np.testing.assert_allclose(np.abs(pitched), [0, 1, 0], atol=1e-12)
    np.testing.assert_allclose(np.abs(rolled), [0.5, 0, np.sqrt(3) / 2], atol=1e-12)
    np.testing.assert_allclose(yawed, [0, 0, 1], atol=1e-12)


def test_transforms_in_a_folder(command: Callable[..., Any], turning_head: Any) -> None:
    for folder in (turning_head.folder, turning_head.folder / "derivatives" / "truth"):
        (found,) = directions_from_transforms(folder).values()
        np.testing.assert_allclose(found, [m[:3, :3] @ [0, 0, 1] for m in turning_head.transforms], atol=1e-9)
    ended = command("plan", turning_head.folder)
    assert ended.code == 0
    assert ended.out.startswith("sub-01\n")
    scans = _rows(ended.out, "Scans: ")
    assert [row[0] for row in scans] == ["scan 1", "scan 2", "scan 3"]
    assert scans[1][3] == "25.0°"


def test_a_direction_beside_the_images_wins_over_the_affine(
    command: Callable[..., Any], make_head: Callable, tmp_path: Path
) -> None:
    """The same head, but scans whose sidecars say that B0 lay 7 degrees further: that is what the run computes with."""
    head = make_head(tmp_path / "raw", turns=((0, 0), (0, 0)))
    h = np.array([0, np.sin(np.radians(7)), np.cos(np.radians(7))])
    for folder, name in ((head.folder / "sub-01" / "anat", "sub-01_acq-ori02_MEGRE"),
                         (head.truth.folder, "sub-01_acq-ori02_desc-brain_mask")):  # fmt: skip
        sidecar = folder / f"{name}.json"
        before = sidecar.read_text() if sidecar.exists() else None
        sidecar.write_text(json.dumps({"B0_dir": h.tolist()}))
        (found,) = directions_from_transforms(head.folder).values()
        assert np.degrees(np.arccos(found[0] @ found[1])) == pytest.approx(7, abs=1e-4)
        assert "largest angle between two: 7.0 degrees" in command("plan", head.folder).out
        sidecar.unlink() if before is None else sidecar.write_text(before)
    (plain,) = directions_from_transforms(head.folder).values()
    np.testing.assert_allclose(plain[0], plain[1], atol=1e-9)
    for number, tilt in enumerate((0.0, 0.6)):
        path = head.truth.folder / f"sub-01_acq-ori02_desc-{number}_mask.json"
        path.write_text(json.dumps({"B0_dir": [0, tilt, np.sqrt(1 - tilt**2)]}))
    ended = command("plan", head.folder)
    assert ended.code == 2
    assert "state different B0_dir of one scan: correct one of them" in ended.err


def test_what_the_last_run_did_not_make_is_not_planned(make_head: Callable, tmp_path: Path) -> None:
    head = make_head(tmp_path / "raw")
    out = head.folder / "derivatives" / "truth"
    kept = [head.truth.transform(f"acq-ori0{number}") for number in (1, 3)]
    path = manifest_path(out, "01")
    path.parent.mkdir()
    path.write_text(json.dumps(Manifest.of(out, "01", kept, {}).content))
    (found,) = directions_from_transforms(out).values()
    np.testing.assert_allclose(found, [head.transforms[number][:3, 2] for number in (0, 2)], atol=1e-9)


def test_two_folders_of_the_same_scans_are_refused(
    command: Callable[..., Any], turning_head: Any, tmp_path: Path
) -> None:
    for name in ("a", "b"):
        shutil.copytree(turning_head.truth.folder, tmp_path / name / "sub-01" / "anat")
    ended = command("plan", tmp_path)
    assert ended.code == 2
    assert "are the same scan: give the folder of one of them" in ended.err


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "give either --angles"),
        (["somewhere", "--angles", "0,0;25,0"], "give either --angles"),
        (["--angles", "0,0;25"], "each position must be .*, got '25'"),
        (["--angles", "0,0;up,down"], "got 'up,down'"),
        (["--angles", "0,0;nan,0"], "got 'nan,0'"),
        (["."], "holds no transforms .*: run `chi33 run` first, or give --angles"),
        (["--angles", FULL, "--max-angle", "0"], "max_angle must be above 0 and at most 90 degrees, got 0"),
        (["--angles", FULL, "--noise", "-1"], "noise must be a positive standard deviation of the fields in ppm"),
        (["--angles", FULL, "--prior-iso", "0"], "prior.iso must be a positive standard deviation in ppm"),
        (["--angles", FULL, "--prior-aniso", "nan"], "prior.aniso must be a positive standard deviation in ppm"),
        (["--angles", FULL, "--figure", "plan.pdf"], r"plan.pdf does not end in .png: rename it"),
    ],
)
def test_bad_input(
    command: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, words: list[str], message: str
) -> None:
    monkeypatch.chdir(tmp_path)
    ended = command("plan", *words)
    assert ended.code == 2
    assert re.search(message, ended.err)
    assert ended.err.count("\n") == 1
