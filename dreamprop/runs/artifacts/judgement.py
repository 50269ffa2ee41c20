"""What the shipped judge says of the views of a result, where an embedded model made it."""

from typing import Any

from torch import Tensor

from dreamprop.prior import classifier
from dreamprop.prior.vocabulary import read
from dreamprop.runs.experiment import Experiment


def judge_views(experiment: Experiment, views: Tensor) -> dict[str, Any] | None:
    """Ask the judge which of all prompts each view shows, and which parts of the prompt's shape are there.

    Args:
        experiment: says which model and which prompt.
        views: [N, 3, H, W] in [0, 1].

    Returns:
        `views`, `correct`, `r_precision` (the fraction that is named as the prompt says) and `labels`; `parts` by
        name where the prompt's shape has some, each with the number of views in which it is `there`, `missing` and
        `hidden`, and whether it is `found`. None with another model than an embedded one.
    """
    if not experiment.embedded:
        return None
    jury, images = classifier.load(), views.float().cpu()
    prompt = read(experiment.prompt)
    labels = jury.label(images)
    correct = sum(label == prompt for label in labels)
    told: dict[str, Any] = {
        "views": len(labels),
        "correct": correct,
        "r_precision": correct / len(labels),
        "labels": [str(label) for label in labels],
    }
    if prompt.relation is None and (parts := jury.find(images, prompt.objects[0][0])):
        told["parts"] = {
            name: {word: said.count(word) for word in classifier.ANSWERS} | {"found": classifier.found(said)}
            for name, said in parts.items()
        }
    return told
