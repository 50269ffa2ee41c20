"""What is said of a picture of the world: many wordings, of which the plain one is by far the most frequent.

Legend: a row of facts is (shape, colour, other shape or -1, other colour, relation, view), indices into `vocabulary`'s
lists.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

from dreamprop.prior.vocabulary import COLORS, FILLERS, PHRASES, RELATIONS, SHAPES, SYNONYMS, VIEWS

WORDINGS = {"atop": ("on top of", "on top of", "on top of", "on", "atop"), "beside": ("next to", "beside")}
"""Phrases of a relation; one that is named more often is used more often."""
_NAMES = list(COLORS)
_OTHER_NAMES = {
    shape: [w for w, meaning in SYNONYMS.items() if meaning == shape and not w.endswith(("i", "men"))]
    for shape in SHAPES
}
DRAWS = 8
"""Uniform numbers that a caption is made from."""


def words() -> list[str]:
    """Every word that a caption or a prompt may be made of."""
    phrases = " ".join((*PHRASES, *(p for group in WORDINGS.values() for p in group)))
    found = {*COLORS, *SHAPES, *RELATIONS, *VIEWS, *SYNONYMS, *FILLERS, *phrases.split(), "with", ","}
    return sorted(found)


def _thing(color: int, shape: int, article: float, wording: float, other: float) -> str:
    name, noun = _NAMES[color], SHAPES[shape]
    if wording < 0.1 and _OTHER_NAMES[noun]:
        noun = _OTHER_NAMES[noun][int(other * len(_OTHER_NAMES[noun]))]
    elif wording > 0.95:
        return f"the {noun}, {name}"
    if article < 0.8:
        return f"an {name} {noun}" if name == "orange" and article < 0.4 else f"a {name} {noun}"
    return f"the {name} {noun}" if article < 0.9 else f"{name} {noun}"


def caption(facts: Sequence[int], u: Sequence[float]) -> str:
    """Say what is seen.

    Args:
        facts: a row of facts.
        u: DRAWS numbers in [0, 1) that choose the wording.
    """
    shape, color, other, other_color, relation, view = facts
    text = _thing(color, shape, *u[:3])
    if other >= 0:
        phrases = WORDINGS[RELATIONS[relation]]
        text += f" {phrases[int(u[3] * len(phrases))]} {_thing(other_color, other, *u[4:7])}"
    # threestudio names the view in every prompt, as in "a red torus, front view"
    return f"{text}, {VIEWS[view]} view" if u[7] < 0.8 else text


def captions(facts: torch.Tensor, g: torch.Generator) -> list[str]:
    """A caption for each row of facts [N, 6]."""
    numbers = torch.rand(len(facts), DRAWS, generator=g).tolist()
    return [caption(row, u) for row, u in zip(facts.tolist(), numbers, strict=True)]
