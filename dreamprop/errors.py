"""What is raised: on wrong input, and where a run cannot go on."""

from collections.abc import Sequence


class InputError(ValueError):
    """What the user gave is wrong: one line with the value, the rule and the remedy; exit status 2.

    Args:
        message: the line.
        own: only this process of several knows of it.
    """

    def __init__(self, message: str, own: bool = False) -> None:
        self.own = own
        super().__init__(" ".join(str(message).split()))


class NonFiniteDrift(ArithmeticError):
    """A drift that is not finite, evaluated at a state that was accepted; names the step and the group."""

    def __init__(self, step: int, group: str, parameter: str) -> None:
        self.step, self.group, self.parameter = step, group, parameter
        super().__init__(
            f"drift at step {step} must be finite, got NaN or Inf in group {group!r} "
            f"(parameter {parameter!r}); lower the learning rate or the loss scale"
        )


class RankFailed(RuntimeError):
    """A rank raised; all ranks learn of it and stop.

    Args:
        rank: which one.
        traceback: its traceback.
    """

    def __init__(self, rank: int, traceback: str) -> None:
        self.rank, self.traceback = rank, traceback.strip()
        super().__init__(
            f"rank {rank} failed: {self.traceback.splitlines()[-1] if self.traceback else 'no reason'}"
        )


class RankLost(RuntimeError):
    """A rank is gone or silent.

    Args:
        ranks: those that have not been heard of.
        reason: what was seen.
    """

    def __init__(self, ranks: Sequence[int], reason: str) -> None:
        self.ranks = list(ranks)
        names = ", ".join(map(str, self.ranks)) or "unknown"
        super().__init__(f"{'rank' if len(self.ranks) == 1 else 'one of ranks'} {names} {reason}")
