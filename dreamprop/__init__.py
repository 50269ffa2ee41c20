"""dreamprop: text-to-3D by score distillation, solved in parallel over its steps (arXiv:2311.17082)."""

from dreamprop import evaluate, optim, sampling
from dreamprop.adapters.purity import ImpureDrift
from dreamprop.adapters.wrap import wrap
from dreamprop.process import Group, Process
from dreamprop.solver.picard import solve
from dreamprop.solver.sequential import solve_sequential
from dreamprop.solver.solution import Round, Solution, Stats
from dreamprop.state import BufferWrite, Drift, State

__version__ = "0.1.0"

__all__ = [
    "BufferWrite",
    "Drift",
    "Group",
    "ImpureDrift",
    "Process",
    "Round",
    "Solution",
    "State",
    "Stats",
    "evaluate",
    "optim",
    "sampling",
    "solve",
    "solve_sequential",
    "wrap",
]
