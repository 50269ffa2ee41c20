"""Prompts: free wording within the vocabulary, and one line with the nearest known words outside it."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dreamprop.prior import vocabulary
from dreamprop.prior.vocabulary import COLORS, PRIMITIVES, SHAPES


@pytest.mark.parametrize(
    ("prompt", "objects"),
    [
        ("a red torus", [("torus", "red")]),
        ("The Tori, red", [("torus", "red")]),
        ("a photo of a torus that is red, back view", [("torus", "red")]),
        ("red donuts", [("torus", "red")]),
        ("black boxes", [("cube", "black")]),
        ("a violet cup", [("mug", "purple")]),
        ("a red cube on top of a blue cylinder", [("cube", "red"), ("cylinder", "blue")]),
        ("a red cube next to the cylinder, blue", [("cube", "red"), ("cylinder", "blue")]),
    ],
)
def test_wording_is_free(prompt, objects):
    assert vocabulary.parse(prompt) == objects


@given(
    st.sampled_from(SHAPES),
    st.sampled_from(list(COLORS)),
    st.sampled_from(["", "a ", "the ", "one "]),
    st.booleans(),
)
def test_every_single_object_is_understood(shape, color, article, swapped):
    words = f"{shape} {color}" if swapped else f"{color} {shape}"
    assert vocabulary.parse(article + words) == [(shape, color)]
    assert vocabulary.canonical(article + words) == words.split()


@given(
    st.sampled_from(PRIMITIVES),
    st.sampled_from(PRIMITIVES),
    st.sampled_from(["on top of", "beside", "next to"]),
)
def test_every_pair_is_understood(first, second, relation):
    assert vocabulary.parse(f"a red {first} {relation} a blue {second}") == [(first, "red"), (second, "blue")]


@pytest.mark.parametrize(
    ("prompt", "part"),
    [
        ("a red tours", "torus"),
        ("a redd torus", "red"),
        ("two red tori", "'two'"),
        ("torus", "one shape and one colour"),
        ("a red", "one shape and one colour"),
        ("", "nothing"),
        ("a red blue torus", "one shape and one colour"),
        ("a red mug on top of a blue cube", "saw no others together"),
        ("../a red torus", "'/'"),
    ],
)
def test_what_is_not_understood_is_refused_in_one_line(prompt, part):
    with pytest.raises(ValueError) as caught:
        vocabulary.check(prompt)
    assert part in str(caught.value)
    assert "\n" not in str(caught.value)
