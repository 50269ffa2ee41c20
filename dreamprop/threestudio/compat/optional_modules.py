"""Optional modules that upstream imports at its top although most systems never use them.

One that is not installed is imported as a shell: names may be taken from it, and the first use of one says what is
missing and how it is installed.
"""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Sequence
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any

REMEDIES = {
    "apex": "build NVIDIA apex from its source",
    "bitsandbytes": "pip install bitsandbytes",
    "clip": "pip install git+https://github.com/openai/CLIP.git",
    "controlnet_aux": "pip install controlnet_aux",
    "cv2": 'pip install "dreamprop[threestudio]"',
    "einops": 'pip install "dreamprop[threestudio]"',
    "envlight": "pip install git+https://github.com/ashawkey/envlight.git (it needs nvdiffrast)",
    "igl": 'pip install "dreamprop[threestudio]"',
    "kornia": 'pip install "dreamprop[threestudio]"',
    "mcubes": 'pip install "dreamprop[threestudio]"',
    "nvdiffrast": "pip install git+https://github.com/NVlabs/nvdiffrast.git (it needs a CUDA device and toolkit)",
    "pysdf": "pip install pysdf",
    "taming": "pip install --no-deps taming-transformers-rom1504",
    "tomesd": "pip install tomesd",
    "torchvision": "install the torchvision that belongs to this torch",
    "trimesh": "pip install trimesh",
    "wandb": "pip install wandb",
    "xatlas": 'pip install "dreamprop[threestudio]"',
}
"""The command that installs each module that may be missing."""


class MissingModule(ImportError):
    """Something of a module that is not installed was used; the message is one line and ends with the remedy."""


def _refuse(name: str) -> MissingModule:
    top = name.partition(".")[0]
    return MissingModule(
        f"{name} must be installed for this system, and {top} is not; {REMEDIES[top]}", name=top
    )


class _Use(type):
    """A class that can be named, annotated with and inherited from, and not used."""

    origin: str

    def __call__(cls, *args: Any, **kwargs: Any) -> Any:
        raise _refuse(cls.origin)

    def __getattr__(cls, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        raise _refuse(f"{cls.origin}.{name}")


class _Shell(ModuleType):
    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        found = _Use(name, (), {"__module__": self.__name__, "origin": f"{self.__name__}.{name}"})
        setattr(self, name, found)
        return found


class _Finder(MetaPathFinder, Loader):
    def __init__(self, names: set[str]) -> None:
        self.names = names

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if fullname.partition(".")[0] not in self.names:
            return None
        return ModuleSpec(fullname, self, is_package=True)

    def create_module(self, spec: ModuleSpec) -> ModuleType:
        return _Shell(spec.name)

    def exec_module(self, module: ModuleType) -> None:
        """Leave the module empty: it is a shell."""


def missing() -> list[str]:
    """The modules of `REMEDIES` that cannot be found."""
    return [name for name in REMEDIES if name not in sys.modules and importlib.util.find_spec(name) is None]


def install(names: Sequence[str]) -> None:
    """Import these names as shells from now on.

    Libraries that look for optional modules remember what they found: they are asked first, so that they see what is
    really there.
    """
    import diffusers.utils.import_utils
    import transformers.utils.import_utils

    for library in (transformers.utils.import_utils, diffusers.utils.import_utils):
        for name in names:
            probe = getattr(library, f"is_{name}_available", None)
            if probe is not None:
                probe()
    sys.meta_path.append(_Finder(set(names)))
