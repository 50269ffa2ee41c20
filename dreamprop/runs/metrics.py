"""`metrics.csv`: a line a round, written as it happens, cut back to the checkpoint when a run goes on."""

import csv
import math
import sys
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from dreamprop.runs.loop import Callback
from dreamprop.solver.solution import Round
from dreamprop.utils.atomic_io import make_folder, replacing, writing

LAPS = ("guess", "drift", "exchange", "rollout", "error", "audit")
COLUMNS = (
    "round", "step", "stride", "drifts", "skipped", "error", "errors", "audit", "seconds", "wall_seconds",
    *(f"seconds_{lap}" for lap in LAPS),
)  # fmt: skip


class RoundLog(Callback):
    """The rounds of a run, in memory and in `metrics.csv`, and for TensorBoard where that is installed.

    Columns: `round` (from 0), `step` (accepted up to), `stride` (steps accepted), `drifts` (evaluated),
    `error` (the largest of the accepted slots, in nominal steps), `errors` (of every slot, separated by
    spaces), `audit` (relative differences of drifts evaluated again at accepted states), `seconds` (of the round),
    `wall_seconds` (of all rounds so far), `skipped` (1 where the update was left out), and `seconds_*`: what the
    parts of the round took, `exchange` with the wait for other processes.

    Args:
        folder: the folder of the run.
        step: the step that the run begins at; rounds that the file holds beyond it are dropped, because they
            are taken again.
    """

    def __init__(self, folder: Path, step: int = 0) -> None:
        self.path = folder / "metrics.csv"
        self.rows: list[dict[str, Any]] = _rows(self.path, step) if step else []
        self.complete = sum(int(row["stride"]) for row in self.rows) == step
        """Whether the rows are those of all rounds so far, so that their sums are those of the run."""
        self._open()

    def _open(self) -> None:
        """Write the rows so far, and leave the file open for more."""
        make_folder(self.path.parent)
        with replacing(self.path) as beside, beside.open("w", newline="") as file:
            writer = csv.DictWriter(file, COLUMNS)
            writer.writeheader()
            writer.writerows(self.rows)
        with writing(self.path):
            self._file = self.path.open("a", newline="")
        self._writer = csv.DictWriter(self._file, COLUMNS)
        self._board: Any = _board(self.path.parent)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with writing(self.path.parent) if kind is None else suppress(OSError):
            self._close()

    def _close(self) -> None:
        self._file.close()
        if self._board:
            self._board.close()  # it writes in a thread, and tells only now what the disk refused

    @property
    def drifts(self) -> int:
        """How many drifts all rounds so far have evaluated."""
        return sum(int(row["drifts"]) for row in self.rows)

    @property
    def wall_seconds(self) -> float:
        """Wall-clock seconds of all rounds so far."""
        return float(self.rows[-1]["wall_seconds"]) if self.rows else 0.0

    @property
    def skipped(self) -> int:
        """How many updates were left out so far, because a gradient was not finite."""
        return sum(int(row["skipped"]) for row in self.rows)

    @property
    def audits(self) -> list[float]:
        """Relative differences of drifts that were evaluated again, so far."""
        return [float(a) for row in self.rows for a in row["audit"].split()]

    @property
    def laps(self) -> dict[str, float]:
        """Seconds of all rounds so far, by part."""
        return {lap: sum(float(row[f"seconds_{lap}"]) for row in self.rows) for lap in LAPS}

    def on_round(self, round: Round) -> None:
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
            "skipped": int(round.skipped),
            "error": f"{error:.6g}",
            "errors": " ".join(f"{e:.6g}" for e in round.errors),
            "audit": " ".join(f"{a:.6g}" for a in round.audits),
            "seconds": f"{round.seconds:.6f}",
            "wall_seconds": f"{self.wall_seconds + round.seconds:.6f}",
        } | {f"seconds_{lap}": f"{round.laps.get(lap, 0.0):.6f}" for lap in LAPS}
        if not self.path.exists():
            print(f"note: {self.path} vanished, and is written again", file=sys.stderr)
            with suppress(OSError):
                self._close()
            self._open()
        self.rows.append(row)
        with writing(self.path):
            self._writer.writerow(row)
            self._file.flush()
            if self._board:
                self._board.add_scalar("solve/stride", round.stride, round.step)
                self._board.add_scalar("solve/error", error, round.step)


def _rows(path: Path, step: int) -> list[dict[str, Any]]:
    """The rows of an earlier run up to a step; from a line on that is cut short or damaged, all are dropped."""
    rows: list[dict[str, Any]] = []
    if not path.is_file():
        return rows
    last = 0
    try:
        with path.open(newline="", encoding="utf-8") as file:
            for row in csv.DictReader(file, strict=True):
                end, stride, drifts, skipped = (int(row[c]) for c in ("step", "stride", "drifts", "skipped"))
                seconds = [float(row[c]) for c in COLUMNS if "seconds" in c]
                seconds += [float(a) for a in row["audit"].split()]
                whole = end <= step and end == last + stride and stride > 0 <= min(drifts, skipped)
                if not whole or not all(0 <= s < math.inf for s in seconds):
                    break
                rows.append({name: row[name] for name in COLUMNS})
                last = end
    except (AttributeError, KeyError, TypeError, ValueError, OSError, csv.Error):
        pass  # what was read before it stands
    return rows


def _board(folder: Path) -> Any:
    """TensorBoard's writer, or None where it is not installed."""
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError:
        return None
    with writing(folder):
        return SummaryWriter(str(folder / "tensorboard"))
