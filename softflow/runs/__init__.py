"""Runs: from settings to environments, a method, its training and its evaluation."""
