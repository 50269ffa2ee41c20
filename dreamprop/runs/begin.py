"""Where a run writes and what it goes on from: settled by the first process, and known to all."""

import os
import sys
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from omegaconf import DictConfig, OmegaConf

from dreamprop import checkpoint
from dreamprop.distributed import coordination
from dreamprop.distributed.communicator import Communicator
from dreamprop.runs import directory, elastic, resume
from dreamprop.runs.broadcast import broadcast_window
from dreamprop.runs.experiment import tagged
from dreamprop.solver.window import Window
from dreamprop.state import to
from dreamprop.utils import atomic_io


@dataclass(frozen=True, eq=False)
class Begun:
    """A run that has its folder."""

    place: Path
    """The folder of the run."""
    tree: DictConfig
    """The config, under the tag that the run has."""
    window: Window
    """What it begins from, on its device."""


def begin(
    process: Any,
    tree: DictConfig,
    device: torch.device,
    communicator: Communicator,
    go_on: Path | None,
    held: ExitStack,
) -> Begun:
    """Open the folder of a run, or that of an earlier one; the first process does it and tells the others.

    Args:
        process: the chain.
        tree: the config.
        device: where states are.
        communicator: the processes of the run.
        go_on: the folder of an earlier run, or one of its checkpoints.
        held: keeps other processes out of the folder until it is closed.

    Raises:
        InputError: the folder cannot be written, or what it holds cannot be gone on from.
    """
    found = coordination.run_on_main(communicator, lambda: _folder(process, tree, go_on, held))
    place, tag = communicator.all_gather_object([str(found[0]), found[1]] if found else None)[0]
    window = broadcast_window(communicator, found[2] if found else None) or Window((process.init(),))
    trend = {name: step.to(device) for name, step in window.trend.items()}
    window = replace(window, states=tuple(to(state, device) for state in window.states), trend=trend)
    return Begun(Path(place), tagged(tree, tag), window)


def open_folder(tree: DictConfig) -> Path:
    """Make the folder of a new run and write its config there, under the tag that the folder got.

    Raises:
        InputError: the folder cannot be written.
    """
    place = directory.claim(Path(tree.exp_root_dir), tree.name, tree.tag)
    with atomic_io.replacing(place / "config.yaml") as beside:
        OmegaConf.save(tagged(tree, place.name), beside)
    return place


def _folder(
    process: Any, tree: DictConfig, go_on: Path | None, held: ExitStack
) -> tuple[Path, str, Window | None]:
    """The folder of the run, which is kept from others, its tag, and what it goes on from if anything."""
    go_on = go_on or elastic.begun(Path(tree.exp_root_dir) / tree.name, tree)
    if go_on is None:
        place = open_folder(tree)
        held.enter_context(directory.held(place))
        elastic.mark(place)
        return place, place.name, None
    if os.path.isdir(place := resume.place_of(go_on)):
        held.enter_context(directory.held(place))
        for half in (place, place / "checkpoints"):  # what a kill left there
            checkpoint.sweep(half)
    place, window, notes = resume.load(process, tree, tree.trainer.max_steps, go_on)
    resume.keep_config(place, tree)
    for note in notes:
        print(f"note: {note}", file=sys.stderr)
    return place, tree.tag, window
