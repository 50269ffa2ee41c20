"""A config that is not YAML, not a mapping, or stands for more than it seems to is told in one line."""

from itertools import pairwise
from pathlib import Path

import pytest

from dreamprop.cli import main
from dreamprop.config.loader import InputError, overrides, read
from dreamprop.runs import experiment as experiments
from tests.cli.runs import Refused
from tests.cli.shipped import METHOD

LAUGHS = "a: &a [x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"{name}: &{name} [{', '.join(9 * [f'*{before}'])}]\n" for before, name in pairwise("abcdefghi")
)
"""Nine lines that stand for 400 million values."""


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("parallel: {window: 8", ["is not YAML", "line"]),
        ("name: a\n  b: c: d", ["is not YAML", "line 2"]),
        ("- 1\n- 2", ["must be a mapping"]),
        ("paralel: {window: 8}", ["unknown key paralel", "parallel"]),
        ("parallel: null", ["parallel must be a block"]),
        ("parallel: []", ["parallel must be a block"]),
        ("name: " + "[" * 900 + "]" * 900, ["nested too deeply"]),
        ("parallel: {buffer_units: {a: " * 300 + "1" + "}}" * 300, ["a"]),
        ("seed: " + "9" * 5000, ["cannot be read"]),
        ("\x00\x01", ["cannot be read"]),
        (LAUGHS, ["at most 10000 values", "write the values"]),
        ("a: &a [1, *a]", ["alias to what it stands in"]),
    ],
)
def test_a_wrong_file_is_one_line(refused: Refused, text: str, words: list[str]) -> None:
    Path("broken.yaml").write_text(text)
    line = refused(main(["--config", "broken.yaml", "--train"]))
    for word in words:
        assert word in line


def test_aliases_are_counted_and_not_written_out(place: Path) -> None:
    wide = f"name=[&a [{','.join('x' * 200)}], [{','.join(60 * ['*a'])}]]"
    with pytest.raises(InputError, match=r"override 'name=.*' must stand for at most 10000 values"):
        overrides([wide])
    Path("few.yaml").write_text("a: &a {b: 1}\nc: [*a, *a]\nd: {<<: *a, e: *a}\n")
    assert read("few.yaml") == {"a": {"b": 1}, "c": [{"b": 1}] * 2, "d": {"b": 1, "e": {"b": 1}}}


def test_chains_of_interpolations_are_refused_at_once() -> None:
    words = [
        "name",
        "exp_root_dir",
        "system.prompt_processor.negative_prompt",
        "parallel.predictor",
        "device",
    ]
    chain = [f"{one}={f'${{{other}}}' * 20}" for one, other in pairwise([*words, "parallel.layout"])]
    with pytest.raises(InputError, match="must lead to its value in at most 200 steps"):
        experiments.load(METHOD, chain)
    assert experiments.load(
        METHOD, ["name=${device}", "device=${parallel.layout}", "parallel.layout=replicated"]
    )
