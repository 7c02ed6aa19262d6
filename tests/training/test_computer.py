"""The threads of a training are those that the machine grants."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from chi33.training import computer
from chi33.training.computer import prepare_cpu


@pytest.fixture(autouse=True)
def _threads_given_back() -> Iterator[None]:
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


@pytest.mark.parametrize(("chosen", "granted", "expected"), [(4, 2, 2), (1, 8, 1)])
def test_no_more_threads_than_processors_granted(
    monkeypatch: pytest.MonkeyPatch, chosen: int, granted: int, expected: int
) -> None:
    torch.set_num_threads(chosen)
    monkeypatch.setattr(computer, "available_processors", lambda: granted)
    prepare_cpu()
    assert torch.get_num_threads() == expected


def test_threads_asked_for_are_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(computer, "available_processors", lambda: 1)
    prepare_cpu(3)
    assert torch.get_num_threads() == 3
