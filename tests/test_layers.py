"""Imports point to the left in one ordered list of packages: read from the source, nothing is imported."""

from __future__ import annotations

import ast
import subprocess
import sys
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1] / "dreamprop"

ORDER = [
    *("state", "process", "rng", "schedule", "errors", "config", "utils", "optim"),
    *("distributed", "evaluate", "solver", "checkpoint", "adapters"),
    *("scenes", "prior", "guidance", "methods", "threestudio", "sampling", "runs", "cli"),
]
"""A package imports itself and what stands to its left."""
PHYSICS = {"scenes", "prior", "guidance", "methods"}
ENGINE = {"distributed", "evaluate", "solver", "checkpoint"}
NEVER = {(physics, engine) for physics in PHYSICS for engine in ENGINE} | {
    ("threestudio", p) for p in PHYSICS
}
"""What does not import what stands to its left either: a scene knows nothing of who solves it."""
WHOLE = {"runs", "cli"}
"""These may import the package `dreamprop` itself, as a user does."""
INSIDE = {
    "evaluate": [{"evaluation", "exchange", "sub_batch"}, {"serial", "batched", "distributed"}, {"evaluate"}],
    "solver": [
        {"buffers", "timing"},
        {"window", "window_choice", "predict", "rollout", "norms", "audit", "anderson"},
        {"controller", "solution"},
        {"nonfinite"},
        {"sequential", "picard"},
        {"solver"},
    ],
}
"""Inside a package the same holds from set to set, and what stands in one set does not import each other."""


def name_of(path: Path) -> str:
    """The dotted name of a module."""
    parts = [ROOT.name, *path.relative_to(ROOT).with_suffix("").parts]
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


FILES = {name_of(path): path for path in sorted(ROOT.rglob("*.py"))}


def imports(path: Path) -> set[str]:
    """Absolute names of the modules that a file imports, at any depth in it."""
    package = [ROOT.name, *path.relative_to(ROOT).parts[:-1]]
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            base = ".".join(package[: len(package) + 1 - node.level]) if node.level else ""
            module = ".".join(part for part in (base, node.module or "") if part)
            for alias in node.names:
                full = f"{module}.{alias.name}"
                names.add(full if full in FILES else module)
    return names


EDGES = {name: imports(path) for name, path in FILES.items()}


def package(module: str) -> str:
    """The package below `dreamprop` that a module belongs to; nothing for `dreamprop` itself."""
    return module.split(".")[1] if "." in module else ""


def test_the_list_names_every_package_and_no_other() -> None:
    assert {package(module) for module in FILES} - {""} == set(ORDER)


@pytest.mark.parametrize("module", [name for name in FILES if package(name)])
def test_imports_point_to_the_left(module: str) -> None:
    here = package(module)
    for name in EDGES[module]:
        if name.split(".")[0] != ROOT.name:
            continue
        there = package(name)
        if not there:
            assert here in WHOLE, f"{module} imports dreamprop itself"
            continue
        assert ORDER.index(there) <= ORDER.index(here), f"{module} imports {name}, which stands to its right"
        assert (here, there) not in NEVER, f"{module} imports {name}"


@pytest.mark.parametrize("name", INSIDE)
def test_parts_of_a_round_do_not_know_each_other(name: str) -> None:
    rank = {part: i for i, parts in enumerate(INSIDE[name]) for part in parts}
    modules = [module for module in FILES if package(module) == name]
    assert {module.split(".")[-1] for module in modules} == set(rank)
    for module in modules:
        for other in EDGES[module] & set(modules) - {module}:
            here, there = module.split(".")[-1], other.split(".")[-1]
            assert rank[there] < rank[here], f"{module} imports {other}"


def test_no_module_imports_itself_by_way_of_others() -> None:
    TopologicalSorter({name: EDGES[name] & set(FILES) - {name} for name in FILES}).prepare()


@pytest.mark.parametrize(
    ("library", "allowed"),
    [
        ("diffusers", {"guidance", "prior", "sampling", "threestudio"}),
        ("nerfacc", {"scenes", "threestudio"}),
        ("gsplat", {"scenes"}),
        ("pickle", set()),
    ],
)
def test_heavy_libraries_are_imported_in_one_place(library: str, allowed: set[str]) -> None:
    found = {package(module) for module in FILES for name in EDGES[module] if name.split(".")[0] == library}
    assert found <= allowed


@pytest.mark.parametrize(
    ("module", "heavy"),
    [
        ("dreamprop", ("diffusers", "transformers", "peft", "nerfacc")),
        ("dreamprop.runs.experiment", ("diffusers", "transformers", "peft")),
    ],
)
def test_importing_is_light(module: str, heavy: tuple[str, ...]) -> None:
    """Nobody who wraps their own loop waits for diffusion models, and a wrong setting is told before they are there."""
    code = f"import {module}, sys; print([m for m in {heavy} if m in sys.modules])"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT.parent
    )
    assert done.stdout.strip() == "[]"
