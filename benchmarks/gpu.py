"""What a window costs on a GPU: seconds a round against sequential steps, memory, and where the time goes.

    python benchmarks/gpu.py                      # on a machine with a GPU; nothing is downloaded
    python benchmarks/gpu.py --tests              # then the tests that only a GPU can run
    python benchmarks/gpu.py --tiny               # the same code with tiny models on a CPU; its seconds mean nothing

Three models: U-Net and encoder of Stable Diffusion 1.5's and of SDXL's sizes with random weights in half precision,
both on the scene of configs/dreamfusion-sd.yaml (a hash grid, 512 samples a ray), and the shipped model on
configs/dreamfusion-hash.yaml. For each, the U-Net as it is, in channels-last memory, compiled, and captured in
CUDA graphs. Seconds are medians over rounds after a warm-up, with the quickest and the slowest. Two ratios against the
sequential steps of the same U-Net: if all steps of a window were accepted, and with the stride that was measured, which
with random weights says nothing about a trained model. No audits are taken. A row that does not fit in memory, or
fails, says so, and the others go on. The table is printed, and all is written to ``--out`` after each row.
"""

from __future__ import annotations

import argparse
import gc
import platform
import subprocess
import sys
import traceback
import warnings
from collections.abc import Callable, Sequence
from functools import partial
from importlib.metadata import version
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import random_sd
import torch
from common import ROOT, experiment, table
from rounds import measure
from timeline import PARTS, Timeline

import dreamprop as dp
from dreamprop.evaluate.sub_batch import SmallerBatch
from dreamprop.runs.experiment import make_process
from dreamprop.utils.atomic_io import write_json

GIB = 2**30
PROMPT = "a red torus"
SIZES = {"sd15": random_sd.SD15, "sdxl": random_sd.SDXL}
TINY_SIZES = {"sd15": random_sd.TINY_SD15, "sdxl": random_sd.TINY_SDXL}
TINY_SCENE = [
    "data.width=8", "data.height=8", "system.renderer.num_samples_per_ray=8",
    "system.geometry.pos_encoding_config.n_levels=2", "system.geometry.pos_encoding_config.log2_hashmap_size=8",
]  # fmt: skip
TREATMENTS = ("channels-last", "compile", "cuda-graphs")
"""Of the U-Net; several are joined by +, and ``eager`` is none."""
VERSIONS = ("dreamprop", "torch", "diffusers", "transformers", "nerfacc", "numpy")


def make(model: str, folder: Path, args: argparse.Namespace) -> tuple[Any, float]:
    """The process of a model's scene, and the tolerance of its config."""
    overrides = [f"device={args.device}", *(TINY_SCENE if args.tiny else [])]
    if model == "embedded":
        chosen = experiment("latent-hash", PROMPT, overrides)
        return make_process(chosen), chosen.config.parallel.tolerance
    device, half = torch.device(args.device), torch.device(args.device).type == "cuda"
    sizes = (TINY_SIZES if args.tiny else SIZES)[model]
    random_sd.save(folder, sizes, device, torch.float16 if half else torch.float32)
    overrides += [
        f"system.guidance.pretrained_model_name_or_path={folder}",
        f"system.guidance.half_precision_weights={str(half).lower()}",
    ]
    chosen = experiment("configs/dreamfusion-sd.yaml", PROMPT, overrides)
    process = make_process(chosen)
    if "addition_embed_type" in sizes.unet:
        ask(process, random_sd.Conditioned(process.guidance.model.unet))
    return process, chosen.config.parallel.tolerance


def ask(process: Any, unet: Any) -> None:
    """Let the guidance of a process ask this U-Net."""
    object.__setattr__(process.guidance.model, "unet", unet)


def treated(unet: Any, variant: str, backend: str) -> Any:
    """The U-Net in the memory format, and compiled, as a variant has it."""
    chosen = set(variant.split("+"))
    unet.to(memory_format=torch.channels_last if "channels-last" in chosen else torch.contiguous_format)
    if not chosen & {"compile", "cuda-graphs"}:
        return unet
    graphs = "cuda-graphs" in chosen
    mode = "reduce-overhead" if graphs else None
    compiled: Any = torch.compile(unet, dynamic=False, backend=backend, mode=mode)

    def call(*inputs: Any, **options: Any) -> Any:
        if graphs:
            torch.compiler.cudagraph_mark_step_begin()  # what the last call gave has been read
        return compiled(*inputs, **options)

    call.config = unet.config  # type: ignore[attr-defined]
    return call


