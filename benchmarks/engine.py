"""Cost of the engine itself, with drifts that cost nothing, as a multiple of bare Adam steps.

``python benchmarks/engine.py`` times rounds of ``solve`` (rollout, error, slide, bookkeeping) on 10 million
float32 parameters with a window of 8, in turns with as many ``torch.optim.Adam(foreach=True)`` steps as a
round has updates, and prints the ratio of the medians as JSON. Ratios of one run travel between machines;
seconds do not.
"""

from __future__ import annotations

import argparse
import json
import time
from statistics import median

import torch

import dreamprop as dp
from dreamprop.optim import Adam, ParamGroup


class Free:
    """A chain whose gradients are there already."""

    boundaries = ()

    def __init__(self, shapes: list[int], device: str) -> None:
        self.optimizer = Adam([ParamGroup(tuple(f"p{i}" for i in range(len(shapes))), 1e-2)])
        make = torch.Generator(device="cpu").manual_seed(0)
        self.params = {f"p{i}": torch.randn(n, generator=make).to(device) for i, n in enumerate(shapes)}
        self.grads = [
            {k: torch.randn(p.shape, generator=make).to(device) for k, p in self.params.items()}
            for _ in range(2)
        ]

    def init(self) -> dp.State:
        return dp.State(self.params, self.optimizer.init(self.params), {}, 0)

    def drift(self, state: dp.State) -> dp.Drift:
        return dp.Drift(self.grads[state.step % 2])

    def update(self, state: dp.State, drift: dp.Drift) -> dp.State:
        params, moments = self.optimizer.update(state.params, state.moments, drift.grads, state.step)
        return dp.State(params, moments, {}, state.step + 1)

    def predict(self, state: dp.State) -> dp.State:
        params, moments = self.optimizer.predict(state.params, state.moments, state.step)
        return dp.State(params, moments, {}, state.step + 1)

    def groups(self, step: int) -> dict[str, dp.Group]:
        return dict(self.optimizer.groups(step))


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

    process = Free([args.params // args.tensors] * args.tensors, args.device)
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
    }
    print(json.dumps(report))


if __name__ == "__main__":
    main()
