"""`metrics.csv`: a line a round, written as it happens, cut back to the checkpoint when a run goes on."""

import csv
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from dreamprop.files import replacing, writing
from dreamprop.solution import Round

COLUMNS = ("round", "step", "stride", "drifts", "error", "errors", "seconds", "wall_seconds")


class RoundLog:
    """The rounds of a run, in memory and in `metrics.csv`, and for TensorBoard where that is installed.

    Columns: `round` (from 0), `step` (accepted up to), `stride` (steps accepted), `drifts` (evaluated),
    `error` (the largest of the accepted slots, in nominal steps), `errors` (of every slot, separated by
    spaces), `seconds` (of the round) and `wall_seconds` (of all rounds so far).

    Args:
        folder: the folder of the run.
        step: the step that the run begins at; rounds that the file holds beyond it are dropped, because they
            are taken again.
    """

    def __init__(self, folder: Path, step: int = 0) -> None:
        self.path = folder / "metrics.csv"
        self.rows: list[dict[str, Any]] = _rows(self.path, step) if step else []
        with replacing(self.path) as beside, beside.open("w", newline="") as file:
            writer = csv.DictWriter(file, COLUMNS)
            writer.writeheader()
            writer.writerows(self.rows)
        with writing(self.path):
            self._file = self.path.open("a", newline="")
        self._writer = csv.DictWriter(self._file, COLUMNS)
        self._board: Any = _board(folder)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        # Every line was flushed: what closing could still complain about was told by `add`.
        try:
            self._file.close()
        except OSError:
            if kind is None:
                raise
        if self._board:
            self._board.close()

    @property
    def drifts(self) -> int:
        """Drifts evaluated so far."""
        return sum(int(row["drifts"]) for row in self.rows)

    @property
    def wall_seconds(self) -> float:
        """Wall-clock seconds of all rounds so far."""
        return float(self.rows[-1]["wall_seconds"]) if self.rows else 0.0

    def add(self, round: Round) -> None:
        """Write the line of a round.

        Raises:
            InputError: the disk refused.
        """
        error = max(round.errors[: round.stride], default=0.0)
        row = {
            "round": len(self.rows),
            "step": round.step,
            "stride": round.stride,
            "drifts": round.drifts,
            "error": f"{error:.6g}",
            "errors": " ".join(f"{e:.6g}" for e in round.errors),
            "seconds": f"{round.seconds:.6f}",
            "wall_seconds": f"{self.wall_seconds + round.seconds:.6f}",
        }
        self.rows.append(row)
        with writing(self.path):
            self._writer.writerow(row)
            self._file.flush()
        if self._board:
            self._board.add_scalar("solve/stride", round.stride, round.step)
            self._board.add_scalar("solve/error", error, round.step)


def _rows(path: Path, step: int) -> list[dict[str, Any]]:
    """The rows of an earlier run up to a step; a line that a kill cut short is dropped."""
    if not path.is_file():
        return []
    rows: list[dict[str, Any]] = []
    with path.open(newline="") as file:
        for row in csv.DictReader(file):
            try:
                whole = (
                    int(row["step"]) <= step and float(row["wall_seconds"]) >= 0 and int(row["drifts"]) >= 0
                )
            except (KeyError, TypeError, ValueError):
                break
            if not whole:
                break
            rows.append({name: row[name] for name in COLUMNS})
    return rows


def _board(folder: Path) -> Any:
    """TensorBoard's writer, or None where it is not installed."""
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError:
        return None
    with writing(folder):
        return SummaryWriter(str(folder / "tensorboard"))
