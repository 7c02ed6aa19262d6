"""An epoch's draw is common to all processes of a training, and each takes its own share of it."""

from __future__ import annotations

import pytest
from chi33.datasets.loading.epoch_sampler import EpochSampler
from chi33.files.errors import InputError
from hypothesis import given
from hypothesis import strategies as st
from torch.utils.data import DistributedSampler


def test_epochs_draw_without_repetition_and_repeat_exactly() -> None:
    sampler = EpochSampler(100, 30, seed=1)
    first = list(sampler)
    assert len(first) == len(set(first)) == len(sampler) == 30
    assert list(sampler) == first
    sampler.set_epoch(1)
    assert list(sampler) != first
    resumed = EpochSampler(100, 30, seed=1)
    resumed.set_epoch(1)
    assert list(resumed) == list(sampler)
    assert sorted(EpochSampler(7)) == list(range(7))


@given(st.integers(1, 50), st.integers(1, 7), st.integers(0, 3), st.data())
def test_ranks_are_disjoint_equal_in_length_and_one_draw(length: int, ranks: int, epoch: int, data) -> None:
    number = data.draw(st.integers(min(ranks, length), length))
    if number < ranks:
        return
    shares = []
    for rank in range(ranks):
        sampler = EpochSampler(length, number, seed=5, num_replicas=ranks, rank=rank)
        sampler.set_epoch(epoch)
        shares.append(list(sampler))
        assert len(shares[-1]) == len(sampler) == number // ranks
    together = [index for share in shares for index in share]
    assert len(set(together)) == len(together) >= number - ranks + 1
    alone = EpochSampler(length, number, seed=5)
    alone.set_epoch(epoch)
    assert set(together) <= set(alone)
    assert [share[0] for share in shares] == list(alone)[:ranks]


def test_what_does_not_share_out_is_left_out_or_repeated() -> None:
    repeated = [list(EpochSampler(5, shuffle=False, num_replicas=4, rank=r, uneven="repeat")) for r in range(4)]
    assert repeated == [[0, 4], [1, 0], [2, 1], [3, 2]]
    assert [list(EpochSampler(2, shuffle=False, num_replicas=3, rank=r, uneven="repeat")) for r in range(3)] == [
        [0], [1], [0]
    ]  # fmt: skip
    left_out = set()
    for epoch in range(60):
        used = set()
        for rank in range(4):
            sampler = EpochSampler(5, num_replicas=4, rank=rank)
            sampler.set_epoch(epoch)
            used |= set(sampler)
        left_out |= set(range(5)) - used
    assert left_out == set(range(5))


def test_without_shuffling_indices_are_spread_evenly() -> None:
    assert list(EpochSampler(101, 5, shuffle=False)) == [0, 25, 50, 75, 100]
    assert list(EpochSampler(3, shuffle=False)) == [0, 1, 2]


def test_keys_tell_the_epoch() -> None:
    sampler = EpochSampler(10, 4, with_epoch=True)
    sampler.set_epoch(3)
    plain = EpochSampler(10, 4)
    plain.set_epoch(3)
    assert list(sampler) == [(3, index) for index in plain]


def test_it_is_a_distributed_sampler_so_none_is_put_in_its_place() -> None:
    assert isinstance(EpochSampler(3), DistributedSampler)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"number": 101}, "the samples per epoch must be between 1 and 100, got 101"),
        ({"number": 0}, "between 1 and 100, got 0"),
        ({"num_replicas": 2, "rank": 2}, "rank must be from 0 to 1 of 2 processes, got 2"),
        ({"number": 3, "num_replicas": 4}, "3 samples cannot be shared out among 4 processes: use fewer"),
    ],
)
def test_numbers_out_of_range_are_refused(arguments: dict, message: str) -> None:
    with pytest.raises(InputError, match=message):
        EpochSampler(100, **arguments)
