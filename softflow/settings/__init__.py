"""Strict typed settings from YAML files and presets."""
