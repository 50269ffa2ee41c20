"""Imports point down: what a reader sees in the folder is what depends on what."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

import dreamprop

ROOT = Path(dreamprop.__file__).parent

LAYERS = (
    {"state", "rng", "config", "memory", "blocks"},  # data, and how it is walked over
    {"process", "optim", "resize", "wrap", "options", "solution"},  # vocabulary
    {"window", "predict", "rollout", "error", "evaluate"},  # one verb a file
    {"sequential", "picard", "checkpoint"},  # loops
    {"guidance", "scenes", "methods", "prior"},  # physics
    {
        "settings", "build", "evolve", "run", "resume", "compare", "export", "cli", "mesh", "metrics",
        "judging", "show", "summary", "report", "pictures", "progress", "roundlog", "folder", "files",
        "interrupt",
    },  # the program
)  # fmt: skip
PHYSICS = LAYERS[4]
BESIDE = {"methods": {"guidance", "scenes", "prior"}, "guidance": {"prior"}}
"""What else the physics may import in its own layer."""


def layer(part: str) -> int:
    found = [i for i, names in enumerate(LAYERS) if part in names]
    assert found, f"dreamprop/{part} is in no layer: add it to the list here"
    return found[0]


def imports(path: Path) -> Iterator[str]:
    """Dotted names of all modules that a file imports, also inside functions."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: imports are absolute here"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def part_of(path: Path) -> str:
    return path.relative_to(ROOT).parts[0].removesuffix(".py")


FILES = sorted(p for p in ROOT.rglob("*.py") if p != ROOT / "__init__.py")


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(ROOT)))
def test_imports_point_down(path: Path) -> None:
    part = part_of(path)
    here = layer(part)
    for name in imports(path):
        if name == "dreamprop":
            assert here == 5, f"{path} imports the whole of dreamprop"
        if not name.startswith("dreamprop."):
            continue
        other = name.split(".")[1]
        if other == part or not ((ROOT / f"{other}.py").exists() or (ROOT / other).is_dir()):
            continue
        there = layer(other)
        assert there <= here, f"{path} imports {name}, which lies above it"
        if here == 2:
            assert there < 2, f"{path} imports {name}: verbs do not import each other"
        if part in PHYSICS:
            assert there <= 1 or other in BESIDE.get(part, set()), f"{path} imports {name}"


@pytest.mark.parametrize(
    ("package", "allowed"),
    [
        ("diffusers", {"guidance", "prior"}),
        ("nerfacc", {"scenes"}),
        ("gsplat", {"scenes"}),
        ("pickle", set()),
    ],
)
def test_heavy_packages_have_one_place(package: str, allowed: set[str]) -> None:
    users = {part_of(path) for path in FILES if package in {name.split(".")[0] for name in imports(path)}}
    assert users <= allowed
