"""The loops over a chain: sequential, and the generalised Picard iteration of DreamPropeller (arXiv:2311.17082)."""
