"""What the shipped judge says of the views of a result, where an embedded model made it."""

from typing import Any

from torch import Tensor

from dreamprop.prior import classifier
from dreamprop.prior.vocabulary import parse
from dreamprop.runs.experiment import Experiment


def judge_views(experiment: Experiment, views: Tensor) -> dict[str, Any] | None:
    """Ask the judge for the shape and the colour of each view.

    Args:
        experiment: says which model and which prompt.
        views: [N, 3, H, W] in [0, 1].

    Returns:
        `views`, `correct`, `r_precision` (the fraction that is named as the prompt says) and `labels`; None
        with another model than an embedded one, or with two objects in the prompt: the judge knows one.
    """
    if not experiment.embedded:
        return None
    objects = parse(experiment.prompt)
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
