"""Runs: building environments and methods from settings, training and evaluation."""
