"""Sampling from diffusion models in parallel: a scheduler's chain, solved in windows, blocks or sweeps."""

from dreamprop.sampling.paradigms import paradigms
from dreamprop.sampling.parareal import parareal
from dreamprop.sampling.piadm import piadm
from dreamprop.sampling.process import Denoising
from dreamprop.sampling.randomized_midpoint import randomized_midpoint
from dreamprop.sampling.scheduler import PureScheduler
from dreamprop.sampling.srds import srds

__all__ = [
    "Denoising",
    "PureScheduler",
    "paradigms",
    "parareal",
    "piadm",
    "randomized_midpoint",
    "srds",
]
