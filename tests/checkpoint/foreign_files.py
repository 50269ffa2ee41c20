"""What other programs, or a forger, might have written where the files of a checkpoint should lie."""

from __future__ import annotations

import pickle
from collections.abc import Callable
from typing import Any


class Trap:
    """Unpickled, it raises."""

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[str]]:
        return exec, ("raise SystemExit('unpickled')",)


def header(text: str, data: bytes = b"") -> bytes:
    """A safetensors file: the length of its header, the header and the data."""
    return len(text.encode()).to_bytes(8, "little") + text.encode() + data


FOREIGN = {
    "pickle": pickle.dumps(Trap()),
    "empty": b"",
    "zeros": bytes(64),
    "picture": b"\x89PNG\r\n\x1a\n" + bytes(100),
    "endless header": (2**63 - 1).to_bytes(8, "little") + b"{}",
    "no object": header("[]"),
    "unknown type": header('{"params/a":{"dtype":"F4","shape":[2],"data_offsets":[0,1]}}', b"\0"),
    "other type": header('{"params/a":{"dtype":"F8_E8M0","shape":[1],"data_offsets":[0,1]}}', b"\0"),
    "huge shape": header(
        '{"params/a":{"dtype":"U8","shape":[9223372036854775807],"data_offsets":[0,3]}}', b"abc"
    ),
    "overlap": header(
        '{"params/a":{"dtype":"U8","shape":[2],"data_offsets":[0,2]},"b":{"dtype":"U8","shape":[2],"data_offsets":[1,3]}}',
        b"abc",
    ),
}
"""In place of the tensors, by what they are."""

WORDS = [b"", b"{", b"\xff\xfe{}", b"null", b"[]", b'"x"', b"NaN", b"{}" * 9, b"[" * 200_000, b"1" * 5000]
WORDS += [
    b'{"a":' * 200_000,
    b'{"format":"dreamprop-state-2","steps":[' + b"9" * 5000 + b"]}",
    b"1e999",
    b"\0",
]
"""In place of the description."""
