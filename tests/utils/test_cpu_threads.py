"""Shares of a window, one a core: in order, even, and computed with one thread each."""

import os
import threading

import psutil
import pytest
import torch

from dreamprop.utils import cpu_threads
from dreamprop.utils.cpu_threads import over_cores, split_over_cores

CPU = torch.device("cpu")


@pytest.fixture
def two_threads():
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


def test_shares_are_even_and_in_order(two_threads):
    assert split_over_cores(range(8), CPU) == [range(4), range(4, 8)]
    assert split_over_cores(range(5), CPU) == [range(2), range(2, 5)]
    assert split_over_cores(range(1), CPU) == [range(1)]
    assert split_over_cores(range(8), torch.device("cuda")) == [range(8)]


def test_each_share_has_a_thread_of_its_own_that_splits_no_further(two_threads):
    meet = threading.Barrier(2)

    def look(share):
        meet.wait(10)
        torch.randn(1 << 16).exp().sum()  # large enough for PyTorch to look at its number of threads
        return share, torch.get_num_threads(), threading.get_ident()

    found = over_cores(look, [0, 1])
    assert [share for share, _, _ in found] == [0, 1]
    assert [count for _, count, _ in found] == [1, 1]
    assert len({who for _, _, who in found} | {threading.get_ident()}) == 3
    assert torch.get_num_threads() == 2


def test_a_single_share_is_computed_here(two_threads):
    assert over_cores(lambda _: threading.get_ident(), [0]) == [threading.get_ident()]


def test_what_a_share_raises_comes_through(two_threads):
    with pytest.raises(ZeroDivisionError):
        over_cores(lambda share: 1 // share, [0, 1])


def test_a_busy_machine_is_noticed(monkeypatch):
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0, 1, 3, 4})
    monkeypatch.setattr(torch, "get_num_threads", lambda: 4)
    load, busy = 0.3, [100.0, 90.0, 100.0, 30.0, 0.0]
    monkeypatch.setattr(os, "getloadavg", lambda: (load, 0.0, 0.0))
    monkeypatch.setattr(psutil, "cpu_percent", lambda seconds, percpu: busy)
    assert cpu_threads.oversubscribed() is None
    load = 2.2
    told = cpu_threads.oversubscribed()
    assert told == "other programs keep 2.2 of 4 cores busy; OMP_NUM_THREADS=1 may be quicker than 4"
    busy = [0.0, 10.0, 100.0, 0.0, 20.0]  # what kept them busy has ended
    assert cpu_threads.oversubscribed() is None
    busy = [100.0] * 5
    monkeypatch.setenv("OMP_NUM_THREADS", "4")
    assert cpu_threads.oversubscribed() is None
