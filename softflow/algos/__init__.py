"""Algorithms: one file, one method."""
