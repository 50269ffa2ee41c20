"""What a PyTorch optimiser remembers, as the moments of a state: of each parameter, or of a whole group of them.

A moment of a parameter is named ``<parameter>/<what>``; one of a group, as a counter in ``param_groups``, is named
``group.<index>/<what>``. Only this file knows the names.
"""

from __future__ import annotations

import re
from collections.abc import Container, Mapping
from dataclasses import dataclass, field

from torch import Tensor

Named = dict[str, Tensor]


@dataclass(frozen=True)
class Moments:
    """What an optimiser remembers, by what it belongs to."""

    of_parameters: dict[str, Named] = field(default_factory=dict)
    """By the name of a parameter and by what it is called there: ``exp_avg``, ``step``."""
    of_groups: dict[int, Named] = field(default_factory=dict)
    """By the index of a group and by what it is called there."""

    @classmethod
    def split(cls, named: Mapping[str, Tensor], parameters: Container[str]) -> Moments:
        """Sort the moments of a state by what they belong to.

        Args:
            named: moments as a state has them.
            parameters: names of the parameters, one of which may look like a group's.
        """
        found = cls()
        for name, moment in named.items():
            owner, _, what = name.rpartition("/")
            group = None if owner in parameters else re.fullmatch(r"group\.(\d+)", owner)
            if group:
                found.of_groups.setdefault(int(group[1]), {})[what] = moment
            else:
                found.of_parameters.setdefault(owner, {})[what] = moment
        return found

    def join(self) -> Named:
        """The moments under the names that a state has them by.

        Raises:
            ValueError: a parameter has the name of a group that the optimiser remembers something of.
        """
        found = {f"{name}/{what}": m for name, own in self.of_parameters.items() for what, m in own.items()}
        for index, own in self.of_groups.items():
            if own and f"group.{index}" in self.of_parameters:
                raise ValueError(
                    f"a parameter must not be called group.{index} where the optimizer remembers "
                    f"{', '.join(own)} of its group {index}; give it another name"
                )
            found |= {f"group.{index}/{what}": moment for what, moment in own.items()}
        return found
