"""The count of live memory: of storages, once each, from first touch to last reference."""

from __future__ import annotations

import torch


def test_storages_count_once_while_somebody_holds_them() -> None:
    from alive import Alive

    a = torch.zeros(100)  # made before: counts from the first operation that reads it
    with Alive() as alive:
        assert alive.bytes == 0
        b = a + 1
        assert alive.bytes == 800
        view = b[:10].view(2, 5)
        del b
        assert alive.bytes == 800, "a view holds all of its storage"
        del view
        assert alive.bytes == 400
        a.mul_(2)
        torch.add(a, a, out=a)
        assert alive.bytes == 400
        kept = (a + 1) * 2  # beside a: the sum, then the product too
        assert (alive.bytes, alive.peak) == (800, 1200)
        alive.reset_peak()
        assert alive.peak == 800
    del kept


def test_small_ones_may_be_left_out() -> None:
    from alive import Alive

    with Alive(least=400) as alive:
        small, large = torch.zeros(99), torch.zeros(100)
        assert alive.bytes == 400
    del small, large


def test_bare_adam_holds_four() -> None:
    from alive import Alive

    p = torch.randn(1000, requires_grad=True)
    adam = torch.optim.Adam([p], foreach=False)
    with Alive(least=4000) as alive:
        p.grad = torch.randn(1000)
        adam.step()
        assert alive.bytes == 4 * 4000  # parameter, gradient and two moments
