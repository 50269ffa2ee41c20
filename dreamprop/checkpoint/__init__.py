"""What a run has come to, on disk: ``step-000123.safetensors`` with a ``step-000123.json`` that tells what is in it.

``format`` turns a window into bytes and a description and back, ``io`` writes and reads one checkpoint, ``directory``
looks after a folder of them, and ``expected`` knows what those of a process must hold. Nothing is unpickled.
"""

from dreamprop.checkpoint.directory import Found, finished, keep, latest, newest, sweep
from dreamprop.checkpoint.format import FORMAT, Damaged
from dreamprop.checkpoint.io import load, load_window, save

__all__ = [
    "FORMAT",
    "Damaged",
    "Found",
    "finished",
    "keep",
    "latest",
    "load",
    "load_window",
    "newest",
    "save",
    "sweep",
]
