"""Loops that were written for PyTorch as processes: a module, a loss, an optimiser and its schedule."""