def attempted(run: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    """What a run found; where it does not fit in memory or fails, that."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", SmallerBatch)  # told by states_in_a_batch
        try:
            return run()
        except (torch.OutOfMemoryError, MemoryError):
            return {"error": "out of memory"}
        except Exception as error:
            traceback.print_exc()
            return {
                "error": f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}"[:200]
            }


def rows_of(model: str, args: argparse.Namespace, add: Callable[[dict[str, Any]], None]) -> None:
    """All rows of a model: each variant's sequential steps, then its windows."""
    with TemporaryDirectory() as folder:
        process, tolerance = make(model, Path(folder), args)
    unet, timeline = process.guidance.model.unet, Timeline(process.device)
    timeline.follow(process)
    first = dp.solve_sequential(process, args.begin).state
    for variant in args.variants:
        torch._dynamo.reset()  # type: ignore[no-untyped-call]
        ask(process, treated(unet, variant, args.backend))
        sequential: float | None = None
        for window in (None, *args.windows):
            options = {"rounds": args.rounds, "warm_up": args.warm_up, "sub_batch": args.sub_batch}
            found = attempted(partial(measure, process, first, window, tolerance, timeline, **options))
            if window is None:
                sequential = found.get("seconds_a_round")
            elif sequential is not None and "error" not in found:
                ratio = sequential / found["seconds_a_round"]
                found |= {"ratio_all_accepted": ratio * window, "ratio_measured": ratio * found["stride"]}
            add({"model": model, "variant": variant, "window": window, **found})
            gc.collect()
            if process.device.type == "cuda":
                torch.cuda.empty_cache()


def machine(device: torch.device) -> dict[str, Any]:
    """What it was measured on."""
    found: dict[str, Any] = {
        "python": platform.python_version(),
        **{name: version(name) for name in VERSIONS},
    }
    if device.type == "cuda":
        properties = torch.cuda.get_device_properties(device)
        found |= {
            "device": properties.name,
            "device_bytes": properties.total_memory,
            "cuda": torch.version.cuda,
            "cudnn": torch.backends.cudnn.version(),
        }
    else:
        found |= {"device": platform.processor() or platform.machine(), "threads": torch.get_num_threads()}
    return found


def report(rows: Sequence[dict[str, Any]]) -> str:
    """The table."""
    header = ["model", "U-Net", "window", "in a batch", "s a round", "(from, to)", "ratio, all accepted", "stride",
              "ratio, measured", "peak, GiB", *PARTS]  # fmt: skip
    lines = []
    for row in rows:
        name = [row["model"], row["variant"], str(row["window"] or "sequential")]
        if "error" in row:
            lines.append([*name, row["error"], *[""] * (len(header) - 4)])
            continue
        ratios = [f"{row[key]:.2f}" if key in row else "" for key in ("ratio_all_accepted", "ratio_measured")]
        peak = "" if row["peak_bytes"] is None else f"{row['peak_bytes'] / GIB:.2f}"
        lines.append([
            *name, str(row["states_in_a_batch"]), f"{row['seconds_a_round']:.4f}",
            f"({row['seconds_quickest']:.4f}, {row['seconds_slowest']:.4f})", ratios[0], f"{row['stride']:.1f}",
            ratios[1], peak, *(f"{row[f'share_{part}']:.0%}" for part in PARTS),
        ])  # fmt: skip
    return table(header, lines)


def arguments() -> argparse.Namespace:
    """The command line, checked."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--tiny", action="store_true", help="tiny models and pictures, on a CPU unless --device says"
    )
    parser.add_argument("--device", help="cuda by default")
    parser.add_argument(
        "--models", nargs="+", default=["sd15", "sdxl", "embedded"], choices=[*SIZES, "embedded"]
    )
    parser.add_argument(
        "--variants",
        nargs="+",
        default=["eager", "channels-last", "compile", "channels-last+compile", "channels-last+cuda-graphs"],
        help=f"of the U-Net: eager, or {', '.join(TREATMENTS)} joined by +",
    )
    parser.add_argument("--windows", nargs="+", type=int, default=[1, 2, 4, 8, 16])
    parser.add_argument("--rounds", type=int, default=5, help="that count")
    parser.add_argument("--warm-up", type=int, default=3, help="rounds before them")
    parser.add_argument("--begin", type=int, default=4, help="the step that rounds begin from")
    parser.add_argument(
        "--sub-batch", type=int, help="most states in a batch; by default all, halved where they do not fit"
    )
    parser.add_argument("--backend", default="inductor", help="of torch.compile")
    parser.add_argument("--out", type=Path, default=ROOT / "outputs" / "benchmarks" / "gpu.json")
    parser.add_argument("--tests", action="store_true", help="run pytest -m cuda afterwards")
    args = parser.parse_args()
    args.device = args.device or ("cpu" if args.tiny else "cuda")
    if torch.device(args.device).type == "cuda" and not torch.cuda.is_available():
        parser.error(f"--device must be there, found no GPU for {args.device}; use --tiny on a CPU")
    for name in ("rounds", "warm_up", *(["sub_batch"] if args.sub_batch is not None else [])):
        if getattr(args, name) < 1:
            parser.error(f"--{name.replace('_', '-')} must be >= 1, got {getattr(args, name)}")
    unknown = [v for v in args.variants if v != "eager" and not set(v.split("+")) <= set(TREATMENTS)]
    if unknown:
        parser.error(f"--variants must be eager or some of {', '.join(TREATMENTS)}, got {unknown[0]}")
    return args


def main() -> None:
    """Measure, print, write; exit status 1 where a row or a test failed for another reason than memory."""
    args = arguments()
    device = torch.device(args.device)
    if device.type == "cpu":
        torch.set_num_threads(1)  # parts of a round are told apart by the clock of one thread
    found: dict[str, Any] = {"command": sys.argv, "machine": machine(device), "rows": []}
    args.out.parent.mkdir(parents=True, exist_ok=True)

    def add(row: dict[str, Any]) -> None:
        found["rows"].append(row)
        write_json(args.out, found)
        print(
            f"{row['model']}, {row['variant']}, {row['window'] or 'sequential'}", file=sys.stderr, flush=True
        )

    for model in args.models:
        rows_of(model, args, add)
    print(" ".join(sys.argv), "\n")
    print(", ".join(f"{name} {value}" for name, value in found["machine"].items()), "\n")
    print(report(found["rows"]))
    failed = any(row.get("error", "out of memory") != "out of memory" for row in found["rows"])
    if args.tests:
        command = [sys.executable, "-m", "pytest", "-m", "cuda", "tests/cuda"]
        found["tests"] = subprocess.run(command, cwd=ROOT).returncode
        write_json(args.out, found)
        failed |= found["tests"] != 0
    sys.exit(int(failed))


if __name__ == "__main__":
    main()
