"""What the steps of a window share in a threestudio system: seconds, runs of frozen networks, memory.

    python benchmarks/meeting.py --threestudio PATH --tiny
    python benchmarks/meeting.py --threestudio PATH --config dreamfusion-sd --device cuda \
        system.prompt_processor.prompt="a delicious hamburger"

A window in the middle of a run, evaluated one by one, with steps that meet at the U-Net alone, and with steps that meet
at every frozen network that is called without gradients. Ways take turns. With ``--tiny`` the models are random and
small, and run on a CPU; VSD then wants a few more overrides:

    python benchmarks/meeting.py --threestudio PATH --tiny --config prolificdreamer data.batch_size=1 \
        "data.resolution_milestones=[]" system.guidance.pretrained_model_name_or_path_lora=sd2
"""

from __future__ import annotations

import argparse
import ctypes
import gc
import logging
import os
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

import torch
from common import table
from torch import Tensor, nn

from dreamprop.adapters.call_batcher import CallBatcher
from dreamprop.evaluate.sub_batch import cut
from dreamprop.state import Drift, State
from dreamprop.threestudio import loading, tiny_sd
from dreamprop.threestudio.compat import install
from dreamprop.threestudio.replica import Replica
from dreamprop.threestudio.replicate import frozen_networks
from dreamprop.threestudio.system import Threestudio
from dreamprop.utils.peak_memory import Peak

MIB, GIB = 2**20, 2**30


def make(args: argparse.Namespace) -> Threestudio:
    """The process of the config, in a scratch folder where its models are tiny ones."""
    install(args.threestudio, args.device)
    for name in ("pytorch_lightning", "diffusers"):
        logging.getLogger(name).setLevel(logging.ERROR)
    given = Path(args.config)
    config = given.resolve() if given.suffix else args.threestudio / "configs" / f"{args.config}.yaml"
    overrides: list[str] = []
    if args.tiny:
        folder = Path(tempfile.mkdtemp())
        for seed, name in enumerate(("sd", "sd2")):
            tiny_sd.save(folder / name, seed)
        (folder / "load").symlink_to(args.threestudio / "load")
        overrides = tiny_sd.overrides(folder)
    os.chdir(folder if args.tiny else args.threestudio)
    return loading.process(loading.read(config, [*overrides, *args.overrides]).studio, args.device)


def window(process: Threestudio, count: int) -> list[State]:
    """States that follow one another, the first few of them accepted ones."""
    states = [process.init()]
    while len(states) < count:
        last = states[-1]
        states.append(process.update(last, process.drift(last)) if len(states) < 3 else process.predict(last))
    return states


