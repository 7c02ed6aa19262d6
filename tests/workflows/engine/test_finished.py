"""Whether a subject was finished before: any change of what it depends on, or of what it wrote, says no."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from chi33.files.derivatives import write_json
from chi33.files.manifest import Manifest, manifest_path
from chi33.workflows.config import RunConfig
from chi33.workflows.engine import finished as module
from chi33.workflows.engine.finished import INPUTS, OUTPUTS, inputs_digest, outputs_digest, was_finished
from chi33.workflows.raw.dataset import find_subjects

CONFIG = RunConfig()


class Finished:
    """A subject whose run has ended: its raw data, and an output folder with one map."""

    def __init__(self, head: Any, out: Path) -> None:
        self.head, self.out = head, out
        self.map = out / "sub-01" / "anat" / "map.nii.gz"
        self.map.parent.mkdir(parents=True)
        self.map.write_text("chi")
        self.end(CONFIG)

    def end(self, config: RunConfig) -> None:
        """Write the manifest as at the end of a run."""
        (subject,) = find_subjects(self.head.folder)
        whole = Manifest.of(self.out, "01", [self.map], {})
        facts = {INPUTS: inputs_digest(subject, config, "fsl"), OUTPUTS: outputs_digest(whole)}
        write_json(manifest_path(self.out, "01"), replace(whole, facts=facts).content)

    def holds(self, config: RunConfig = CONFIG, backend: str = "fsl") -> bool:
        (subject,) = find_subjects(self.head.folder)
        return was_finished(self.out, subject, config, backend)


@pytest.fixture
def run(make_head: Callable, tmp_path: Path) -> Finished:
    return Finished(make_head(tmp_path / "raw", turns=((0, 0), (20, 0))), tmp_path / "out")


def test_nothing_changed(run: Finished) -> None:
    assert run.holds()
    assert run.holds(replace(CONFIG, backend="fsl", dask="local", fit_memory=2.0))  # where it runs changes nothing


def _touch(path: Path) -> None:
    os.utime(path, ns=(1, 1))


def _restate(run: Finished) -> None:
    path = run.head.raw(2, ext=".json")
    path.write_text(json.dumps(json.loads(path.read_text()) | {"B0_dir": [0, 0, 1]}))


def _inherit(run: Finished) -> None:
    (run.head.folder / "part-phase_MEGRE.json").write_text(json.dumps({"PhaseSign": -1}))


def _drop(run: Finished) -> None:
    for path in run.head.folder.rglob("sub-01_acq-ori02*MEGRE*"):
        path.unlink()


@pytest.mark.parametrize("change", [
    lambda run: _touch(run.head.raw(1)),
    lambda run: run.head.raw(1).write_bytes(run.head.raw(1).read_bytes() + b"0"),
    _restate, _inherit, _drop,
    lambda run: run.map.unlink(),
    lambda run: run.map.write_text("other"),
    lambda run: _touch(run.map),
    lambda run: manifest_path(run.out, "01").unlink(),
    lambda run: manifest_path(run.out, "01").write_text("{"),
], ids=["image touched", "image grown", "sidecar", "inherited sidecar", "scan gone", "map gone", "map changed",
        "map touched", "no manifest", "damaged manifest"])  # fmt: skip
def test_any_change_is_seen(run: Finished, change: Callable[[Finished], None]) -> None:
    change(run)
    assert not run.holds()


def test_settings_backend_and_version_count(run: Finished, monkeypatch: pytest.MonkeyPatch) -> None:
    assert not run.holds(replace(CONFIG, prior_iso=0.02))
    assert not run.holds(replace(CONFIG, reference="acq-ori02"))
    assert not run.holds(backend="builtin")
    monkeypatch.setattr(module, "__version__", "99.0")
    assert not run.holds()


def test_a_label_map_counts_with_the_names_beside_it(run: Finished, tmp_path: Path) -> None:
    regions, names = tmp_path / "atlas.nii.gz", tmp_path / "atlas.tsv"
    regions.write_text("labels")
    names.write_text("index\tname\n1\tputamen\n")
    config = replace(CONFIG, rois=str(regions))
    run.end(config)
    (tmp_path / "notes.txt").write_text("of something else")
    assert run.holds(config)
    names.write_text("index\tname\n1\tcaudate nucleus\n")
    assert not run.holds(config)


def test_files_of_a_folder_that_a_setting_names_count(run: Finished, tmp_path: Path) -> None:
    masks = tmp_path / "masks"
    masks.mkdir()
    (masks / "sub-01_acq-ori01_desc-brain_mask.nii.gz").write_text("mask")
    config = replace(CONFIG, masks=str(masks))
    run.end(config)
    assert run.holds(config)
    (masks / "sub-02_acq-ori01_desc-brain_mask.nii.gz").write_text("of another subject")
    assert run.holds(config)
    (masks / "sub-01_acq-ori01_desc-brain_mask.nii.gz").write_text("corrected")
    assert not run.holds(config)
