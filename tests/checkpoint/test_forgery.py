"""Files that others wrote are refused though their checksums fit, and nothing in them is run."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save as to_bytes

import dreamprop as dp
from dreamprop import checkpoint
from dreamprop.state import equal
from tests.checkpoint.foreign_files import FOREIGN, header
from tests.checkpoint.windows import SMALL


def signed(about: Mapping[str, Any]) -> bytes:
    """A description with the checksum that fits it, as a forger would make it."""
    said = {key: value for key, value in about.items() if key != "checksum"}
    text = json.dumps(json.loads(json.dumps(said)), separators=(",", ":"))
    return json.dumps(said | {"checksum": hashlib.sha256(text.encode()).hexdigest()}).encode()


def forge(path: Path, data: bytes, **changes: Any) -> None:
    """Other tensors or other words, with checksums that fit."""
    about_path = path.with_suffix(".json")
    about = json.loads(about_path.read_bytes())
    about |= {"sha256": hashlib.sha256(data).hexdigest(), "bytes": len(data)} | changes
    path.write_bytes(data)
    about_path.write_bytes(signed(about))


@pytest.mark.parametrize(
    "changes",
    [{"steps": steps} for steps in (None, [], 20, [True], ["20"], [20.0], [-20], [20, 22], [[20]], {"0": 20})]
    + [{"names": names} for names in (None, [], {}, ["params/a", "params/a"], ["params/b"], [1], [[]])]
    + [{"strides": strides} for strides in (None, [], {"params/a": 0}, {"params/a": [10**30, 1]})]
    + [{"strides": {"params/a": strides}} for strides in ([0, 1], [1], [1, 1], [-1, 3], ["1", 3], [True, 3])]
    + [{"threshold": threshold} for threshold in (1.5, [], "", "much", {}, True)]
    + [{"meta": meta} for meta in (None, [], 1, "{}")]
    + [{"bytes": count} for count in (None, "5", 10**400, -1, 1.5)]
    + [{"sha256": digest} for digest in (None, "", 5, "0" * 64)]
    + [{"format": name} for name in (None, [], "dreamprop-state-1", 2)],
    ids=str,
)
def test_a_description_of_other_types_is_refused_though_its_checksum_fits(
    tmp_path: Path, changes: dict[str, Any]
) -> None:
    state = dp.State({"a": torch.randn(2, 3)}, {}, {}, 20)
    path = checkpoint.save(tmp_path, state, {})
    forge(path, path.read_bytes())
    assert equal(checkpoint.load(path)[0], state)
    forge(path, path.read_bytes(), **changes)
    with pytest.raises(ValueError, match=r"^checkpoint must .*; "):
        checkpoint.load(path)
    about = json.loads(path.with_suffix(".json").read_text())
    path.with_suffix(".json").write_bytes(signed({k: v for k, v in about.items() if k not in changes}))
    with pytest.raises(ValueError, match=r"^checkpoint must .*; "):
        checkpoint.load(path)


@pytest.mark.parametrize("names", [["params/a"], ["a"], ["params"], ["extra/a"], ["ahead/0/params/a"],
                                   ["ahead/1/params/a"], ["ahead//params/a"], ["ahead/01/params/a"]])  # fmt: skip
def test_foreign_tensors_with_checksums_that_fit(tmp_path: Path, names: list[str]) -> None:
    path = checkpoint.save(tmp_path, SMALL, {})
    forge(path, to_bytes(dict.fromkeys(names, torch.ones(3))), names=names)
    if names == ["params/a"]:
        assert torch.equal(checkpoint.load(path)[0].params["a"], torch.ones(3))
        names = ["params/b"]
        forge(path, path.read_bytes(), names=names)
    with pytest.raises(ValueError, match=r"^checkpoint must .*; "):
        checkpoint.load(path)


@pytest.mark.parametrize("name", FOREIGN)
def test_foreign_files_are_refused(tmp_path: Path, name: str) -> None:
    path = checkpoint.save(tmp_path, SMALL, {})
    forge(path, FOREIGN[name], names=["params/a"])
    with pytest.raises(ValueError, match=r"^checkpoint must .*; ") as caught:
        checkpoint.load(path)
    assert "\n" not in str(caught.value)


def test_a_line_break_in_a_name_stays_out_of_the_message(tmp_path: Path) -> None:
    path = checkpoint.save(tmp_path, SMALL, {})
    bad = header(
        '{"params/a\\nb":{"dtype":"U8","shape":[2],"data_offsets":[0,3]},"c":{"dtype":"U8","shape":[9],"data_offsets":[3,3]}}',
        b"abc",
    )
    forge(path, bad)
    with pytest.raises(ValueError, match=r"^checkpoint must .*; ") as caught:
        checkpoint.load(path)
    assert "\n" not in str(caught.value)
