"""Names of what an optimiser remembers, built and parsed in one place.

A moment is a tensor under a text that checkpoints keep as it is:

* ``<parameter>/<moment>``: a running mean or the like, of the shape of the parameter;
* ``/ahead/<parameter>``: a direction that predictions in a row share, worked out from the moments and never saved;
* ``/skipped``: how many updates were left out, one number for the optimiser as a whole.
"""

from __future__ import annotations

from dataclasses import dataclass

_AHEAD = "/ahead/"


@dataclass(frozen=True)
class MomentKey:
    """The name of one thing that an optimiser remembers; as a text it is the key of a ``State``'s moments."""

    parameter: str | None
    """The parameter that it belongs to and whose shape it has; empty: the optimiser as a whole; ``None``: a name that
    a process has made itself, of which nothing is known."""
    moment: str
    """What is remembered, such as ``exp_avg``."""
    cached: bool = False
    """Whether it follows from the other moments, and is dropped as soon as one of them changes."""

    def __str__(self) -> str:
        if self.cached:
            return f"{_AHEAD}{self.parameter}"
        return self.moment if self.parameter is None else f"{self.parameter}/{self.moment}"

    @classmethod
    def parse(cls, text: str) -> MomentKey:
        """The key that a text stands for; ``str`` of it is the text again."""
        if text.startswith(_AHEAD):
            return ahead(text.removeprefix(_AHEAD))
        parameter, slash, moment = text.rpartition("/")
        return cls(parameter if slash else None, moment)

    @property
    def initial(self) -> bool:
        """Whether a state has it from the start; the rest comes and goes while the chain is solved."""
        return not self.cached and self.parameter != ""


def ahead(parameter: str) -> MomentKey:
    """The direction in which predictions move a parameter."""
    return MomentKey(parameter, "ahead", cached=True)


def moment_key(parameter: str, moment: str) -> str:
    """The key of what is remembered for a parameter."""
    return str(MomentKey(parameter, moment))


SKIPPED = str(MomentKey("", "skipped"))
"""Where an optimiser counts the updates that were left out."""
