"""Where fits run: threads, clusters, temporary files; results must not depend on any of it."""

from __future__ import annotations

import faulthandler
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from chi33.files.errors import InputError
from chi33.pipeline.computing import threads
from chi33.pipeline.fits import execution as execution_module
from chi33.pipeline.fits.closed_form import fit_susceptibility
from chi33.pipeline.fits.execution import Execution, execution_or_threads
from chi33.pipeline.fits.masked import Stopping, fit_masked
from chi33.pipeline.fits.model import grid as grid_module
from chi33.pipeline.fits.result import Fit
from chi33.pipeline.fits.single_step import fit_single_step
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter

SHAPE, SIZE = (17, 16, 15), (2.0, 2.0, 2.5)
H = [
    np.array([0.0, 0, 1]),
    np.array([0.48, 0, np.sqrt(1 - 0.48**2)]),
    np.array([-0.36, 0.48, 0.8]),
    np.array([0, -0.6, 0.8]),
]
Solve = Callable[[Execution | None], Fit]


def data() -> tuple[list[NDArray[np.float32]], list[NDArray[np.bool_]]]:
    """Smooth random fields of four scans and masks of their own."""
    rng = np.random.default_rng(6)
    masks = []
    for shift in range(4):
        mask = np.zeros(SHAPE, bool)
        mask[1 + shift // 2 : 15 + shift % 2, 1 : 14 + shift // 2, 1:14] = True
        masks.append(mask)
    fields = [0.1 * gaussian_filter(rng.standard_normal(SHAPE), 1).astype(np.float32) * mask for mask in masks]
    return fields, masks


FIELDS, MASKS = data()
FITS: dict[str, Solve] = {
    "closed": lambda execution: fit_susceptibility(FIELDS, SIZE, H, padding=8, noise=1e-3, execution=execution),
    "masked": lambda execution: fit_masked(
        FIELDS, MASKS, SIZE, H, padding=8, stopping=Stopping(1, 0.0), execution=execution
    ),
    "single-step": lambda execution: fit_single_step(
        FIELDS, MASKS, SIZE, H, padding=8, radii=(9.0, 6.0), noise=1e-3, stopping=Stopping(3, 0.0), execution=execution
    ),
}
REFERENCES: dict[str, Fit] = {}


@pytest.fixture(params=FITS)
def solve(request: pytest.FixtureRequest) -> Solve:
    return FITS[request.param]


def reference(solve: Solve) -> Fit:
    """The fit on one thread with the usual slabs, made once."""
    name = next(name for name, one in FITS.items() if one is solve)
    if name not in REFERENCES:
        with Execution(workers=1) as one:
            REFERENCES[name] = solve(one)
    assert np.abs(REFERENCES[name].tensor).max() > 1e-3
    return REFERENCES[name]


def assert_same_bits(found: Fit, expected: Fit) -> None:
    np.testing.assert_array_equal(found.tensor, expected.tensor)
    np.testing.assert_array_equal(found.cosmos, expected.cosmos)
    assert found.noise == expected.noise
    assert found.record == expected.record


@pytest.mark.parametrize("workers", [2, 3, 7])
def test_results_do_not_depend_on_the_number_of_workers(solve: Solve, workers: int) -> None:
    with Execution(workers=workers) as running:
        assert_same_bits(solve(running), reference(solve))


@pytest.mark.parametrize("points", [1, 700, 3000])
def test_results_do_not_depend_on_how_the_work_is_cut(
    solve: Solve, points: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = reference(solve)
    monkeypatch.setattr(grid_module, "_SLAB_POINTS", points)
    with Execution(workers=2) as running:
        assert_same_bits(solve(running), expected)


def test_without_an_execution_a_fit_runs_on_threads(solve: Solve) -> None:
    assert_same_bits(solve(None), reference(solve))


def test_results_do_not_depend_on_memory_and_temporary_files_are_removed(solve: Solve, tmp_path: Path) -> None:
    with Execution(memory=1e-6, scratch=tmp_path, workers=2) as running:
        assert_same_bits(solve(running), reference(solve))
        assert not running.in_memory
        assert [path.name.startswith("chi33-fit-") for path in tmp_path.iterdir()] == [True]
    assert list(tmp_path.iterdir()) == []
    assert running.in_memory


def test_within_the_memory_given_nothing_goes_to_files(tmp_path: Path) -> None:
    with Execution(memory=1.0, scratch=tmp_path) as running:
        FITS["closed"](running)
        assert running.in_memory
        assert list(tmp_path.iterdir()) == []


# Clusters


@pytest.fixture(scope="module")
def cluster() -> Iterator[Execution]:
    """Two processes on this machine, as --dask local makes them; if they hang, the tests end with a traceback."""
    faulthandler.dump_traceback_later(300, exit=True, file=sys.__stderr__)
    with Execution("local", workers=2) as running:
        yield running
    faulthandler.cancel_dump_traceback_later()


def assert_close(found: Fit, expected: Fit) -> None:
    for name in ("tensor", "cosmos"):
        one, other = getattr(found, name), getattr(expected, name)
        np.testing.assert_allclose(one, other, rtol=0, atol=1e-5 * float(np.abs(other).max()))
    assert found.noise == pytest.approx(expected.noise, rel=1e-5)


def test_a_local_cluster_gives_the_result_of_threads(cluster: Execution, solve: Solve) -> None:
    assert_close(solve(cluster), reference(solve))


def test_a_cluster_by_address_gives_the_result_of_threads_and_is_left_running(cluster: Execution) -> None:
    address = cluster._client.scheduler.address
    assert address.startswith("tcp://127.0.0.1:")
    for _ in range(2):
        with Execution(address) as running:
            assert_close(FITS["closed"](running), reference(FITS["closed"]))
    assert cluster.map(abs, [-1, -2]) == [1, 2]


def test_large_arrays_and_files_reach_a_cluster(cluster: Execution, tmp_path: Path) -> None:
    large = np.arange(300_000, dtype=np.float64)  # sent once, beside the tasks
    assert cluster.map(np.sum, [large, large[:10], large]) == [large.sum(), 45.0, large.sum()]
    shared = cluster.share(large)
    assert cluster.map(np.dot, [shared], [np.ones_like(large)]) == [large.sum()]
    with Execution(memory=1e-9, scratch=tmp_path) as files:
        stored = files.allocate((2, 150_000), np.float64)
        stored[:] = 2.0
        assert cluster.map(np.sum, list(stored)) == [300_000.0] * 2


def test_what_fails_on_a_cluster_fails_here(cluster: Execution) -> None:
    with pytest.raises(ZeroDivisionError):
        cluster.map(divmod, [1, 2], [1, 0])


def test_batches_on_a_cluster_are_as_large_as_its_threads(cluster: Execution) -> None:
    batches = list(cluster.map_batches(abs, [-1, -2, -3, -4, -5]))
    assert [batch for batch, _ in batches] == [slice(0, 2), slice(2, 4), slice(4, 5)]
    assert [one for _, parts in batches for one in parts] == [1, 2, 3, 4, 5]


@pytest.mark.parametrize("address", ["tcp://127.0.0.1:1", "nonsense://127.0.0.1:1"])
def test_a_scheduler_that_does_not_answer_is_told_in_a_sentence(address: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(execution_module, "CONNECT_TIMEOUT", 1.0)
    started = time.monotonic()
    with pytest.raises(
        InputError, match=f"the Dask scheduler at {address} did not answer within 1 s: start it"
    ) as told:
        Execution(address)
    assert time.monotonic() - started < 15
    assert "\n" not in str(told.value)


# Tasks


def test_results_come_in_the_order_of_the_arguments() -> None:
    def slow_first(number: int, other: int) -> int:
        time.sleep(0.02 * (4 - number))
        return 10 * number + other

    with Execution(workers=4) as running:
        assert running.map(slow_first, range(4), range(4)) == [0, 11, 22, 33]
        assert running.map_here(slow_first, range(4), range(4)) == [0, 11, 22, 33]
        assert running.map(abs, []) == []


@pytest.mark.parametrize("workers", [1, 2, 3])
def test_as_many_tasks_run_at_a_time_as_there_are_workers(workers: int) -> None:
    lock, state = threading.Lock(), {"now": 0, "most": 0}

    def task(_: int) -> None:
        with lock:
            state["now"] += 1
            state["most"] = max(state["most"], state["now"])
        time.sleep(0.03)
        with lock:
            state["now"] -= 1

    with Execution(workers=workers) as running:
        running.map(task, range(9))
    assert state["most"] == workers


def test_arguments_of_unlike_numbers_are_refused() -> None:
    with Execution(workers=1) as running, pytest.raises(ValueError, match="zip"):
        running.map(divmod, [1, 2, 3], [1, 2])


def test_arguments_that_look_like_tasks_of_dask_are_left_alone() -> None:
    with Execution(workers=1) as running:
        assert running.map(type, [(len, "abc"), [1, 2], {"a": 1}]) == [tuple, list, dict]


def test_batches_hold_as_many_results_as_there_are_workers() -> None:
    with Execution(workers=3) as running:
        batches = list(running.map_batches(pow, [1, 2, 3, 4], [2, 2, 2, 2]))
    assert batches == [(slice(0, 3), [1, 4, 9]), (slice(3, 4), [16])]


def test_what_fails_on_threads_fails_here_and_files_are_removed(tmp_path: Path) -> None:
    def fail() -> None:
        with Execution(memory=1e-9, scratch=tmp_path, workers=2) as running:
            running.allocate((100,), np.float32)
            assert len(list(tmp_path.iterdir())) == 1
            running.map(divmod, [1, 2], [1, 0])

    with pytest.raises(ZeroDivisionError):
        fail()
    assert list(tmp_path.iterdir()) == []


def test_volumes_go_to_files_when_the_memory_is_used_up(tmp_path: Path) -> None:
    with Execution(memory=1e-6, scratch=tmp_path) as running:
        first = running.allocate((10, 10), np.float32)
        assert running.in_memory
        assert not isinstance(first, np.memmap)
        second = running.allocate((4, 200), np.complex64)
        assert isinstance(second, np.memmap)
        assert (second.shape, second.dtype) == ((4, 200), np.complex64)
        assert not isinstance(running.allocate((25,), np.float32), np.memmap)
        assert isinstance(running.allocate((200,), np.float32), np.memmap)
        assert len(list(next(tmp_path.iterdir()).iterdir())) == 2
        assert not running.in_memory


def test_kept_volumes_are_equal_and_contiguous_wherever_they_lie(tmp_path: Path) -> None:
    volume = np.arange(60, dtype=np.float32).reshape(3, 4, 5)
    for memory in (None, 1e-9):
        with Execution(memory=memory, scratch=tmp_path) as running:
            kept = running.keep(volume[:, ::2])
            np.testing.assert_array_equal(kept, volume[:, ::2])
            assert kept.flags.c_contiguous
            assert running.in_memory == (memory is None)


def test_threads_share_arrays_themselves() -> None:
    array = np.zeros(3)
    with Execution(workers=1) as running:
        assert running.share(array) is array
        assert running.workers == 1


def test_a_fit_leaves_the_execution_open_that_it_was_given() -> None:
    class Watched(Execution):
        closed = False

        def close(self) -> None:
            self.closed = True
            super().close()

    given = Watched(workers=1)
    with execution_or_threads(given) as running:
        assert running is given
    assert not given.closed
    with execution_or_threads(None) as made:
        assert made.scheduler == "threads"


def test_the_number_of_workers_is_what_is_granted_and_at_most_what_the_environment_says(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(threads, "available_processors", lambda: 7)
    monkeypatch.setenv("OMP_NUM_THREADS", "5")
    assert Execution().workers == 5
    monkeypatch.setenv("OMP_NUM_THREADS", "64")
    assert Execution().workers == 7
    assert Execution(workers=2).workers == 2


@pytest.mark.parametrize(("call", "message"), [
    (lambda: Execution("slurm"),
     "dask must be 'threads', 'local' or the address of a scheduler such as tcp://host:8786, got 'slurm'"),
    (lambda: Execution(""), "dask must be 'threads', 'local' or the address .* got ''"),
    (lambda: Execution(workers=0), "the number of workers must be at least 1, got 0"),
    (lambda: Execution(workers=-2), "the number of workers must be at least 1, got -2"),
    (lambda: Execution(memory=0), "memory must be a positive number of GB, got 0"),
    (lambda: Execution(memory=-1.5), "memory must be a positive number of GB, got -1.5"),
    (lambda: Execution(memory=float("nan")), "memory must be a positive number of GB, got nan"),
])  # fmt: skip
def test_what_cannot_run_is_refused(call: Callable[[], object], message: str) -> None:
    with pytest.raises(InputError, match=message):
        call()
