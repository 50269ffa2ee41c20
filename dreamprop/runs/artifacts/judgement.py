"""What the shipped judge, which did not make them, says of the views of a result."""

from typing import Any

from torch import Tensor

from dreamprop.prior import classifier
from dreamprop.prior.vocabulary import read


def judge_views(prompt: str, views: Tensor) -> dict[str, Any] | None:
    """Ask the judge which of all prompts each view shows, and which parts of the prompt's shape are there.

    Args:
        prompt: what they should show, in the words of the embedded models; nothing where another model made them.
        views: [N, 3, H, W] in [0, 1].

    Returns:
        `views`, `correct`, `r_precision` (the fraction that is named as the prompt says) and `labels`; `parts` by
        name where the prompt's shape has some, each with the number of views in which it is `there`, `missing` and
        `hidden`, and whether it is `found`. None without a prompt.
    """
    if not prompt:
        return None
    verdict, asked = classifier.load().verdict(views.float().cpu()), read(prompt)
    labels = verdict.labels()
    correct = sum(label == asked for label in labels)
    told: dict[str, Any] = {
        "views": len(labels),
        "correct": correct,
        "r_precision": correct / len(labels),
        "labels": [str(label) for label in labels],
    }
    if parts := verdict.find(asked):
        told["parts"] = {
            name: {word: said.count(word) for word in classifier.ANSWERS} | {"found": classifier.found(said)}
            for name, said in parts.items()
        }
    return told
