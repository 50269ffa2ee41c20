"""The words that the embedded text-to-image models know, and what a prompt made of them says.

A prompt names one object ("a red torus", "the torus, red") or two in a relation ("a red cube on top of a blue
cylinder"). Articles, plurals, order and a few synonyms are free; a word outside the vocabulary is an error that
names the nearest known ones, because a model that never saw a word would draw something else without a sign.
"""

from __future__ import annotations

import difflib
import functools
import itertools
import re
from dataclasses import dataclass

from dreamprop.config.validate import brief, shortened
from dreamprop.errors import InputError

PRIMITIVES = ("sphere", "cube", "cone", "cylinder", "torus", "capsule", "pyramid")
COMPOSITES = ("mug", "snowman", "house", "tree", "table", "mushroom")  # these have a front
SHAPES = PRIMITIVES + COMPOSITES

COLORS: dict[str, tuple[float, float, float]] = {
    "red": (0.85, 0.10, 0.10),
    "orange": (0.98, 0.52, 0.05),
    "yellow": (0.95, 0.88, 0.12),
    "green": (0.12, 0.62, 0.18),
    "cyan": (0.15, 0.80, 0.82),
    "blue": (0.12, 0.22, 0.85),
    "purple": (0.48, 0.14, 0.68),
    "pink": (0.98, 0.50, 0.72),
    "white": (0.96, 0.96, 0.96),
    "black": (0.07, 0.07, 0.08),
}
"""Albedo of each colour word, linear in the picture's own [0, 1] scale."""

RELATIONS = ("atop", "beside")
VIEWS = ("front", "side", "back", "overhead")

SYNONYMS = {
    "ball": "sphere", "globe": "sphere", "box": "cube", "block": "cube", "donut": "torus", "doughnut": "torus",
    "ring": "torus", "tori": "torus", "pill": "capsule", "cup": "mug", "toadstool": "mushroom", "snowmen": "snowman",
    "desk": "table", "violet": "purple", "turquoise": "cyan", "top": "overhead", "rear": "back",
}  # fmt: skip
FILLERS = (
    "a", "an", "the", "of", "one", "single", "photo", "picture", "image", "render", "rendering", "object", "view",
    "colored", "coloured", "is", "that", "in", "and",
)  # fmt: skip
PHRASES = {"on top of": "atop", "standing on": "atop", "on": "atop", "next to": "beside", "near": "beside"}

ALIKE = {
    "grey": ("white", "black"), "gray": ("white", "black"), "silver": ("white",), "beige": ("white", "yellow"),
    "gold": ("yellow", "orange"), "golden": ("yellow", "orange"), "brown": ("orange", "red"), "maroon": ("red",),
    "crimson": ("red",), "scarlet": ("red",), "magenta": ("pink", "purple"), "rose": ("pink",), "teal": ("cyan",),
    "lime": ("green",), "olive": ("green",), "navy": ("blue",), "indigo": ("purple", "blue"),
}  # fmt: skip
"""Colours that people write and the model never saw, with those it knows that come nearest."""
PAGE = "dreamprop/prior/vocabulary.py"
"""The file that a refusal names for the whole vocabulary."""
TOLD = 3
"""How many unknown words are told with what is near them."""

_PLURALS = {"boxes": "cube", "tables": "table", "toruses": "torus"} | {
    word + "s": SYNONYMS.get(word, word) for word in (*SHAPES, *SYNONYMS) if not word.endswith(("s", "x"))
}

REWRITES: tuple[tuple[str, str], ...] = (
    *((rf"\b{phrase}\b", word) for phrase, word in PHRASES.items()),
    *((rf"\b{word}\b", meaning) for word, meaning in (_PLURALS | SYNONYMS).items()),
    (rf"\b({'|'.join(FILLERS)})\b", ""),
    (r"[,.\s]+", " "),
)
"""Regular expressions applied in order to a lower-case prompt; the shipped tokenizer holds the same."""

WORDS = (*COLORS, *SHAPES, *RELATIONS, *VIEWS)
"""What is left after the rewrites: the model's tokens."""


def canonical(prompt: str) -> list[str]:
    """Reduce a prompt to the model's words, in the order given; words that are not known are kept as they are."""
    text = prompt.lower()
    for pattern, replacement in REWRITES:
        text = re.sub(pattern, replacement, text)
    return text.split()


