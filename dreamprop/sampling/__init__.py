"""Sampling from diffusion models in parallel: a scheduler's chain, solved in windows, blocks or sweeps."""

from dreamprop.sampling.corrector import langevin_chain
from dreamprop.sampling.langevin import Langevin, UnderdampedLangevin
from dreamprop.sampling.paradigms import paradigms
from dreamprop.sampling.parareal import parareal
from dreamprop.sampling.piadm import piadm
from dreamprop.sampling.picard_blocks import solve_blocks
from dreamprop.sampling.process import Denoising
from dreamprop.sampling.randomized_midpoint import randomized_midpoint
from dreamprop.sampling.scheduler import PureScheduler
from dreamprop.sampling.srds import srds

__all__ = [
    "Denoising",
    "Langevin",
    "PureScheduler",
    "UnderdampedLangevin",
    "langevin_chain",
    "paradigms",
    "parareal",
    "piadm",
    "randomized_midpoint",
    "solve_blocks",
    "srds",
]
