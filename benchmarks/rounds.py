"""Rounds of a process, timed one by one on its device."""

from __future__ import annotations

import time
from contextlib import ExitStack
from statistics import fmean, median
from typing import Any

import torch
from timeline import PARTS, Timeline

import dreamprop as dp
from dreamprop.utils.peak_memory import Peak


class Enough(Exception):
    """As many rounds as were asked for are done."""


def measure(
    process: Any,
    first: dp.State,
    window: int | None,
    tolerance: float,
    timeline: Timeline,
    *,
    rounds: int,
    warm_up: int,
    sub_batch: int | None,
) -> dict[str, Any]:
    """Seconds, strides and memory of rounds with whole windows.

    Args:
        process: a chain that the timeline follows.
        first: the state to begin from.
        window: steps evaluated together; ``None``: sequential steps.
        tolerance: of ``dp.solve``.
        timeline: what follows the process.
        rounds: that count.
        warm_up: rounds before them, at least 1.
        sub_batch: most states in a batch; ``None``: all, halved where they do not fit.

    Returns:
        Seconds of a round (median, quickest, slowest), its mean stride, states in the largest batch, the most bytes
        held and those held before, and the share of each part of the timeline.
    """
    device, peak, began = process.device, Peak(process.device), 0.0
    seconds: list[float] = []
    parts: list[dict[str, float]] = []
    strides: list[int] = []
    largest = 1
    before = torch.cuda.memory_allocated(device) if device.type == "cuda" else None
    with ExitStack() as measuring:

        def after(done: dp.Round) -> None:
            nonlocal began, largest
            spent = timeline.take()  # the device is done with this round
            if done.round >= warm_up:
                seconds.append(time.perf_counter() - began)
                parts.append(spent)
                strides.append(done.stride)
                largest = max(largest, timeline.largest_batch)
            elif done.round == warm_up - 1:
                measuring.enter_context(peak)
            if len(seconds) == rounds:
                raise Enough
            timeline.begin()
            began = time.perf_counter()

        timeline.begin()
        steps = first.step + (window or 1) * (rounds + warm_up + 1)  # so that every window is a whole one
        try:
            if window is None:
                dp.solve_sequential(process, steps, state=first, callback=after)
            else:
                evaluator = dp.evaluate.batched(sub_batch=sub_batch)
                dp.solve(
                    process,
                    steps,
                    window,
                    tolerance,
                    state=first,
                    evaluator=evaluator,
                    audit=0,
                    callback=after,
                )
        except Enough:
            pass
    return {
        "seconds_a_round": median(seconds),
        "seconds_quickest": min(seconds),
        "seconds_slowest": max(seconds),
        "stride": fmean(strides),
        "states_in_a_batch": largest,
        "peak_bytes": peak.bytes,
        "bytes_before": before,
        **{f"share_{part}": sum(p[part] for p in parts) / sum(seconds) for part in PARTS},
    }
