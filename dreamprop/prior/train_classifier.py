"""Train the judge on augmented pictures of both worlds, of pairs and of solids that lack a part.

    python -m dreamprop.prior.train_classifier --out outputs/judge

The loss is the sum of the heads' cross-entropies: the negative log-probability of the picture's prompt, its objects in
the order of the picture, and of what is to be said of the parts. The draws of a step depend on (seed, step) alone, so a
run that is stopped and started again with the same command goes on as if it never stopped. After each checkpoint the
averaged weights are in `judge/`.
"""

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from dreamprop.prior.augmentation import augmented
from dreamprop.prior.classifier import Answers, Judge
from dreamprop.prior.counterfactuals import MISSING, NAMES, UNASKED
from dreamprop.prior.judge_views import Views, load_views
from dreamprop.prior.training import Training, add_bfloat16, arguments, run, write_tensors
from dreamprop.prior.vocabulary import COLORS, PRIMITIVES, RELATIONS, SHAPES
from dreamprop.prior.world import PALETTE
from dreamprop.rng import generator
from dreamprop.utils.atomic_io import write_json

SHARES = (0.25, 0.5, 0.25)
"""Of pictures with one object, with two, and of which parts are asked."""
FILLED = 0.3
"""Share of pictures of parts in which what fills a hole has the object's own colour."""


class Draws:
    """Draws pictures with what is to be said of them."""

    def __init__(self, views: Views) -> None:
        """Sort the views; parts are drawn evenly, half of them from solids that have them."""
        self.views = views
        pair = views.other >= 0
        self._single, self._pair = ((views.named & kind).nonzero()[:, 0] for kind in (~pair, pair))
        self._parts = []
        for column in range(len(NAMES)):
            said = views.parts[:, column]
            lack = (views.parts == MISSING).any(1)
            groups = [(views.named & (said != UNASKED)).nonzero()[:, 0], (said == MISSING).nonzero()[:, 0]]
            # views of the counterfactual in which nothing is seen to be missing
            groups[1] = torch.cat([groups[1], (~views.named & ~lack & (said != UNASKED)).nonzero()[:, 0]])
            self._parts.append(groups)

    def index(self, n: int, g: torch.Generator) -> Tensor:
        """Which views are shown, [n]."""
        counts = [round(n * share) for share in SHARES[:2]]
        picked = [
            pool[torch.randint(len(pool), (count,), generator=g)]
            for pool, count in zip((self._single, self._pair), counts, strict=True)
        ]
        rest = n - sum(counts)
        columns = torch.randint(len(NAMES), (rest,), generator=g).tolist()
        whole = (torch.rand(rest, generator=g) < 0.5).tolist()
        for column, u, w in zip(columns, torch.rand(rest, generator=g).tolist(), whole, strict=True):
            pool = self._parts[column][0 if w else 1]
            picked.append(pool[int(u * len(pool))].view(1))
        return torch.cat(picked)

    def draw(self, n: int, g: torch.Generator) -> tuple[Tensor, Views, Tensor]:
        """Draw n augmented pictures [n, 3, H, W], their views, and the colours of both slots [2, n].

        Of two side by side, the one on the left of the picture comes first: the heads could agree on any order, but
        this one need not be found.
        """
        shown = self.views[self.index(n, g)]
        layers = shown.layers.float() / 255
        color, other = torch.randint(len(COLORS), (2, n), generator=g)
        alike = (shown.other < 0) & (torch.rand(n, generator=g) < FILLED)
        other = torch.where(alike, color, other)
        mirrored = torch.rand(n, generator=g) < 0.5
        pictures = augmented(layers, PALETTE[color], PALETTE[other], mirrored, g)
        beside = (shown.other >= 0) & (shown.relation == RELATIONS.index("beside"))
        swap = beside & (first_is_left(layers) == mirrored)
        shape, second = torch.where(
            swap, torch.stack([shown.other, shown.shape]), torch.stack([shown.shape, shown.other])
        )
        colors = torch.where(swap, torch.stack([other, color]), torch.stack([color, other]))
        return pictures, replace(shown, shape=shape, other=second), colors


def first_is_left(layers: Tensor) -> Tensor:
    """Whether slot 0 of factored renders [N, 6, H, W] is on the left of slot 1, by their centres; [N] bool."""
    across = (layers[:, :2] > 0).float().sum(2)  # [N, 2, W]
    centre = (across * torch.arange(layers.shape[-1])).sum(-1) / across.sum(-1).clamp(min=1)
    return centre[:, 0] < centre[:, 1]


def judge_loss(answers: Answers, shown: Views, colors: Tensor) -> Tensor:
    """Sum of cross-entropies of what the heads say of whole things, in their order, and of the parts asked for."""
    pair = shown.other >= 0
    slots = [(0, ~pair, shown.shape, colors[0], len(SHAPES)), (1, pair, shown.shape, colors[0], len(PRIMITIVES)),
             (2, pair, shown.other, colors[1], len(PRIMITIVES))]  # fmt: skip
    total = F.cross_entropy(answers.arrangement, torch.where(pair, 1 + shown.relation, 0), reduction="none")
    for slot, there, shape, color, count in slots:
        right = F.cross_entropy(
            answers.shape[:, slot, :count], torch.where(there, shape, 0), reduction="none"
        ) + F.cross_entropy(answers.color[:, slot], color, reduction="none")
        total = total + right * there
    telling = F.cross_entropy(answers.parts.flatten(0, 1), shown.parts.flatten().long(), ignore_index=UNASKED)
    return (total * shown.named).sum() / shown.named.sum() + 2 * telling


def train(args: argparse.Namespace) -> None:
    """Train as the command line says."""
    out: Path = args.out
    out.mkdir(parents=True, exist_ok=True)
    draws = Draws(load_views(out, args.seed, args.views, args.pair_views, args.part_views))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(args.seed)
        judge = Judge()
        judge.body.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    training = Training(judge, keep=args.keep)

    def loss(step: int) -> Tensor:
        pictures, shown, colors = draws.draw(args.batch, generator(args.seed, step, "prior/judge"))
        with torch.autocast("cpu", torch.bfloat16, enabled=args.bfloat16):
            features = judge.features(pictures)
        return judge_loss(judge.answer(features.float()), shown, colors)

    def saved() -> None:
        folder = out / "judge"
        folder.mkdir(exist_ok=True)
        tensors = {k: v.half().contiguous() for k, v in training.average.state_dict().items()}
        write_tensors(tensors, folder / "model.safetensors")
        write_json(folder / "config.json", {})
        write_json(out / "figures.json", {"steps": training.step, "seconds": round(training.seconds)})

    run(
        training,
        loss,
        out / "checkpoints",
        steps=args.steps,
        peak=args.lr,
        save_minutes=args.save_minutes,
        saved=saved,
    )


def parser() -> argparse.ArgumentParser:
    """The command line."""
    p = arguments(
        "train the judge", "outputs/judge", steps=60000, batch=32, lr=1e-3, views=800, pair_views=120
    )
    p.add_argument("--keep", type=float, default=0.998, help="of the averaged weights, at every step")
    p.add_argument("--part-views", type=int, default=320, help="traced views of each solid that lacks a part")
    add_bfloat16(p)
    return p


if __name__ == "__main__":
    train(parser().parse_args())
