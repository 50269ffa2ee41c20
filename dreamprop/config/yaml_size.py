"""How large a YAML text becomes when its aliases are written out.

An alias (`*name`) stands for a whole value, which may hold aliases itself: nine lines of nine of them each stand for
400 million values ("billion laughs"). A config's values are copied when it is merged, so they would all be made.
"""

import yaml

from dreamprop.errors import InputError

LARGEST = 10_000
"""Values that a text may stand for: a config has hundreds."""


def check_size(text: str | bytes, what: str) -> None:
    """See that a text stands for a limited number of values; nothing is made of it.

    Args:
        text: YAML.
        what: where it came from, for the line.

    Raises:
        InputError: it stands for more, or for a value that holds itself.
        yaml.YAMLError: it is not YAML.
    """
    root = yaml.compose(text, Loader=yaml.SafeLoader)
    sizes: dict[int, int] = {}  # of a node by its identity: an alias is the node that it names
    entered: set[int] = set()
    waiting = [root] if root is not None else []
    while waiting:  # no recursion: how deep a text is nested is told elsewhere
        node = waiting[-1]
        inside = _inside(node)
        if id(node) not in entered:
            entered.add(id(node))
            for child in inside:
                if id(child) in entered and id(child) not in sizes:
                    raise InputError(f"{what} must not hold an alias to what it stands in; write the value")
            waiting += [child for child in inside if id(child) not in sizes]
            continue
        waiting.pop()
        sizes[id(node)] = 1 + sum(sizes[id(child)] for child in inside)
        if sizes[id(node)] > LARGEST:
            raise InputError(
                f"{what} must stand for at most {LARGEST} values, got more by aliases of aliases; write the values"
            )


def _inside(node: yaml.Node) -> list[yaml.Node]:
    """What a node holds: the entries of a list, the keys and values of a mapping."""
    if isinstance(node, yaml.MappingNode):
        return [part for pair in node.value for part in pair]
    return list(node.value) if isinstance(node, yaml.SequenceNode) else []
