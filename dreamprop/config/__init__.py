"""Configs: read from YAML and the command line, merged, and checked."""
