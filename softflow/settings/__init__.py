"""Strictly typed settings from YAML files and presets."""
