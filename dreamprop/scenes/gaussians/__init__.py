"""A scene of 3D Gaussians (arXiv:2308.04079): pictures by splatting, and how their number changes over a run."""
