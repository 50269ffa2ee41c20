"""Whether the models that a config names can be had, before anything waits for them.

A loader of Hugging Face's tries again for most of a minute where the hub does not answer, and a config names
several models.
"""

from __future__ import annotations

import dataclasses
import importlib
import re
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf

from dreamprop.config.loader import InputError

KEY = "pretrained_model_name_or_path"
DEBIASING = f"{KEY}_prompt_debiasing"
EMBEDDINGS = Path(".threestudio_cache/text_embeddings")
"""Where threestudio keeps what a text encoder has made of prompts."""
FILES = (".ckpt", ".safetensors", ".pt", ".pth", ".bin")
SECONDS = 2.0
"""How long the hub may take to answer."""


def check(studio: Any) -> None:
    """See that each model is a folder here, in the cache, or can be asked for at the hub.

    Raises:
        InputError: one cannot be had: it is not here, and the hub does not answer.
    """
    hub: Any = importlib.import_module("huggingface_hub")
    for key, name, cache in models(studio):
        if not is_hub_name(name) or cached(name, cache or hub.constants.HF_HUB_CACHE):
            continue
        if hub.constants.HF_HUB_OFFLINE:
            why = "HF_HUB_OFFLINE is set"
        elif not answers(hub.constants.ENDPOINT):
            why = f"{hub.constants.ENDPOINT} does not answer"
        else:
            return  # what the hub says of it is told by the loader
        raise InputError(
            f"{key} must be a folder, or a model in the cache or at the hub, got {name}, which is not in "
            f"{cache or hub.constants.HF_HUB_CACHE}, and {why}; give a folder, connect, or set HF_ENDPOINT to a mirror"
        )


def models(studio: Any) -> Iterator[tuple[str, str, str | None]]:
    """The pretrained models of a config, those that it leaves at their default too.

    Yields:
        key: where it is named.
        name: a folder, a file, or a name at the hub.
        cache: the folder that it is kept in, if that is not the usual one.
    """
    registered: dict[str, Any] = importlib.import_module("threestudio").__modules__
    for key, kind in studio.system.items():
        if not str(key).endswith("_type") or not isinstance(kind, str):
            continue
        part = str(key).removesuffix("_type")
        given = OmegaConf.select(studio, f"system.{part}", default=None) or {}
        settings = getattr(registered.get(kind.partition(":")[0]), "Config", None)
        known: dict[str, Any] = {f.name: f.default for f in dataclasses.fields(settings)} if settings else {}
        known |= {str(name): value for name, value in given.items()}
        if part == "prompt_processor" and known.get("use_cache", True) and any(EMBEDDINGS.glob("*")):
            continue
        for name, value in known.items():
            used = name != DEBIASING or known.get("use_prompt_debiasing")
            if used and name.startswith(KEY) and isinstance(value, str):
                yield f"system.{part}.{name}", value, known.get("cache_dir")


def is_hub_name(name: str) -> bool:
    """Whether a name would be looked for at the hub."""
    return bool(re.fullmatch(r"[\w-][\w.-]*(/[\w-][\w.-]*)?", name)) and not (
        name.endswith(FILES) or Path(name).exists()
    )


def cached(name: str, cache: str) -> bool:
    """Whether weights of a model are in the cache."""
    snapshots = Path(cache) / f"models--{name.replace('/', '--')}" / "snapshots"
    return any(path.suffix in FILES for path in snapshots.rglob("*"))


def answers(endpoint: str, seconds: float = SECONDS) -> bool:
    """Whether there is an answer of any kind within some seconds, whatever names or proxies are in between."""
    session: Any = importlib.import_module("huggingface_hub.utils").get_session()
    heard = threading.Event()

    def ask() -> None:
        try:
            session.head(endpoint, timeout=seconds)
        except Exception:  # of whichever library the session is
            return
        heard.set()

    asking = threading.Thread(target=ask, daemon=True)  # looking up a name knows no timeout
    asking.start()
    asking.join(seconds)
    return heard.is_set()
