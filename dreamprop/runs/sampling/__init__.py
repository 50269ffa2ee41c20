"""Runs that make pictures: their settings, their files, and what a comparison says of them."""
