"""A few kills at random moments; ``kills.py`` itself does as many as one likes."""

import os
import subprocess
import sys
from pathlib import Path


def test_killed_runs_go_on_to_the_same_bits(tmp_path: Path) -> None:
    command = [sys.executable, str(Path(__file__).with_name("kills.py")), str(tmp_path), "--count", "2"]
    done = subprocess.run(command, env=os.environ, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "4 of 4 runs bit-identical" in done.stdout and " 0 files half written" in done.stdout
