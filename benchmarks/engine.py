"""Cost of the engine itself, with drifts that cost nothing, as a multiple of bare Adam steps.

``python benchmarks/engine.py`` times rounds of ``solve`` (rollout, error, slide, bookkeeping) on 10 million
float32 parameters with a window of 8, in turns with as many ``torch.optim.Adam(foreach=True)`` steps as a
round has updates, and prints the ratio of the medians as JSON, and that of the quickest, which other programs on the
machine disturb least. Ratios of one run travel between machines; seconds do not.

A second run, whose drifts are new tensors as those of a real process are, counts memory in tensors of the size of
all parameters together: those alive when the window's evaluation begins (what an evaluation finds beside its own),
and the most at any time of a round, the window's gradients included.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable
from statistics import median

import torch
from adam_chain import AdamChain
from alive import Alive

import dreamprop as dp


class Free(AdamChain):
    """A chain whose gradients are there already."""

    def __init__(self, shapes: list[int], device: str) -> None:
        make = torch.Generator(device="cpu").manual_seed(0)
        named = {f"p{i}": torch.randn(n, generator=make).to(device) for i, n in enumerate(shapes)}
        super().__init__(named, 1e-2)
        self.grads = [
            {k: torch.randn(p.shape, generator=make).to(device) for k, p in self.params.items()}
            for _ in range(2)
        ]

    def drift(self, state: dp.State) -> dp.Drift:
        return dp.Drift(self.grads[state.step % 2])


class Fresh(Free):
    """The same chain with gradients, and a first state, that nobody but the loop holds.

    Args:
        began: called when the evaluation of a window begins.
    """

    def __init__(self, shapes: list[int], device: str, window: int, began: Callable[[], None]) -> None:
        super().__init__(shapes, device)
        self.grads = []
        self.window, self.began, self.drifts = window, began, 0

    def init(self) -> dp.State:
        params, self.params = self.params, {}
        return dp.State(params, self.optimizer.init(params), {}, 0)

    def drift(self, state: dp.State) -> dp.Drift:
        if self.drifts % self.window == 0:
            self.began()
        self.drifts += 1
        return dp.Drift({name: p.sin() for name, p in state.params.items()})


def tensors_alive(
    shapes: list[int], device: str, window: int, rounds: int, predictor: str
) -> tuple[float, float]:
    """After the first round, in sizes of all parameters: alive when evaluations begin, and the most at any time."""
    alive, found = Alive(least=2 * min(shapes)), []  # temporaries of the pieces of a tensor are left out

    def began() -> None:
        found.append(alive.bytes)

    def after(done: dp.Round) -> None:
        if done.round == 0:
            alive.reset_peak()

    process = Fresh(shapes, device, window, began)
    size = sum(p.numel() * p.element_size() for p in process.params.values())
    with alive:
        dp.solve(
            process, window * (rounds + 1), window, float("inf"), predictor=predictor, audit=0, callback=after
        )
    return max(found[1:]) / size, alive.peak / size


def main() -> None:
    """Time both, in turns, and print the ratio."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--params", type=int, default=10_000_000)
    parser.add_argument("--tensors", type=int, default=4)
    parser.add_argument("--window", type=int, default=8)
    parser.add_argument("--rounds", type=int, default=4)
    parser.add_argument("--warm-up", type=int, default=2)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--predictor", default="momentum")
    args = parser.parse_args()

    shapes = [args.params // args.tensors] * args.tensors
    process = Free(shapes, args.device)
    bare = [p.clone().requires_grad_() for p in process.params.values()]
    adam = torch.optim.Adam(bare, lr=1e-2, foreach=True)
    for p, g in zip(bare, process.grads[0].values(), strict=True):
        p.grad = g

    def clock() -> float:
        """Seconds; on a CPU of processor time, which other programs on the machine do not stretch."""
        if args.device == "cpu":
            return time.process_time()
        torch.cuda.synchronize()
        return time.perf_counter()

    # as tolerant as can be, so that each round slides by a whole window and guesses a whole window anew;
    # the callback, called between rounds, times the bare steps in turns with them
    engine: list[float] = []
    steps: list[float] = []

    began = 0.0

    def after(done: dp.Round) -> None:
        nonlocal began
        engine.append(clock() - began)
        began = clock()
        for _ in range(args.window):
            adam.step()
        steps.append(clock() - began)
        began = clock()

    total = args.window * (args.rounds + args.warm_up)
    dp.solve(process, total, args.window, float("inf"), predictor=args.predictor, callback=after)
    engine, steps = engine[args.warm_up :], steps[args.warm_up :]
    evaluating, peak = tensors_alive(shapes, args.device, args.window, args.rounds, args.predictor)
    report = {
        "params": args.params,
        "tensors": args.tensors,
        "window": args.window,
        "predictor": args.predictor,
        "device": args.device,
        "threads": torch.get_num_threads(),
        "round_seconds": round(median(engine), 4),
        "adam_steps_seconds": round(median(steps), 4),
        "ratio": round(median(engine) / median(steps), 3),
        "ratio_of_quickest": round(min(engine) / min(steps), 3),
        "tensors_when_evaluation_begins": round(evaluating, 2),
        "tensors_at_peak": round(peak, 2),
    }
    print(json.dumps(report))


if __name__ == "__main__":
    main()
