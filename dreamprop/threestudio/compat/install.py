"""Make `import threestudio` work, and say what was put in the place of what."""

from __future__ import annotations

import importlib
import importlib.util
import sys
from dataclasses import dataclass
from pathlib import Path

import torch
from omegaconf import OmegaConf

from dreamprop.threestudio.compat import device as devices
from dreamprop.threestudio.compat import lora, optional_modules, spawn

REQUIRED = (
    "pytorch_lightning",
    "lightning",
    "diffusers",
    "transformers",
    "nerfacc",
    "omegaconf",
    "jaxtyping",
    "typeguard",
)
"""Modules that no system of threestudio does without."""
EXTRA = 'pip install "dreamprop[threestudio]"'


@dataclass(frozen=True)
class StandIn:
    """What something stands in the place of, since it cannot be used here, and why."""

    name: str
    reason: str

    def __str__(self) -> str:
        return f"stand-in for {self.name}: {self.reason}"


@dataclass(frozen=True)
class Report:
    """What `install` found and did."""

    root: Path
    """The folder that holds the package `threestudio`."""
    version: str
    """The version of threestudio."""
    device: torch.device
    """The one device of this process."""
    standins: tuple[StandIn, ...]
    """In the order in which they were put in place; empty where everything real is there."""
    absent: tuple[str, ...]
    """Optional modules that are not installed; using one raises `MissingModule` with the remedy."""

    def lines(self) -> list[str]:
        """One line for each thing that a user should know of what was done."""
        out = [f"threestudio {self.version} from {self.root} on {self.device}", *map(str, self.standins)]
        if self.absent:
            out.append(f"not installed, refused when used: {', '.join(self.absent)}")
        return out


_done: Report | None = None


def install(root: Path | str | None, device: torch.device | str | None = None) -> Report:
    """Import upstream with what it needs, once a process; nothing of it may be imported before.

    Args:
        root: A checkout, or the folder above it that holds the package; None for the installed package.
        device: The device of this process; None for `cuda:LOCAL_RANK`, or the CPU where there is no CUDA.

    Raises:
        ValueError: If there is no threestudio at `root`, what it needs is not installed, or an earlier call asked for
            another checkout or device.
    """
    global _done
    place = devices.default() if device is None else torch.device(device)
    if place.type == "cuda" and place.index is None:
        place = torch.device("cuda", torch.cuda.current_device())
    folder = _locate(root)
    if _done is not None:
        if (_done.root, _done.device) != (folder, place):
            raise ValueError(
                f"threestudio must be set up once a process, and is from {_done.root} on {_done.device}, got {folder} "
                f"on {place}; start another process"
            )
        return _done
    if "threestudio" in sys.modules:
        raise ValueError("threestudio must be imported after the stand-ins, and already is; import it later")
    _require()
    made: list[tuple[str, str]] = []
    import diffusers  # noqa: F401
    import transformers  # noqa: F401

    made += devices.prepare(place)
    made += _tinycudann(place)
    made += _nerfacc(place)
    made += lora.install()
    lacking = optional_modules.missing()
    optional_modules.install(lacking)
    made += _igl(lacking)
    if str(folder) not in sys.path:
        sys.path.insert(0, str(folder))
    OmegaConf.clear_resolver("rmspace")  # ours does the same, and upstream's registers itself once only
    upstream = importlib.import_module("threestudio")
    made += devices.place(place)
    if made:
        made += spawn.keep_here()
    version = str(getattr(upstream, "__version__", "unknown"))
    _done = Report(folder, version, place, tuple(StandIn(*one) for one in made), tuple(lacking))
    return _done


def _locate(root: Path | str | None) -> Path:
    """The folder to import threestudio from."""
    if root is not None:
        folder = Path(root).expanduser().resolve()
        if (folder / "threestudio" / "__init__.py").is_file():
            return folder
        raise ValueError(
            f"threestudio must be in the folder given, got {folder}; give the path of a checkout of it"
        )
    spec = importlib.util.find_spec("threestudio")
    if spec is None or not spec.origin:
        raise ValueError(
            "threestudio must be importable or its folder given, got neither; pass --threestudio PATH"
        )
    return Path(spec.origin).resolve().parents[1]


def _require() -> None:
    lacking = [name for name in REQUIRED if importlib.util.find_spec(name) is None]
    if lacking:
        raise ValueError(f"threestudio needs packages that are not installed: {', '.join(lacking)}; {EXTRA}")


def _tinycudann(device: torch.device) -> list[tuple[str, str]]:
    reason = f"the device is {device}"
    if device.type == "cuda":
        try:
            importlib.import_module("tinycudann")
        except Exception as error:  # a binary that does not fit raises anything
            reason = _first_line(error)
        else:
            return []
    from dreamprop.threestudio.compat.tinycudann import modules

    sys.modules["tinycudann"] = modules
    return [("tinycudann", f"{reason}; plain torch, slower, the same functions")]


def _nerfacc(device: torch.device) -> list[tuple[str, str]]:
    import nerfacc
    import nerfacc.cuda

    reason = f"the device is {device}"
    if device.type == "cuda":
        try:
            backend = importlib.import_module("nerfacc.cuda._backend")  # compiles them the first time
        except Exception as error:
            reason = _first_line(error)
        else:
            if backend._C is not None:
                return []
            reason = "there is no CUDA toolkit to compile them with"
    from dreamprop.threestudio.compat.nerfacc import kernel_table, packed

    for name, kernel in kernel_table.kernels().items():
        setattr(nerfacc.cuda, name, kernel)
    for name in ("nerfacc", "nerfacc.pack", "nerfacc.volrend"):
        module = importlib.import_module(name)
        setattr(module, "pack_info", packed.pack_info)  # noqa: B010
    return [("nerfacc's CUDA kernels", f"{reason}; plain torch, slower")]


def _igl(lacking: list[str]) -> list[tuple[str, str]]:
    """Give two functions that libigl 2.6 renamed their old names too."""
    if "igl" in lacking:
        return []
    import igl

    def read_obj(path: str, *_: object) -> object:
        return igl.readOBJ(path)  # the old one took the type of the numbers too; there is one now

    renamed = {"fast_winding_number_for_meshes": "fast_winding_number", "read_obj": "readOBJ"}
    made = []
    for old, new in renamed.items():
        if not hasattr(igl, old):
            setattr(igl, old, read_obj if old == "read_obj" else getattr(igl, new))
            made.append((f"igl.{old}", f"libigl calls it {new}"))
    return made


def _first_line(error: BaseException) -> str:
    text = str(error).strip().splitlines()
    return f"{type(error).__name__}: {text[0]}" if text else type(error).__name__
