"""However many workers build a store, it is the same; and its memory does not grow with the number of scans."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from chi33.datasets.build.build import BuildConfig, build_store
from chi33.datasets.build.workers import workers
from chi33.datasets.store.schema import open_store
from chi33.files.errors import InputError, StepError
from distributed import LocalCluster

CONFIG = BuildConfig(
    patch_size=10, patches_per_scan=5, augment=2, augment_snr=(5, 20), augment_scale=(0.5, 2), materialise=True
)


def test_the_store_does_not_depend_on_the_workers(derivatives: Path, tmp_path: Path) -> None:
    steps: list[tuple[int, int]] = []
    one = build_store(derivatives, tmp_path / "one.h5", CONFIG)
    two = build_store(
        derivatives,
        tmp_path / "two.h5",
        CONFIG,
        n_procs=2,
        progress=lambda done, total, what: steps.append((done, total)),
    )
    with LocalCluster(n_workers=1, threads_per_worker=2, processes=False, dashboard_address=None) as cluster:
        build_store(derivatives, tmp_path / "three.h5", CONFIG, scheduler=cluster.scheduler_address)
    assert (one.volumes, one.patches, one.augmented) == (two.volumes, two.patches, two.augmented)
    stores = [open_store(tmp_path / f"{name}.h5", verify=True) for name in ("one", "two", "three")]
    assert len({store.content_hash for store in stores}) == 1
    assert [store.statistics for store in stores[1:]] == [stores[0].statistics] * 2
    with stores[0].open() as first, stores[1].open() as second:
        np.testing.assert_array_equal(first["patches/train_data"][()], second["patches/train_data"][()])
    assert [done for done, _ in steps] == sorted(done for done, _ in steps)
    assert steps[-1] == (23, 23)  # three subjects: two scans and a tensor, two copies of two; patches of ten volumes
    assert sorted(path.name for path in tmp_path.iterdir()) == ["one.h5", "three.h5", "two.h5"]


def test_an_error_of_a_worker_is_the_error_of_the_build(make_derivatives, tmp_path: Path) -> None:
    folder = make_derivatives(2, 1)
    (folder / "sub-02/anat/sub-02_acq-ori01_desc-chi33_Chimap.nii.gz").write_bytes(b"no image")
    with pytest.raises(InputError, match=r"sub-02_acq-ori01_desc-chi33_Chimap.nii.gz is damaged"):
        build_store(folder, tmp_path / "s.h5", BuildConfig(patch_size=10), n_procs=2)
    assert not (tmp_path / "s.h5").exists()


def test_a_worker_that_dies_is_one_sentence() -> None:
    with (
        pytest.raises(
            StepError, match=r"a worker process died, most likely for want of memory: .* a smaller --n-procs"
        ),
        workers(2, None, 2) as crew,
    ):
        list(crew.map(os._exit, [3, 3]))


def test_workers_have_one_thread_each() -> None:
    with workers(2, None, 2) as crew:
        found = dict(crew.map(os.getenv, ["OMP_NUM_THREADS", "MKL_NUM_THREADS"]))
    assert found == {0: "1", 1: "1"}


def test_impossible_workers_are_refused(derivatives: Path, tmp_path: Path, monkeypatch) -> None:
    with pytest.raises(InputError, match="--n-procs must be at least 1, got 0"):
        build_store(derivatives, tmp_path / "s.h5", CONFIG, n_procs=0)
    with pytest.raises(InputError, match=r"--dask must be the address of a scheduler .* got 'cluster'"):
        build_store(derivatives, tmp_path / "s.h5", CONFIG, scheduler="cluster")
    monkeypatch.setattr("chi33.datasets.build.workers.CONNECT_TIMEOUT", 0.2)
    with pytest.raises(InputError, match=r"scheduler at tcp://127.0.0.1:9 did not answer within 0.2 s: start it"):
        build_store(derivatives, tmp_path / "s.h5", CONFIG, scheduler="tcp://127.0.0.1:9")
    assert list(tmp_path.iterdir()) == []


PEAK = """
import resource, sys
from dataclasses import dataclass
from pathlib import Path
import numpy as np
from chi33.datasets.build.build import BuildConfig, build_from
from chi33.datasets.store.volume import Geometry, Volume
SHAPE = (72, 72, 72)
@dataclass(frozen=True)
class Noise:
    subject: str
    scans: int
    labels = ("chi33", "deltab", "cosmos")
    @property
    def scan_ids(self):
        return tuple(f"sub-{self.subject}/acq-ori{n:02d}" for n in range(self.scans))
    @property
    def voxels(self):
        return (72**3,) * self.scans
    def read_scan(self, number):
        rng = np.random.default_rng(number)
        maps = {name: rng.integers(0, 9, SHAPE).astype(np.float32) for name in ("field", *self.labels)}
        geometry = Geometry(np.diag([2.0, 2, 2, 1]), np.array([0.0, 0, 1]), 3.0)
        maps["mask"] = np.ones(SHAPE, np.uint8)
        return Volume(self.scan_ids[number], self.subject, maps, geometry)
    def read_tensor(self):
        return None
    def read_cosmos(self):
        return None
    def fingerprint(self):
        return ""
config = BuildConfig(patch_size=32, patches_per_scan=4, val_subjects=(), materialise=True)
build_from([Noise("01", int(sys.argv[2]))], Path(sys.argv[1]), config)
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
"""


@pytest.mark.filterwarnings("ignore::chi33.files.errors.Chi33Warning")
def test_memory_does_not_grow_with_the_scans(tmp_path: Path) -> None:
    peaks = []
    for scans in (2, 9):
        words = [sys.executable, "-W", "ignore", "-c", PEAK, tmp_path / f"{scans}.h5", str(scans)]
        done = subprocess.run(
            words, capture_output=True, text=True, check=True, env={**os.environ, "OMP_NUM_THREADS": "1"}
        )
        peaks.append(int(done.stdout) / 1024)
        assert len(open_store(tmp_path / f"{scans}.h5").volumes) == scans
    one_volume = 4 * 4 * 72**3 / 2**20  # MB
    assert peaks[1] - peaks[0] < one_volume, peaks
