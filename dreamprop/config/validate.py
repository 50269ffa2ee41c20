"""What is wrong with an input, in one line: the error that says so, and checks of numbers and names."""

import difflib
from collections.abc import Iterable, Sequence
from typing import Any

from dreamprop.errors import InputError

PAGE = "docs/reference.md"
"""Where every key is explained."""
FAR = 1e12
"""Numbers beyond it, on either side of 0, are no settings: what is computed from them leaves float32."""


def brief(value: Any, room: int = 60) -> str:
    """A value as it is shown in a line: its `repr`, with the middle left out where it is long."""
    try:
        text = repr(value)
    except ValueError:  # a whole number of thousands of digits, which Python does not print
        return "a number of thousands of digits"
    return shortened(text, room)


def shortened(text: str, room: int) -> str:
    """A text with its middle left out where it is longer than `room` characters."""
    half = (room - 5) // 2
    return text if len(text) <= room else f"{text[:half]} ... {text[-half:]}"


def number(
    key: str,
    value: Any,
    low: float = -FAR,
    high: float = FAR,
    *,
    whole: bool = False,
    above: bool = False,
    below: bool = False,
    unit: str = "",
    remedy: str = "drop it for the default",
) -> None:
    """Check that a setting is a number, finite and in bounds.

    Args:
        key: what it was given for.
        value: what was given; a boolean is no number.
        low, high: the bounds.
        whole: only integers are in order.
        above, below: the lower, the upper bound itself is out of bounds.
        unit: what is counted, for the line.
        remedy: what to write instead.

    Raises:
        InputError: it is not.
    """
    typed = isinstance(value, int if whole else int | float) and not isinstance(value, bool)
    # NaN is in no bounds; integers are compared as they are, since float() refuses the longest
    if typed and (low < value if above else low <= value) and (value < high if below else value <= high):
        return
    # the side that a number is out on, or, for what is no such number, both
    sides = []
    if not (typed and value > low):
        sides.append(f"{'>' if above else '>='} {low:g}")
    if not (typed and value < high):
        sides.append(f"{'<' if below else '<='} {high:g}")
    rule = " ".join([f"a {'whole' if whole else 'finite'} number", " and ".join(sides), unit]).strip()
    raise InputError(f"{key} must be {rule}, got {brief(value)}; {remedy}")


def ranked(word: str, known: Iterable[str], count: int = 3) -> list[str]:
    """The known words nearest to an unknown one; of dotted keys, the last part counts by itself too."""

    def likeness(other: str) -> float:
        pairs = {(word, other), (word.rpartition(".")[2], other.rpartition(".")[2])}
        return max(difflib.SequenceMatcher(None, a.lower(), b.lower()).ratio() for a, b in pairs)

    return sorted(sorted(set(known)), key=likeness, reverse=True)[:count]


def nearest(word: str, known: Iterable[str], count: int = 3) -> str:
    """A remedy for an unknown word: the known words nearest to it.

    Args:
        word: what was written.
        known: what could have been written.
        count: how many words to name at most.

    Returns:
        `did you mean a or b?`.
    """
    near = ranked(word, known, count)
    return f"did you mean {' or '.join(near)}?" if near else "none is known here"


def choose(value: str, known: Sequence[str], what: str) -> str:
    """Check that `value` is one of the known names.

    Args:
        value: what was written.
        known: what is available now.
        what: the key it was written for.

    Returns:
        The value.

    Raises:
        InputError: it is another one; the line lists those that are available.
    """
    if value not in known:
        near = difflib.get_close_matches(str(value), known, n=1)
        hint = f"did you mean {near[0]}?" if near else f"use {known[0]}"
        raise InputError(f"{what} must be one of {', '.join(known)}, got {brief(value)}; {hint}")
    return value