def clock(device: torch.device) -> tuple[float, float]:
    """Seconds by the clock, and of processor time of all threads."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter(), time.process_time()


def seconds(
    process: Threestudio, states: Sequence[State], repeat: int, threads: int
) -> tuple[list[list[str]], dict[str, float]]:
    """A row for each way of evaluating the window, and how far its gradients are from those one by one."""
    torch.set_num_threads(threads)
    device = process.replica.device
    frozen = frozen_networks(process.system, process.replica.trained)
    replicas = [process.replica, *(process.replica.copy(frozen) for _ in states[1:])]
    tasks = [partial(replica.evaluate, state) for replica, state in zip(replicas, states, strict=True)]
    meetings = {
        "U-Net": CallBatcher([n for n in frozen if "unet" in type(n).__name__.lower()], device),
        "every frozen network": CallBatcher(frozen, device),
    }
    alone: Callable[[], list[Drift]] = lambda: [process.drift(state) for state in states]  # noqa: E731
    ways = {"one by one": alone, **{name: partial(m.run, tasks) for name, m in meetings.items()}}
    drifts = {name: run() for name, run in ways.items()}
    for meeting in meetings.values():
        meeting.calls = meeting.runs = 0
    taken: dict[str, list[tuple[float, float]]] = {name: [] for name in ways}
    for _ in range(repeat):
        for name, run in ways.items():
            began = clock(device)
            run()
            taken[name].append(tuple(b - a for a, b in zip(began, clock(device), strict=True)))  # type: ignore
    rows = []
    best = {name: [median(column) for column in zip(*times, strict=True)] for name, times in taken.items()}
    for name, (wall, cpu) in best.items():
        calls, runs = (
            (m.calls // repeat, m.runs // repeat) if (m := meetings.get(name)) is not None else (0, 0)
        )
        first_wall, first_cpu = best["one by one"]
        rows.append([str(threads), name, f"{wall:.2f}", f"{first_wall / wall:.2f}", f"{cpu:.2f}",
                     f"{first_cpu / cpu:.2f}", str(calls), str(runs)])  # fmt: skip
    return rows, {name: off(drifts["one by one"], drifts[name]) for name in meetings}


def off(some: Sequence[Drift], others: Sequence[Drift]) -> float:
    """The largest relative difference of a gradient."""
    pairs = [(a.grads[n], b.grads[n]) for a, b in zip(some, others, strict=True) for n in a.grads]
    return max(float((a - b).norm() / a.norm().clamp_min(1e-30)) for a, b in pairs)


def memory(process: Threestudio, states: Sequence[State], size: int) -> float:
    """Bytes at the peak of evaluating a window in batches, above what was there before."""
    device = process.replica.device
    frozen = frozen_networks(process.system, process.replica.trained)
    before = held(device)
    with Peak(device) as peak:
        replicas: list[Replica] = [process.replica, *(process.replica.copy(frozen) for _ in range(size - 1))]
        meeting, drifts = CallBatcher(frozen, device), []
        for a, b in cut(len(states), size):
            tasks = [partial(r.evaluate, s) for r, s in zip(replicas, states[a:b], strict=False)]
            drifts += meeting.run(tasks) if size > 1 else [task() for task in tasks]
    if peak.bytes is None:
        sys.exit("this system does not tell how much memory a process holds")
    return peak.bytes - before


def held(device: torch.device) -> int:
    """Bytes in use now, with nothing kept for later."""
    gc.collect()
    if device.type == "cuda":
        return int(torch.cuda.memory_allocated(device))
    ctypes.CDLL(None).malloc_trim(0)
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmRSS:"))


def graph(run: Callable[[], Any], known: Sequence[Tensor]) -> int:
    """Bytes that are kept for the gradients of what is computed, but for tensors that are there anyway."""
    there = {tensor.untyped_storage()._cdata for tensor in known}
    kept: dict[int, Any] = {}

    def keep(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        kept[storage._cdata] = storage
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        run()
    return sum(storage.nbytes() for key, storage in kept.items() if key not in there)


def parameters(process: Threestudio) -> list[Tensor]:
    """Trained and frozen ones."""
    frozen = frozen_networks(process.system, process.replica.trained)
    return [*process.system.parameters(), *(p for network in frozen for p in network.parameters())]


def encoder(dtype: torch.dtype) -> int:
    """Bytes kept for the gradients of a picture through Stable Diffusion's encoder, by shapes: nothing is computed."""
    from diffusers import AutoencoderKL

    with torch.device("meta"):
        vae: nn.Module = AutoencoderKL(
            down_block_types=("DownEncoderBlock2D",) * 4,
            up_block_types=("UpDecoderBlock2D",) * 4,
            block_out_channels=(128, 256, 512, 512),
            layers_per_block=2,
        )
        vae = vae.to(dtype).requires_grad_(False)
        picture = torch.empty(1, 3, 512, 512, dtype=dtype, requires_grad=True)
    return graph(lambda: vae.encode(picture), list(vae.parameters()))


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--threestudio", type=lambda text: Path(text).resolve(), required=True)
    parser.add_argument("--config", default="dreamfusion-sd", help="a name in PATH/configs, or a file")
    parser.add_argument("--tiny", action="store_true", help="random models, 16 pixels: for a CPU")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--window", type=int, default=8)
    parser.add_argument("--threads", type=int, nargs="*", default=[1, 2])
    parser.add_argument("--repeat", type=int, default=5)
    parser.add_argument("--memory", action="store_true", help="only what windows of 1, 2, 4, 8 hold")
    parser.add_argument("overrides", nargs="*", help="of the config")
    args = parser.parse_intermixed_args()
    torch.set_num_threads(args.threads[0])
    process = make(args)
    states = window(process, max(8, args.window))
    if args.memory:
        sizes = [(1, 1), (2, 2), (4, 4), (8, 8), (8, 2), (8, 4)]
        memory(process, states[:1], 1)  # what is only made once
        rows = [[str(w), str(s), f"{memory(process, states[:w], s) / MIB:.0f}"] for w, s in sizes]
        print(table(["window", "in one batch", "MiB above what was there"], rows), "\n")
        mine = graph(lambda: process.drift(states[0]), parameters(process)) / MIB
        size = sum(
            t.numel() * t.element_size() for t in (*states[1].params.values(), *states[1].moments.values())
        )
        print(f"graph of a step: {mine:.0f} MiB; a state with its moments: {size / MIB:.1f} MiB")
        for dtype in (torch.float16, torch.float32):
            print(f"graph of Stable Diffusion's encoder, a picture, {dtype}: {encoder(dtype) / GIB:.2f} GiB")
        return
    rows = []
    for threads in args.threads:
        found, apart = seconds(process, states[: args.window], args.repeat, threads)
        rows += found
    print(table(["threads", "meeting at", "seconds", "ratio", "processor s", "ratio", "calls", "runs"], rows))
    print("largest relative difference of a gradient:", ", ".join(f"{n} {v:.1e}" for n, v in apart.items()))


if __name__ == "__main__":
    main()
