"""Where a run writes: `<exp_root_dir>/<name>/<tag>/`, and never anywhere else."""

import re
import time
from pathlib import Path

from dreamprop.config import InputError
from dreamprop.files import writing

LONGEST = 120
"""Bytes of a tag: file systems end at 255, and a time stamp wants room."""


def component(value: str, key: str) -> str:
    """Check that a name is one component of a path.

    Args:
        value: the name.
        key: the config key it came from.

    Raises:
        InputError: it is empty, leads to another folder or is too long.
    """
    if not value or value in (".", "..") or value != value.strip() or re.search(r"[/\\\x00-\x1f]", value):
        raise InputError(
            f"{key} must be one folder name without separators, got {value!r}; use letters, digits and _"
        )
    if len(value.encode()) > 2 * LONGEST:
        raise InputError(
            f"{key} must have at most {2 * LONGEST} bytes, got {len(value.encode())}; shorten it"
        )
    return value


def tag_of(prompt: str) -> str:
    """The tag of a prompt, as threestudio makes it: spaces become underscores; other odd characters do too.

    Raises:
        InputError: the prompt has a path separator, so that no folder should be named after it.
    """
    if not prompt.strip():
        raise InputError(
            'prompt must not be empty, got nothing; give system.prompt_processor.prompt="a red torus"'
        )
    if re.search(r"[/\\\x00-\x1f]", prompt):
        raise InputError(
            f"prompt {prompt!r} must not hold a path separator, because the output folder is named after it; "
            "reword it or give tag=NAME"
        )
    tag = re.sub(r"[^\w\-.,+=@]", "_", prompt.strip())
    tag = tag.encode()[:LONGEST].decode(errors="ignore").strip(".")
    return component(tag, "tag (made from the prompt)")


def claim(root: Path, name: str, tag: str) -> Path:
    """Make the folder of a new run; where the plain one is taken, a time stamp is added.

    Args:
        root: `exp_root_dir`.
        name: `name`.
        tag: `tag`, or the one made from the prompt; a time stamp that it carries already is replaced.

    Returns:
        The folder, which did not exist before, also when several runs claim theirs at the same time.

    Raises:
        InputError: it cannot be made.
    """
    tag = re.sub(r"@\d{8}-\d{6}(-\d+)?$", "", component(tag, "tag"))
    parent = root / component(name, "name")
    folder, count = parent / tag, 0
    with writing(folder):
        parent.mkdir(parents=True, exist_ok=True)
        while True:
            try:
                folder.mkdir()
                return folder
            except FileExistsError:
                count += 1
                stamp = time.strftime("%Y%m%d-%H%M%S") + (f"-{count}" if count > 1 else "")
                folder = parent / f"{tag}@{stamp}"
