"""How often a block waits for the device: every number that is read back from it stops the host until it is there.

On a CPU no read waits; what would be one on a GPU is counted where Python asks for it and where PyTorch does.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from torch import Tensor, ops
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

ASKED = {Tensor.tolist: "tolist", Tensor.cpu: "cpu", Tensor.numpy: "numpy"}
"""What does not pass PyTorch's dispatcher on a CPU."""
DISPATCHED = {
    ops.aten._local_scalar_dense.default: "item",
    ops.aten.equal.default: "equal",
    ops.aten.nonzero.default: "nonzero",
}
"""What Python's `int`, `float`, `bool`, `item`, `torch.equal` and masks as indices come down to."""


class DeviceReads:
    """Notes the reads of the threads that enter it.

    Args:
        device: type of the device whose reads count, such as `meta` for a second device that every machine has;
            by default those of all devices, the CPU's too.
    """

    def __init__(self, device: str | None = None) -> None:
        self.device = device
        self.found: list[str] = []
        """What was read, in order."""

    def note(self, what: str, args: Any) -> None:
        """Note a read of the first tensor among the arguments."""
        if self.device in (None, args[0].device.type):
            self.found.append(what)

    @contextmanager
    def watching(self) -> Iterator[DeviceReads]:
        """A block whose reads are noted; modes of PyTorch are kept for each thread, so each of them needs its own."""
        with _Asked(self), _Dispatched(self):
            yield self


@contextmanager
def device_reads(count: int, device: str | None = None) -> Iterator[DeviceReads]:
    """A block that must read exactly so many times from a device."""
    with DeviceReads(device).watching() as reads:
        yield reads
    assert len(reads.found) == count, f"expected {count} reads of the device, got {reads.found}"


class _Asked(TorchFunctionMode):
    def __init__(self, reads: DeviceReads) -> None:
        super().__init__()
        self.reads = reads

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func in ASKED:
            self.reads.note(ASKED[func], args)
        return func(*args, **(kwargs or {}))


class _Dispatched(TorchDispatchMode):
    def __init__(self, reads: DeviceReads) -> None:
        super().__init__()
        self.reads = reads

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func in DISPATCHED:
            self.reads.note(DISPATCHED[func], args)
        return func(*args, **(kwargs or {}))
