"""Imports point down, and only where the design lets them: read from the source, nothing is imported."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1] / "dreamprop"

LAYERS: dict[str, int] = {
    **dict.fromkeys(["state", "buffers", "rng", "validate", "config", "memory", "blocks", "parcel"], 0),
    **dict.fromkeys(["ranks", "rendezvous", "hooks", "original", "purity"], 0),
    **dict.fromkeys(["files", "interrupt"], 0),
    **dict.fromkeys(["process", "optim", "options", "resize", "shards", "stepper", "wrap"], 1),
    **dict.fromkeys(["window", "predict", "rollout", "error", "audit", "evaluate"], 2),
    **dict.fromkeys(["solution", "sequential", "picard", "checkpoint"], 3),
    **dict.fromkeys(["guidance", "scenes", "methods", "prior", "threestudio"], 4),
}
"""Everything that is not named here is the program, layer 5."""
MAY_MEET = {("methods", "guidance"), ("methods", "scenes"), ("guidance", "prior"), ("methods", "prior")}
"""Physics (layer 4) imports layers 0 and 1, itself, and these."""


def unit(module: str) -> str:
    """The second name of a module: the file or folder of dreamprop it is in."""
    return module.split(".")[1] if "." in module else ""


def imports(path: Path) -> set[str]:
    """Absolute names of what a file imports, at any depth in it."""
    package = ["dreamprop", *path.relative_to(ROOT).parts[:-1]]
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            base = ".".join(package[: len(package) + 1 - node.level]) if node.level else ""
            module = ".".join(part for part in (base, node.module or "") if part)
            names |= {f"{module}.{alias.name}" for alias in node.names} if module == "dreamprop" else {module}
    return names


FILES = sorted(p for p in ROOT.rglob("*.py") if p != ROOT / "__init__.py")


def own(path: Path) -> str:
    return path.relative_to(ROOT).parts[0].removesuffix(".py")


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(ROOT)))
def test_imports_point_down(path: Path) -> None:
    here = own(path)
    layer = LAYERS.get(here, 5)
    for name in imports(path):
        if not name.startswith("dreamprop"):
            continue
        there = unit(name)
        if there in ("", here):
            assert there or layer == 5, f"{here} imports dreamprop itself"
            continue
        below = LAYERS.get(there, 5)
        if layer == 2:
            assert below < 2, f"{here} imports {there}: parts of a round do not know each other"
        elif layer == 4:
            assert below < 2 or (here, there) in MAY_MEET, f"{here} imports {there}"
        else:
            assert below <= layer, f"{here} imports {there}"


@pytest.mark.parametrize(
    ("library", "allowed"),
    [
        ("diffusers", {"guidance", "prior", "threestudio"}),
        ("nerfacc", {"scenes", "threestudio"}),
        ("gsplat", {"scenes"}),
        ("pickle", set()),
    ],
)
def test_heavy_libraries_are_imported_in_one_place(library: str, allowed: set[str]) -> None:
    found = {own(path) for path in FILES for name in imports(path) if name.split(".")[0] == library}
    assert found <= allowed


def test_importing_the_package_is_light() -> None:
    """Nobody who wraps their own loop waits for diffusion models."""
    heavy = "('diffusers', 'transformers', 'nerfacc')"
    code = f"import dreamprop, sys; print([m for m in {heavy} if m in sys.modules])"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT.parent
    )
    assert done.stdout.strip() == "[]"
