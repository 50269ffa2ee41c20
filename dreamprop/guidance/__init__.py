"""Gradients from text-to-image diffusion models; the only importers of diffusers."""
