"""A system, its data and its trainer, as threestudio's launch makes them; and what needs no steps of it."""

import importlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from omegaconf import OmegaConf

from dreamprop.config.loader import InputError
from dreamprop.distributed import coordination
from dreamprop.distributed.communicator import Communicator
from dreamprop.runs.threestudio.trainer import make_trainer
from dreamprop.threestudio import loading
from dreamprop.threestudio.checkpoint import status
from dreamprop.threestudio.refusals import theirs, told

STAGES = ("validation", "test", "predict")


class Session:
    """What a config describes, made.

    Args:
        path: of the config.
        studio: threestudio's config.
        device: where.
        communicator: the processes that make the same; the first one writes.
        training: whether it is to train.

    Raises:
        InputError: threestudio refuses the config.
    """

    def __init__(
        self, path: Path, studio: Any, device: torch.device, communicator: Communicator, training: bool
    ) -> None:
        self.studio = studio
        with theirs(studio):
            self.data, self.system = coordination.run_on_all(
                communicator, lambda: told(lambda: loading.make(studio), studio)
            )
            self.trainer = make_trainer(
                path, studio, device, self.system, training=training, lead=communicator.rank == 0
            )

    def on(self, **hooks: Callable[..., Any]) -> None:
        """Have the trainer call functions where Lightning calls its callbacks."""
        callbacks = importlib.import_module("pytorch_lightning.callbacks")
        self.trainer.callbacks.append(callbacks.LambdaCallback(**hooks))

    def show(self, verb: str) -> int:
        """Validate, test or export what the config's ``resume`` holds."""
        resume = self.studio.resume
        with theirs(self.studio):
            if resume is not None:  # Lightning restores neither by itself outside fit
                self.system.set_resume_status(*_status(resume))
        begun: list[int] = []
        self.on(**{f"on_{stage}_batch_start": lambda *_: begun.append(1) for stage in STAGES})
        trainer = self.trainer
        run = {"validate": trainer.validate, "test": trainer.test, "export": trainer.predict}[verb]
        with theirs(self.studio, lambda: bool(begun)):
            run(self.system, datamodule=self.data, ckpt_path=resume)
        return 0


def _status(resume: str) -> tuple[int, int]:
    """Epoch and step of a checkpoint.

    Raises:
        InputError: it is none.
        OSError: it cannot be read.
    """
    try:
        return status(resume)
    except OSError:
        raise
    except Exception as error:  # whatever the restricted unpickler or an entry that is missing comes to
        said = f"{type(error).__name__}: {str(error).partition(chr(10))[0]}"
        raise InputError(
            f"resume must be a checkpoint of Lightning's, got {resume}: {said}; use another"
        ) from error


def prompt_of(studio: Any) -> str:
    """What is made; nothing where a picture says it."""
    return OmegaConf.select(studio, "system.prompt_processor.prompt", default="") or ""
