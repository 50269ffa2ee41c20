"""What the shipped judge, which did not make them, says of the views of a result."""

from typing import Any

from torch import Tensor

from dreamprop.prior import classifier
from dreamprop.prior.vocabulary import parse


def judge_views(prompt: str, views: Tensor) -> dict[str, Any] | None:
    """Ask the judge for the shape and the colour of each view.

    Args:
        prompt: what they should show, in the words of the embedded models; nothing where another model made them.
        views: [N, 3, H, W] in [0, 1].

    Returns:
        `views`, `correct`, `r_precision` (the fraction that is named as the prompt says) and `labels`; None
        without a prompt, or with two objects in it: the judge knows one.
    """
    objects = parse(prompt) if prompt else []
    if len(objects) != 1:
        return None
    labels = classifier.load().label(views.float().cpu())
    correct = sum(tuple(label) == tuple(objects[0]) for label in labels)
    return {
        "views": len(labels),
        "correct": correct,
        "r_precision": correct / len(labels),
        "labels": [" ".join(reversed(label)) for label in labels],
    }
