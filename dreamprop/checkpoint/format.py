"""What a checkpoint holds: the tensors of a window as bytes, and a description of them as JSON.

Names: those of the accepted state are ``params/<name>``, ``moments/<name>`` and ``buffers/<name>``, those of the
i-th state rolled out ahead of it ``ahead/<i>/params/<name>`` and so on; ``trend/<name>`` is what an integer buffer is
expected to move by each step.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load as from_bytes
from safetensors.torch import save as to_bytes
from torch import Tensor

from dreamprop.solver.window import Window
from dreamprop.state import State

FORMAT = "dreamprop-state-2"
PARTS = ("params", "moments", "buffers")
TREND = "trend"
DTYPES = (
    torch.float64, torch.float32, torch.float16, torch.bfloat16, torch.complex64, torch.bool,
    torch.int64, torch.int32, torch.int16, torch.int8, torch.uint64, torch.uint32, torch.uint16, torch.uint8,
    torch.float8_e4m3fn, torch.float8_e4m3fnuz, torch.float8_e5m2, torch.float8_e5m2fnuz,
)  # fmt: skip
"""What safetensors both writes and reads."""
LARGEST = 1 << 62
"""Strides beyond it are no strides."""


class Damaged(ValueError):
    """A checkpoint that is not what was saved.

    Args:
        what: the rule and what was found, in one line.
        remedy: what to do.
    """

    def __init__(self, what: str, remedy: str) -> None:
        self.what, self.remedy = " ".join(what.split()), remedy
        super().__init__(f"{self.what}; {remedy}")

    def of(self, path: Path) -> Damaged:
        """The same, with the file it is about."""
        return Damaged(f"{self.what} in {path}", self.remedy)


def pack(window: Window, meta: Mapping[str, Any]) -> tuple[bytes, dict[str, Any]]:
    """The tensors of a window as bytes, and their description.

    Raises:
        ValueError: a tensor is of a kind that the format does not hold, or the steps of the window do not follow
            one another.
    """
    steps = [int(state.step) for state in window.states]
    if not steps or steps[0] < 0 or steps != list(range(steps[0], steps[0] + len(steps))):
        raise ValueError(
            f"states of a window must enter steps that follow one another, got {steps}; save a round's"
        )
    tensors, strides = {}, {}
    for where, part in zip(_places(steps), _parts(window), strict=True):
        for name, tensor in part.items():
            key = f"{where}/{name}"
            tensors[key] = _plain(key, tensor)
            lies = torch.empty_like(tensor, device="meta").stride()
            if tensor.numel() and lies != _usual(tensor.shape):
                strides[key] = list(lies)
    data = to_bytes(tensors)
    return data, {
        "format": FORMAT,
        "steps": steps,
        # as a text: it may be infinite, which JSON does not know
        "threshold": None if window.threshold is None else repr(float(window.threshold)),
        "sha256": hashlib.sha256(data).hexdigest(),
        "bytes": len(data),
        # the file sorts names; a process may draw or add up in the order of its parameters
        "names": list(tensors),
        # where they are not the usual ones: how a tensor lies decides the order of sums over it
        "strides": strides,
        "meta": dict(meta),
    }


def unpack(data: bytes, about: Mapping[str, Any]) -> Window:
    """The window from its bytes and a description that was read.

    Raises:
        Damaged: the two are not what ``pack`` gives.
    """
    if hashlib.sha256(data).hexdigest() != about["sha256"]:
        raise Damaged("checkpoint must match its sha256, got other bytes", "use an earlier one")
    try:
        tensors = from_bytes(data)
    except Exception as error:  # besides its own, safetensors lets out whatever shapes and types led to
        what = f"checkpoint must hold safetensors, got {type(error).__name__}: {error}"
        raise Damaged(what, "give one that dreamprop wrote") from None
    if sorted(about["names"]) != sorted(tensors):
        raise Damaged("checkpoint must hold the tensors it names, got others", "use an earlier one")
    steps: list[int] = about["steps"]
    parts: dict[str, dict[str, Tensor]] = {where: {} for where in _places(steps)}
    for key in about["names"]:
        where = "/".join(key.split("/")[: 3 if key.startswith("ahead/") else 1])
        if where not in parts or not key.startswith(f"{where}/"):
            what = f"checkpoint must hold {', '.join(PARTS)} of {len(steps)} state(s), got others"
            raise Damaged(what, "give one that dreamprop wrote")
        held = tensors.pop(key)
        strides = about["strides"].get(key, _usual(held.shape))
        if not _dense(held.shape, strides):
            raise Damaged("checkpoint must hold dense tensors, got other strides", "use an earlier one")
        # in memory that PyTorch aligned: some libraries add up in another order elsewhere
        whole = torch.empty_strided(held.shape, strides, dtype=held.dtype).copy_(held)
        parts[where][key.removeprefix(f"{where}/")] = whole
    named = iter(parts.values())
    states = tuple(State(next(named), next(named), next(named), step) for step in steps)
    threshold = about["threshold"]
    return Window(states, None if threshold is None else float(threshold), next(named))


def to_json(about: Mapping[str, Any]) -> bytes:
    """A description as text, with a checksum of what it says."""
    said = json.loads(json.dumps(about, allow_nan=False))  # as it will be read
    return json.dumps(said | {"checksum": _checksum(said)}, indent=2).encode()


def from_json(text: bytes) -> dict[str, Any]:
    """A description from its text.

    Raises:
        Damaged: the text is not what ``to_json`` gives.
    """
    about: Any = None
    try:
        about = json.loads(text.decode(), parse_constant=_refuse)
        changed = isinstance(about, dict) and about.pop("checksum", None) != _checksum(about)
    except (ValueError, RecursionError):  # no JSON, or brackets without end
        about, changed = None, True
    if not isinstance(about, dict) or about.get("format") != FORMAT:
        raise Damaged(
            f"checkpoint must be described as {FORMAT}, got another text", "give one that dreamprop wrote"
        )
    if changed:
        raise Damaged(
            "checkpoint must match the checksum in its .json, got other words", "use an earlier one"
        )
    if not _is_typed(about):
        raise Damaged(
            f"checkpoint must be described as {FORMAT}, got other fields", "give one that dreamprop wrote"
        )
    return about


def _places(steps: Sequence[int]) -> list[str]:
    """Where the parts of the states are, in order."""
    return [*(f"ahead/{i}/{part}" if i else part for i in range(len(steps)) for part in PARTS), TREND]


def _parts(window: Window) -> list[Mapping[str, Tensor]]:
    return [*(getattr(state, part) for state in window.states for part in PARTS), window.trend]


def _plain(key: str, tensor: Tensor) -> Tensor:
    """A copy as the format wants it: no memory shared, no holes, and no lazy signs, which it does not see."""
    kind = tensor.dtype if tensor.layout == torch.strided else tensor.layout
    if kind not in DTYPES:
        raise ValueError(
            f"tensors of a checkpoint must be dense and of a type that safetensors holds, got {kind} for {key}; "
            "keep it as one that is"
        )
    return tensor.detach().to("cpu", copy=True).contiguous()


def _usual(shape: torch.Size) -> tuple[int, ...]:
    """The strides that a fresh tensor has."""
    return torch.empty(shape, device="meta").stride()


def _dense(shape: torch.Size, strides: Any) -> bool:
    """Whether the elements of such a tensor lie side by side, in any order of its dimensions."""
    if not isinstance(strides, list | tuple) or len(strides) != len(shape):
        return False
    if not all(type(stride) is int and 0 <= stride < LARGEST for stride in strides):
        return False
    if 0 in shape:
        return True
    expected = 1
    for stride, size in sorted(zip(strides, shape, strict=True)):
        if size > 1:
            if stride != expected:
                return False
            expected *= size
    return True


def _checksum(about: Mapping[str, Any]) -> str:
    """Of what a description says, however it is laid out."""
    return hashlib.sha256(json.dumps(about, separators=(",", ":")).encode()).hexdigest()


def _refuse(constant: str) -> None:
    raise ValueError(f"{constant} is not JSON")


def _is_typed(about: Mapping[str, Any]) -> bool:
    """Whether a description has the fields and types of ours."""
    steps, names, threshold = about.get("steps"), about.get("names"), about.get("threshold")
    if not isinstance(steps, list) or not steps or not all(type(step) is int for step in steps):
        return False
    if steps[0] < 0 or any(step != steps[0] + i for i, step in enumerate(steps)):
        return False
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        return False
    if threshold is not None:
        try:
            sound = float(threshold if isinstance(threshold, str) else "") >= 0  # which NaN is not
        except ValueError:
            sound = False
        if not sound:
            return False
    return (
        "threshold" in about
        and type(about.get("bytes")) is int
        and isinstance(about.get("sha256"), str)
        and isinstance(about.get("strides"), dict)
        and isinstance(about.get("meta"), dict)
    )
