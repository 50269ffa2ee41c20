"""The command line: `python launch.py` and `dreamprop` are the same program."""

from __future__ import annotations

from collections.abc import Sequence


def main(argv: Sequence[str] | None = None) -> int:
    """Run the program.

    Args:
        argv: the arguments; those of the process by default.

    Returns:
        The exit status: 0 done; 2 what the user gave is wrong; 1 anything else.
    """
    from dreamprop.cli import launch

    return launch.main(argv)
