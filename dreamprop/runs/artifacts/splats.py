"""3D Gaussians as a file that viewers of splats read: `splats.ply`, binary and little endian.

Legend: N Gaussians.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from dreamprop.runs.artifacts.images import write_bytes
from dreamprop.state import State


def write_splats_if_any(process: Any, state: State, place: Path) -> list[str]:
    """The name of the file, written where the scene of a process is made of Gaussians.

    Args:
        process: may have `splats(state)`.
        state: the result.
        place: the folder to write into.

    Raises:
        InputError: the disk refused.
    """
    found = process.splats(state) if hasattr(process, "splats") else None
    if found is None:
        return []
    write_bytes(place / "splats.ply", ply(found))
    return ["splats.ply"]


def ply(columns: Mapping[str, Tensor]) -> bytes:
    """The bytes of a PLY file of vertices with float properties: a column [N] each, in their order."""
    count = len(next(iter(columns.values())))
    properties = "".join(f"property float {name}\n" for name in columns)
    header = f"ply\nformat binary_little_endian 1.0\nelement vertex {count}\n{properties}end_header\n"
    rows = np.stack([column.detach().cpu().numpy() for column in columns.values()], 1)
    return header.encode("ascii") + rows.astype("<f4").tobytes()