def parse(prompt: str) -> list[tuple[str, str]]:
    """Read the objects of a prompt as (shape, colour), the upper or first one first.

    Raises:
        InputError: words are not known, or an object lacks its shape or colour.
    """
    objects: list[tuple[str, str]] = []
    words = canonical(prompt)
    unknown = [word for word in dict.fromkeys(words) if word not in WORDS]
    if unknown:
        near = ", ".join(
            f"{brief(word, 30)} (nearest: {', '.join(nearest(word))})" for word in unknown[:TOLD]
        )
        more = f", {shortened(', '.join(unknown[TOLD:]), 60)}" if len(unknown) > TOLD else ""
        raise InputError(
            f"prompt {brief(prompt, 40)} must be of words that the embedded model knows, got {near}{more}; "
            f"write others, all are in {PAGE}"
        )
    phrases: list[list[str]] = [[]]
    for word in words:
        if word in RELATIONS:
            phrases.append([])
        elif word not in VIEWS:
            phrases[-1].append(word)
    for phrase in phrases:
        shapes = [w for w in phrase if w in SHAPES]
        colors = [w for w in phrase if w in COLORS]
        if len(shapes) != 1 or len(colors) != 1:
            raise InputError(
                f"prompt {brief(prompt)} must give each object one shape and one colour, "
                f"got {brief(' '.join(phrase) or 'nothing')}; "
                f"write for example 'a red torus' or 'a red cube on top of a blue cylinder'"
            )
        objects.append((shapes[0], colors[0]))
    if len(objects) > 2 or (len(objects) == 2 and any(shape in COMPOSITES for shape, _ in objects)):
        raise InputError(
            f"prompt {brief(prompt)} must name one object or two of {', '.join(PRIMITIVES)}; "
            "the embedded model saw no others together"
        )
    return objects


def nearest(word: str) -> list[str]:
    """Known words to write instead of an unknown one, the nearest first: a colour like it, else three like it."""
    if word in ALIKE:
        return list(ALIKE[word])

    def likeness(known: str) -> tuple[bool, float]:
        swapped = sorted(word) == sorted(known)  # "rde": letters in another order
        return swapped, difflib.SequenceMatcher(None, word, known).ratio()

    return sorted((*WORDS, *SYNONYMS), key=likeness, reverse=True)[:3]


def check(prompt: str) -> None:
    """Raise InputError, in one line with the remedy, unless the embedded model can be asked for this prompt."""
    parse(prompt)


def single_object_prompts() -> list[tuple[str, str, str]]:
    """Every (prompt, shape, colour) with one object: the set over which R-precision retrieves."""
    return [(f"a {color} {shape}", shape, color) for shape in SHAPES for color in COLORS]


@dataclass(frozen=True)
class Prompt:
    """What a prompt says, however it is worded; of two objects side by side, in the order of `OBJECTS`."""

    objects: tuple[tuple[str, str], ...]
    """(shape, colour), the upper or first one first"""
    relation: str | None = None
    """Of two objects, one of RELATIONS"""

    def __str__(self) -> str:
        joined = f" {WORDING[self.relation]} " if self.relation else ""
        return joined.join(f"{color} {shape}" for shape, color in self.objects)

    @property
    def sentence(self) -> str:
        """As it is given to a model: "a red cube on top of a blue cylinder"."""
        joined = f" {WORDING[self.relation]} " if self.relation else ""
        return joined.join(f"a {color} {shape}" for shape, color in self.objects)


WORDING = {"atop": "on top of", "beside": "beside"}
OBJECTS = tuple((shape, color) for shape in SHAPES for color in COLORS)
"""Every (shape, colour), primitives first."""


def read(prompt: str) -> Prompt:
    """What a prompt says.

    Raises:
        InputError: see `parse`.
    """
    objects = parse(prompt)
    relation = next((word for word in canonical(prompt) if word in RELATIONS), None)
    if relation == "beside":
        objects.sort(key=OBJECTS.index)
    return Prompt(tuple(objects), relation)


@functools.cache
def all_prompts() -> tuple[Prompt, ...]:
    """Every prompt, the set over which R-precision retrieves: one object; two, one atop the other; two side by side,
    in whatever order."""
    pairs = OBJECTS[: len(PRIMITIVES) * len(COLORS)]
    return (
        *(Prompt((thing,)) for thing in OBJECTS),
        *(Prompt(both, "atop") for both in itertools.product(pairs, repeat=2)),
        *(Prompt(both, "beside") for both in itertools.combinations_with_replacement(pairs, 2)),
    )
