"""Optimisers as pure updates on (parameters, moments), with parameter groups and schedules by step."""

from dreamprop.optim.adam import Adam, AdamW
from dreamprop.optim.adan import Adan
from dreamprop.optim.base import Optimizer, ParamGroup
from dreamprop.optim.sgd import SGD
from dreamprop.schedule import Schedule, schedule

OPTIMIZERS: dict[str, type[SGD] | type[Adam] | type[Adan]] = {
    "SGD": SGD,
    "Adam": Adam,
    "AdamW": AdamW,
    "Adan": Adan,
}

__all__ = ["OPTIMIZERS", "SGD", "Adam", "AdamW", "Adan", "Optimizer", "ParamGroup", "Schedule", "schedule"]
