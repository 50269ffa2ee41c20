"""Setting up threestudio on a device: what is put in the place of what, and that it is said.

Setting up changes the process it happens in, so it is tried in processes of their own: on a small double of upstream's
package always, and on upstream itself where THREESTUDIO_ROOT names a checkout.
"""

from __future__ import annotations

import importlib
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from dreamprop.threestudio.compat import install as setup
from dreamprop.threestudio.compat.nerfacc import kernel_table

REPOSITORY = Path(__file__).parents[2]
ROOT = os.environ.get("THREESTUDIO_ROOT")


def run(code: str, *arguments: str, cwd: Path) -> Any:
    """What a fresh interpreter prints last, as JSON."""
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", code, *arguments],
        capture_output=True,
        text=True,
        cwd=cwd,
        env={**os.environ, "PYTHONPATH": str(REPOSITORY), "OMP_NUM_THREADS": "1"},
    )
    if "packages that are not installed" in done.stderr:
        pytest.skip("the extra threestudio is not installed")
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout.strip().splitlines()[-1])


@pytest.fixture
def double(tmp_path: Path) -> Path:
    """A package that asks for what upstream asks for."""
    files = {
        "__init__.py": '__version__ = "0.0.1"\nfrom threestudio.models import networks\n',
        "utils/__init__.py": "",
        "utils/misc.py": """
            import os, torch
            import tinycudann as tcnn
            def get_rank(): return int(os.environ.get("RANK", 0))
            def get_device(): return torch.device(f"cuda:{get_rank()}")
            """,
        "models/__init__.py": "",
        "models/networks.py": """
            import nerfacc
            import nvdiffrast.torch as dr
            import tinycudann as tcnn
            import torch
            import torch.multiprocessing as mp
            from envlight import EnvLight
            from igl import fast_winding_number_for_meshes, read_obj
            from diffusers.models.attention_processor import LoRAAttnProcessor
            from threestudio.utils.misc import get_device, get_rank
            class Light(EnvLight): pass
            def encoding():
                with torch.cuda.device(get_rank()):
                    found = tcnn.Encoding(3, {"otype": "HashGrid", "n_levels": 2}, dtype=torch.float32)
                return found.to(get_device()), torch.zeros(2, device=get_rank())
            @torch.cuda.amp.autocast(enabled=False)
            def product(x): return x @ x
            """,
        "models/prompt_processors/__init__.py": "",
        "models/prompt_processors/base.py": "import torch.multiprocessing as mp\n",
    }
    for name, text in files.items():
        path = tmp_path / "checkout" / "threestudio" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("\n".join(line.removeprefix(" " * 12) for line in text.splitlines()))
    return tmp_path / "checkout"


DOUBLE = """
import json, sys, threading
import torch
from dreamprop.threestudio import compat
report = compat.install(sys.argv[1], "cpu")
assert compat.install(sys.argv[1], torch.device("cpu")) is report
from threestudio.models import networks
from threestudio.models.prompt_processors import base
encoding, mask = networks.encoding()
refusals = []
for use in (lambda: networks.dr.RasterizeCudaContext(), lambda: networks.Light("a"), lambda: networks.dr.a.b):
    try: use()
    except ImportError as error: refusals.append(f"{type(error).__name__}: {error}")
try: compat.install(sys.argv[1], "meta")
except ValueError as error: other = str(error)
with torch.autocast("cpu", dtype=torch.bfloat16):
    types = [str((torch.ones(2, 2) @ torch.ones(2, 2)).dtype), str(networks.product(torch.ones(2, 2)).dtype)]
ran = []
child = base.mp.get_context("spawn").Process(target=ran.append, args=("ran",))
child.start(); child.join()
import transformers.utils.import_utils as probes
print(json.dumps(dict(
    lines=report.lines(), names=[one.name for one in report.standins], absent=list(report.absent), types=types,
    version=report.version, rank=networks.get_rank(), device=str(networks.get_device()), other=other,
    shape=list(encoding(torch.rand(4, 3)).shape), mask=str(mask.device), refusals=refusals, ran=ran,
    child=child.exitcode, lora=issubclass(networks.LoRAAttnProcessor, torch.nn.Module),
    misled=[n for n in report.absent if getattr(probes, f"is_{n}_available", lambda: False)()],
)))
"""


def test_setting_up_on_a_cpu(double: Path, tmp_path: Path) -> None:
    """Everything that the double needs is put in place, once, and told in one line each."""
    found = run(DOUBLE, str(double), cwd=tmp_path)
    assert found["version"] == "0.0.1"
    assert found["lines"][0] == f"threestudio 0.0.1 from {double} on cpu"
    assert all("\n" not in line for line in found["lines"])
    for name in ("tinycudann", "nerfacc's CUDA kernels", "get_device() and get_rank()"):
        assert name in found["names"]
    assert found["shape"] == [4, 4] and found["mask"] == "cpu"
    assert (found["rank"], found["device"]) == ("cpu", "cpu")
    assert found["lora"]
    assert found["types"] == ["torch.bfloat16", "torch.float32"], "upstream's autocast is that of the device"
    assert (found["ran"], found["child"]) == (["ran"], 0)
    assert "start another process" in found["other"]
    assert found["misled"] == [], "libraries must not take a shell for the real module"
    if {"nvdiffrast", "envlight"} <= set(found["absent"]):
        assert len(found["refusals"]) == 3
        assert all(line.startswith("MissingModule: ") and "pip install" in line for line in found["refusals"])


