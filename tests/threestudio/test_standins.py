"""What stands in for absent modules, for child processes and for upstream's choice of a device."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Iterator

import pytest
import torch

from dreamprop.threestudio.compat import device, optional_modules, spawn
from dreamprop.threestudio.compat.optional_modules import MissingModule


@pytest.fixture
def shells(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Two modules that nobody has."""
    monkeypatch.setitem(optional_modules.REMEDIES, "nowhere_to_be_found", "pip install nowhere")
    monkeypatch.setattr(sys, "meta_path", [*sys.meta_path, optional_modules._Finder({"nowhere_to_be_found"})])
    yield
    for name in [name for name in sys.modules if name.partition(".")[0] == "nowhere_to_be_found"]:
        del sys.modules[name]


def test_shells(shells: None) -> None:
    """They are imported, named and inherited from, and refuse to be used."""
    module = importlib.import_module("nowhere_to_be_found.deep.inside")
    assert module.Thing is module.Thing
    assert module.Thing.origin == "nowhere_to_be_found.deep.inside.Thing"

    class Own(module.Thing):
        pass

    for use in (module.Thing, Own, lambda: module.Thing.attribute, lambda: module.function(1)):
        with pytest.raises(MissingModule, match=r"pip install nowhere$") as caught:
            use()
        assert caught.value.name == "nowhere_to_be_found" and "\n" not in str(caught.value)
    assert not hasattr(module, "__wrapped__")


def test_a_childs_error_is_its_own() -> None:
    def fail() -> None:
        raise ValueError("no such model")

    with pytest.raises(ValueError, match="no such model"):
        spawn.Here(target=fail).start()


@pytest.mark.parametrize(
    ("index", "upstreams", "rank", "replaced"), [(1, 1, 1, False), (1, 9, 9, True), (None, 0, 0, True)]
)
def test_placement(
    monkeypatch: pytest.MonkeyPatch, index: int | None, upstreams: int, rank: int, replaced: bool
) -> None:
    """Second machine of two: RANK is 9, LOCAL_RANK 1; nothing is touched where upstream is right."""
    here = torch.device("cpu") if index is None else torch.device("cuda", index)

    def get_device() -> torch.device:
        return torch.device("cuda", upstreams)

    names = ["threestudio.utils.misc", "threestudio.models.networks", "threestudio.systems.base"]
    for name in names:
        module = type(sys)(name)
        module.get_device, module.get_rank = get_device, lambda: rank  # type: ignore[attr-defined]
        monkeypatch.setitem(sys.modules, name, module)
    told = device.place(here)
    assert bool(told) == replaced
    for name in names:
        assert sys.modules[name].get_device() == here
    assert sys.modules[names[1]].get_rank() == ("cpu" if index is None else index)
    assert sys.modules[names[2]].get_rank() == rank, "elsewhere it is a rank"
