"""What ends a run early without being a defect of the program."""

from dreamprop.errors import NonFiniteDrift, RankFailed, RankLost
from dreamprop.utils.signals import Interrupted

STOPS = (Interrupted, NonFiniteDrift, RankFailed, RankLost, MemoryError)
"""What ends a run and is told in a line; anything else shows where it came from."""
