"""Presets in YAML, one folder per kind: algos, envs, presets."""
