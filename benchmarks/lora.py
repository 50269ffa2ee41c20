"""What one call of the U-Net for the LoRAs of a window gains over a call for each of them.

    python benchmarks/lora.py

Milliseconds a state by the median of the repetitions, the variants in turn; on a CPU in seconds of the processor, which
other programs do not touch. The frozen U-Net on the same pictures is what would be left if corrections cost nothing.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from functools import partial
from statistics import median

import torch
from common import table
from torch import Tensor

from dreamprop import prior
from dreamprop.guidance.diffusion import Model, load
from dreamprop.guidance.lora import POSE, LoRA
from dreamprop.rng import generator


class Pictures:
    """Noisy pictures of W states, and corrections of each."""

    def __init__(self, model: Model, lora: LoRA, window: int, batch: int) -> None:
        g, many = generator(0, 0, "benchmark/lora"), window * batch
        side = model.resolution // model.vae_scale_factor
        text = model.embed(["a red torus, front view"]).expand(many, -1, -1).contiguous()
        self.model, self.lora, self.window, self.batch = model, lora, window, batch
        noisy = torch.randn(many, model.channels, side, side, generator=g).to(model.device)
        timesteps = torch.randint(len(model.alphas_cumprod), (many,), generator=g).to(model.device)
        self.inputs = noisy, timesteps, text, torch.randn(many, POSE, generator=g).to(model.device)
        self.params = {
            name: (0.1 * torch.randn(window, *shape, generator=g)).to(model.device).requires_grad_()
            for name, shape in lora.shapes.items()
        }

    def frozen(self) -> Tensor:
        """The frozen U-Net on all pictures."""
        return self.model.predict(*self.inputs[:3])

    def together(self) -> Tensor:
        """All LoRAs in one call."""
        return self.lora.predict(self.params, [self.batch] * self.window, *self.inputs)

    def one_by_one(self) -> Tensor:
        """One call for each LoRA."""
        found = []
        for state in range(self.window):
            rows = slice(state * self.batch, (state + 1) * self.batch)
            own = {name: p[state : state + 1] for name, p in self.params.items()}
            found.append(self.lora.predict(own, [self.batch], *(x[rows] for x in self.inputs)))
        return torch.cat(found)

    def learnt(self, predict: Callable[[], Tensor]) -> Tensor:
        """The gradients of all LoRAs, laid end to end."""
        loss = predict().square().mean()
        return torch.cat([g.flatten() for g in torch.autograd.grad(loss, list(self.params.values()))])


def milliseconds(
    calls: dict[str, Callable[[], object]], repeat: int, device: torch.device
) -> dict[str, float]:
    """Median time of each call, taken in turn after a round that does not count."""
    cuda = device.type == "cuda"
    clock = time.perf_counter if cuda else time.process_time
    taken: dict[str, list[float]] = {name: [] for name in calls}
    for _ in range(repeat + 1):
        for name, call in calls.items():
            began = clock()
            call()
            if cuda:
                torch.cuda.synchronize()
            taken[name].append(1e3 * (clock() - began))
    return {name: median(times[1:]) for name, times in taken.items()}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", default="embedded", help="embedded, embedded-pixel, a folder or a name")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--half", action="store_true", help="weights in float16")
    parser.add_argument("--window", type=int, default=8)
    parser.add_argument("--batch", type=int, nargs="+", default=[1, 2, 4], help="pictures of a state")
    parser.add_argument("--rank", type=int, default=4)
    parser.add_argument("--repeat", type=int, default=7)
    args = parser.parse_args()
    torch.set_num_threads(1)
    path = str(prior.MODELS.get(args.model, args.model))
    model = load(path, args.device, torch.float16 if args.half else torch.float32)
    lora = LoRA(model.unet, args.rank)
    rows = []
    for batch in args.batch:
        pictures = Pictures(model, lora, args.window, batch)
        with torch.no_grad():
            off = (pictures.together() - pictures.one_by_one()).abs().max() / pictures.frozen().abs().max()
            calls = {
                "frozen": pictures.frozen,
                "together": pictures.together,
                "one_by_one": pictures.one_by_one,
            }
            seen = milliseconds(calls, args.repeat, model.device)
        ways = {"together": pictures.together, "one_by_one": pictures.one_by_one}
        calls = {name: partial(pictures.learnt, predict) for name, predict in ways.items()}
        learnt = milliseconds(calls, args.repeat, model.device)
        a, b = pictures.learnt(pictures.together), pictures.learnt(pictures.one_by_one)
        for what, times in (("prediction", seen), ("prediction and gradient", learnt)):
            each = {name: t / args.window for name, t in times.items()}
            frozen = f"{each['frozen']:.2f}" if "frozen" in each else ""
            gain = each["one_by_one"] / each["together"]
            difference = f"{off:.0e}" if what == "prediction" else f"{(a - b).norm() / b.norm():.0e}"
            numbers = [
                f"{each['one_by_one']:.2f}",
                f"{each['together']:.2f}",
                f"{gain:.2f}",
                frozen,
                difference,
            ]
            rows.append([str(batch), what, *numbers])
    header = [
        "pictures a state",
        "what",
        "one by one, ms a state",
        "together",
        "ratio",
        "frozen",
        "difference",
    ]
    print(table(header, rows))


if __name__ == "__main__":
    main()
