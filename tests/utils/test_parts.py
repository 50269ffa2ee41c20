"""Randomness, resizes, pieces and memory."""

from __future__ import annotations

import gc

import pytest
import torch

from dreamprop.optim.resize import resize_moments, resize_params
from dreamprop.rng import generator, key
from dreamprop.utils import cpu_allocator
from dreamprop.utils.foreach import blocks


def test_draws_depend_on_seed_step_and_stream_alone() -> None:
    def draw(*which: object) -> list[float]:
        return torch.randn(50, generator=generator(*which)).tolist()  # type: ignore[arg-type]

    first = draw(1, 2, "noise")
    torch.manual_seed(5)
    assert draw(1, 2, "noise") == first
    assert torch.randn(50).tolist() != first
    others = [draw(2, 1, "noise"), draw(1, 3, "noise"), draw(0, 3, "noise"), draw(1, 2), draw(12, 2, "noise")]
    # not even shifted: no value of one appears in another
    assert all(not set(first) & set(other) for other in others)
    assert key(1, 23) != key(12, 3)


def test_parameters_and_moments_follow_one_index_map() -> None:
    params = {"x": torch.arange(4.0).reshape(4, 1), "y": torch.arange(4.0), "z": torch.zeros(7)}
    moments = {
        "x/m": 10 * params["x"],
        "y/m": 10 * params["y"],
        "z/m": torch.ones(7),
        "x/count": torch.tensor(3),
    }
    index, fresh = torch.tensor([3, 0, 0]), torch.tensor([False, False, True])
    values = {"y": torch.tensor([-1.0, -2.0, -3.0])}
    new = resize_params(params, ["x", "y"], index, values, fresh)
    carried = resize_moments(moments, ["x", "y"], index, fresh)
    assert new["x"].flatten().tolist() == [3, 0, 0] and new["y"].tolist() == [3, 0, -3]
    assert carried["x/m"].flatten().tolist() == [30, 0, 0] and carried["y/m"].tolist() == [30, 0, 0]
    assert new["z"] is params["z"] and carried["z/m"] is moments["z/m"] and carried["x/count"] == 3
    assert params["y"].tolist() == [0, 1, 2, 3] and moments["y/m"].tolist() == [0, 10, 20, 30]
    with pytest.raises(ValueError, match="same rows, got x 4, z 7"):
        resize_params(params, ["x", "z"], index)
    with pytest.raises(ValueError, match="must be parameters, got 'w'"):
        resize_params(params, ["w"], index)
    with pytest.raises(ValueError, match="must come with fresh"):
        resize_params(params, ["y"], index, values)


def test_pieces_cover_every_element_once() -> None:
    tensors = [torch.zeros(s) for s in [(100_003,), (3, 4), (), (0,), (70_000, 2)]]
    tensors.append(torch.zeros(50, 3000).T)  # not contiguous: one piece
    counts = [0] * len(tensors)
    for owners, (some, others) in blocks(tensors, [t.clone() for t in tensors]):
        assert len(owners) == len(some) == len(others)
        for owner, piece, other in zip(owners, some, others, strict=True):
            assert piece.shape == other.shape
            counts[owner] += piece.numel()
            piece += 1
    assert counts == [t.numel() for t in tensors]
    assert all((t == 1).all() for t in tensors)


def test_memory_is_used_again_only_when_nobody_holds_it() -> None:
    shape = torch.empty(1 << 19)
    with cpu_allocator.reuse():
        a = cpu_allocator.like(shape)
        view, where = a[10:20].detach(), a.data_ptr()
        view.fill_(7)
        del a
        gc.collect()
        b = cpu_allocator.like(shape)
        assert b.data_ptr() != where  # the view still holds it
        b.fill_(1)
        assert view.tolist() == [7] * 10
        del view
        gc.collect()
        c = cpu_allocator.like(shape)
        assert c.data_ptr() == where
        c.fill_(3)
    d = cpu_allocator.like(shape)
    d.fill_(4)
    assert (c == 3).all() and (b == 1).all()  # what was handed out outlives the pool
    with cpu_allocator.reuse():
        half = cpu_allocator.like(shape.half().repeat(2))
        assert half.dtype == torch.float16 and half.shape == (1 << 20,) and half.is_contiguous()
