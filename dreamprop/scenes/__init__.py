"""Scenes as pure functions of named parameters, stacked over the states of a window."""
