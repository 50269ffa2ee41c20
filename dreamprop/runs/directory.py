"""Where a run writes: `<exp_root_dir>/<name>/<tag>/`, and never anywhere else."""

import os
import re
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from dreamprop.config.loader import InputError
from dreamprop.utils.atomic_io import writing

try:
    import fcntl
except ImportError:  # a system without: nothing keeps a second process out there
    fcntl = None  # type: ignore[assignment]

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


@contextmanager
def held(place: Path) -> Iterator[None]:
    """Keep a second process out of the folder of a run, by a lock that the system lets go of when this one is dead.

    Raises:
        InputError: another process has it.
    """
    path = place / ".lock"
    with writing(path):
        handle = _locked(path)
    try:
        yield
    finally:
        path.unlink(missing_ok=True)
        os.close(handle)


def _locked(path: Path) -> int:
    """Lock a file; returns its handle, which is the lock."""
    while True:
        handle = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
        try:
            if fcntl is not None:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if os.path.exists(path) and os.path.samestat(os.stat(path), os.fstat(handle)):
                return handle
        except BlockingIOError:
            os.close(handle)
            raise InputError(
                f"{path.parent} must be written by one process at a time, got a second one; wait for the first, or "
                "begin a new run without --resume"
            ) from None
        except OSError:  # a file system without locks
            return handle
        os.close(handle)  # the one that had it removed the file in between
