"""Writing files so that nothing is lost: beside and renamed; a disk that refuses is told in one line."""

import errno
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from dreamprop.config.loader import InputError

REMEDIES = {
    errno.ENOSPC: "free some space or choose another folder with exp_root_dir=FOLDER",
    errno.EDQUOT: "free some of your quota or choose another folder with exp_root_dir=FOLDER",
    errno.EFBIG: "raise the limit on the size of files or choose another folder with exp_root_dir=FOLDER",
}


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """Turn what the operating system says against writing `path` into an `InputError` of one line.

    Only writing belongs inside: an `OSError` of anything else would be blamed on the disk.
    """
    try:
        yield
    except OSError as error:
        reason = error.strerror or str(error)
        remedy = REMEDIES.get(
            error.errno or 0, "choose a folder that can be written with exp_root_dir=FOLDER"
        )
        raise InputError(f"cannot write {path}: {reason}; {remedy}") from error
    except Exception as error:
        # safetensors reports a full disk as an exception of its own, with the system's words inside.
        if type(error).__name__ == "SafetensorError" and "os error" in str(error):
            raise InputError(f"cannot write {path}: {error}; {REMEDIES[errno.ENOSPC]}") from error
        raise


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Yield a path beside `path` to write to, and rename it to `path` when all of it is on the disk.

    When the block fails, `path` is what it was before and nothing is left beside it.

    Raises:
        InputError: the disk refused.
    """
    beside = path.with_name(f".partial-{path.name}")
    try:
        with writing(path):
            yield beside
            with beside.open("rb+") as file:
                os.fsync(file.fileno())
            beside.replace(path)
    finally:
        beside.unlink(missing_ok=True)


def write_text(path: Path, text: str) -> None:
    """Write a text file beside its place and rename it."""
    with replacing(path) as beside:
        beside.write_text(text, encoding="utf-8")


def write_json(path: Path, value: Any) -> None:
    """Write a JSON file beside its place and rename it; NaN and infinity are not JSON and are refused."""
    write_text(path, json.dumps(value, indent=2, allow_nan=False) + "\n")


def make_folder(path: Path) -> None:
    """Make a folder and its parents.

    Raises:
        InputError: the folder cannot be made.
    """
    with writing(path):
        path.mkdir(parents=True, exist_ok=True)
