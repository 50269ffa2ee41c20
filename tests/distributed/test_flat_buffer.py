"""Tensors travel as bytes and come out as they were: values, types, shapes, and the kind of device.

The second device is ``meta`` under PyTorch's fake tensors, which follow every copy between devices without a value.
"""

from __future__ import annotations

import json
from typing import Any

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode

from dreamprop.distributed.flat_buffer import ALIGN, TensorSpec, num_bytes, pack, unpack

CPU, META = torch.device("cpu"), torch.device("meta")


class Crossings(TorchDispatchMode):
    """Counts copies between devices."""

    def __init__(self) -> None:
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        tensors = [t for t in (*args, out) if isinstance(t, torch.Tensor)]
        self.count += "copy" in str(func) and len({t.device for t in tensors}) > 1
        return out


def test_values_types_and_shapes_come_back() -> None:
    g = torch.Generator().manual_seed(0)
    tensors = [
        torch.rand(3, 5, generator=g).T,
        torch.tensor(7, dtype=torch.int64),
        torch.rand(7, generator=g) > 0.5,
        torch.zeros(0, 4),
        torch.rand(3, generator=g, dtype=torch.complex128),
        torch.rand(5, generator=g).bfloat16(),
        torch.tensor([torch.nan, -0.0, torch.inf]),
    ]
    specs = [TensorSpec.from_json(json.loads(json.dumps(TensorSpec.of(t).to_json()))) for t in tensors]
    assert specs == [TensorSpec.of(t) for t in tensors]
    flat = pack(tensors, CPU)
    assert flat.numel() == num_bytes(specs) and flat.numel() % ALIGN == 0
    for found, tensor in zip(unpack(flat, specs), tensors, strict=True):
        assert found.dtype == tensor.dtype and found.shape == tensor.shape
        as_bytes = [t.contiguous().reshape(-1).view(torch.uint8) for t in (found, tensor)]
        assert torch.equal(*as_bytes)
    assert unpack(pack([], CPU), []) == []


@pytest.mark.parametrize("parcel", [CPU, META])
def test_each_comes_back_on_its_kind_of_device_in_one_copy(parcel: torch.device) -> None:
    with FakeTensorMode():
        tensors = [
            torch.empty(3, device=META),
            torch.empty((), dtype=torch.bool),
            torch.empty(2, 5, dtype=torch.float64, device=META),
            torch.empty(4, 2),
        ]
        specs = [TensorSpec.of(t) for t in tensors]
        with Crossings() as packing:
            flat = pack(tensors, parcel)
        assert flat.device == parcel
        with Crossings() as unpacking:
            found = unpack(flat, specs)
    assert [(t.device, t.dtype, t.shape) for t in found] == [(t.device, t.dtype, t.shape) for t in tensors]
    assert packing.count == unpacking.count == 1


def test_values_lie_where_they_are_told_to_beside_another_kind() -> None:
    """A description alone says where a tensor goes; the others keep their values."""
    tensors = [torch.arange(5), torch.ones(3), torch.tensor(2.5)]
    there = TensorSpec(torch.float32, (3,), "meta")
    # whoever sends it has it on the other device: its bytes lie behind those of the first kind
    flat = torch.cat([pack([tensors[0], tensors[2]], CPU), pack([tensors[1]], CPU)])
    found = unpack(flat, [TensorSpec.of(tensors[0]), there, TensorSpec.of(tensors[2])])
    assert found[1].device == META and found[1].shape == (3,)
    assert torch.equal(found[0], tensors[0]) and torch.equal(found[2], tensors[2])