def test_importing_the_adapter_is_light() -> None:
    heavy = {"diffusers", "transformers", "nerfacc", "lightning", "pytorch_lightning", "threestudio"}
    found = run(
        "import dreamprop.threestudio.compat, sys, json; print(json.dumps([*sys.modules]))", cwd=REPOSITORY
    )
    assert not heavy & set(found)


def test_a_folder_without_threestudio(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="give the path of a checkout") as caught:
        setup(tmp_path, "cpu")
    assert "\n" not in str(caught.value)


def test_no_threestudio_at_all(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ValueError, match="--threestudio PATH"):
        setup(None, "cpu")


def test_packages_that_are_not_installed(double: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "typeguard" else real(name))
    monkeypatch.delitem(sys.modules, "threestudio", raising=False)
    module = importlib.import_module("dreamprop.threestudio.compat.install")
    monkeypatch.setattr(module, "_done", None)
    with pytest.raises(ValueError, match=r"typeguard; pip install \"dreamprop\[threestudio\]\""):
        setup(double, "cpu")


@pytest.mark.parametrize("works", [True, False])
def test_on_cuda_only_what_fails_is_replaced(works: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """A binary that does not load is named by its own first line; one that loads is left alone."""
    module = importlib.import_module("dreamprop.threestudio.compat.install")
    real, cuda = importlib.import_module, torch.device("cuda", 0)
    kernels = importlib.import_module("nerfacc.cuda")
    before = kernels.traverse_grids

    def load(name: str) -> Any:
        if name not in ("tinycudann", "nerfacc.cuda._backend"):
            return real(name)
        if not works:
            raise OSError(f"{name} was built for another device\nand more")
        return type("binary", (), {"_C": object()})

    monkeypatch.setattr(importlib, "import_module", load)
    monkeypatch.setitem(sys.modules, "tinycudann", None)
    monkeypatch.setitem(vars(kernels), "traverse_grids", before)
    for name in vars(kernels).keys() & kernel_table.kernels().keys():
        monkeypatch.setitem(vars(kernels), name, getattr(kernels, name))
    for name in ("nerfacc", "nerfacc.pack", "nerfacc.volrend"):
        monkeypatch.setattr(real(name), "pack_info", real(name).pack_info)
    told = module._tinycudann(cuda) + module._nerfacc(cuda)
    if works:
        assert told == [] and kernels.traverse_grids is before and sys.modules["tinycudann"] is None
    else:
        assert [name for name, _ in told] == ["tinycudann", "nerfacc's CUDA kernels"]
        assert all("built for another device" in why and "and more" not in why for _, why in told)
        assert hasattr(sys.modules["tinycudann"], "Encoding") and kernels.traverse_grids is not before


UPSTREAM = """
import json, sys
from pathlib import Path
from dreamprop.threestudio import compat
report = compat.install(sys.argv[1], "cpu")
import threestudio, torch
from threestudio.utils.config import load_config
sys.path.insert(0, sys.argv[2])
from dreamprop.threestudio import tiny_sd
model = str(tiny_sd.save(Path("sd")))
words = ["a red torus", model, model]
folder = "pretrained_model_name_or_path"
keys = ["prompt_processor.prompt", f"prompt_processor.{folder}", f"guidance.{folder}"]
cfg = load_config(sys.argv[1] + "/configs/dreamfusion-sd.yaml", n_gpus=1, cli_args=[
    *(f"system.{key}={word}" for key, word in zip(keys, words)), "data.width=8", "data.height=8",
    "system.guidance.half_precision_weights=false", "system.renderer.num_samples_per_ray=32",
    "system.geometry.pos_encoding_config.log2_hashmap_size=12", "system.geometry.pos_encoding_config.n_levels=4",
])
data = threestudio.find(cfg.data_type)(cfg.data)
system = threestudio.find(cfg.system_type)(cfg.system)
data.setup("fit"); system.train(); system.on_fit_start()
system.set_resume_status(0, 0); system.do_update_step(0, 0)
loss = system.training_step(data.train_dataloader().dataset.collate(None), 0)["loss"]
loss.backward()
trained = {n: p.grad for n, p in system.named_parameters() if p.numel() and p.requires_grad}
grads = {n: bool(grad.isfinite().all() and grad.any()) for n, grad in trained.items()}
print(json.dumps(dict(registered=len(threestudio.__modules__), loss=float(loss), grads=grads, lines=report.lines())))
"""


@pytest.mark.skipif(ROOT is None, reason="THREESTUDIO_ROOT names no checkout of threestudio")
def test_upstream_is_imported_and_takes_a_training_step(tmp_path: Path) -> None:
    """All 55 modules of 0.2.3 register themselves, and dreamfusion-sd has a gradient in every parameter."""
    found = run(UPSTREAM, str(Path(str(ROOT)).resolve()), str(REPOSITORY), cwd=tmp_path)
    assert found["registered"] >= 55
    assert found["loss"] == found["loss"] and found["loss"] > 0
    assert all(found["grads"].values()) and len(found["grads"]) == 8, found["grads"]
    assert found["lines"][0].endswith("on cpu")
