"""Pictures of the larger world drawn from its traced views, with the facts that captions are made from.

Legend: N pictures; a row of facts as in `captions`.
"""

from __future__ import annotations

import torch
from torch import Tensor

from dreamprop.prior.vocabulary import COLORS, VIEWS
from dreamprop.prior.world import LARGE, PALETTE, Atlas, World, compose


class Dataset:
    """Draws pictures: colours, backgrounds and which view is shown are new at every call."""

    def __init__(self, atlas: Atlas, world: World = LARGE, pairs: float = 0.4) -> None:
        """Take the views of an atlas; `pairs` is the share of pictures with two objects."""
        self.atlas, self.world = atlas, world
        self._views = torch.tensor([VIEWS.index(v) for v in atlas.views])
        self._single = (atlas.other < 0).nonzero()[:, 0]
        self._pair = (atlas.other >= 0).nonzero()[:, 0]
        self._share = pairs if len(self._pair) else 0.0

    def draw(self, n: int, g: torch.Generator) -> tuple[Tensor, Tensor]:
        """Draw n pictures [n, 3, H, W] in [0, 1] and their facts [n, 6]."""
        pick = torch.rand(2, n, generator=g)
        single = self._single[(pick[1] * len(self._single)).long()]
        if self._share:
            pair = self._pair[(pick[1] * len(self._pair)).long()]
            index = torch.where(pick[0] < self._share, pair, single)
        else:
            index = single
        return self.show(index, g)

    def show(self, index: Tensor, g: torch.Generator) -> tuple[Tensor, Tensor]:
        """Colour the views of an index [n]: pictures [n, 3, H, W] in [0, 1] and their facts [n, 6]."""
        n, atlas = len(index), self.atlas
        color, other = torch.randint(len(COLORS), (2, n), generator=g)
        jitter = 0.03 * torch.randn(2, n, 3, generator=g)  # lamps and cameras are not calibrated
        layers = atlas.layers[index].float() / 255
        pictures = compose(
            layers,
            PALETTE[color] + jitter[0],
            PALETTE[other] + jitter[1],
            self.world.background(n, g, layers.shape[-1]),
        )
        of = (atlas.shape, color, atlas.other, other, atlas.relation, self._views)
        facts = [a if a is color or a is other else a[index] for a in of]
        return pictures, torch.stack(facts, 1)
