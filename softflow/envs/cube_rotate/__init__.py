"""Turning a cube in the hand."""
