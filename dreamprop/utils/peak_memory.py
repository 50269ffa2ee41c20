"""The most memory that a process has held while it did something."""

from pathlib import Path
from types import TracebackType
from typing import Self

import torch

SELF = Path("/proc/self")


class Peak:
    """Measures while it is open, and goes on where it left off when it is opened again.

    On a GPU it is the memory that PyTorch has handed out. On a CPU it is the resident memory of the whole process,
    with what earlier runs left in its heap; the kernel's mark is set back to the present (``proc(5)``, clear_refs).

    Args:
        device: whose memory.
    """

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.bytes: int | None = None
        """The most so far; none before the first measurement, and where the system does not tell."""

    def __enter__(self) -> Self:
        self._open = True
        if self.device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(self.device)
        else:
            try:
                (SELF / "clear_refs").write_text("5")
            except OSError:  # not Linux, or a sandbox: the mark would be that of the whole process's life
                self._open = False
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._open:
            cuda = self.device.type == "cuda"
            now = torch.cuda.max_memory_allocated(self.device) if cuda else _resident()
            self.bytes = max(self.bytes or 0, now)


def _resident() -> int:
    """The high-water mark of this process's resident memory, in bytes."""
    lines = (SELF / "status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM:"))
