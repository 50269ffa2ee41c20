"""What a run has come to, on disk: ``step-000123.safetensors`` with a ``step-000123.json`` that tells what is in it.

``content`` turns a window into bytes and a description and back, ``disk`` writes and reads one checkpoint, ``shelf``
looks after a folder of them. Nothing is unpickled.
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
