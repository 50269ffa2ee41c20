"""`python launch.py ...` is `dreamprop ...`, for those who come from threestudio."""

import sys

from dreamprop.cli import main

if __name__ == "__main__":
    sys.exit(main())
