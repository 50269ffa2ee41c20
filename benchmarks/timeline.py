"""Where the seconds of a round go: render, guidance and engine, by events of the device."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

import dreamprop as dp
from dreamprop.guidance.protocol import Pictures

PARTS = ("render", "guidance", "engine")


class Timeline:
    """Marks on a device's stream: what begins there.

    A part of a GPU's round is the time between two events on its stream, idle time included: what waits for the program
    counts as the part that waits. On a CPU it is time by the clock.
    """

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.largest_batch = 0
        """Most states that one call has evaluated since ``begin``."""
        self._marks: list[tuple[str, Any]] = []

    def begin(self) -> None:
        """Forget what was, and begin a round."""
        self._marks, self.largest_batch = [], 0
        self.mark("engine")

    def mark(self, part: str) -> None:
        """From here on the device works on this part."""
        if self.device.type == "cuda":
            event = torch.cuda.Event(enable_timing=True)
            event.record()
            self._marks.append((part, event))
        else:
            self._marks.append((part, time.perf_counter()))

    def take(self) -> dict[str, float]:
        """Seconds by part since ``begin``; waits for the device."""
        self.mark("engine")
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        seconds: Counter[str] = Counter(dict.fromkeys(PARTS, 0.0))
        for (part, began), (_, ended) in zip(self._marks, self._marks[1:], strict=False):
            seconds[part] += began.elapsed_time(ended) / 1e3 if self.device.type == "cuda" else ended - began
        return dict(seconds)

    def follow(self, process: Any) -> None:
        """Mark the drifts of a process from here on.

        A drift renders until it asks the guidance; the guidance lasts until the gradient has come back through the
        encoder to the pictures; the rest of the drift is the renderer's backward pass. All else is the engine's.
        """
        drift, drift_window, gradient = process.drift, process.drift_window, process.guidance.gradient

        def one(state: dp.State) -> dp.Drift:
            self.mark("render")
            found: dp.Drift = drift(state)
            self.mark("engine")
            return found

        def several(states: Sequence[dp.State]) -> list[dp.Drift]:
            self.largest_batch = max(self.largest_batch, len(states))
            self.mark("render")
            found: list[dp.Drift] = drift_window(states)
            self.mark("engine")
            return found

        def asked(pictures: Pictures, params: Mapping[str, Tensor]) -> tuple[Tensor, Tensor]:
            self.mark("guidance")
            pictures.images.register_hook(lambda _: self.mark("render"))
            found: tuple[Tensor, Tensor] = gradient(pictures, params)
            return found

        process.drift, process.drift_window = one, several
        object.__setattr__(process.guidance, "gradient", asked)
