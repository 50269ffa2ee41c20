"""Traced views on disk: rendered once, read by every later start of a training."""

from __future__ import annotations

from pathlib import Path

import torch
from safetensors.torch import load_file

from dreamprop.prior.training import write_tensors
from dreamprop.prior.vocabulary import VIEWS
from dreamprop.prior.world import SMALL, Atlas, World, build_atlas


def load_atlas(folder: Path, seed: int, views: int, pair_views: int, world: World = SMALL) -> Atlas:
    """Render the pictures to train on, or read them where an earlier start of this run left them.

    Args:
        folder: of the run, which knows one world for each seed and number of views.
        seed: of the views.
        views: of each shape.
        pair_views: of each ordered pair of primitives in each relation.
        world: what is seen and from where.
    """
    path = folder / f"atlas-{seed}-{views}-{pair_views}.safetensors"
    if not path.exists():
        print(f"rendering {views} views a shape and {pair_views} a pair of shapes ...", flush=True)
        atlas = build_atlas(seed, views, pair_views, world)
        fields = {
            name: getattr(atlas, name).contiguous() for name in ("layers", "shape", "other", "relation")
        }
        fields["view"] = torch.tensor([VIEWS.index(v) for v in atlas.views])
        write_tensors(fields, path)
    read = load_file(path)
    words = [VIEWS[int(i)] for i in read["view"]]
    return Atlas(read["layers"], read["shape"], read["other"], read["relation"], words)
